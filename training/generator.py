"""The common part of the generator's trainers: settings, crops, squeezed pairs, the base of stage 2."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..data.crops import CropSettings, setting
from ..data.folder import Sample, refuse_held_out
from ..data.ggs import draw_num_groups, squeeze
from ..data.images import normalize_image
from ..models.configurations import GENERATOR_CONFIGURATIONS
from ..models.image_vae import WaveletAutoencoderKL
from ..models.prompt_embedding import PromptEmbedding
from ..pipelines.pipeline_gaussian_agnostic import latent_scale
from .loop import SHOWN, Task, Validation
from .settings import TrainSettings
from .training_data import TrainingData, read_training_data

VALIDATION_PX = 128  # side of the crops, from the middle of each image, that a validation sees
VALIDATION_IMAGES = 32
VALIDATION_TIMESTEPS = (50, 200, 400, 600, 800)
SAMPLING_STEPS = 20  # denoising steps of the picture at a validation
LEFT_OUT = ("inversion", "rescale", "gamma", "gain", "range", "blur", "noise", "column_noise")  # augmentations


@dataclass(kw_only=True)
class GeneratorSettings(TrainSettings):
    """Settings of every training of the generator."""

    configurations: ClassVar[dict[str, Any]] = GENERATOR_CONFIGURATIONS

    starts_at_random: ClassVar[bool] = True

    model: str = setting("gaussian_agnostic_small", "Generator configuration in irstd_ldm.models.configurations.")
    input_perturbation: float = setting(0.0, "Deviation of noise that is added to the diffusion's and not predicted.")

    def __post_init__(self):
        super().__post_init__()
        if self.starts_at_random and self.pretrained_model_name_or_path is not None:
            raise ValueError(
                f"`pretrained_model_name_or_path` must be null, got {self.pretrained_model_name_or_path}: this part "
                "starts from random weights"
            )


class GeneratorTask(Task):
    """A part of the generator, trained on images whose intensities are not varied."""

    @classmethod
    def read_data(cls, settings: GeneratorSettings) -> TrainingData:
        """The training list's images, cropped around targets and anywhere; images of a test list are refused."""
        backgrounds = 0.3 if settings.background_dir is not None else 0.0
        crops = CropSettings(
            target_probability=0.4,
            image_probability=0.6 - backgrounds,
            background_probability=backgrounds,
            implant_probability=0.0,
            **{f"{name}_probability": 0.0 for name in LEFT_OUT},
        )
        data = read_training_data(settings, crops)
        for data_set in data.data_sets:
            used = [*data_set.train_stems, *(sample.stem for sample in data_set.val_samples)]
            refuse_held_out(data_set.root, used, "`train_list`")
        return data


class NoisePredictionTask(GeneratorTask):
    """Squared error of the predicted noise of images' latents, uniform timesteps.

    The model's forward pass takes what `inputs` returns, timesteps (B,) and noise (B, C, h, w): standard normal noise,
    which it predicts, and a perturbation. What it sees in sampling are its own errors, noise that is not in the
    schedule; the perturbation teaches it to take such for noise (Ning et al., arXiv 2301.11706).
    Latents are the posteriors' means: an image of 8 bits is rounded as it is, and is rounded again when it is saved.
    """

    headline = "mse"
    vae: AutoencoderKL

    def inputs(self, image: torch.Tensor, generator: torch.Generator, generation: bool = False) -> list[torch.Tensor]:
        """The tensors that the model sees of images (B, 1, H, W), about [-1, 1], in training or as in generation."""
        raise NotImplementedError

    def examples(self, inputs: list[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
        """Columns (B, 1, H, W) in [0, 1] of a validation's picture beside the images."""
        raise NotImplementedError

    def loss(self, model, batch, step, generator):
        inputs = self.inputs(batch["image"], generator)
        num_timesteps = self.model.scheduler.config.num_train_timesteps
        timesteps = torch.randint(num_timesteps, (len(inputs[0]),), generator=generator)
        timesteps = timesteps.to(inputs[0].device, non_blocking=True)  # (B,)
        noise, perturbation = (latent_noise(self.vae, inputs[0], generator) for _ in range(2))
        predicted = model(*inputs, timesteps, noise + self.settings.input_perturbation * perturbation)
        loss = (predicted - noise).square().mean()
        return loss, {"mse": loss.detach()}

    def validate(self) -> Validation:
        """The squared error of the posteriors' means at fixed timesteps and noise, and examples."""
        image = validation_batch(self.data.val_samples).to(self.vae.device)
        generator = torch.Generator().manual_seed(0)
        inputs = self.inputs(image * 2 - 1, generator, generation=True)
        errors = []
        for timestep in VALIDATION_TIMESTEPS:
            noise = latent_noise(self.vae, image, generator)
            timesteps = torch.full((len(image),), timestep, device=image.device)
            errors.append((self.model(*inputs, timesteps, noise) - noise).square().mean())
        examples = self.examples([one[:SHOWN] for one in inputs], generator)
        return Validation({"mse": float(torch.stack(errors).mean())}, pictures(image[:SHOWN], *examples))


def squeezed_batch(image: torch.Tensor, generator: torch.Generator, generation: bool = False) -> torch.Tensor:
    """Squeezed copies (B, 1, H, W) of images (B, 1, H, W) in [0, 1], each by a quantiser of its own."""
    copies = [squeeze(one, draw_num_groups(generator, generation), generator) for one in image]
    return torch.stack(copies)


def validation_batch(samples: Sequence[Sample]) -> torch.Tensor:
    """The middles (B, 1, 128, 128) in [0, 1] of the first 32 images, smaller ones continued by reflection."""
    crops = []
    for sample in samples[:VALIDATION_IMAGES]:
        image = (normalize_image(sample.image) + 1) / 2  # (H, W)
        short = [max(VALIDATION_PX - side, 0) for side in image.shape]
        image = np.pad(image, [(0, n) for n in short], mode="reflect")
        top, left = ((side - VALIDATION_PX) // 2 for side in image.shape)
        crops.append(np.clip(image[top : top + VALIDATION_PX, left : left + VALIDATION_PX], 0, 1))
    return torch.from_numpy(np.stack(crops)[:, None]).float()


def latent_noise(vae: AutoencoderKL, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal noise (B, C, h, w) of the shape of the latents of images (B, 1, H, W)."""
    size = (side // latent_scale(vae) for side in image.shape[2:])
    return torch.randn((len(image), vae.config.latent_channels, *size), generator=generator).to(
        image, non_blocking=True
    )


def psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images (B, 1, H, W) in [0, 1], the mean over the images."""
    error = (image - reference).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)  # (B,)
    return float((-10 * error.log10()).mean())


def pictures(*columns: torch.Tensor) -> list[Sequence[np.ndarray]]:
    """Rows of a validation's picture, given its columns (B, 1, H, W) in [0, 1]."""
    return [*zip(*(column[:, 0].float().cpu().numpy() for column in columns), strict=True)]


def load_base(name_or_path: str) -> dict[str, Any]:
    """The parts of a latent diffusion model of noise in a folder or repository, and the empty prompt's embedding."""
    kind = AutoencoderKL.load_config(name_or_path, subfolder="vae")["_class_name"]
    vae_class = WaveletAutoencoderKL if kind == WaveletAutoencoderKL.__name__ else AutoencoderKL
    vae = vae_class.from_pretrained(name_or_path, subfolder="vae", use_safetensors=True)
    unet = UNet2DConditionModel.from_pretrained(name_or_path, subfolder="unet", use_safetensors=True)
    scheduler = DDPMScheduler.from_pretrained(name_or_path, subfolder="scheduler")
    if unet.config.in_channels != vae.config.latent_channels:
        raise ValueError(
            f"the denoiser of `{name_or_path}` takes {unet.config.in_channels} channels, "
            f"its VAE's latents have {vae.config.latent_channels}"
        )
    predicted = scheduler.config.prediction_type
    if predicted != "epsilon":
        raise ValueError(f"the denoiser of `{name_or_path}` must predict noise (epsilon), got {predicted}")
    embedding = empty_prompt(name_or_path, unet.config.cross_attention_dim)
    prompt_embedding = PromptEmbedding(*embedding.shape[1:])
    prompt_embedding.embedding.data.copy_(embedding)
    return {"vae": vae, "unet": unet, "scheduler": scheduler, "prompt_embedding": prompt_embedding}


@torch.no_grad()
def empty_prompt(name_or_path: str, width: int) -> torch.Tensor:
    """The text encoder's output for the empty prompt, (1, L, D); zeros (1, 1, width) where the index names none."""
    folder = Path(name_or_path)
    has_index = not folder.is_dir() or (folder / DiffusionPipeline.config_name).is_file()
    index = DiffusionPipeline.load_config(name_or_path) if has_index else {}
    if index.get("text_encoder", [None])[0] is None:
        return torch.zeros(1, 1, width)
    tokenizer = CLIPTokenizer.from_pretrained(name_or_path, subfolder="tokenizer")
    encoder = CLIPTextModel.from_pretrained(name_or_path, subfolder="text_encoder", use_safetensors=True)
    tokens = tokenizer(
        "", padding="max_length", max_length=encoder.config.max_position_embeddings, return_tensors="pt"
    )
    return encoder(tokens.input_ids).last_hidden_state

"""The common part of the generator's trainers: settings, crops, squeezed pairs, the base of stage 2."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..data.crops import CropSettings, setting
from ..data.folder import Sample, held_out_stems
from ..data.ggs import draw_num_groups, squeeze
from ..data.images import normalize_image
from ..models.configurations import GENERATOR_CONFIGURATIONS
from ..models.prompt_embedding import PromptEmbedding
from ..pipelines.pipeline_gaussian_agnostic import encode_gray, latent_scale
from .loop import Task
from .settings import TrainSettings
from .training_data import TrainingData, read_training_data

VALIDATION_PX = 128  # side of the validation crops, from the middle of each image
VALIDATION_TIMESTEPS = (50, 200, 400, 600, 800)
SAMPLES, SAMPLING_STEPS = 6, 20  # for the picture at a validation
LEFT_OUT = ("inversion", "rescale", "gamma", "gain", "range", "blur", "noise", "column_noise")  # augmentations


@dataclass(kw_only=True)
class GeneratorSettings(TrainSettings):
    """Settings of every training of the generator."""

    configurations: ClassVar[dict[str, Any]] = GENERATOR_CONFIGURATIONS

    model: str = setting("gaussian_agnostic_small", "Generator configuration in irstd_ldm.models.configurations.")


class GeneratorTask(Task):
    """A part of the generator, trained on images whose intensities are not varied."""

    @classmethod
    def read_data(cls, settings: GeneratorSettings) -> TrainingData:
        """The training list's images, cropped around targets and anywhere.

        Raises:
            ValueError: A training image is on a test list of the data set.
        """
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
            used = {*data_set.train_stems, *(sample.stem for sample in data_set.val_samples)}
            leaked = sorted(held_out_stems(data_set.root) & used)
            if leaked:
                raise ValueError(
                    f"`train_list` names {len(leaked)} images of a test list of {data_set.root}, such as {leaked[0]}"
                )
        return data


class NoisePredictionTask(GeneratorTask):
    """Squared error of the predicted noise, uniform timesteps.

    The model's forward pass takes what `inputs` returns, timesteps (B,) and two kinds of standard normal noise
    (B, C, h, w), that of the diffusion and that of the posterior's sample, and predicts the former.
    """

    headline = "mse"

    def inputs(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """The tensors that the model sees of a batch, the image first."""
        raise NotImplementedError

    def loss(self, model, batch, step, generator):
        inputs = self.inputs(batch, generator)
        image = inputs[0]
        num_timesteps = self.model.scheduler.config.num_train_timesteps
        timesteps = torch.randint(num_timesteps, (len(image),), generator=generator).to(image.device)
        shape = latent_shape(self.model.vae, image)
        noise, sample_noise = (torch.randn(shape, generator=generator).to(image) for _ in range(2))
        loss = (model(*inputs, timesteps, noise, sample_noise) - noise).square().mean()
        return loss, {"mse": loss.detach()}


def squeezed_batch(image: torch.Tensor, generator: torch.Generator, generation: bool = False) -> torch.Tensor:
    """Squeezed copies (B, 1, H, W) of images (B, 1, H, W) in [0, 1], each by a quantiser of its own."""
    copies = [squeeze(one, draw_num_groups(generator, generation), generator) for one in image.cpu()]
    return torch.stack(copies).to(image)


def validation_batch(samples: Sequence[Sample], limit: int = 32) -> torch.Tensor:
    """The middles of the first images, continued by reflection where these are smaller: (B, 1, 128, 128) in [0, 1]."""
    crops = []
    for sample in samples[:limit]:
        image = (normalize_image(sample.image) + 1) / 2  # (H, W)
        short = [max(VALIDATION_PX - side, 0) for side in image.shape]
        image = np.pad(image, [(0, n) for n in short], mode="reflect")
        top, left = ((side - VALIDATION_PX) // 2 for side in image.shape)
        crops.append(np.clip(image[top : top + VALIDATION_PX, left : left + VALIDATION_PX], 0, 1))
    return torch.from_numpy(np.stack(crops)[:, None]).float()


def latent_shape(vae: AutoencoderKL, image: torch.Tensor) -> tuple[int, ...]:
    """(B, C, h, w) of the latents of (B, 1, H, W)."""
    scale = latent_scale(vae)
    return (len(image), vae.config.latent_channels, image.shape[2] // scale, image.shape[3] // scale)


def sample_latents(vae: AutoencoderKL, image: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Scaled samples of the posterior of images (B, 1, H, W) in [-1, 1], by standard normal noise (B, C, h, w)."""
    posterior = encode_gray(vae, image)
    return (posterior.mean + posterior.std * noise) * vae.config.scaling_factor


def noise_error(
    predict: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    vae: AutoencoderKL,
    image: torch.Tensor,
    generator: torch.Generator,
) -> float:
    """Mean squared error of the predicted noise at fixed timesteps, of the means of the images' posteriors.

    Args:
        predict: Maps timesteps (B,), noise and the posterior's noise (B, C, h, w) to the predicted noise.
        vae: The VAE of the latents.
        image: (B, 1, H, W).
        generator: Source of the noise, on the CPU.
    """
    errors = []
    for timestep in VALIDATION_TIMESTEPS:
        noise = torch.randn(latent_shape(vae, image), generator=generator).to(image)
        timesteps = torch.full((len(image),), timestep, device=image.device)
        errors.append((predict(timesteps, noise, torch.zeros_like(noise)) - noise).square().mean())
    return float(torch.stack(errors).mean())


def psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images (B, 1, H, W) in [0, 1], the mean over the images."""
    error = (image - reference).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)  # (B,)
    return float((-10 * error.log10()).mean())


def pictures(*columns: torch.Tensor, rows: int = 6) -> list[list[np.ndarray]]:
    """Rows of a validation's picture, given its columns (B, 1, H, W) in [0, 1]."""
    return [[column[row, 0].float().cpu().numpy() for column in columns] for row in range(min(rows, len(columns[0])))]


@dataclass(frozen=True)
class GeneratorBase:
    """A latent diffusion model of images and what it cross-attends to."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    prompt_embedding: PromptEmbedding
    scheduler: DDPMScheduler


def load_base(name_or_path: str) -> GeneratorBase:
    """Load `vae`, `unet`, `scheduler` and, where the model index names a text encoder, the empty prompt's embedding.

    Raises:
        OSError: A component is missing or has no safetensors weights.
        ValueError: The denoiser does not fit the VAE's latents, or does not predict noise.
    """
    parts: dict[str, Any] = {"pretrained_model_name_or_path": name_or_path}
    vae = AutoencoderKL.from_pretrained(**parts, subfolder="vae", use_safetensors=True)
    unet = UNet2DConditionModel.from_pretrained(**parts, subfolder="unet", use_safetensors=True)
    scheduler = DDPMScheduler.from_pretrained(**parts, subfolder="scheduler")
    if unet.config.in_channels != vae.config.latent_channels:
        raise ValueError(
            f"the denoiser of `{name_or_path}` takes {unet.config.in_channels} channels, "
            f"its VAE's latents have {vae.config.latent_channels}"
        )
    predicted = scheduler.config.prediction_type
    if predicted != "epsilon":
        raise ValueError(f"the denoiser of `{name_or_path}` must predict noise (epsilon), got {predicted}")
    if has_text_encoder(name_or_path):
        embedding = empty_prompt(name_or_path)
    else:
        embedding = torch.zeros(1, 1, unet.config.cross_attention_dim)
    prompt_embedding = PromptEmbedding(*embedding.shape[1:])
    prompt_embedding.embedding.data.copy_(embedding)
    return GeneratorBase(vae, unet, prompt_embedding, scheduler)


def has_text_encoder(name_or_path: str) -> bool:
    """Whether the folder or repository has a model index that names a text encoder."""
    if Path(name_or_path).is_dir() and not (Path(name_or_path) / DiffusionPipeline.config_name).is_file():
        return False
    return DiffusionPipeline.load_config(name_or_path).get("text_encoder", [None])[0] is not None


@torch.no_grad()
def empty_prompt(name_or_path: str) -> torch.Tensor:
    """The text encoder's last hidden states for the empty prompt, (1, L, D), computed once."""
    tokenizer = CLIPTokenizer.from_pretrained(name_or_path, subfolder="tokenizer")
    encoder = CLIPTextModel.from_pretrained(name_or_path, subfolder="text_encoder", use_safetensors=True)
    tokens = tokenizer(
        "", padding="max_length", max_length=encoder.config.max_position_embeddings, return_tensors="pt"
    )
    return encoder(tokens.input_ids).last_hidden_state

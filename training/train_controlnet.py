"""Train stage 2 of the Gaussian-agnostic engine: the control branch over a frozen latent diffusion model.

    accelerate launch training/train_controlnet.py --config training/recipes/generator_controlnet.yaml \
        --train_data_dir DATA --restoration runs/restoration --pretrained_model_name_or_path runs/image_unet \
        --output_dir runs/gaussian_agnostic

`--pretrained_model_name_or_path` is what train_image_unet.py wrote or any Stable-Diffusion-like folder or Hub id, or
what this trainer wrote.
"""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import ControlNetModel
from torch import nn

from irstd_ldm.data.crops import setting
from irstd_ldm.models.restoration import IRSTDRestorationModel
from irstd_ldm.pipelines.pipeline_gaussian_agnostic import GaussianAgnosticPipeline
from irstd_ldm.training.generator import (
    SAMPLING_STEPS,
    GeneratorSettings,
    NoisePredictionTask,
    load_base,
    squeezed_batch,
)
from irstd_ldm.training.training_data import TrainingData


@dataclass(kw_only=True)
class ControlNetSettings(GeneratorSettings):
    """Settings of the control branch's trainer."""

    starts_at_random: ClassVar[bool] = False

    restoration: str = setting(MISSING, "Folder that train_restoration wrote.", is_path=True)
    num_inference_steps: int = setting(50, "Denoising steps, the checkpoint's default.")
    strength: float = setting(1.0, "Share of the steps that are run, the checkpoint's default.")

    def __post_init__(self):
        super().__post_init__()
        if self.pretrained_model_name_or_path is None:
            raise ValueError("`pretrained_model_name_or_path` must name the base that the control branch steers")


class ControlledDiffusion(nn.Module):
    """One training step's forward pass; everything but the control branch is frozen."""

    def __init__(self, pipeline: GaussianAgnosticPipeline):
        super().__init__()
        self.pipeline = pipeline
        self.frozen = nn.ModuleList([pipeline.restoration, pipeline.vae, pipeline.unet, pipeline.prompt_embedding])
        self.frozen.requires_grad_(False)
        self.controlnet = pipeline.controlnet
        self.scheduler = pipeline.scheduler

    def forward(self, image, squeezed, timesteps, noise) -> torch.Tensor:
        """The controlled denoiser's noise (B, C, h, w) for images and squeezed copies (B, 1, H, W) in [0, 1]."""
        pipeline = self.pipeline
        with torch.no_grad():
            latents = pipeline.encode_hint(image)
            hint = pipeline.encode_hint(pipeline.restoration(squeezed).sample.clamp(0, 1))
        noisy = pipeline.scheduler.add_noise(latents, noise, timesteps)
        return pipeline.predict_noise(noisy, hint, timesteps)


def make_pipeline(settings: ControlNetSettings) -> GaussianAgnosticPipeline:
    """The pipeline around a trained base and stage 1, its control branch a copy of the denoiser's encoder.

    The hint is a latent: one convolution embeds it, and zero convolutions make the untrained branch silent. A folder
    that this trainer wrote has a branch, which is trained on.
    """
    assert settings.pretrained_model_name_or_path is not None
    base = load_base(settings.pretrained_model_name_or_path)
    torch.manual_seed(settings.seed)
    if (Path(settings.pretrained_model_name_or_path) / "controlnet").is_dir():
        controlnet = ControlNetModel.from_pretrained(settings.pretrained_model_name_or_path, subfolder="controlnet")
    else:
        controlnet = ControlNetModel.from_unet(
            base["unet"],
            conditioning_channels=base["vae"].config.latent_channels,
            conditioning_embedding_out_channels=(base["unet"].config.block_out_channels[0],),
        )
    restoration = IRSTDRestorationModel.from_pretrained(settings.restoration, subfolder="restoration")
    return GaussianAgnosticPipeline(
        restoration,
        controlnet=controlnet,
        default_num_inference_steps=settings.num_inference_steps,
        default_strength=settings.strength,
        **base,
    )


class ControlNetTask(NoisePredictionTask):
    """Diffusion of images under control of their squeezed copies."""

    settings_class = ControlNetSettings

    def __init__(self, settings: ControlNetSettings, data: TrainingData):
        super().__init__(settings, data)
        self.pipeline = make_pipeline(settings)
        self.vae = self.pipeline.vae
        self.pipeline.set_progress_bar_config(disable=True)
        self.checkpoint_gradients(self.pipeline.controlnet)
        self.model = ControlledDiffusion(self.pipeline)

    def inputs(self, image, generator, generation=False):
        """The image and its squeezed copy, in [0, 1]."""
        image = ((image + 1) / 2).clamp(0, 1)
        return [image, squeezed_batch(image, generator, generation)]

    def examples(self, inputs, generator):
        """Squeezed, restored and generated images."""
        _, squeezed = inputs
        restored = self.pipeline.restore(squeezed, 0, 0)
        generators = [torch.Generator().manual_seed(k) for k in range(len(restored))]
        return [squeezed, restored, self.pipeline.refine(restored, generators, SAMPLING_STEPS, 1.0, 0, 0)]


main = ControlNetTask.main

if __name__ == "__main__":
    main()

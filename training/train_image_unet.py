"""Train the base denoiser of the Gaussian-agnostic engine: unconditional latent diffusion of infrared images.

    accelerate launch training/train_image_unet.py --config training/recipes/generator_image_unet.yaml \
        --train_data_dir DATA --output_dir runs/image_unet

Not needed where a Stable-Diffusion-like folder serves as the base of train_controlnet.py.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn

from irstd_ldm.data.crops import setting
from irstd_ldm.models.configurations import GENERATOR_CONFIGURATIONS
from irstd_ldm.models.image_vae import WaveletAutoencoderKL
from irstd_ldm.pipelines.pipeline_gaussian_agnostic import decode_gray, encode_gray
from irstd_ldm.training.generator import (
    SAMPLING_STEPS,
    GeneratorSettings,
    NoisePredictionTask,
    latent_noise,
)
from irstd_ldm.training.training_data import TrainingData


@dataclass(kw_only=True)
class ImageUNetSettings(GeneratorSettings):
    """Settings of the base denoiser's trainer."""

    statistics_crops: int = setting(256, "Crops over which the wavelet coefficients' deviations are measured.")

    def __post_init__(self):
        super().__post_init__()
        if "levels" not in GENERATOR_CONFIGURATIONS[self.model]["vae"]:
            raise ValueError(
                f"`model` must be one whose VAE is not learned, gaussian_agnostic_small, got {self.model}: a base of "
                "the published size is a pretrained one"
            )


class ImageDiffusion(nn.Module):
    """One training step's forward pass; the VAE is frozen."""

    def __init__(self, vae: WaveletAutoencoderKL, unet: UNet2DConditionModel, scheduler: DDPMScheduler):
        super().__init__()
        self.vae, self.unet, self.scheduler = vae.requires_grad_(False), unet, scheduler

    def forward(self, image, timesteps, noise) -> torch.Tensor:
        """The denoiser's noise (B, C, h, w) for images (B, 1, H, W) in [-1, 1]."""
        with torch.no_grad():
            latents = encode_gray(self.vae, image).mode() * self.vae.config.scaling_factor
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        prompt = image.new_zeros(len(image), 1, self.unet.config.cross_attention_dim)
        return self.unet(noisy, timesteps, prompt).sample


def make_scheduler() -> DDPMScheduler:
    """Stable Diffusion's: 1000 steps, noise prediction, scaled linear from 0.00085 to 0.012.

    Clean latents are clipped at four deviations: beyond lie errors of the prediction, multiplied out of strong noise.
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=True,
        clip_sample_range=4.0,
        timestep_spacing="linspace",
    )


class ImageUNetTask(NoisePredictionTask):
    """Diffusion of images without a condition, in the latent space of wavelet packets."""

    settings_class = ImageUNetSettings

    def __init__(self, settings: ImageUNetSettings, data: TrainingData):
        super().__init__(settings, data)
        self.vae = WaveletAutoencoderKL(**GENERATOR_CONFIGURATIONS[settings.model]["vae"])
        self.vae.fit([data.crops[k]["image"].clamp(-1, 1) for k in range(settings.statistics_crops)])
        torch.manual_seed(settings.seed)
        unet = UNet2DConditionModel(**GENERATOR_CONFIGURATIONS[settings.model]["unet"])
        self.checkpoint_gradients(unet)
        self.model = ImageDiffusion(self.vae, unet, make_scheduler())

    def inputs(self, image, generator, generation=False):
        """The image in [-1, 1]."""
        return [image.clamp(-1, 1)]

    def examples(self, inputs, generator):
        """A few samples."""
        latents, unet = latent_noise(self.vae, inputs[0], generator), self.model.unet
        prompt = latents.new_zeros(len(latents), 1, unet.config.cross_attention_dim)
        scheduler = make_scheduler()
        scheduler.set_timesteps(SAMPLING_STEPS)
        for t in scheduler.timesteps:
            latents = scheduler.step(unet(latents, t, prompt).sample, t, latents, generator=generator).prev_sample
        return [(decode_gray(self.vae, latents / self.vae.config.scaling_factor) + 1) / 2]

    def save_components(self, folder: Path) -> None:
        """Write the base, with the VAE, for `--pretrained_model_name_or_path` of train_controlnet.py."""
        for name in ("vae", "unet", "scheduler"):
            getattr(self.model, name).save_pretrained(folder / name)


main = ImageUNetTask.main

if __name__ == "__main__":
    main()

"""Train the base denoiser of the Gaussian-agnostic engine: unconditional latent diffusion of infrared images.

    accelerate launch training/train_image_unet.py --config training/recipes/generator_image_unet.yaml \
        --train_data_dir DATA --image_vae runs/image_vae --output_dir runs/image_unet

Not needed where a Stable-Diffusion-like folder serves as the base of train_controlnet.py.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn

from irstd_ldm.models.configurations import GENERATOR_CONFIGURATIONS
from irstd_ldm.pipelines.pipeline_gaussian_agnostic import decode_gray
from irstd_ldm.training.generator import (
    SAMPLES,
    SAMPLING_STEPS,
    GeneratorSettings,
    latent_shape,
    noise_error,
    pictures,
    read_generator_data,
    sample_latents,
    validation_batch,
)
from irstd_ldm.training.loop import Validation, train
from irstd_ldm.training.stages import start
from irstd_ldm.training.training_data import TrainingData, side_by_side, write_split


@dataclass(kw_only=True)
class ImageUNetSettings(GeneratorSettings):
    """Settings of the base denoiser's trainer."""

    image_vae: str  # folder that train_image_vae wrote


class ImageDiffusion(nn.Module):
    """One training step's forward pass; the VAE is frozen."""

    def __init__(self, vae: AutoencoderKL, unet: UNet2DConditionModel, scheduler: DDPMScheduler):
        super().__init__()
        self.vae, self.unet, self.scheduler = vae.requires_grad_(False), unet, scheduler

    def forward(
        self, image: torch.Tensor, timesteps: torch.Tensor, noise: torch.Tensor, sample_noise: torch.Tensor
    ) -> torch.Tensor:
        """The denoiser's noise (B, C, h, w) for images (B, 1, H, W) in [-1, 1]."""
        with torch.no_grad():
            latents = sample_latents(self.vae, image, sample_noise)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        prompt = image.new_zeros(len(image), 1, self.unet.config.cross_attention_dim)
        return self.unet(noisy, timesteps, prompt).sample


def make_scheduler() -> DDPMScheduler:
    """Stable Diffusion's: 1000 steps, noise prediction, scaled linear from 0.00085 to 0.012."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        timestep_spacing="linspace",
    )


class ImageUNetTask:
    """Squared error of the predicted noise, uniform timesteps."""

    headline = "mse"

    def __init__(self, settings: ImageUNetSettings, data: TrainingData):
        self.settings, self.data = settings, data
        vae = AutoencoderKL.from_pretrained(settings.image_vae, subfolder="vae", use_safetensors=True)
        torch.manual_seed(settings.seed)
        unet = UNet2DConditionModel(**GENERATOR_CONFIGURATIONS[settings.model]["unet"])
        if settings.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.model = ImageDiffusion(vae, unet, make_scheduler())

    def loss(self, model, batch, step, generator):
        image = batch["image"].clamp(-1, 1)
        shape = latent_shape(self.model.vae, image)
        timesteps = torch.randint(
            self.model.scheduler.config.num_train_timesteps, (len(image),), generator=generator
        ).to(image.device)
        noise, sample_noise = (torch.randn(shape, generator=generator).to(image) for _ in range(2))
        loss = (model(image, timesteps, noise, sample_noise) - noise).square().mean()
        return loss, {"mse": loss.detach()}

    @torch.no_grad()
    def validate(self) -> Validation:
        """The squared error at fixed timesteps and noise, and a few samples."""
        self.model.eval()
        vae, unet = self.model.vae, self.model.unet
        image = validation_batch(self.data.val_samples).to(vae.device) * 2 - 1
        generator = torch.Generator().manual_seed(0)
        error = noise_error(partial(self.model, image), vae, image, generator)
        latents = torch.randn(latent_shape(vae, image[:SAMPLES]), generator=generator).to(image)
        prompt = image.new_zeros(len(latents), 1, unet.config.cross_attention_dim)
        scheduler = make_scheduler()
        scheduler.set_timesteps(SAMPLING_STEPS)
        for t in scheduler.timesteps:
            latents = scheduler.step(unet(latents, t, prompt).sample, t, latents, generator=generator).prev_sample
        samples = (decode_gray(vae, latents / vae.config.scaling_factor) + 1) / 2
        picture = side_by_side(pictures((image[:SAMPLES] + 1) / 2, samples))
        return Validation({"mse": error}, picture)

    def save_pretrained(self, folder: Path) -> None:
        """Write the base, with the VAE: what `--pretrained_model_name_or_path` of train_controlnet.py takes."""
        self.model.vae.save_pretrained(folder / "vae")
        self.model.unet.save_pretrained(folder / "unet")
        self.model.scheduler.save_pretrained(folder / "scheduler")
        write_split(self.data, folder)


def run(settings: ImageUNetSettings) -> None:
    """Train once."""
    data = read_generator_data(settings)
    train(settings, ImageUNetTask(settings, data), data.crops, data.lists)


def main(argv: list[str] | None = None) -> None:
    start(ImageUNetSettings, run, argv)


if __name__ == "__main__":
    main()

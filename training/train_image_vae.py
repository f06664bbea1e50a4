"""Train the image VAE of the Gaussian-agnostic engine on infrared images.

    accelerate launch training/train_image_vae.py --config training/recipes/generator_image_vae.yaml \
        --train_data_dir DATA --output_dir runs/image_vae
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn

from irstd_ldm.models.configurations import GENERATOR_CONFIGURATIONS
from irstd_ldm.pipelines.pipeline_gaussian_agnostic import decode_gray, encode_gray
from irstd_ldm.training.generator import (
    GeneratorSettings,
    latent_shape,
    pictures,
    psnr,
    read_generator_data,
    validation_batch,
)
from irstd_ldm.training.loop import Validation, train
from irstd_ldm.training.losses import kl_loss
from irstd_ldm.training.stages import start
from irstd_ldm.training.training_data import TrainingData, side_by_side, write_split


@dataclass(kw_only=True)
class ImageVAESettings(GeneratorSettings):
    """Settings of the image VAE's trainer."""

    kl_weight: float = 1e-5  # of KL(posterior || N(0, 1)), mean per latent element
    statistics_crops: int = 128  # crops over which the latents' deviation is measured after training


class ImageVAEStep(nn.Module):
    """One training step's forward pass: images and noise in, reconstructions and posterior out."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, image: torch.Tensor, noise: torch.Tensor):
        posterior = encode_gray(self.vae, image)
        return decode_gray(self.vae, posterior.mean + posterior.std * noise), posterior


class ImageVAETask:
    """Reconstruction by the absolute error, and KL."""

    headline = "psnr"

    def __init__(self, settings: ImageVAESettings, data: TrainingData):
        self.settings, self.data = settings, data
        torch.manual_seed(settings.seed)
        self.vae = AutoencoderKL(**GENERATOR_CONFIGURATIONS[settings.model]["vae"])
        if settings.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        self.model = ImageVAEStep(self.vae)

    def loss(self, model, batch, step, generator):
        image = batch["image"].clamp(-1, 1)
        noise = torch.randn(latent_shape(self.vae, image), generator=generator).to(image)
        reconstructed, posterior = model(image, noise)
        terms = {"l1": (reconstructed - image).abs().mean(), "kl": kl_loss(posterior)}
        error = ((reconstructed - image) / 2).square().mean().detach()
        return terms["l1"] + self.settings.kl_weight * terms["kl"], {**terms, "psnr": -10 * error.log10()}

    @torch.no_grad()
    def validate(self) -> Validation:
        self.vae.eval()
        image = validation_batch(self.data.val_samples).to(self.vae.device)
        latents = encode_gray(self.vae, image * 2 - 1).mode()
        reconstructed = ((decode_gray(self.vae, latents) + 1) / 2).clamp(0, 1)
        return Validation({"psnr": psnr(reconstructed, image)}, side_by_side(pictures(image, reconstructed)))

    @torch.no_grad()
    def save_pretrained(self, folder: Path) -> None:
        """Write the VAE, its latents' deviation measured over training crops as `scaling_factor`."""
        self.vae.eval()
        latents = [
            encode_gray(self.vae, self.data.crops[k]["image"][None].clamp(-1, 1).to(self.vae.device)).mode().flatten()
            for k in range(self.settings.statistics_crops)
        ]
        self.vae.register_to_config(scaling_factor=1 / torch.cat(latents).std().item())
        self.vae.save_pretrained(folder / "vae")
        write_split(self.data, folder)


def run(settings: ImageVAESettings) -> None:
    """Train once."""
    data = read_generator_data(settings)
    train(settings, ImageVAETask(settings, data), data.crops, data.lists)


def main(argv: list[str] | None = None) -> None:
    start(ImageVAESettings, run, argv)


if __name__ == "__main__":
    main()

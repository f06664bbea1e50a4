"""Train the image VAE of the Gaussian-agnostic engine on infrared images.

    accelerate launch training/train_image_vae.py --config training/recipes/generator_image_vae.yaml \
        --train_data_dir DATA --output_dir runs/image_vae
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn

from irstd_ldm.data.crops import setting
from irstd_ldm.models.configurations import GENERATOR_CONFIGURATIONS
from irstd_ldm.pipelines.pipeline_gaussian_agnostic import decode_gray, encode_gray
from irstd_ldm.training.generator import GeneratorSettings, ReconstructionTask, latent_noise
from irstd_ldm.training.losses import kl_loss
from irstd_ldm.training.training_data import TrainingData


@dataclass(kw_only=True)
class ImageVAESettings(GeneratorSettings):
    """Settings of the image VAE's trainer."""

    kl_weight: float = setting(1e-5, "Weight of KL(posterior || N(0, 1)), mean per latent element.")
    statistics_crops: int = setting(128, "Crops over which the latents' deviation is measured after training.")


class ImageVAEStep(nn.Module):
    """One training step's forward pass: images and noise in, reconstructions and posterior out."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, image: torch.Tensor, noise: torch.Tensor):
        posterior = encode_gray(self.vae, image)
        return decode_gray(self.vae, posterior.mean + posterior.std * noise), posterior


class ImageVAETask(ReconstructionTask):
    """Reconstruction by the absolute error, and KL."""

    settings_class = ImageVAESettings

    def __init__(self, settings: ImageVAESettings, data: TrainingData):
        super().__init__(settings, data)
        torch.manual_seed(settings.seed)
        self.vae = AutoencoderKL(**GENERATOR_CONFIGURATIONS[settings.model]["vae"])
        self.checkpoint_gradients(self.vae)
        self.model = ImageVAEStep(self.vae)

    def loss(self, model, batch, step, generator):
        image = batch["image"].clamp(-1, 1)
        reconstructed, posterior = model(image, latent_noise(self.vae, image, generator))
        terms = {"l1": (reconstructed - image).abs().mean(), "kl": kl_loss(posterior)}
        error = ((reconstructed - image) / 2).square().mean().detach()
        return terms["l1"] + self.settings.kl_weight * terms["kl"], {**terms, "psnr": -10 * error.log10()}

    def reconstruct(self, image):
        """Images decoded from their posteriors' modes."""
        latents = encode_gray(self.vae, image * 2 - 1).mode()
        return {"psnr": ((decode_gray(self.vae, latents) + 1) / 2).clamp(0, 1)}

    def save_components(self, folder: Path) -> None:
        """Write the VAE, its latents' deviation measured over training crops as `scaling_factor`."""
        latents = [
            encode_gray(self.vae, self.data.crops[k]["image"][None].clamp(-1, 1).to(self.vae.device)).mode().flatten()
            for k in range(self.settings.statistics_crops)
        ]
        self.vae.register_to_config(scaling_factor=1 / torch.cat(latents).std().item())
        self.vae.save_pretrained(folder / "vae")


main = ImageVAETask.main

if __name__ == "__main__":
    main()

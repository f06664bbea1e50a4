"""Gray images through an `AutoencoderKL` of one channel or of three."""

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


def latent_scale(vae: AutoencoderKL) -> int:
    """Pixels per latent element and side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def encode_gray(vae: AutoencoderKL, image: torch.Tensor) -> DiagonalGaussianDistribution:
    """The posterior of (B, 1, H, W) images in [-1, 1]; a VAE of three channels sees the image in each."""
    return vae.encode(image.expand(-1, vae.config.in_channels, -1, -1)).latent_dist


def decode_gray(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Images (B, 1, H, W), about [-1, 1], of unscaled latents; the mean of a VAE's channels."""
    return vae.decode(latents).sample.mean(dim=1, keepdim=True)

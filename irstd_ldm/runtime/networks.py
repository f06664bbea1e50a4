"""The latent detector's networks as one graph of image and noise, made of operations that every runtime knows."""

import copy
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from ..models.frequency import FAE

if TYPE_CHECKING:
    from ..pipelines.pipeline_irstd_latent import IRSTDLatentPipeline

Network = TypeVar("Network", bound=nn.Module)


class HartleyFAE(FAE):
    """FAE whose low-pass filter is matrix products of real numbers, for runtimes without a Fourier transform.

    A filter that is symmetric along either axis weighs the separable Hartley transform as it weighs the Fourier
    transform (Bracewell, "The Hartley Transform", 1986); the orthonormal Hartley matrix is its own inverse.
    """

    def low_pass(self, x: torch.Tensor) -> torch.Tensor:
        """As in [`FAE`], to rounding."""
        rows, row_matrix = _frequencies_and_hartley(x.shape[-2], x.device)  # (h,), (h, h)
        columns, column_matrix = _frequencies_and_hartley(x.shape[-1], x.device)  # (w,), (w, w)
        cutoff = torch.sigmoid(self.alpha.float()) * 0.5**0.5  # (C, 1, 1) cycles per pixel
        squared = (rows[:, None] ** 2 + columns**2) / cutoff**2  # (C, h, w), (D / D0)^2
        spectrum = (row_matrix @ (x.float() @ column_matrix)) / (1 + squared**2)  # (B, C, h, w)
        return (row_matrix @ (spectrum @ column_matrix)).to(x.dtype)


def _frequencies_and_hartley(extent: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Frequencies (n,) in cycles per pixel, and the orthonormal Hartley matrix (n, n)."""
    places = torch.arange(extent, device=device)
    # Phases are reduced as integers: float32 would lose them at large products.
    period = places[-1:] + 1  # (1,), n as a tensor: the ONNX exporter has no remainder of a symbolic number
    angle = (places[:, None] * places % period).float() * (2 * torch.pi / extent)
    matrix = (torch.cos(angle) + torch.sin(angle)) * extent**-0.5
    return torch.minimum(places, extent - places).float() / extent, matrix


def with_hartley(module: Network) -> Network:
    """A float32 copy of `module` whose FAEs are [`HartleyFAE`], with the same weights."""
    module = copy.deepcopy(module).float().eval()
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is FAE:
                hartley = HartleyFAE(len(child.alpha))
                hartley.load_state_dict(child.state_dict())
                setattr(parent, name, hartley.eval())
    return module


class LatentDetector(nn.Module):
    """Image encoder, denoiser, posterior and decoder of [`IRSTDLatentPipeline`] at a fixed number of steps.

    Args:
        pipeline: Whose networks are copied.
        num_inference_steps: Denoising steps, unrolled.
    """

    def __init__(self, pipeline: "IRSTDLatentPipeline", num_inference_steps: int):
        super().__init__()
        self.image_encoder = with_hartley(pipeline.image_encoder)
        self.unet = with_hartley(pipeline.unet)
        self.vae = with_hartley(pipeline.vae)
        self.scheduler = copy.deepcopy(pipeline.scheduler)
        self.scheduler.set_timesteps(num_inference_steps)
        self.timesteps = self.scheduler.timesteps.tolist()

    def forward(self, image: torch.Tensor, noise: torch.Tensor, posterior_noise: torch.Tensor) -> torch.Tensor:
        """Detect.

        Args:
            image: (B, 1, PH, PW), about [-1, 1], PH and PW multiples of 32.
            noise: Standard normal (B, 8, h, w).
            posterior_noise: (B, 4, h, w): zeros decode the posterior's mode, standard normal numbers a sample of it.

        Returns:
            Probability (B, 1, PH, PW).
        """
        encoded = self.image_encoder(image)
        latents = noise * self.scheduler.init_noise_sigma
        for timestep in self.timesteps:
            sample = torch.cat([self.scheduler.scale_model_input(latents, timestep), encoded.image_latent], dim=1)
            clean = self.unet(sample, timestep, encoded.tokens).sample
            latents = self.scheduler.step(clean, timestep, latents).prev_sample
        posterior = self.vae.variables_to_posterior(latents)
        z = posterior.mode() + posterior.std * posterior_noise  # (B, 4, h, w)
        return self.vae.decode(z, image_features=encoded.features).sample.sigmoid()

"""What the trainers of the Gaussian-agnostic engine share: settings, crops, and squeezed pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL

from ..data.crops import CropSettings
from ..data.folder import Sample, held_out_stems
from ..data.ggs import draw_num_groups, squeeze
from ..data.images import normalize_image
from ..models.configurations import GENERATOR_CONFIGURATIONS
from ..pipelines.pipeline_gaussian_agnostic import encode_gray, latent_scale
from .settings import TrainSettings
from .training_data import TrainingData, read_training_data

VALIDATION_PX = 128  # side of the validation crops, from the middle of each image
VALIDATION_TIMESTEPS = (50, 200, 400, 600, 800)
SAMPLES, SAMPLING_STEPS = 6, 20  # of the picture at a validation


@dataclass(kw_only=True)
class GeneratorSettings(TrainSettings):
    """What the trainers of the generator need beside."""

    configurations: ClassVar[dict[str, Any]] = GENERATOR_CONFIGURATIONS

    model: str = "gaussian_agnostic_small"  # generator configuration in irstd_ldm.models.configurations


def read_generator_data(settings: GeneratorSettings) -> TrainingData:
    """The training list's images, cropped around targets and anywhere, without changes of intensity.

    Raises:
        ValueError: A training image is on a test list of the data set.
    """
    backgrounds = 0.3 if settings.background_dir is not None else 0.0
    crops = CropSettings(
        size=settings.resolution,
        target_probability=0.4,
        image_probability=0.6 - backgrounds,
        background_probability=backgrounds,
        implant_probability=0.0,
        inversion_probability=0.0,
        rescale_probability=0.0,
        gamma_probability=0.0,
        gain_probability=0.0,
        range_probability=0.0,
        blur_probability=0.0,
        noise_probability=0.0,
        column_noise_probability=0.0,
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
        predict: From timesteps (B,), noise and the posterior's noise (B, C, h, w) to the predicted noise.
        vae: Of the latents.
        image: (B, 1, H, W).
        generator: Of the noise, on the CPU.
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
    """Rows for `side_by_side`, of columns (B, 1, H, W) in [0, 1]."""
    return [[column[row, 0].float().cpu().numpy() for column in columns] for row in range(min(rows, len(columns[0])))]

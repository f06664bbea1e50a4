"""What the trainers of the Gaussian-agnostic engine share: settings, crops, and squeezed pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from ..data.crops import CropSettings
from ..data.folder import Sample, held_out_stems
from ..data.ggs import draw_num_groups, squeeze
from ..data.images import normalize_image
from ..models.configurations import GENERATOR_CONFIGURATIONS
from .settings import TrainSettings
from .training_data import TrainingData, read_training_data

VALIDATION_PX = 128  # side of the validation crops, from the middle of each image


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
    leaked = sorted(held_out_stems(settings.train_data_dir) & {*data.train_stems, *data.val_stems})
    if leaked:
        raise ValueError(
            f"`train_list` names {len(leaked)} images of a test list of {settings.train_data_dir}, such as {leaked[0]}"
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


def psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images (B, 1, H, W) in [0, 1], the mean over the images."""
    error = (image - reference).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)  # (B,)
    return float((-10 * error.log10()).mean())


def pictures(*columns: torch.Tensor, rows: int = 6) -> list[list[np.ndarray]]:
    """Rows for `side_by_side`, of columns (B, 1, H, W) in [0, 1]."""
    return [[column[row, 0].float().cpu().numpy() for column in columns] for row in range(min(rows, len(columns[0])))]

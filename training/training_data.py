"""What every trainer reads: training crops and held-out validation images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.crops import CropSettings, TrainingCrops
from ..data.folder import IRSTDFolder, Sample, read_backgrounds, write_stem_list
from ..data.splits import validation_split
from .settings import DetectorSettings, TrainSettings

SPLIT_SEED = 0  # fixed: runs of other seeds, and continuations of a run, hold out the same images


@dataclass(frozen=True)
class TrainingData:
    """Training and validation data of a run.

    Attributes:
        crops: Training crops; item k is a function of the seed and k.
        train_backgrounds: Frames without targets that are trained on, (H, W) each, in the crops' order.
        val_samples: Held-out labelled images.
        val_backgrounds: Held-out frames without targets, (H, W) each.
        train_stems: Stems that are trained on.
        val_stems: Stems of `val_samples`.
        val_background_stems: Stems of `val_backgrounds`.
    """

    crops: TrainingCrops
    train_backgrounds: list[np.ndarray]
    val_samples: list[Sample]
    val_backgrounds: list[np.ndarray]
    train_stems: list[str]
    val_stems: list[str]
    val_background_stems: list[str]


def detector_crops(settings: DetectorSettings) -> CropSettings:
    """The crops that a detector is trained on."""
    return CropSettings(
        size=settings.resolution,
        target_probability=settings.target_probability,
        image_probability=settings.image_probability,
        background_probability=settings.background_probability,
        implant_probability=settings.implant_probability,
        squeeze_probability=settings.squeeze_probability,
        hard_negative_probability=settings.hard_negative_probability,
        blend_probability=settings.blend_probability,
        negative_image_probability=settings.negative_image_probability,
        synthetic_probability=settings.synthetic_probability,
        stuck_pixel_probability=settings.stuck_pixel_probability,
        background_rescale_range=(settings.background_rescale_min, settings.background_rescale_max),
    )


def read_training_data(settings: TrainSettings, crop_settings: CropSettings) -> TrainingData:
    """Read the training list, split off the validation images and keep everything in memory."""
    folder = IRSTDFolder(settings.train_data_dir, split="train", list_file=settings.train_list)
    train_stems: list[str] = list(folder.stems)
    val_stems: list[str] = []
    if settings.val_fraction:
        try:
            train_stems, val_stems = validation_split(folder, settings.val_fraction, SPLIT_SEED)
        except ValueError as error:
            raise ValueError(
                f"`val_fraction` {settings.val_fraction}: {error}; set it to 0 or give images of several scenes"
            ) from error
    samples = {sample.stem: sample for sample in folder}
    backgrounds: dict[str, np.ndarray] = {}
    if settings.background_dir is not None:
        backgrounds = read_backgrounds(settings.background_dir, settings.background_exclude or ())
    order = np.random.default_rng(SPLIT_SEED).permutation(list(backgrounds))
    val_background_stems = sorted(order[: round(settings.val_fraction * len(backgrounds))].tolist())
    train_backgrounds = [frame for stem, frame in backgrounds.items() if stem not in val_background_stems]
    crops = TrainingCrops([samples[stem] for stem in train_stems], train_backgrounds, crop_settings, settings.seed)
    return TrainingData(
        crops,
        train_backgrounds,
        [samples[stem] for stem in val_stems],
        [backgrounds[stem] for stem in val_background_stems],
        train_stems,
        val_stems,
        val_background_stems,
    )


def write_split(data: TrainingData, folder: Path) -> None:
    """Write the lists of the run, so that no later step mistakes one for the other.

    These are ``train.txt``, ``val.txt`` and, where frames without targets were held out, ``val_backgrounds.txt``.
    """
    write_stem_list(folder / "train.txt", data.train_stems)
    write_stem_list(folder / "val.txt", data.val_stems)
    if data.val_background_stems:
        write_stem_list(folder / "val_backgrounds.txt", data.val_background_stems)


def side_by_side(rows: list[list[np.ndarray]], size: int = 192) -> np.ndarray:
    """Stack images (H, W) in [0, 1], cut to their top left `size` px: (rows*size, columns*size, 3) uint8."""
    canvas = np.zeros((len(rows) * size, max(map(len, rows)) * size), np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            tile = np.rint(np.clip(image[:size, :size], 0, 1) * 255).astype(np.uint8)
            canvas[i * size : i * size + tile.shape[0], j * size : j * size + tile.shape[1]] = tile
    return np.repeat(canvas[:, :, None], 3, axis=2)

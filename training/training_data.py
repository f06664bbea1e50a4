"""Data of a run: training crops and held-out validation images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.crops import CropSettings, TrainingCrops
from ..data.folder import IRSTDFolder, Sample, read_backgrounds, write_stem_list
from ..data.splits import split_by_scene
from .settings import BACKGROUNDS, TrainSettings

SPLIT_SEED = 0  # fixed: runs of other seeds, and continuations of a run, hold out the same images


@dataclass(frozen=True)
class DataSet:
    """The labelled images of one data set: the stems that are trained on, and the images that are held out."""

    root: Path
    name: str  # name of the folder
    train_stems: list[str]
    val_samples: list[Sample]


@dataclass(frozen=True)
class TrainingData:
    """Training and validation data of a run; frames without targets are (H, W) each, by stem."""

    crops: TrainingCrops  # item k is a function of the seed and k
    data_sets: list[DataSet]
    train_backgrounds: dict[str, np.ndarray]  # frames in the order in which the crops number them
    val_backgrounds: dict[str, np.ndarray]

    @property
    def val_samples(self) -> list[Sample]:
        """Held-out labelled images of all data sets."""
        return [sample for data_set in self.data_sets for sample in data_set.val_samples]

    @property
    def lists(self) -> dict[str, list[str]]:
        """Stems that were trained on and held out, by list, so that no later step mistakes one for the other.

        The lists are ``train`` and ``val`` of one data set, ``train_NAME`` and ``val_NAME`` of several, and
        ``train_backgrounds`` and ``val_backgrounds`` of frames without targets, where there are any.
        """
        lists = {}
        for data_set in self.data_sets:
            suffix = f"_{data_set.name}" if len(self.data_sets) > 1 else ""
            lists[f"train{suffix}"] = data_set.train_stems
            lists[f"val{suffix}"] = [sample.stem for sample in data_set.val_samples]
        for kind, frames in (("train", self.train_backgrounds), ("val", self.val_backgrounds)):
            if frames:
                lists[f"{kind}_{BACKGROUNDS}"] = list(frames)
        return lists


def read_training_data(
    settings: TrainSettings, crop_settings: CropSettings, normalization: str = "range"
) -> TrainingData:
    """Read each data set's training list, split off its validation images and keep everything in memory."""
    backgrounds: dict[str, np.ndarray] = {}
    if settings.background_dir is not None:
        backgrounds = read_backgrounds(settings.background_dir, settings.background_exclude or ())
    data_sets, train_samples = [], []
    for root, list_file in zip(settings.roots, settings.lists, strict=True):
        folder = IRSTDFolder(root, split="train", list_file=list_file)
        samples = {sample.stem: sample for sample in folder}
        train_stems, val_stems = _split(folder, samples, settings.val_fraction)
        train_samples.append([samples[stem] for stem in train_stems])
        data_sets.append(DataSet(folder.root, folder.name, train_stems, [samples[stem] for stem in val_stems]))
    order = np.random.default_rng(SPLIT_SEED).permutation(list(backgrounds))
    held_out = sorted(order[: round(settings.val_fraction * len(backgrounds))].tolist())
    train_backgrounds = {stem: frame for stem, frame in backgrounds.items() if stem not in held_out}
    crops = TrainingCrops(
        train_samples,
        [*train_backgrounds.values()],
        crop_settings,
        settings.seed,
        settings.train_data_shares,
        settings.train_data_flip_probabilities,
        settings.train_data_variation_factors,
        size=settings.resolution,
        normalization=normalization,
    )
    return TrainingData(crops, data_sets, train_backgrounds, {stem: backgrounds[stem] for stem in held_out})


def _split(folder: IRSTDFolder, samples: Mapping[str, Sample], fraction: float) -> tuple[list[str], list[str]]:
    """The stems for training and for validation."""
    if not fraction:
        return folder.stems, []
    try:
        return split_by_scene(folder.stems, [samples[stem].image for stem in folder.stems], fraction, SPLIT_SEED)
    except ValueError as error:
        raise ValueError(
            f"`val_fraction` {fraction} of {folder.root}: {error}; set it to 0 or give images of several scenes"
        ) from error


def write_split(data: TrainingData, folder: Path) -> None:
    """Write the lists of the run, LIST.txt each."""
    for name, stems in data.lists.items():
        write_stem_list(folder / f"{name}.txt", stems)

"""What `irstd-ldm synthesize` wrote, read back, and the real images that it may be compared with."""

import csv
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from irstd_ldm.cli.synthesis_folder import PROVENANCE, SETTINGS
from irstd_ldm.data.folder import IRSTDFolder, Sample, held_out_stems, read_stem_list
from irstd_ldm.pipelines.pipeline_gaussian_agnostic import unit_range


def real_levels(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 gray levels, 0 to 255, of a real image on the scale that `synthesize` writes."""
    return image.astype(np.float32) if image.dtype == np.uint8 else 255 * unit_range(image)


def synthetic_levels(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 gray levels, 0 to 255, of an image that `synthesize` wrote as uint8 or uint16."""
    return image.astype(np.float32) * np.float32(255 / np.iinfo(image.dtype).max)


def samples_of(root: Path, stems: Sequence[str]) -> dict[str, Sample]:
    """Images and masks by stem."""
    folder = IRSTDFolder(root)
    unknown = sorted(set(stems) - set(folder.stems))
    if unknown:
        raise ValueError(f"`stems` must be of images in '{root}', got {unknown[0]!r}")
    places = {stem: place for place, stem in enumerate(folder.stems)}
    return {stem: folder[places[stem]] for stem in stems}


class SyntheticSet:
    """The synthetic images of one folder that `synthesize` wrote; what it copied of the originals is left out.

    Raises:
        ValueError: a folder without synthetic images.
    """

    def __init__(self, root: Path):
        self.name = root.name
        with (root / PROVENANCE).open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["kind"] != "original"]
        if not rows:
            raise ValueError(f"`synthetic` must be folders with synthetic images, '{root}' lists none")
        self.kind = rows[0]["kind"]
        self.sources = [row["source"] for row in rows]  # of each image
        self.samples = list(samples_of(root, [row["name"] for row in rows]).values())
        given = json.loads((root / SETTINGS).read_text(encoding="utf-8"))["sources"]
        self.training: list[str] = [] if self.kind == "planted" else given

    @cached_property
    def images(self) -> list[np.ndarray]:
        return [synthetic_levels(sample.image) for sample in self.samples]


def held_out_list(data: Path, lists: Sequence[str], sources: set[str]) -> list[str]:
    """The stems of the real images to compare with.

    Args:
        data: the data set.
        lists: files of stems, or "val" for the data set's own list; none: the training list without `sources`.
        sources: what the synthetic images, or their generator, were made of.

    Raises:
        ValueError: an image of a test list or of `sources`, or none at all.
    """
    tested = held_out_stems(data)
    if lists:
        read = [IRSTDFolder(data, "val").stems if name == "val" else read_stem_list(name) for name in lists]
        stems = list(dict.fromkeys(stem for one in read for stem in one))
    else:
        stems = [stem for stem in IRSTDFolder(data, "train").stems if stem not in sources]
    for name, given, refused, what in (
        ("held_out", stems, tested, "on a test list"),
        ("held_out", stems, sources, "a source of the synthetic ones"),
        ("synthetic", sources, tested, "on a test list"),
    ):
        found = sorted(refused.intersection(given))
        if found:
            raise ValueError(f"`{name}` must hold no image that is {what}, got {len(found)}, such as {found[0]!r}")
    if not stems:
        raise ValueError("`held_out` must name real images: all of the training list are sources")
    return stems

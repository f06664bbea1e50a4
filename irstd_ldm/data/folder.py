"""Data sets in the field's folder layout: ROOT/images, ROOT/masks and split lists of stems."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import overload

import numpy as np

from ..files import write_text
from .images import to_gray
from .masks import MASK_THRESHOLD, read_mask
from .readers import IMAGE_SUFFIXES

SPLITS = ("train", "test", "val")
SUFFIX = re.compile(rf"(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})$", re.IGNORECASE)


@dataclass(frozen=True)
class Sample:
    """One image with its mask."""

    stem: str
    image: np.ndarray  # (H, W), as `to_gray` returns it
    mask: np.ndarray  # (H, W) bool

    @classmethod
    def of(cls, stem: str, image: np.ndarray, levels: np.ndarray, image_name: object, mask_name: object) -> "Sample":
        """An image with the `mask_levels` of its mask; ValueError with their names where the sizes differ."""
        if image.shape != levels.shape:
            raise ValueError(
                f"mask '{mask_name}' is {levels.shape[1]}x{levels.shape[0]} and its image '{image_name}' is "
                f"{image.shape[1]}x{image.shape[0]} (width x height); they must be equal"
            )
        return cls(stem, image, levels >= MASK_THRESHOLD)


class SampleSequence(Sequence[Sample]):
    """Images with their masks, read when asked for.

    Attributes:
        name: Name of the data set.
        stems: Name of each sample.
    """

    name: str
    stems: list[str]

    def __len__(self) -> int:
        return len(self.stems)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index):
        """The sample at `index`, or a list of samples for a slice.

        Raises:
            ImageReadError: an image or a mask that cannot be decoded.
            ValueError: a mask of another size than its image, or one whose targets cannot be told.
        """
        if isinstance(index, slice):
            return [self[one] for one in range(len(self))[index]]
        return self._read(range(len(self))[index])

    def stored_mask(self, index: int) -> np.ndarray:
        """The mask (H, W) uint8 before it is binarised: as stored where it is gray with 0 and 255, else 0 and 255."""
        raise NotImplementedError

    def _read(self, index: int) -> Sample:
        raise NotImplementedError


class IRSTDFolder(SampleSequence):
    """The images and masks under one root, read when asked for.

    Images are ROOT/images/STEM.png (or another of `IMAGE_SUFFIXES`); the mask is ROOT/masks/STEM or STEM_pixels0 with
    any of these suffixes; a stem may hold folders, as in 41/1. `mask_levels` tells which of a mask's pixels are a
    target's.

    Args:
        root: the data set's folder; its name is `name`.
        split: "train", "test", "val", or None for every image in alphabetical order. The list is the first that
            exists, for "train": img_idx/train_NAME.txt (or the only img_idx/train_*.txt), 50_50/train.txt,
            idx_427/train.txt, idx_427/trainval.txt, train.txt, trainval.txt, train_NAME.txt; for "test" and "val" the
            same files (without trainval).
        list_file: a text file of stems, instead of the split's own list.

    Raises:
        ValueError: an unknown `split`, no list where one is looked for, or a stem without image or mask.
    """

    def __init__(
        self, root: str | PathLike[str], split: str | None = None, list_file: str | PathLike[str] | None = None
    ):
        if split is not None and split not in SPLITS:
            raise ValueError(f"`split` must be one of {SPLITS} or None, got {split!r}")
        self.root = Path(root)
        self.name = self.root.resolve().name
        self._images = files_by_stem(self.root / "images")
        self._masks = files_by_stem(self.root / "masks")
        if split is not None and list_file is None:
            list_file = _find_list(self.root, self.name, split)
        self.stems = sorted(self._images) if list_file is None else read_stem_list(list_file)
        for stem in self.stems:
            if stem not in self._images:
                raise ValueError(f"stem '{stem}' has no image in '{self.root / 'images'}'")
            if stem not in self._masks and f"{stem}_pixels0" not in self._masks:
                raise ValueError(f"stem '{stem}' has no mask in '{self.root / 'masks'}'")

    def image_path(self, stem: str) -> Path:
        return self._images[stem]

    def mask_path(self, stem: str) -> Path:
        return self._masks[stem if stem in self._masks else f"{stem}_pixels0"]

    def stored_mask(self, index: int) -> np.ndarray:
        return read_mask(self.mask_path(self.stems[index]))

    def _read(self, index: int) -> Sample:
        stem = self.stems[index]
        paths = self.image_path(stem), self.mask_path(stem)
        return Sample.of(stem, to_gray(paths[0]), read_mask(paths[1]), *paths)


def read_stem_list(path: str | PathLike[str]) -> list[str]:
    """The stems of a text file, one a line, in its order; blank lines and those that begin with # are skipped.

    A line may also name the image's file, below images/ or with the folders above, and its mask's behind it.

    Raises:
        ValueError: not UTF-8 text, no stem, or a stem twice.
    """
    stems = _listed_stems(Path(path))
    if not stems:
        raise ValueError(f"list '{path}' holds no stems")
    for stem, count in Counter(stems).items():
        if count > 1:
            raise ValueError(f"list '{path}' holds the stem '{stem}' twice")
    return stems


def _listed_stems(path: Path) -> list[str]:
    try:
        lines = map(str.strip, path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"list '{path}' is not UTF-8 text: save it in that encoding") from error
    return [_stem(line) for line in lines if line and not line.startswith("#")]


def _stem(name: str) -> str:
    """The stem that a line of a list stands for, with its accents composed: macOS decomposes those of files."""
    image, *mask = name.split()
    name = image if len(mask) == 1 and SUFFIX.search(image) and SUFFIX.search(mask[0]) else name
    name = re.sub(r"^(?:.*/)?images/", "", unicodedata.normalize("NFC", name.replace("\\", "/")))
    return SUFFIX.sub("", name.strip("/"))


def write_stem_list(path: str | PathLike[str], stems: Iterable[str]) -> None:
    """Writes the stems one a line (LF), to a temporary name first."""
    write_text(Path(path), "".join(f"{stem}\n" for stem in stems))


def read_backgrounds(root: str | PathLike[str], exclude: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Frames without targets: stem -> (H, W), as `to_gray` returns them, of ROOT/images in alphabetical order.

    Stems that match one of the shell patterns `exclude` (`fnmatch`), such as "S7_*", are left out.
    """
    paths = files_by_stem(Path(root) / "images")
    kept = [stem for stem in sorted(paths) if not any(fnmatchcase(stem, pattern) for pattern in exclude)]
    return {stem: to_gray(paths[stem]) for stem in kept}


def files_by_stem(folder: Path) -> dict[str, Path]:
    """The image files in a folder and those below it, without hidden ones: stem -> path, in alphabetical order.

    Raises:
        ValueError: no such folder, or two files of one stem.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder '{folder}'")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in inside.parts):
            stem = unicodedata.normalize("NFC", SUFFIX.sub("", inside.as_posix()))
            if stem in files:
                raise ValueError(f"'{files[stem]}' and '{path}' share one stem")
            files[stem] = path
    return files


def held_out_stems(root: str | PathLike[str]) -> set[str]:
    """The stems of every test list under ROOT: test.txt or test_NAME.txt, in ROOT or a folder of it.

    An image on any of them must not enter the training of anything that is scored on it. Logs of such a name hold no
    stem of an image and do not matter.
    """
    lists = [path for pattern in ("test.txt", "test_*.txt") for path in Path(root).glob(f"**/{pattern}")]
    return {stem for path in lists for stem in _listed_stems(path)}


def refuse_held_out(root: str | PathLike[str], stems: Iterable[str], name: str) -> None:
    """Raises a ValueError where `stems`, which a message calls `name`, hold images of a test list under ROOT."""
    found = sorted(held_out_stems(root).intersection(stems))
    if found:
        raise ValueError(f"{name} must hold no image of a test list, got {len(found)}, such as {found[0]}")


def validation_list(model: str | PathLike[str], root: str | PathLike[str]) -> Path:
    """The list of the images of ROOT that a model's training held out: val_NAME.txt in the model's folder, or val.txt.

    NAME is that of the folder ROOT; a training on several data sets writes one list for each.

    Raises:
        ValueError: the model's folder has neither.
    """
    candidates = [Path(model) / name for name in (f"val_{Path(root).resolve().name}.txt", "val.txt")]
    found = _first_file(candidates)
    if found is None:
        raise ValueError("the model has no validation list '" + "' or '".join(map(str, candidates)) + "'")
    return found


def _find_list(root: Path, name: str, split: str) -> Path:
    named = root / "img_idx" / f"{split}_{name}.txt"
    if not named.is_file():
        alone = sorted((root / "img_idx").glob(f"{split}_*.txt"))
        if len(alone) == 1:  # the data set's folder was renamed
            return alone[0]
    file_names = ["train.txt", "trainval.txt"] if split == "train" else [f"{split}.txt"]
    candidates = [named, root / "50_50" / f"{split}.txt"]
    candidates += [folder / file_name for folder in (root / "idx_427", root) for file_name in file_names]
    candidates += [root / named.name]
    found = _first_file(candidates)
    if found is None:
        looked_for = ", ".join(str(candidate.relative_to(root)) for candidate in candidates)
        raise ValueError(f"no list of the split '{split}' under '{root}'; looked for {looked_for}")
    return found


def _first_file(candidates: Iterable[Path]) -> Path | None:
    return next((candidate for candidate in candidates if candidate.is_file()), None)

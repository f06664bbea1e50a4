"""The images of a data set that a command works on, and their masks."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from ..data.folder import IRSTDFolder, files_by_stem, read_stem_list
from ..data.hf_dataset import HFDataset
from ..data.images import to_gray
from ..evaluation.protocols import get_protocol

HF_PREFIX = "hf:"


class ImageSet:
    """Some images of a data set, read one at a time.

    The root holds images/ and masks/; without targets it is a folder of frames, or its parent; "hf:" and a folder or
    a Hub id is a Hugging Face data set. `include` is a shell pattern of stems. `files` has the image files by their
    stems, where there are files. What is not there is a ValueError, a list that cannot be read an OSError.
    """

    def __init__(
        self,
        root: Path,
        *,
        split: str | None = None,
        list_file: Path | None = None,
        no_targets: bool = False,
        include: str | None = None,
        protocol: str = "native",
    ):
        self.root = root
        chosen = get_protocol(protocol)
        self._stored_masks = chosen.target_level != chosen.union_level
        self._labelled: IRSTDFolder | HFDataset | None = None
        self.files: dict[str, Path] = {}
        self.description = f"split {split}" if split is not None else f"list {list_file}"
        if str(root).startswith(HF_PREFIX):
            if list_file is not None or no_targets or split is None:
                raise ValueError(f"'{root}' has splits alone, no lists and no frames without masks")
            self._labelled = HFDataset(str(root).removeprefix(HF_PREFIX), split)
            stems = list(self._labelled.stems)
        elif no_targets:
            self.files = files_by_stem(root / "images" if (root / "images").is_dir() else root)
            self.description = "frames without targets"
            stems = list(self.files)
            if list_file is not None:
                self.description += f" on the list {list_file}"
                stems = read_stem_list(list_file)
            for stem in stems:
                if stem not in self.files:
                    raise ValueError(f"no image '{stem}' under '{root}'")
        else:
            self._labelled = IRSTDFolder(root, split, list_file=list_file)
            stems = list(self._labelled.stems)
            self.files = {stem: self._labelled.image_path(stem) for stem in stems}
        self._index = {stem: index for index, stem in enumerate(stems)}
        if include is not None:
            self.description += f" like {include}"
            stems = [stem for stem in stems if fnmatchcase(stem, include)]
        if not stems:
            raise ValueError(f"no image under '{root}': {self.description}")
        self.stems = stems

    def __len__(self) -> int:
        return len(self.stems)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Stem, image and mask of every image, as `read` returns them."""
        for stem in self.stems:
            yield stem, *self.read(stem)

    def read(self, stem: str) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W) and mask (H, W): bool, or uint8 as stored where the protocol tells grey levels apart."""
        if self._labelled is None:
            image = to_gray(self.files[stem])
            return image, np.zeros(image.shape, np.uint8)
        index = self._index[stem]
        sample = self._labelled[index]
        return sample.image, self._labelled.stored_mask(index) if self._stored_masks else sample.mask

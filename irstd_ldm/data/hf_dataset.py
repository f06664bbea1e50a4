"""Image and mask pairs of a Hugging Face data set: what outgrows a folder of files."""

import io
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, overload

import numpy as np
from PIL import Image

from .folder import MASK_THRESHOLD, Sample
from .images import ImageReadError, to_gray

IMAGE_COLUMN, MASK_COLUMN = "image", "mask"


class HFDataset(Sequence[Sample]):
    """A split of a data set that `datasets.load_dataset` reads, with image columns `image` and `mask`.

    A folder of files with metadata.jsonl needs the keys `file_name` and `mask_file_name`; parquet files need the two
    columns. Rows stay on the disk. A row's stem is its image's file name without suffix; where a row has no name, or
    two share one, every row's is its number in six digits. A mask pixel belongs to a target where it is >= 128.

    Args:
        name: a folder or a Hub id.
        split: "train", "test", ... as the data set names it.

    Raises:
        ImportError: the package `datasets` is not installed.
        ValueError: there is no such data set or split, or it lacks the columns.
    """

    def __init__(self, name: str, split: str):
        try:
            from datasets import Image as ImageFeature
            from datasets import load_dataset
        except ImportError as error:
            raise ImportError("Hugging Face data sets need `pip install irstd-ldm[eval]`") from error
        try:
            rows = load_dataset(name, split=split)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"data set '{name}', split '{split}': {error}") from error
        for column in (IMAGE_COLUMN, MASK_COLUMN):
            if not isinstance(rows.features.get(column), ImageFeature):
                raise ValueError(
                    f"data set '{name}' must have the image columns '{IMAGE_COLUMN}' and '{MASK_COLUMN}', "
                    f"got {', '.join(rows.features)}"
                )
            rows = rows.cast_column(column, ImageFeature(decode=False))  # {"bytes", "path"}
        self.name, self.split = name, split
        self._rows = rows
        paths = [row["path"] for row in rows.select_columns(IMAGE_COLUMN)[IMAGE_COLUMN]]
        self.stems = [PurePosixPath(path or "").stem for path in paths]
        if not all(self.stems) or len(set(self.stems)) < len(self.stems):
            self.stems = [f"{index:06d}" for index in range(len(paths))]

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
            ValueError: a mask of another size than its image, or with the values 0 and 1 only.
        """
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        stem, image, mask = self.stems[index], self._gray(index, IMAGE_COLUMN), self.stored_mask(index)
        if image.shape != mask.shape:
            raise ValueError(
                f"{self._place(index)}: mask {mask.shape[1]}x{mask.shape[0]} and image "
                f"{image.shape[1]}x{image.shape[0]} (width x height) must be equal"
            )
        if mask.max() == 1:
            raise ValueError(f"{self._place(index)}: mask of 0 and 1; target pixels must be >= {MASK_THRESHOLD}")
        return Sample(stem, image, mask >= MASK_THRESHOLD)

    def stored_mask(self, index: int) -> np.ndarray:
        """The mask (H, W) as stored, before it is binarised."""
        return self._gray(index, MASK_COLUMN)

    def _gray(self, index: int, column: str) -> np.ndarray:
        stored: dict[str, Any] = self._rows[index][column]
        source = io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"]
        try:
            with Image.open(source) as image:
                return to_gray(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ImageReadError(f"{self._place(index)}: {column} cannot be read: {error}") from error

    def _place(self, index: int) -> str:
        return f"data set '{self.name}', split '{self.split}', row {index} ({self.stems[index]})"

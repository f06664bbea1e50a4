"""Image and mask pairs of a Hugging Face data set, for sets that outgrow a folder of files."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..extras import install_command
from .folder import Sample, SampleSequence
from .masks import mask_levels
from .readers import ImageReadError, read_image, read_stored

IMAGE_COLUMN, MASK_COLUMN = "image", "mask"


class HFDataset(SampleSequence):
    """A split of a data set that `datasets.load_dataset` reads, with image columns `image` and `mask`.

    A folder of files with metadata.jsonl needs the keys `file_name` and `mask_file_name`; parquet files need the two
    columns. Rows stay on the disk. A row's stem is its image's file name without suffix; where a row has no name, or
    two share one, every row's is its number in six digits. `mask_levels` tells which pixels of a mask are a target's.

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
            raise ImportError(f"Hugging Face data sets need datasets: {install_command('eval')}") from error
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
            rows = rows.cast_column(column, ImageFeature(decode=False))  # rows hold {"bytes", "path"}
        self.name, self.split = name, split
        self._rows = rows
        paths = [row["path"] for row in rows.select_columns(IMAGE_COLUMN)[IMAGE_COLUMN]]
        self.stems = [PurePosixPath(path or "").stem for path in paths]
        if not all(self.stems) or len(set(self.stems)) < len(self.stems):
            self.stems = [f"{index:06d}" for index in range(len(paths))]

    def _read(self, index: int) -> Sample:
        image = self._read_file(index, IMAGE_COLUMN, read_image)
        names = (f"{column} of {self._row(index)}" for column in (IMAGE_COLUMN, MASK_COLUMN))
        return Sample.of(self.stems[index], image, self.stored_mask(index), *names)

    def stored_mask(self, index: int) -> np.ndarray:
        return mask_levels(self._read_file(index, MASK_COLUMN, read_stored), f"of {self._row(index)}")

    def _read_file(self, index: int, column: str, read: Callable[[Path], Any]) -> Any:
        """Calls a reader of files on a row's file, which may lie inside a larger one."""
        stored: dict[str, Any] = self._rows[index][column]
        with TemporaryDirectory() as folder:
            path = Path(stored["path"] or "")
            if stored["bytes"] is not None:
                path = Path(folder, f"row{path.suffix}")
                path.write_bytes(stored["bytes"])
            try:
                return read(path)
            except ImageReadError as error:
                reason = str(error).removeprefix(f"cannot read image '{path}'").lstrip(":, ")
            except OSError as error:
                reason = str(error)
        raise ImageReadError(f"{self._row(index)}: {column} cannot be read: {reason}")

    def _row(self, index: int) -> str:
        return f"data set '{self.name}', split '{self.split}', row {index} ({self.stems[index]})"

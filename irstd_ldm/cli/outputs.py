"""What the commands write: under a temporary name first, renamed when complete."""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..pipelines.target import Target
from . import EXIT_USAGE, CommandError
from .inputs import Failure, InputFile

TARGET_FIELDS = tuple(field.name for field in dataclasses.fields(Target))
CSV_FIELDS = ("file", "name", *TARGET_FIELDS)
NAMING = "name is the file's stem; a second file of one stem is STEM-2, a third STEM-3, in the order of the inputs"


def part_path(path: Path) -> Path:
    """The temporary name of `path`, in the same folder."""
    return path.with_name(f".{path.name}.part")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file under a temporary name and renames it; what fails half-way leaves nothing behind."""
    part = part_path(path)
    try:
        with part.open("wb") as file:
            write(file)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def save_png(path: Path, image: Image.Image) -> None:
    write_atomically(path, lambda file: image.save(file, format="PNG"))


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(finite(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def make_folder(folder: Path, argument: str = "--output") -> None:
    """Makes `folder` and checks that a file can be written in it.

    Raises:
        CommandError: it cannot; wrong usage of `argument`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = part_path(folder / "writable")
        try:
            probe.write_bytes(b"0")  # a byte: a full disk still takes an empty file
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(f"{argument} {folder}: cannot write there: {error.strerror}", EXIT_USAGE) from error


def finite(value: Any) -> Any:
    """The same content for strict JSON: NaN and infinities become null, numpy's numbers Python's."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class DetectionWriter:
    """Masks, overlays, detections.json and detections.csv of one `detect` run.

    The tables grow image by image under temporary names, so that memory does not; `begin` starts them and `finish`
    renames them, also after an interruption. An image's files appear completely or not at all in the tables.

    Args:
        folder: DIR of `detect --output`.

    Raises:
        CommandError: DIR cannot be written, or holds masks or overlays of other origin (a data set's, say).
    """

    def __init__(self, folder: Path):
        self.masks, self.overlays = folder / "masks", folder / "overlays"
        self.json_path, self.csv_path = folder / "detections.json", folder / "detections.csv"
        ours = any(path.exists() for path in (self.json_path, part_path(self.json_path)))
        for owned in (self.masks, self.overlays):
            if not ours and owned.is_dir() and any(owned.iterdir()):
                raise CommandError(
                    f"--output {folder}: its {owned.name}/ holds files that `detect` did not write; name another",
                    EXIT_USAGE,
                )
        for made in (folder, self.masks, self.overlays):
            make_folder(made)
        self.num_images, self.num_targets = 0, 0

    def holds(self, path: Path) -> bool:
        """Whether an input lies where this run writes."""
        return path.resolve().parent in (self.masks.resolve(), self.overlays.resolve())

    def begin(self, header: Mapping[str, Any]) -> None:
        """Starts the tables; `header` holds what is common to all images (model, settings).

        Raises:
            OSError: the disk refuses; no table is left.
        """
        self._tables: list[tuple[io.FileIO, Path]] = []
        try:
            for path in (self.json_path, self.csv_path):
                self._tables.append((part_path(path).open("wb", 0), path))
            (self._json, _), (self._csv, _) = self._tables
            append(self._json, json.dumps({**finite(header), "naming": NAMING}, indent=2)[:-2] + ',\n  "images": [')
            append(self._csv, csv_line(CSV_FIELDS))
        except BaseException:
            self._discard()
            raise

    def add(self, item: InputFile, mask: np.ndarray, overlay: Image.Image, targets: Sequence[Target]) -> None:
        """Writes one image's files and rows.

        Args:
            mask: (H, W) bool.
            overlay: RGB.
            targets: of this image.

        Raises:
            OSError: the disk refuses; the tables are as before.
        """
        save_png(self.masks / f"{item.name}.png", Image.fromarray(mask.astype(np.uint8) * 255))
        save_png(self.overlays / f"{item.name}.png", overlay)
        rows = [finite(dataclasses.asdict(target)) for target in targets]
        record = {
            "file": str(item.path),
            "name": item.name,
            "width": mask.shape[1],
            "height": mask.shape[0],
            "targets": rows,
        }
        json_end, csv_end = self._json.tell(), self._csv.tell()
        try:
            append(self._json, (",\n    " if self.num_images else "\n    ") + json.dumps(record))
            append(self._csv, "".join(csv_line((item.path, item.name, *row.values())) for row in rows))
        except BaseException:  # an interruption too must not leave half a record
            for file, end in ((self._json, json_end), (self._csv, csv_end)):
                file.seek(end)
                file.truncate()
            raise
        self.num_images += 1
        self.num_targets += len(rows)

    def finish(self, failures: Sequence[Failure], complete: bool) -> None:
        """Ends the tables and gives them their names.

        Raises:
            OSError: the disk refuses; tables without images are removed, others stay under their temporary names.
        """
        failed = json.dumps([dataclasses.asdict(failure) for failure in failures])
        end = "\n  ]" if self.num_images else "]"
        try:
            append(self._json, f'{end},\n  "failed": {failed},\n  "complete": {json.dumps(complete)}\n}}\n')
            for file, path in self._tables:
                file.close()
                os.replace(part_path(path), path)
        except OSError:
            if not self.num_images:
                self._discard()
            raise

    def _discard(self) -> None:
        for file, path in self._tables:
            file.close()
            part_path(path).unlink(missing_ok=True)


def append(file: io.FileIO, text: str) -> None:
    """Writes all of a text to an unbuffered file."""
    data = memoryview(text.encode(errors="surrogateescape"))
    while data:
        data = data[file.write(data) :]


def csv_line(values: Sequence[Any]) -> str:
    """One row with its line feed."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()

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

from ..targets import Target
from . import EXIT_USAGE, CommandError

TARGET_FIELDS = tuple(field.name for field in dataclasses.fields(Target))


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

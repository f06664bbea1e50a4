"""Files that the commands write, and the values in them."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import part_path, replacing
from ..pipelines.target import Target
from . import EXIT_USAGE, CommandError

TARGET_FIELDS = tuple(field.name for field in dataclasses.fields(Target))


def save_png(path: Path, image: Image.Image) -> None:
    with replacing(path) as part:
        image.save(part, format="PNG")


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


def csv_line(values: Sequence[Any]) -> str:
    """One row with its line feed."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()

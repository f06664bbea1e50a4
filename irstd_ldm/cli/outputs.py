"""Files that the commands write, and the values in them."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import part_path, replacing, write_text
from ..pipelines.target import Target
from . import EXIT_USAGE, CommandError

TARGET_FIELDS = tuple(field.name for field in dataclasses.fields(Target))


def save_png(path: Path, image: Image.Image) -> None:
    with replacing(path) as part:
        image.save(part, format="PNG")


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(finite(content), indent=2, allow_nan=False) + "\n")


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


def csv_line(values: Sequence[Any]) -> str:
    """One row with its line feed."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()

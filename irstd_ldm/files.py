"""Files that appear whole or not at all: written under a temporary name beside their own, then renamed."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def part_path(path: Path) -> Path:
    """The temporary name of `path`, hidden, in the same folder."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The temporary path to write to; it takes the place of `path` at the end, or is removed where writing failed."""
    part = part_path(path)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """An empty hidden folder beside `folder`, to be renamed or emptied; what is left of it at the end is removed."""
    unfinished = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text with the line ends that it holds."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes strict JSON, see `finite`."""
    write_text(path, json.dumps(finite(content), indent=2, allow_nan=False) + "\n")


def finite(content: Any) -> Any:
    """The same content for strict JSON: NaN and infinities become null, numpy's numbers Python's."""
    text = json.dumps(content, default=lambda number: number.item())
    return json.loads(text, parse_constant=lambda _: None)

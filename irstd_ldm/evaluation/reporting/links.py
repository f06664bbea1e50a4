"""Where a report's links lead."""

import os
from pathlib import Path
from urllib.parse import quote

from .named import NamedEvaluation


def image_addresses(evaluation: NamedEvaluation, folder: Path) -> dict[str, str]:
    """stem -> address of its image file, relative to `folder`; stems without a file are left out."""
    found = {}
    for stem in evaluation.stems:
        path = evaluation.images.get(stem)
        if path is not None and path.is_file():
            found[stem] = _address(path, folder)
    return found


def _address(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    if path.drive != folder.drive:  # Windows knows no relative path there
        return path.as_uri()
    return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))

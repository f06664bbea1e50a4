"""Files, folders and globs of a command line -> the image files to read, each with an output name of its own."""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.readers import FRAME_SUFFIXES
from . import one_line

# What a file may raise: unreadable, refused, too large for the memory (torch reports that as a RuntimeError), of a
# format whose reader is not installed.
IMAGE_ERRORS = (OSError, ValueError, TypeError, RuntimeError, MemoryError, ImportError)


@dataclass(frozen=True)
class InputFile:
    """One image to read; `name` is the stem of everything that is written for it."""

    path: Path
    name: str


@dataclass(frozen=True)
class Failure:
    """One input that could not be done, and why."""

    file: str
    error: str

    def __str__(self) -> str:
        return self.error if self.file in self.error else f"{self.file}: {self.error}"


def describe(file: object, error: Exception) -> Failure:
    """The failure of `file`, on one line; the file system's errors by the file they name and their plain text."""
    if isinstance(error, OSError) and error.strerror is not None:
        return Failure(str(error.filename or file), error.strerror)
    return Failure(str(file), one_line(error) or type(error).__name__)


def collect_inputs(
    arguments: Iterable[str], suffixes: Sequence[str] = FRAME_SUFFIXES
) -> tuple[list[InputFile], list[Failure]]:
    """The image files that the arguments name, in their order, each file once.

    An argument is an existing file (of any suffix), an existing folder (its images and videos, sorted, without
    subfolders), or a glob (each match as if it had been named, sorted; `**` crosses folders).

    Args:
        arguments: as a shell hands them over.
        suffixes: of the files of a folder that are taken.

    Returns:
        The files, named by `unique_names`, and a failure per argument that names none.
    """
    paths: dict[Path, Path] = {}  # resolved -> as named
    failures: list[Failure] = []
    for argument in arguments:
        try:
            found = _expand(argument, suffixes)
        except OSError as error:
            failures.append(describe(argument, error))
            continue
        except ValueError as error:
            failures.append(Failure(argument, str(error)))
            continue
        for path in found:
            paths.setdefault(Path(os.path.realpath(path)), path)
    return unique_names(list(paths.values())), failures


def image_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder with these suffixes, sorted, without subfolders and hidden files; a broken link is one."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes
        and not path.name.startswith(".")
        and (path.is_file() or (path.is_symlink() and not path.exists()))
    )


def unique_names(paths: Iterable[Path]) -> list[InputFile]:
    """Names every file by its stem, a stem's second file STEM-2, its third STEM-3, whatever the case of letters."""
    taken: set[str] = set()
    files = []
    for path in paths:
        name, number = path.stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name.casefold())
        files.append(InputFile(path, name))
    return files


def _expand(argument: str, suffixes: Sequence[str]) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        files = image_files(path, suffixes)
        if not files:
            raise ValueError(f"folder without images ({', '.join(suffixes)})")
        return files
    if path.exists() or not glob.has_magic(argument):
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
    if not matches:
        raise ValueError("no file matches")
    files = [file for match in matches for file in (image_files(match, suffixes) if match.is_dir() else [match])]
    if not files:
        raise ValueError("no image in the folders that match")
    return files

"""Files, folders and globs of a command line -> the image files to read, each with an output name of its own."""

import argparse
import glob
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from ..data.readers import FRAME_SUFFIXES, is_sequence, open_frames
from ..data.readers.frame import IMAGE_ERRORS
from . import EXIT_USAGE, CommandError, one_line

# Flags of `detect` that fit inputs of several frames alone, and tables that fit stills alone.
SEQUENCE_FLAGS = ("tracks", "annotated_video", "resume")
STILL_TABLES = ("coco", "geojson")


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

    def to_json(self) -> str:
        """The line of detections.jsonl."""
        return json.dumps(asdict(self))

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


@contextmanager
def readers_are_quiet() -> Iterator[None]:
    """Pillow and tifffile say nothing of a file beside the error, and Pillow's size limit is lifted for our own."""
    tifffile_log = logging.getLogger("tifffile")
    level, limit = tifffile_log.level, Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        tifffile_log.setLevel(logging.CRITICAL + 1)
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            tifffile_log.setLevel(level)
            Image.MAX_IMAGE_PIXELS = limit


def check_flags(inputs: Sequence[InputFile], args: argparse.Namespace) -> None:
    """Looks at the heads of the inputs where a flag asks for it; where only some fit, a note says so.

    Args:
        inputs: Those that were found; none = the synthetic scene, where `args.inputs` is empty too.
        args: Of `detect`.

    Raises:
        CommandError: A flag fits no input, or coco or geojson is asked for a sequence; wrong usage.
    """
    of_sequences = ["--" + name.replace("_", "-") for name in SEQUENCE_FLAGS if getattr(args, name)]
    of_stills = [kind for kind in args.write or () if kind in STILL_TABLES]
    if not of_sequences and not of_stills:
        return
    sequences, num_stills = _sort(inputs, args)
    if of_stills and sequences:
        raise CommandError(
            f"--write {','.join(of_stills)}: not for inputs of several frames, such as {sequences[0].path}", EXIT_USAGE
        )
    named = ", ".join(of_sequences)
    if of_sequences and not sequences and (num_stills or not args.inputs):
        raise CommandError(f"{named}: for inputs of several frames, and there is none", EXIT_USAGE)
    if of_sequences and sequences and num_stills:
        of_all = f"{len(sequences)} of {len(inputs)} inputs that have several frames"
        print(f"irstd-ldm detect: {named}: for the {of_all}", file=sys.stderr)


def _sort(inputs: Sequence[InputFile], args: argparse.Namespace) -> tuple[list[InputFile], int]:
    """The sequences, and the number of stills; what cannot be read is neither and fails in its turn."""
    sequences, num_stills = [], 0
    with readers_are_quiet():
        for item in inputs:
            try:
                source = open_frames(item.path, args.raw, args.max_pixels)
            except IMAGE_ERRORS:
                continue
            if is_sequence(source):
                sequences.append(item)
            else:
                num_stills += 1
    return sequences, num_stills

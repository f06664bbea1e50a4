"""The `irstd-ldm` command: argument parsing and files around the rest of the package."""

import os
import sys
from pathlib import Path

from ..files import part_path

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
PICTURE_KINDS = ("masks", "overlays", "probability")  # DIR/KIND/NAME.png
TABLE_NAMES = {
    "json": "detections.json",
    "csv": "detections.csv",
    "jsonl": "detections.jsonl",
    "coco": "detections_coco.json",
    "geojson": "detections.geojson",
}
KINDS = (*PICTURE_KINDS, *TABLE_NAMES)  # what `detect --write` chooses from
DEFAULT_KINDS = ("masks", "overlays", "json", "csv")
SCENE_SCR = 12.0  # of the targets in the synthetic scene that `detect` and `card` show


class CommandError(Exception):
    """Ends a command with one line on stderr and this exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED):
        super().__init__(one_line(message))
        self.exit_code = exit_code


def drop_standard_output() -> None:
    """What is still to be written there goes nowhere: the flush at the exit would fail as the last write did."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """A line on the standard output, at once.

    Raises:
        BrokenPipeError: the reader left.
        CommandError: the disk behind it refuses.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_standard_output()
        raise CommandError(f"cannot write to the standard output: {error.strerror}") from error


def one_line(message: object) -> str:
    """A message, often another library's, on a single line."""
    return " ".join(str(message).split())


def plain(error: Exception) -> str:
    """An error's text; the file system's errors by the file they name, without their number."""
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


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

"""The `irstd-ldm` command: argument parsing and files around the rest of the package."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ..data.readers.frame import Address
from ..files import printable

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
YOLO = "yolo"
PICTURE_KINDS = ("masks", "overlays", "probability", YOLO)  # DIR/KIND/NAME.png, of "yolo" a text, DIR/yolo/NAME.txt
TABLE_NAMES = {
    "json": "detections.json",
    "csv": "detections.csv",
    "jsonl": "detections.jsonl",
    "coco": "detections_coco.json",
    "geojson": "detections.geojson",
}
KINDS = (*PICTURE_KINDS, *TABLE_NAMES)  # `detect --write` chooses from these
DEFAULT_KINDS = ("masks", "overlays", "json", "csv")
SCENE_SCR = 12.0  # signal-to-clutter ratio of the targets in the synthetic scene of `detect` and `card`


class CommandError(Exception):
    """Ends a command with one line on stderr and this exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED):
        super().__init__(one_line(message))
        self.exit_code = exit_code


@dataclass(frozen=True)
class InputFile:
    """One image or sequence to read; `name` is the stem of everything that is written for it."""

    path: Path | Address
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
        return printable(self.error if self.file in self.error else f"{self.file}: {self.error}")


def describe(file: object, error: Exception) -> Failure:
    """The failure of `file`, on one line; an error of the file system gives the file that it names and its text."""
    if isinstance(error, OSError) and error.strerror is not None:
        return Failure(str(error.filename or file), error.strerror)
    return Failure(str(file), one_line(error) or type(error).__name__)


def plain(error: Exception) -> str:
    """An error's text; an error of the file system gives the file that it names, without a number."""
    return str(describe("", error)) if isinstance(error, OSError) and error.strerror is not None else str(error)


def one_line(message: object) -> str:
    """A message, often another library's, on a single line."""
    return printable(" ".join(str(message).split()))


def drop_standard_output() -> None:
    """Sends the rest of the standard output nowhere: the flush at the exit would fail as the last write did."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

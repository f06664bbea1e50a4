"""A frame and its targets as a line of JSON, and the log of such lines that every table is made of."""

import dataclasses
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..files import finite
from ..pipelines.target import Target
from ..tracking.tracker import Track
from . import say


@dataclasses.dataclass(frozen=True)
class Record:
    """One frame and its targets.

    Attributes:
        file: The input, as it was named.
        name: Stem of what is written for the input.
        width, height: Size of the frame in pixels.
        targets: In the order of the mask's components.
        mask: (H, W) bool.
        frame: Index in a sequence, from 0; None for a still.
        time_s: Time stamp of the frame; None where the file has none.
        tracks: Tracks after this frame; None where none are kept.
    """

    file: str
    name: str
    width: int
    height: int
    targets: list[Target]
    mask: np.ndarray
    frame: int | None = None
    time_s: float | None = None
    tracks: list[Track] | None = None

    def row(self) -> dict[str, Any]:
        """JSON values of all fields but the mask; those that are None are left out."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "mask"}
        for name in ("targets", "tracks"):
            if fields[name] is not None:
                fields[name] = [dataclasses.asdict(one) for one in fields[name]]
        return finite({name: value for name, value in fields.items() if value is not None})

    def to_json(self) -> str:
        """The line, without its end."""
        mask = {"size": list(self.mask.shape), "counts": run_lengths(self.mask)}
        return json.dumps({**self.row(), "mask": mask})

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The record of a line.

        Raises:
            ValueError, KeyError, TypeError: The line is no record.
        """
        row = json.loads(line)
        mask = mask_of_run_lengths(row.pop("mask")["counts"], row["height"], row["width"])
        targets = [
            Target(**{name: math.nan if value is None else value for name, value in target.items()})
            for target in row.pop("targets")
        ]
        tracks = [Track(**track) for track in row.pop("tracks")] if "tracks" in row else None
        return cls(**row, targets=targets, mask=mask, tracks=tracks)


class Log:
    """Lines appended at once and unbuffered: a kill leaves whole lines, but for the last.

    Args:
        path: The file, made if absent.
        kept_bytes: What stays of a file that is there.
    """

    def __init__(self, path: Path, kept_bytes: int = 0):
        self.path = path
        self._file = io.FileIO(path, "a")
        self._file.truncate(kept_bytes)

    def append(self, line: str) -> None:
        """Appends a line, or nothing.

        Raises:
            OSError: The disk refuses.
        """
        end = self._file.seek(0, io.SEEK_END)
        data = memoryview(f"{line}\n".encode(errors="surrogateescape"))
        try:
            while data:
                data = data[self._file.write(data) :]
        except BaseException:  # an interruption too must not leave half a line
            self._file.truncate(end)
            raise

    def records(self, num_records: int | None = None) -> Iterator[Record]:
        """The records from the first on, one in memory at a time; lines of failures follow and are none."""
        with self.path.open(encoding="utf-8", errors="surrogateescape") as lines:
            for index, line in enumerate(lines):
                if index == num_records or "error" in line and "targets" not in json.loads(line):
                    return
                yield Record.from_json(line)

    def close(self) -> None:
        self._file.close()


class StandardOutput:
    """The lines of a [`Log`] on the standard output; see `say` for what fails."""

    def append(self, line: str) -> None:
        say(line)

    def close(self) -> None:
        pass


def whole_lines(path: Path) -> tuple[int, int]:
    """Number of lines that hold the frames 0, 1, 2, ... of a sequence, and their size in bytes."""
    count = end = 0
    if not path.exists():
        return 0, 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                is_next = line.endswith(b"\n") and Record.from_json(line.decode()).frame == count
            except (ValueError, KeyError, TypeError):
                is_next = False
            if not is_next:
                break
            count, end = count + 1, end + len(line)
    return count, end


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of (H, W) bool: of background and foreground in turns, column by column."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(edges, prepend=0, append=flat.size).tolist()
    return [0, *counts] if flat[0] else counts


def mask_of_run_lengths(counts: list[int], height: int, width: int) -> np.ndarray:
    """The mask (H, W) bool of `run_lengths`.

    Raises:
        ValueError: The counts do not fill the mask.
    """
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T

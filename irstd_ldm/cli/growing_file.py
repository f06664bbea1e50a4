"""A file that grows under a temporary name."""

import io
import os
from pathlib import Path

from .outputs import append, part_path

COPIED_BYTES = 2**20


class GrowingFile:
    """Text appended piece by piece, unbuffered, to the temporary name of `path`; `finish` renames it."""

    def __init__(self, path: Path):
        self.path = path
        self._file: io.FileIO | None = None
        self._mark = 0

    def open(self) -> None:
        self._file = io.FileIO(part_path(self.path), "w")

    def append(self, text: str) -> None:
        append(self._opened(), text)

    def append_file(self, other: "GrowingFile") -> None:
        """Appends all that another file holds, in parts."""
        with part_path(other.path).open("rb") as source:
            while part := memoryview(source.read(COPIED_BYTES)):
                while part:
                    part = part[self._opened().write(part) :]

    def mark(self) -> None:
        """What is appended from here on can be taken back."""
        self._mark = self._opened().tell()

    def take_back(self) -> None:
        self._opened().seek(self._mark)
        self._opened().truncate()

    def finish(self) -> None:
        self._opened().close()
        os.replace(part_path(self.path), self.path)

    def discard(self) -> None:
        """Removes the file where it was opened."""
        if self._file is not None:
            self._file.close()
            part_path(self.path).unlink(missing_ok=True)

    def _opened(self) -> io.FileIO:
        assert self._file is not None
        return self._file

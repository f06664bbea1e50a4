"""A file that grows piece by piece, and whose last piece can be taken back."""

import io
import os
from pathlib import Path

from .outputs import append, part_path

COPIED_BYTES = 2**20


class GrowingFile:
    """Text appended piece by piece, unbuffered.

    Args:
        path: the file.
        named_at_once: whether it has its name from the start; otherwise a temporary one, until `finish`.
    """

    def __init__(self, path: Path, named_at_once: bool = False):
        self.path = path
        self.written = path if named_at_once else part_path(path)
        self._file: io.FileIO | None = None
        self._mark = 0

    def open(self) -> None:
        self._file = io.FileIO(self.written, "w")

    def append(self, text: str) -> None:
        append(self._opened(), text)

    def append_file(self, other: "GrowingFile") -> None:
        """Appends all that another file holds, in parts."""
        with other.written.open("rb") as source:
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
        os.replace(self.written, self.path)

    def discard(self) -> None:
        """Removes the file where it was opened."""
        if self._file is not None:
            self._file.close()
            self.written.unlink(missing_ok=True)

    def _opened(self) -> io.FileIO:
        assert self._file is not None
        return self._file

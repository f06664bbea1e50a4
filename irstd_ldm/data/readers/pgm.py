"""PGM, the gray images of netpbm, with their values as stored (source: the format's definition, netpbm's pgm(5))."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .frame import FrameSource, check_size

SPACE = rb"(?:\s|#[^\n]*\n)+"  # comments run to the end of their line
HEAD = re.compile(rb"(P[25])" + SPACE + rb"(\d{1,9})" + SPACE + rb"(\d{1,9})" + SPACE + rb"(\d{1,9})\s")
HEAD_BYTES = 4096
PLAIN_BYTES = 16  # read of a plain file for each of its values, beside `HEAD_BYTES`


class PGMFrames(FrameSource):
    """The one frame of a .pgm file.

    Values up to 255 are scaled to 0 ... 255 where the file's largest value is another; deeper ones stay as they are.
    """

    num_frames = 1

    def __init__(self, path: Path, max_pixels: int):
        self.path = path
        with path.open("rb") as file:
            head = HEAD.match(file.read(HEAD_BYTES))
        if head is None or not 0 < int(head[4]) < 65536:
            raise self.error("no PGM file")
        self._plain, self._start = head[1] == b"P2", head.end()
        self._width, self._height, self._largest = int(head[2]), int(head[3]), int(head[4])
        check_size(path, self._width, self._height, max_pixels)

    def stored(self, start: int = 0) -> Iterator[np.ndarray]:
        if start > 0:
            return
        with self.path.open("rb") as file:
            file.seek(self._start)
            values = self._plain_values(file) if self._plain else self._binary_values(file)
        image = values.reshape(self._height, self._width)
        if self._largest < 255:
            image = np.rint(image * (255 / self._largest)).clip(0, 255)
        yield image.astype(np.uint8 if self._largest < 256 else np.uint16)

    def _binary_values(self, file: BinaryIO) -> np.ndarray:
        dtype = np.dtype(np.uint8 if self._largest < 256 else ">u2")
        data = file.read(self._width * self._height * dtype.itemsize)
        if len(data) < self._width * self._height * dtype.itemsize:
            raise self.error("truncated")
        if file.read(HEAD_BYTES).strip():
            raise self.error("more data after the image; one image per file")
        return np.frombuffer(data, dtype)

    def _plain_values(self, file: BinaryIO) -> np.ndarray:
        most = HEAD_BYTES + PLAIN_BYTES * self._width * self._height
        text = file.read(most + 1)
        if len(text) > most:
            raise self.error(f"more than {PLAIN_BYTES} bytes for each of its pixels")
        words = re.sub(rb"#[^\n]*", b"", text).split()
        if not all(word.isdigit() and len(word) < 10 and int(word) < 65536 for word in words):
            raise self.error("a value that is no number below 65536")
        if len(words) != self._width * self._height:
            raise self.error(f"{len(words)} values for its pixels")
        return np.array(list(map(int, words)), np.uint16)

"""PGM, the gray images of netpbm, with their values as stored (source: the format's definition, netpbm's pgm(5))."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .frames import Frame, check_size, gray_frame
from .images import ImageReadError

SPACE = rb"(?:\s|#[^\n]*\n)+"  # comments run to the end of their line
HEAD = re.compile(rb"(P[25])" + SPACE + rb"(\d+)" + SPACE + rb"(\d+)" + SPACE + rb"(\d+)\s")
HEAD_BYTES = 4096


class PGMFrames:
    """The one frame of a .pgm file; see `FrameSource`.

    Values up to 255 are scaled to 0 ... 255 where the file's largest value is another; deeper ones stay as they are.
    """

    num_frames = 1
    frames_per_second = None

    def __init__(self, path: Path, max_pixels: int):
        self.path = path
        with path.open("rb") as file:
            head = HEAD.match(file.read(HEAD_BYTES))
        if head is None or not 0 < int(head[4]) < 65536:
            raise ImageReadError(f"cannot read image '{path}': no PGM file")
        self._plain, self._start = head[1] == b"P2", head.end()
        self._width, self._height, self._largest = int(head[2]), int(head[3]), int(head[4])
        check_size(path, self._width, self._height, max_pixels)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        if start > 0:
            return
        with self.path.open("rb") as file:
            file.seek(self._start)
            values = self._plain_values(file) if self._plain else self._binary_values(file)
        image = values.reshape(self._height, self._width)
        if self._largest < 255:
            image = np.rint(image * (255 / self._largest)).clip(0, 255)
        yield gray_frame(self.path, 0, image.astype(np.uint8 if self._largest < 256 else np.uint16))

    def _binary_values(self, file: BinaryIO) -> np.ndarray:
        dtype = np.dtype(np.uint8 if self._largest < 256 else ">u2")
        data = file.read(self._width * self._height * dtype.itemsize)
        if len(data) < self._width * self._height * dtype.itemsize:
            raise ImageReadError(f"cannot read image '{self.path}': truncated")
        if file.read(HEAD_BYTES).strip():
            raise ImageReadError(f"cannot read image '{self.path}': more data after the image; one image per file")
        return np.frombuffer(data, dtype)

    def _plain_values(self, file: BinaryIO) -> np.ndarray:
        words = re.sub(rb"#[^\n]*", b"", file.read()).split()
        try:
            values = np.array([int(word) for word in words], np.uint16)
        except (ValueError, OverflowError) as error:
            raise ImageReadError(f"cannot read image '{self.path}': a value that is no number below 65536") from error
        if values.size != self._width * self._height:
            raise ImageReadError(f"cannot read image '{self.path}': {values.size} values for its pixels")
        return values

"""Raw frames: values row by row, frame after frame, without any header."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .frames import Frame, RawFormat, check_size, gray_frame
from .images import ImageReadError


class RawFrames:
    """The frames of a file in a `RawFormat`; see `FrameSource`."""

    frames_per_second = None

    def __init__(self, path: Path, raw: RawFormat, max_pixels: int):
        self.path, self._raw = path, raw
        check_size(path, raw.width, raw.height, max_pixels)
        self._frame_bytes = raw.width * raw.height * raw.dtype.itemsize
        with path.open("rb") as file:
            file_bytes = file.seek(0, 2)
        self.num_frames, rest = divmod(file_bytes, self._frame_bytes)
        if rest or not self.num_frames:
            raise ImageReadError(
                f"cannot read image '{path}': {file_bytes} bytes are no whole number of frames of "
                f"{raw.width}x{raw.height} {raw.dtype.name}, {self._frame_bytes} bytes each"
            )

    def frames(self, start: int = 0) -> Iterator[Frame]:
        shape = (self._raw.height, self._raw.width)
        with self.path.open("rb") as file:
            file.seek(start * self._frame_bytes)
            for index in range(start, self.num_frames):
                data = file.read(self._frame_bytes)
                if len(data) < self._frame_bytes:
                    raise ImageReadError(f"cannot read image '{self.path}', frame {index}: truncated")
                yield gray_frame(self.path, index, np.frombuffer(data, self._raw.dtype).reshape(shape))

"""Raw frames: values row by row, frame after frame, behind a header of a known size or none."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .frame import FrameSource, RawFormat, check_size


class RawFrames(FrameSource):
    """The frames of a file in a `RawFormat`."""

    num_frames: int

    def __init__(self, path: Path, max_pixels: int, raw: RawFormat):
        self.path, self._raw = path, raw
        check_size(path, raw.width, raw.height, max_pixels)
        with path.open("rb") as file:
            file_bytes = file.seek(0, 2) - raw.offset
        self.num_frames, rest = divmod(file_bytes, raw.frame_bytes)
        if rest or self.num_frames < 1:
            raise self.error(
                f"{file_bytes} bytes are no whole number of frames of {raw.width}x{raw.height} "
                f"{raw.value_type.removesuffix('le').removesuffix('be')}, {raw.frame_bytes} bytes each"
            )

    def stored(self, start: int = 0) -> Iterator[np.ndarray]:
        raw = self._raw
        with self.path.open("rb") as file:
            file.seek(raw.offset + start * raw.frame_bytes)
            for index in range(start, self.num_frames):
                data = file.read(raw.frame_bytes)
                if len(data) < raw.frame_bytes:
                    raise self.error(f"frame {index} is truncated")
                values = _unpacked(data, raw) if raw.is_packed else np.frombuffer(data, raw.dtype)
                yield values.reshape(raw.height, raw.width)


def _unpacked(data: bytes, raw: RawFormat) -> np.ndarray:
    """The 12-bit values (height * width,) of packed bytes, as uint16."""
    triples = np.frombuffer(data + bytes(-len(data) % 3), np.uint8).reshape(-1, 3).astype(np.uint16)
    first, second, third = triples.T
    if raw.value_type == "uint12be":
        pairs = (first << 4 | second >> 4, (second & 15) << 8 | third)
    else:
        pairs = (first | (second & 15) << 8, second >> 4 | third << 4)
    return np.stack(pairs, axis=1).reshape(-1)[: raw.height * raw.width]

"""Files of plain values: NumPy's .npy, memory-mapped; raw frames, row by row; PGM, the gray images of netpbm."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.format import open_memmap

from .frame import RAW_TYPES, FrameSource, RawFormat, check_size, gray_frame

ALLOWED = "(H, W), (H, W, 1), (N, H, W), (N, H, W, 1) or (N, 1, H, W)"
# Source: the definition of PGM, netpbm's pgm(5).
SPACE = rb"(?:\s|#[^\n]*\n)+"  # comments run to the end of their line
HEAD = re.compile(rb"(P[25])" + SPACE + rb"(\d{1,9})" + SPACE + rb"(\d{1,9})" + SPACE + rb"(\d{1,9})\s")
HEAD_BYTES = 4096
PART_BYTES = 2**20  # a plain file is read in such parts
PLAIN_BYTES = 16  # most bytes that a plain file may have for each of its values, beside `HEAD_BYTES`


class NumpyFrames(FrameSource):
    """The frames of a .npy file of a shape that `ALLOWED` names; pickled objects are never loaded."""

    num_frames: int

    def __init__(self, path: Path, max_pixels: int):
        self.path = path
        stack = self._map()
        self.num_frames, height, width = stack.shape
        check_size(path, width, height, max_pixels)
        gray_frame(path, None, np.zeros((1, 1), stack.dtype))  # refuses the element type before any frame is read

    def stored(self, start: int = 0) -> Iterator[np.ndarray]:
        for index in range(start, self.num_frames):
            yield self._map()[index]  # a new map, so that frames read before leave the memory

    def _map(self) -> np.ndarray:
        """(N, H, W), not read yet."""
        try:
            array: np.ndarray = open_memmap(self.path, mode="r")
        except OSError:
            raise
        except Exception as error:  # a broken head leads to any error, and NumPy's reasons are several lines of advice
            raise self.error("no .npy file, truncated, empty, or of pickled objects") from error
        shape = array.shape
        if len(shape) == 2:
            array = array[None]
        elif len(shape) == 3 and shape[2] == 1:
            array = np.moveaxis(array, 2, 0)
        elif len(shape) == 4 and 1 in (shape[1], shape[3]):
            array = array[..., 0] if shape[3] == 1 else array[:, 0]
        if array.ndim != 3 or array.shape[2] in (3, 4) or not array.size:
            raise self.error(f"the shape must be {ALLOWED}, not empty, without colours, got {shape}")
        num_frames, height, width = array.shape
        if width < num_frames and 2 * width <= height:  # no camera's frames are so narrow
            raise self.error(f"the shape {shape} may be (H, W, channels) or (H, W, N): store one of {ALLOWED}")
        return array


class RawFrames(FrameSource):
    """The frames of a file in a `RawFormat`."""

    num_frames: int

    def __init__(self, path: Path, max_pixels: int, raw: RawFormat):
        self.path, self._raw = path, raw
        check_size(path, raw.width, raw.height, max_pixels)
        self._dtype = np.dtype(RAW_TYPES[raw.value_type])
        self._is_packed = raw.value_type.startswith("uint12")  # two values in three bytes; a frame ends with a byte
        num_values = raw.width * raw.height
        self._frame_bytes = -(-num_values * 3 // 2) if self._is_packed else num_values * self._dtype.itemsize
        with path.open("rb") as file:
            file_bytes = file.seek(0, 2) - raw.offset
        self.num_frames, rest = divmod(file_bytes, self._frame_bytes)
        if rest or self.num_frames < 1:
            raise self.error(
                f"{file_bytes} bytes are no whole number of frames of {raw.width}x{raw.height} "
                f"{raw.value_type.removesuffix('le').removesuffix('be')}, {self._frame_bytes} bytes each"
            )

    def stored(self, start: int = 0) -> Iterator[np.ndarray]:
        raw = self._raw
        with self.path.open("rb") as file:
            file.seek(raw.offset + start * self._frame_bytes)
            for index in range(start, self.num_frames):
                data = file.read(self._frame_bytes)
                if len(data) < self._frame_bytes:
                    raise self.error(f"frame {index} is truncated")
                values = _unpacked(data, raw) if self._is_packed else np.frombuffer(data, self._dtype)
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
        """Reads part by part, since a number takes more memory as text."""
        values = np.empty(self._width * self._height, np.uint16)
        left, count, rest, in_comment = HEAD_BYTES + PLAIN_BYTES * values.size, 0, b"", False
        part = b"-"
        while part:
            part = file.read(PART_BYTES)
            left -= len(part)
            if left < 0:
                raise self.error(f"more than {PLAIN_BYTES} bytes for each of its pixels")
            text = rest + re.sub(rb"#[^\n]*", b"", b"#" + part if in_comment else part)
            in_comment = b"#" in part.rpartition(b"\n")[2] or (in_comment and b"\n" not in part)
            whole = text if in_comment or not part else text.rstrip(b"0123456789")
            rest = text[len(whole) :]
            numbers = np.fromstring(whole, sep=" ") if re.fullmatch(rb"[\d\s]*", whole) else np.array([np.inf])
            if len(rest) > 9 or (numbers > 65535).any():
                raise self.error("a value that is no number below 65536")
            if count + len(numbers) > values.size:
                raise self.error(f"more than {values.size} values for its pixels")
            values[count : count + len(numbers)] = numbers
            count += len(numbers)
        if count < values.size:
            raise self.error(f"{count} values for its pixels")
        return values

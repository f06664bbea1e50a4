"""NumPy's .npy: one frame or a stack of frames, memory-mapped; pickled objects are never loaded."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from .frame import FrameSource, check_size, gray_frame

ALLOWED = "(H, W), (H, W, 1), (N, H, W), (N, H, W, 1) or (N, 1, H, W)"


class NumpyFrames(FrameSource):
    """The frames of a .npy file of the shape (H, W), (H, W, 1), (N, H, W), (N, H, W, 1) or (N, 1, H, W)."""

    num_frames: int

    def __init__(self, path: Path, max_pixels: int):
        self.path = path
        stack = self._map()
        self.num_frames, height, width = stack.shape
        check_size(path, width, height, max_pixels)
        gray_frame(path, None, np.zeros((1, 1), stack.dtype))  # refuses the element type before any frame is read

    def stored(self, start: int = 0) -> Iterator[np.ndarray]:
        for index in range(start, self.num_frames):
            yield self._map()[index]  # mapped anew: what was read leaves the memory

    def _map(self) -> np.ndarray:
        """(N, H, W), not read yet."""
        try:
            array: np.ndarray = open_memmap(self.path, mode="r")
        except OSError:
            raise
        except Exception as error:  # whatever a broken head leads to; NumPy's reasons are several lines of advice
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

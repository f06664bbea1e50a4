"""NumPy's .npy: one frame (H, W) or a stack of frames (N, H, W), memory-mapped; pickled objects are never loaded."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from .frames import Frame, check_size, gray_frame
from .images import ImageReadError


class NumpyFrames:
    """The frames of a .npy file; see `FrameSource`."""

    frames_per_second = None

    def __init__(self, path: Path, max_pixels: int):
        self.path = path
        stack = self._map()
        self.num_frames, height, width = stack.shape
        check_size(path, width, height, max_pixels)
        gray_frame(path, 0, np.zeros((1, 1), stack.dtype))  # refuses the element type before any frame is read

    def frames(self, start: int = 0) -> Iterator[Frame]:
        for index in range(start, self.num_frames):
            yield gray_frame(self.path, index, self._map()[index])  # mapped anew: what was read leaves the memory

    def _map(self) -> np.ndarray:
        """(N, H, W), not read yet."""
        try:
            array = open_memmap(self.path, mode="r")
        except OSError:
            raise
        except Exception as error:  # whatever a broken head leads to; NumPy's reasons are several lines of advice
            raise ImageReadError(
                f"cannot read image '{self.path}': no .npy file, truncated, empty, or of pickled objects"
            ) from error
        stack = array[None] if array.ndim == 2 else array
        if stack.ndim != 3 or stack.shape[2] in (3, 4) or not stack.size:
            raise ImageReadError(
                f"cannot read image '{self.path}': the shape must be (H, W) or (N, H, W), not empty, without colours, "
                f"got {array.shape}"
            )
        return stack

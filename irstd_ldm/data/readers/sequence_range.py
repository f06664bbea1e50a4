"""One range of gray values for all frames of a sequence."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

import numpy as np

from ..images import check_normalization, measured_pixels, percentile_range, robust_range_of_values
from .frame import Frame, FrameSource, ImageReadError

SAMPLED_FRAMES = 32  # A video gives up to twice as many: its length is not known before.
SAMPLED_PX = 2**20  # A sampled frame gives at most so many pixels.


def sequence_range(
    source: FrameSource, num_frames: int | None = None, normalization: str = "range"
) -> tuple[float, float] | None:
    """The raw values that map to -1 and 1 in every frame: `gray_range` of 32 to 64 evenly spaced frames together.

    With "robust" the pixels that were measured are found in each frame by itself. In a frame of more than a megapixel
    every n-th pixel counts. A video is decoded once for this; a file that breaks off counts up to there.

    Args:
        source: the file.
        num_frames: length that the sequence is cut to, no more than it has; None = all.
        normalization: "range" or "robust".

    Returns:
        (lo, hi); None for uint8 frames with "range", whose range is fixed, and where all sampled values are equal.

    Raises:
        ImageReadError: no frame can be read.
        ValueError: an unknown `normalization`.
    """
    check_normalization(normalization)
    first = next(source.frames())
    if normalization == "robust":
        lo, hi = robust_range_of_values(np.concatenate(_samples(source, num_frames, measured_pixels)))
    elif first.image.dtype == np.uint8:
        return None
    else:
        lo, hi = percentile_range(np.concatenate(_samples(source, num_frames, np.ravel)))
    return None if lo == hi else (lo, hi)


def _samples(
    source: FrameSource, num_frames: int | None, pixels_of: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    """Pixels (M,) of evenly spaced frames, thinned from what `pixels_of` makes of a frame (H, W)."""
    samples: list[np.ndarray] = []
    if source.can_seek and source.num_frames is not None:
        last = (num_frames or source.num_frames) - 1
        for index in np.unique(np.linspace(0, last, SAMPLED_FRAMES).round().astype(int)):
            try:
                samples.append(_thinned(pixels_of(next(source.frames(int(index))).image)))
            except ImageReadError:
                break
        return samples
    step = 1
    for frame in islice(_readable(source), num_frames):
        if frame.index % step == 0:
            samples.append(_thinned(pixels_of(frame.image)))
        if len(samples) > 2 * SAMPLED_FRAMES:
            samples, step = samples[::2], 2 * step
    return samples


def _thinned(pixels: np.ndarray) -> np.ndarray:
    return pixels[:: -(-pixels.size // SAMPLED_PX)].copy()


def _readable(source: FrameSource) -> Iterator[Frame]:
    with suppress(ImageReadError):
        yield from source.frames()

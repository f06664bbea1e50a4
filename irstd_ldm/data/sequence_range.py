"""One range of gray values for all frames of a sequence."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from .frames import VIDEO_SUFFIXES, Frame, FrameSource
from .images import ImageReadError, gray_range

SAMPLED_FRAMES = 32  # of a video up to twice as many: its length is not known before
SAMPLED_PX = 2**20  # of each sampled frame, at most


def sequence_range(source: FrameSource, num_frames: int | None = None) -> tuple[float, float] | None:
    """The raw values that map to -1 and 1 in every frame: `gray_range` of 32 to 64 evenly spaced frames together.

    Of frames larger than a megapixel every n-th pixel counts. A video is decoded once for this; of a file that breaks
    off, the frames before count.

    Args:
        source: of the frames.
        num_frames: that the sequence is cut to, no more than it has; None = all.

    Returns:
        (lo, hi); None for uint8 frames, whose range is fixed, and where all sampled values are equal.

    Raises:
        ImageReadError: no frame can be read.
    """
    first = next(source.frames())
    if first.image.dtype == np.uint8:
        return None
    lo, hi = gray_range(np.concatenate(_samples(source, num_frames))[None]) or (0, 0)
    return None if lo == hi else (lo, hi)


def _samples(source: FrameSource, num_frames: int | None) -> list[np.ndarray]:
    """Pixels (M,) of evenly spaced frames."""
    samples: list[np.ndarray] = []
    if source.num_frames is not None and source.path.suffix.lower() not in VIDEO_SUFFIXES:
        last = (num_frames or source.num_frames) - 1
        places = np.unique(np.linspace(0, last, SAMPLED_FRAMES).round().astype(int))
        for place in places:
            try:
                samples.append(_thinned(next(source.frames(int(place)))))
            except ImageReadError:
                break
        return samples
    step = 1
    for frame in islice(_readable(source), num_frames):
        if frame.index % step == 0:
            samples.append(_thinned(frame))
        if len(samples) > 2 * SAMPLED_FRAMES:
            samples, step = samples[::2], 2 * step
    return samples


def _thinned(frame: Frame) -> np.ndarray:
    return frame.image.reshape(-1)[:: -(-frame.image.size // SAMPLED_PX)].copy()


def _readable(source: FrameSource) -> Iterator[Frame]:
    try:
        yield from source.frames()
    except ImageReadError:
        return

"""Frames of any depth as 8-bit pictures for the eye."""

import numpy as np

from .images import percentile_range


def displayable(gray: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """(H, W) uint8, with `value_range` as black and white.

    None: uint8 as it is, other types between their 0.1 and 99.9 percentiles, constant frames black.
    """
    if value_range is None and gray.dtype == np.uint8:
        return gray
    lo, hi = value_range or percentile_range(gray)
    if lo == hi:
        return np.zeros(gray.shape, np.uint8)
    shown = np.empty(gray.shape, np.uint8)  # (H, W)
    for row, values in zip(shown, gray, strict=True):  # a whole frame in float64 takes eight bytes a pixel, twice
        row[:] = np.rint(np.clip((values.astype(np.float64) - lo) / (hi - lo), 0, 1) * 255)
    return shown

"""A point-spread target of a chosen SCR: where it goes and how bright it must be."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..targets import RING_PX, signal_to_clutter_ratio

MASK_FRACTION = 0.2  # a pixel is a target's where its integrated profile exceeds this fraction of the peak pixel
SCR_TOLERANCE = 0.05  # relative; quantisation keeps it from being exact
BISECTIONS = 30


@dataclass(frozen=True)
class SyntheticTarget:
    """One target; x, y in pixels (pixel centres at integers), of sub-pixel position."""

    x: float
    y: float
    sigma_px: float
    scr: float  # measured on the finished image
    area_px: int


def draw_place(
    shape: tuple[int, ...], sigma_px: float, rng: np.random.Generator
) -> tuple[float, float, tuple[slice, slice]]:
    """A uniform random place (x, y) in an image (H, W), and the window of the target with its ring."""
    height, width = shape
    radius = int(np.ceil(4 * sigma_px)) + 1
    x, y = rng.uniform(radius, width - 1 - radius), rng.uniform(radius, height - 1 - radius)
    reach = radius + RING_PX
    rows, columns = (slice(max(round(center) - reach, 0), round(center) + reach + 1) for center in (y, x))
    return float(x), float(y), (rows, columns)


def solve_amplitude(
    finished: Callable[[float], np.ndarray], target: np.ndarray, scr: float, highest: float
) -> float | None:
    """The amplitude at which a target has an SCR within 5 %, by bisection; None where there is none.

    Args:
        finished: the finished, quantised window (h, w) with the target at an amplitude.
        target: (h, w) bool, the target's pixels.
        scr: wanted.
        highest: amplitude that must not be exceeded.
    """
    lowest = 0.0
    for _ in range(BISECTIONS):
        amplitude = (lowest + highest) / 2
        achieved = signal_to_clutter_ratio(finished(amplitude), target, target)
        if abs(achieved / scr - 1) < SCR_TOLERANCE:
            return amplitude
        lowest, highest = (amplitude, highest) if achieved < scr else (lowest, amplitude)
    return None

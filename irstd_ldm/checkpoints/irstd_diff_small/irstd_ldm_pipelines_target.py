"""A detected target; torch is not needed to name one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One target: an 8-connected component of the mask, in pixels of the input.

    Attributes:
        x, y: Centroid weighted by probability, origin top left, pixel centres at integers.
        left, top, width, height: The smallest box of whole pixels that holds it.
        area_px: Number of pixels.
        confidence: Mean probability of its pixels, in (0, 1]; where the checkpoint holds a calibration, the share of
            targets found with this mean that are real, in [0, 1].
        peak: Highest probability of its pixels, in (0, 1].
        scr: (mean of target - mean of ring) / standard deviation of ring on the raw input, ring = the box grown by
            10 px without target pixels; NaN where the ring is empty or constant.
    """

    x: float
    y: float
    left: int
    top: int
    width: int
    height: int
    area_px: int
    confidence: float
    peak: float
    scr: float

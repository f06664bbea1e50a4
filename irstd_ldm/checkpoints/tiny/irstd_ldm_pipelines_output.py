"""What the detectors return."""

from dataclasses import dataclass
from typing import Any

from diffusers.utils import BaseOutput


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


@dataclass
class IRSTDPipelineOutput(BaseOutput):
    """Detections in N images: arrays, or tensors with ``output_type="pt"``.

    Images of different sizes give lists of (1, H, W) instead of stacked arrays.

    Attributes:
        probability: (N, 1, H, W) float32 in [0, 1], fused over the ensemble.
        mask: (N, 1, H, W) bool, probability > threshold.
        uncertainty: (N, 1, H, W) float32, standard deviation over the ensemble; None for an ensemble of one.
        targets: One list of [`Target`] per image, in raster order of the targets' first pixels.
    """

    probability: Any
    mask: Any
    uncertainty: Any
    targets: list[list[Target]]

"""What the detectors return."""

from dataclasses import dataclass
from typing import Any

from diffusers.utils import BaseOutput

from ..targets import Target


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

"""A detector with a command's range of gray values and polarity, for one frame after another."""

import argparse
from typing import Any

import numpy as np

from ..data.images import invert_polarity
from ..data.readers import FrameSource
from ..data.readers.frame import BLACK_HOT
from ..data.readers.sequence_range import sequence_range
from ..targets import Target
from .model import predict


class FrameDetector:
    """Detects targets in frames, each in a call of its own.

    Args:
        pipeline: as `load_detector` returns it.
        args: of `detect`: `polarity`, and what `predict` takes.
        threshold: of the mask and the targets.
    """

    def __init__(self, pipeline: Any, args: argparse.Namespace, threshold: float):
        self._pipeline, self._args, self._threshold = pipeline, args, threshold
        self._normalization = pipeline.config["normalization"]

    def value_range(self, source: FrameSource, asked: str | tuple[float, float]) -> tuple[float, float] | None:
        """The raw values that map to -1 and 1 in every frame of a file, None = each frame's own.

        Args:
            asked: frame, sequence, or the two values.
        """
        if isinstance(asked, tuple):
            return asked
        return sequence_range(source, normalization=self._normalization) if asked == "sequence" else None

    def shown_range(self, value_range: tuple[float, float] | None) -> tuple[float, float] | None:
        """Black and white of the pictures of a file's frames with this range.

        With "robust" a tenth of a frame's pixels lie outside, so pictures show twice its width, of normally
        distributed gray values what 0.1 and 99.9 percentiles enclose.
        """
        if value_range is None or self._normalization == "range":
            return value_range
        lo, hi = value_range
        return lo - (hi - lo) / 2, hi + (hi - lo) / 2

    def __call__(
        self, image: np.ndarray, input_range: tuple[float, float] | None
    ) -> tuple[np.ndarray, np.ndarray, list[Target]]:
        """Probability (H, W) float32, mask (H, W) bool and targets of a frame (H, W), as `predict` gives them.

        Args:
            image: as `to_gray` returns it.
            input_range: raw values that map to -1 and 1; None = the frame's own.
        """
        seen = invert_polarity(image, input_range) if self._args.polarity == BLACK_HOT else image
        return predict(self._pipeline, seen, self._args, self._threshold, input_range)

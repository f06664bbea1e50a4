"""Pure ratios of counts, and their bootstrap intervals over images.

Every metric is a sum over images of a numerator divided by a sum over images of a denominator. The value for a
denominator of 0 is part of its definition.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .counts import ImageCounts

# Draws the bootstrap holds at once, 8 bytes each in three arrays.
BOOTSTRAP_CHUNK = 2**20


@dataclass(frozen=True)
class Ratio:
    """A metric as a ratio of sums over images.

    Attributes:
        numerator, denominator: the term one image adds.
        empty: the value where the denominator is 0.
    """

    numerator: Callable[[ImageCounts], float]
    denominator: Callable[[ImageCounts], float]
    empty: float


def union_px(counts: ImageCounts) -> int:
    """Pixels that are foreground in the prediction or the truth."""
    return counts.tp_px + counts.fp_px + counts.fn_px


def iou(counts: ImageCounts) -> float:
    """Foreground pixel IoU, tp / (tp + fp + fn); 1 where prediction and truth are both empty."""
    return _ratio("iou", [counts])


def niou(counts: Sequence[ImageCounts]) -> float:
    """Mean over images of each image's IoU; an image empty in both counts 1. NaN without images.

    Args:
        counts: one entry per image.
    """
    return _ratio("niou", counts)


def pd(counts: ImageCounts) -> float:
    """Probability of detection, hits / targets. NaN without targets."""
    return _ratio("pd", [counts])


def fa_per_million_px(counts: ImageCounts, legacy: bool = False) -> float:
    """False-alarm pixels per million image pixels. NaN without images.

    Args:
        counts: the sum over the images.
        legacy: use `legacy_false_alarm_px`, the equal-area count of older code.
    """
    return _ratio("legacy_fa_per_million_px" if legacy else "fa_per_million_px", [counts])


def precision_px(counts: ImageCounts) -> float:
    """tp / (tp + fp) in pixels. NaN without predicted pixels."""
    return _ratio("precision_px", [counts])


def recall_px(counts: ImageCounts) -> float:
    """tp / (tp + fn) in pixels. NaN without truth pixels."""
    return _ratio("recall_px", [counts])


RATIOS = {
    "iou": Ratio(lambda c: c.tp_px, union_px, empty=1.0),
    "niou": Ratio(iou, lambda c: c.images, empty=float("nan")),
    "pd": Ratio(lambda c: c.hits, lambda c: c.targets, empty=float("nan")),
    "fa_per_million_px": Ratio(lambda c: 1e6 * c.false_alarm_px, lambda c: c.area_px, empty=float("nan")),
    "legacy_fa_per_million_px": Ratio(
        lambda c: 1e6 * c.legacy_false_alarm_px, lambda c: c.area_px, empty=float("nan")
    ),
    "precision_px": Ratio(lambda c: c.tp_px, lambda c: c.tp_px + c.fp_px, empty=float("nan")),
    "recall_px": Ratio(lambda c: c.tp_px, lambda c: c.tp_px + c.fn_px, empty=float("nan")),
}


def bootstrap_interval(
    counts: Sequence[ImageCounts], metric: str, num_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a metric over images.

    Images are drawn with replacement. A resample on which the metric is undefined (no target for `pd`) is left out.
    The same seed draws the same images for every metric.

    Args:
        counts: one entry per image.
        metric: a key of `RATIOS`.
        num_resamples: number of resampled sets.
        seed: of the draws.
        level: probability mass of the interval, in (0, 1).

    Returns:
        (low, high), both NaN where no resample defines the metric.

    Raises:
        ValueError: `counts` is empty, or another argument is not allowed.
    """
    if not counts:
        raise ValueError("`counts` must hold at least one image, got none")
    if metric not in RATIOS:
        raise ValueError(f"`metric` must be one of {', '.join(RATIOS)}, got {metric!r}")
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` must be at least 1, got {num_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}")
    ratio = RATIOS[metric]
    numerators = np.array([ratio.numerator(c) for c in counts], dtype=np.float64)  # (N,)
    denominators = np.array([ratio.denominator(c) for c in counts], dtype=np.float64)  # (N,)
    rng = np.random.default_rng(seed)
    rows_per_chunk = max(1, BOOTSTRAP_CHUNK // len(counts))
    values = []
    for start in range(0, num_resamples, rows_per_chunk):
        rows = min(rows_per_chunk, num_resamples - start)
        drawn = rng.integers(len(counts), size=(rows, len(counts)))  # (resamples, N)
        numerator = numerators[drawn].sum(axis=1)  # (resamples,)
        denominator = denominators[drawn].sum(axis=1)  # (resamples,)
        undefined = np.full(rows, ratio.empty)
        values.append(np.divide(numerator, denominator, out=undefined, where=denominator > 0))
    defined = np.concatenate(values)
    defined = defined[~np.isnan(defined)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ratio(metric: str, counts: Sequence[ImageCounts]) -> float:
    ratio = RATIOS[metric]
    denominator = sum(ratio.denominator(c) for c in counts)
    return sum(ratio.numerator(c) for c in counts) / denominator if denominator else ratio.empty

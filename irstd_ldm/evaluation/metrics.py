"""Pure ratios of counts, and their bootstrap intervals over images.

Every metric is a sum over images of a numerator divided by a sum over images of a denominator. The value for a
denominator of 0 is part of its definition.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import PairedDifference, Statistic, estimate, paired_differences, ratio
from .counts import ImageCounts


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


def precision_targets(counts: ImageCounts) -> float:
    """hits / predicted components. NaN without predicted components."""
    return _ratio("precision_targets", [counts])


def recall_targets(counts: ImageCounts) -> float:
    """hits / targets, the same as `pd`. NaN without targets."""
    return _ratio("recall_targets", [counts])


def false_targets_per_image(counts: ImageCounts) -> float:
    """Predicted components that hit no target, per image. NaN without images."""
    return _ratio("false_targets_per_image", [counts])


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
    "precision_targets": Ratio(lambda c: c.hits, lambda c: c.predicted, empty=float("nan")),
    "recall_targets": Ratio(lambda c: c.hits, lambda c: c.targets, empty=float("nan")),
    "false_targets_per_image": Ratio(lambda c: c.predicted - c.hits, lambda c: c.images, empty=float("nan")),
}


def detection_scores(counts: Sequence[ImageCounts]) -> dict[str, float]:
    """IoU, nIoU, Pd and Fa of a set of images, by the names of `RATIOS`.

    Args:
        counts: one entry per image.
    """
    return {name: _ratio(name, counts) for name in ("iou", "niou", "pd", "fa_per_million_px")}


def ratio_statistic(counts: Sequence[ImageCounts], metric: str) -> Statistic:
    """A metric of `RATIOS` on a set of images, for `bootstrap.estimate`.

    Args:
        counts: one entry per image, at least one.
        metric: a key of `RATIOS`.

    Raises:
        ValueError: `counts` is empty, or there is no such metric.
    """
    if not counts:
        raise ValueError("`counts` must hold at least one image, got none")
    if metric not in RATIOS:
        raise ValueError(f"`metric` must be one of {', '.join(RATIOS)}, got {metric!r}")
    chosen = RATIOS[metric]
    numerator = np.array([chosen.numerator(c) for c in counts], dtype=np.float64)  # (N,)
    denominator = np.array([chosen.denominator(c) for c in counts], dtype=np.float64)  # (N,)
    return ratio(numerator, denominator, chosen.empty)


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
    statistic = ratio_statistic(counts, metric)
    found = estimate({metric: statistic}, num_resamples=num_resamples, seed=seed, level=level)[metric]
    return found.low, found.high


def paired_bootstrap(
    counts_a: Sequence[ImageCounts],
    counts_b: Sequence[ImageCounts],
    metric: str,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedDifference:
    """How much higher a metric is for detector B than for A on the same images.

    Args:
        counts_a, counts_b: one entry per image each, of the same images in the same order.
        metric: a key of `RATIOS`.
        num_resamples, seed, level: as in `bootstrap_interval`.

    Raises:
        ValueError: the numbers of images differ or are 0, or another argument is not allowed.
    """
    if len(counts_a) != len(counts_b):
        raise ValueError(f"`counts_b` must be of the {len(counts_a)} images of `counts_a`, got {len(counts_b)}")
    differences = paired_differences(
        {metric: ratio_statistic(counts_a, metric)},
        {metric: ratio_statistic(counts_b, metric)},
        num_resamples=num_resamples,
        seed=seed,
        level=level,
    )
    return differences[metric]


def _ratio(metric: str, counts: Sequence[ImageCounts]) -> float:
    chosen = RATIOS[metric]
    denominator = sum(chosen.denominator(c) for c in counts)
    return sum(chosen.numerator(c) for c in counts) / denominator if denominator else chosen.empty

"""Whether the confidences of predicted targets mean what they say: reliability curve, calibration error, Brier score.

The question is asked of predicted targets: of those given a confidence of 0.8, do 80 % hit a target? Everything here
is conditional on being detected. A missed target has no confidence and no place on the curve, so its number stands
beside every value: a detector that finds only what is easy can be perfectly calibrated.

- Expected calibration error: the mean over predicted targets of |hit rate - mean confidence| of their bin. With few
  targets it is biased upwards, the more so on resampled sets: its interval can lie above its value.
- Brier score: the mean of (confidence - hit)^2. The reference is that of a detector that gives every predicted target
  the set's own hit rate; a score above it says that the confidences are worse than one constant.
- Bins: "mass" holds about equally many predicted targets in each bin (equal confidences share one, so there may be
  fewer bins), "width" cuts [0, 1] into equal parts. Bins hold (low, high], the first one low too.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .bootstrap import Estimate, Statistic, divide, estimate, ratio
from .curves import json_number
from .matching import ImageComponents

BINNINGS = ("mass", "width")
Z_95 = 1.959963984540054  # of the standard normal distribution, two-sided


@dataclass(frozen=True)
class ScoredTarget:
    """One predicted component.

    Attributes:
        confidence: in [0, 1].
        hit: whether it was matched with a target.
    """

    confidence: float
    hit: bool


@dataclass(frozen=True)
class ReliabilityBin:
    """The predicted targets whose confidence lies in (low, high], in the first bin in [low, high].

    Attributes:
        low, high: bounds.
        num_predicted, num_hits: how many, and how many of them hit a target.
        mean_confidence: NaN in an empty bin.
        hit_rate: num_hits / num_predicted with its 95 % interval by Wilson (a bootstrap of a bin without misses, or
            without hits, would have none); NaN in an empty bin.
    """

    low: float
    high: float
    num_predicted: int
    num_hits: int
    mean_confidence: float
    hit_rate: Estimate


@dataclass(frozen=True)
class Reliability:
    """Calibration of the predicted targets of a set of images.

    Attributes:
        binning: "mass" or "width".
        bins: by increasing confidence; none without predicted targets under "mass".
        ece, brier: with bootstrap intervals over images, the bins kept; NaN without predicted targets.
        brier_of_hit_rate: Brier score of the constant confidence num_hits / num_predicted.
        num_images, num_predicted, num_hits, num_missed: of the set; `num_missed` targets are on no curve.
    """

    binning: str
    bins: tuple[ReliabilityBin, ...]
    ece: Estimate
    brier: Estimate
    brier_of_hit_rate: float
    num_images: int
    num_predicted: int
    num_hits: int
    num_missed: int

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for `json.dumps`; None stands for an undefined value."""
        return _json(asdict(self))


def scored_targets(
    components: ImageComponents, pairs: Sequence[tuple[int, int]], probability: np.ndarray
) -> list[ScoredTarget]:
    """The predicted components of one image in label order; the confidence is the mean probability of their pixels.

    Args:
        components: of the image.
        pairs: (index in `components.targets`, index in `components.predicted`).
        probability: (H, W) floating point in [0, 1].
    """
    hits = {predicted for _, predicted in pairs}
    labels = components.prediction_labels.ravel()
    inside = np.flatnonzero(labels)
    sums = np.bincount(labels[inside], weights=probability.ravel()[inside], minlength=len(components.predicted) + 1)
    return [
        ScoredTarget(float(sums[component.label] / component.area_px), index in hits)
        for index, component in enumerate(components.predicted)
    ]


def reliability(
    per_image: Sequence[Sequence[ScoredTarget]],
    *,
    num_targets: int,
    num_bins: int = 10,
    binning: str = "mass",
    num_resamples: int = 1000,
    seed: int = 0,
) -> Reliability:
    """Calibration of predicted targets.

    Args:
        per_image: the predicted targets of every image; images without any included, they count in the bootstrap.
        num_targets: targets of the truth in these images.
        num_bins: at most so many bins.
        binning: "mass" or "width".
        num_resamples, seed: of the bootstrap intervals.

    Raises:
        ValueError: there is no image, a confidence is outside [0, 1], there are more hits than `num_targets`, or
            another argument is not allowed.
    """
    if not per_image:
        raise ValueError("`per_image` must hold at least one image, got none")
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be at least 1, got {num_bins}")
    if binning not in BINNINGS:
        raise ValueError(f"`binning` must be one of {', '.join(BINNINGS)}, got {binning!r}")
    confidence, hit = confidences_and_hits(per_image)
    num_hits = int(hit.sum())
    if num_hits > num_targets:
        raise ValueError(f"`num_targets` must be at least the {num_hits} hits, got {num_targets}")
    image = np.repeat(np.arange(len(per_image)), [len(scored) for scored in per_image])  # (predicted,)
    low, high = _mass_edges(confidence, num_bins) if binning == "mass" else _width_edges(num_bins)  # (bins,) twice
    shape = (len(per_image), len(high))
    place = (image, np.searchsorted(high, confidence, side="left"))

    def per_bin(values: np.ndarray) -> np.ndarray:
        sums = np.zeros(shape)
        np.add.at(sums, place, values)
        return sums  # (N, bins)

    count, confidence_sum, hit_sum = per_bin(np.ones_like(confidence)), per_bin(confidence), per_bin(hit)
    squared_error = np.bincount(image, weights=(confidence - hit) ** 2, minlength=len(per_image))  # (N,)
    statistics = {
        "ece": Statistic(np.concatenate([count, confidence_sum, hit_sum], axis=1), _ece),
        "brier": ratio(squared_error, count.sum(axis=1)),
    }
    estimates = estimate(statistics, num_resamples=num_resamples, seed=seed)
    mean_confidence = divide(confidence_sum.sum(axis=0), count.sum(axis=0))  # (bins,)
    hit_rate = num_hits / len(hit) if len(hit) else float("nan")
    return Reliability(
        binning=binning,
        bins=tuple(
            ReliabilityBin(
                low=float(low[k]),
                high=float(high[k]),
                num_predicted=int(count[:, k].sum()),
                num_hits=int(hit_sum[:, k].sum()),
                mean_confidence=float(mean_confidence[k]),
                hit_rate=wilson(int(hit_sum[:, k].sum()), int(count[:, k].sum())),
            )
            for k in range(len(high))
        ),
        ece=estimates["ece"],
        brier=estimates["brier"],
        brier_of_hit_rate=hit_rate * (1 - hit_rate),
        num_images=len(per_image),
        num_predicted=len(hit),
        num_hits=num_hits,
        num_missed=num_targets - num_hits,
    )


def confidences_and_hits(per_image: Sequence[Sequence[ScoredTarget]]) -> tuple[np.ndarray, np.ndarray]:
    """Confidences (predicted,) float64 and hits (predicted,) bool of all images, in their order.

    Raises:
        ValueError: a confidence is outside [0, 1].
    """
    scored = [target for targets in per_image for target in targets]
    confidence = np.array([target.confidence for target in scored], dtype=np.float64)  # (predicted,)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(f"`per_image` must hold confidences in [0, 1], got {confidence.min()} to {confidence.max()}")
    return confidence, np.array([target.hit for target in scored], dtype=bool)


def wilson(hits: int, number: int) -> Estimate:
    """hits / number with Wilson's 95 % score interval; NaN of none."""
    if not number:
        return Estimate(float("nan"), float("nan"), float("nan"))
    rate = hits / number
    centre = (rate + Z_95**2 / (2 * number)) / (1 + Z_95**2 / number)
    reach = Z_95 * math.sqrt(rate * (1 - rate) / number + (Z_95 / (2 * number)) ** 2) / (1 + Z_95**2 / number)
    return Estimate(rate, max(0.0, centre - reach), min(1.0, centre + reach))


def _ece(sums: np.ndarray) -> np.ndarray:
    """(R,) from sums (R, 3 bins): predicted targets, their confidences, their hits."""
    count, confidence, hits = np.split(sums, 3, axis=1)  # (R, bins)
    return divide(np.abs(confidence - hits).sum(axis=1), count.sum(axis=1))


def _mass_edges(confidence: np.ndarray, num_bins: int) -> tuple[np.ndarray, np.ndarray]:
    if not confidence.size:
        return np.empty(0), np.empty(0)
    ordered = np.sort(confidence)
    last = -(-np.arange(1, num_bins + 1) * len(ordered) // num_bins) - 1  # of each bin, in `ordered`
    high = np.unique(ordered[last])
    return np.concatenate([ordered[:1], high[:-1]]), high


def _width_edges(num_bins: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.arange(num_bins + 1) / num_bins
    return edges[:-1], edges[1:]


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return json_number(value) if isinstance(value, float) else value

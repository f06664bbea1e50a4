"""Confidence of predicted targets: calibration after training, and whether confidences mean what they say.

A calibration is a monotone map from a predicted target's confidence to how often such targets are hits. Fit it on
validation images, with the threshold and the settings it will be used with; a map of another threshold sees other
predicted targets. No map changes which targets are found, nor, ties apart, their order. Platt's (1999) is
sigmoid(slope * logit + intercept): two parameters, for some dozens of predicted targets.

Reliability asks of predicted targets: of those given a confidence of 0.8, do 80 % hit a target? All of it is
conditional on being detected. A missed target has no confidence and is on no curve, so the number of missed targets
stands beside every value: a detector that finds only the easy ones can be perfectly calibrated.

- Expected calibration error: the mean over predicted targets of how far hit rate and mean confidence of their bin
  lie apart. With few targets it is biased upwards, the more so on resampled sets: its interval can lie above its
  value.
- Brier score: the mean of (confidence - hit)^2. The reference is that of a detector that gives every predicted target
  the set's own hit rate; a score above it says that the confidences are worse than one constant.
- Bins: "mass" holds about equally many predicted targets in each bin (equal confidences share one, so there may be
  fewer bins), "width" cuts [0, 1] into equal parts. Bins hold (low, high], the first one low too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from ..targets import PlattCalibration, checked_confidence, component_means, confidence_logit
from .bootstrap import Estimate, Statistic, divide, estimate, ratio
from .matching import ImageComponents

BINNINGS = ("mass", "width")
Z_95 = 1.959963984540054  # two-sided quantile of the standard normal distribution


def fit_platt(confidence: np.ndarray, hit: np.ndarray) -> PlattCalibration:
    """The slope, at least 0, and the intercept under which the hits are likeliest.

    The labels are Platt's softened ones, (hits + 1) / (hits + 2) for a hit and 1 / (others + 2) for another predicted
    target: a finite answer also where every one is a hit.

    Args:
        confidence: (predicted,) in [0, 1].
        hit: (predicted,) bool.

    Raises:
        ValueError: There is no predicted target, the lengths differ, or a confidence is outside [0, 1].
    """
    confidence, hit = checked_confidence(confidence), np.asarray(hit)
    if confidence.ndim != 1 or not confidence.size:
        raise ValueError(f"`confidence` must have shape (predicted,), at least one, got {confidence.shape}")
    if hit.dtype != np.bool_ or hit.shape != confidence.shape:
        raise ValueError(f"`hit` must be bool of shape {confidence.shape}, got {hit.dtype} of {hit.shape}")
    label = np.where(hit, (hit.sum() + 1) / (hit.sum() + 2), 1 / ((~hit).sum() + 2))
    logits = confidence_logit(confidence)
    features = np.stack([logits, np.ones_like(logits)], axis=1)  # (predicted, 2)

    def loss(parameters: np.ndarray) -> float:
        z = features @ parameters
        return float(np.mean(np.logaddexp(0, z) - label * z))  # cross-entropy

    def gradient(parameters: np.ndarray) -> np.ndarray:
        return features.T @ (expit(features @ parameters) - label) / len(label)

    def hessian(parameters: np.ndarray) -> np.ndarray:
        rate = expit(features @ parameters)
        return (features.T * (rate * (1 - rate))) @ features / len(label)

    best = np.array([0.0, logit(label.mean())])  # slope and offset
    if np.ptp(logits) > 0 and gradient(best)[0] < 0:  # else, the loss being convex, no positive slope is better
        best = minimize(loss, best, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9}).x
    return PlattCalibration(float(best[0]), float(best[1]))


@dataclass(frozen=True)
class ScoredTarget:
    """One predicted component.

    Attributes:
        confidence: A number in [0, 1].
        hit: Whether it was matched with a target.
    """

    confidence: float
    hit: bool


@dataclass(frozen=True)
class ReliabilityBin:
    """The predicted targets whose confidence lies in (low, high], in the first bin in [low, high].

    Attributes:
        low, high: Bounds.
        num_predicted, num_hits: Number of predicted targets, and number of those that hit a target.
        mean_confidence: Mean of their confidences, NaN in an empty bin.
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
        bins: Bins by increasing confidence; none without predicted targets under "mass".
        ece, brier: Calibration error and Brier score with bootstrap intervals over images, the bins kept; NaN
            without predicted targets.
        brier_of_hit_rate: Brier score of the constant confidence num_hits / num_predicted.
        num_images, num_predicted, num_hits, num_missed: Numbers of the set; `num_missed` targets are on no curve.
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


def scored_targets(
    components: ImageComponents, pairs: Sequence[tuple[int, int]], probability: np.ndarray
) -> list[ScoredTarget]:
    """The predicted components of one image in label order, their confidence being the score.

    Args:
        components, pairs: See `counts.count_components`.
        probability: (H, W) floating point in [0, 1].
    """
    hits = {predicted for _, predicted in pairs}
    scores = component_means(probability, components.prediction_labels, components.predicted)
    return [ScoredTarget(score, index in hits) for index, score in enumerate(scores.tolist())]


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
        per_image: The predicted targets of every image; images without any included, they count in the bootstrap.
        num_targets: Targets of the truth in these images.
        num_bins: Highest number of bins.
        binning: "mass" or "width".
        num_resamples, seed: Number of resampled sets and seed of the bootstrap intervals.

    Raises:
        ValueError: There is no image, a confidence is outside [0, 1], there are more hits than `num_targets`, or
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
    edges = _edges(confidence, num_bins, binning)
    shape = (len(per_image), max(len(edges) - 1, 0))
    image_and_bin = (image, np.searchsorted(edges[1:], confidence, side="left"))

    def per_bin(values: np.ndarray) -> np.ndarray:
        sums = np.zeros(shape)
        np.add.at(sums, image_and_bin, values)
        return sums  # (N, bins)

    count, confidence_sum, hit_sum = per_bin(np.ones_like(confidence)), per_bin(confidence), per_bin(hit)
    squared_error = np.bincount(image, weights=(confidence - hit) ** 2, minlength=len(per_image))  # (N,)
    statistics = {
        "ece": Statistic(np.concatenate([count, confidence_sum, hit_sum], axis=1), _ece),
        "brier": ratio(squared_error, count.sum(axis=1)),
    }
    estimates = estimate(statistics, num_resamples=num_resamples, seed=seed)
    sums = (values.sum(axis=0).tolist() for values in (count, confidence_sum, hit_sum))
    bins = [
        ReliabilityBin(low, high, int(number), int(hits), total / number if number else math.nan, wilson(hits, number))
        for low, high, number, total, hits in zip(edges[:-1].tolist(), edges[1:].tolist(), *sums, strict=True)
    ]
    hit_rate = num_hits / len(hit) if len(hit) else math.nan
    return Reliability(
        binning=binning,
        bins=tuple(bins),
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
        ValueError: A confidence is outside [0, 1].
    """
    scored = [target for targets in per_image for target in targets]
    confidence = np.array([target.confidence for target in scored], dtype=np.float64)  # (predicted,)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(f"`per_image` must hold confidences in [0, 1], got {confidence.min()} to {confidence.max()}")
    return confidence, np.array([target.hit for target in scored], dtype=bool)


def wilson(hits: float, number: float) -> Estimate:
    """hits / number with Wilson's 95 % score interval; NaN where `number` is 0."""
    if not number:
        return Estimate(math.nan, math.nan, math.nan)
    rate = hits / number
    centre = (rate + Z_95**2 / (2 * number)) / (1 + Z_95**2 / number)
    reach = Z_95 * math.sqrt(rate * (1 - rate) / number + (Z_95 / (2 * number)) ** 2) / (1 + Z_95**2 / number)
    return Estimate(rate, max(0.0, centre - reach), min(1.0, centre + reach))


def _ece(sums: np.ndarray) -> np.ndarray:
    """(R,) from sums (R, 3 bins): predicted targets, their confidences, their hits."""
    count, confidence, hits = np.split(sums, 3, axis=1)  # (R, bins)
    return divide(np.abs(confidence - hits).sum(axis=1), count.sum(axis=1))


def _edges(confidence: np.ndarray, num_bins: int, binning: str) -> np.ndarray:
    """The bounds (bins + 1,) of the bins; none without predicted targets under "mass"."""
    if binning == "width":
        return np.arange(num_bins + 1) / num_bins
    ordered = np.sort(confidence)
    last = -(-np.arange(1, num_bins + 1) * len(ordered) // num_bins) - 1  # index of each bin's last in `ordered`
    return np.concatenate([ordered[:1], np.unique(ordered[last])]) if ordered.size else ordered

"""Confidence of predicted targets: calibration after training, and whether confidences mean what they say.

A calibration is a monotone map from a predicted target's confidence to how often such targets are hits. Fit it on
validation images, with the threshold and the settings it will be used with; a map of another threshold sees other
predicted targets. No map changes which targets are found, nor, ties apart, their order.

- temperature: sigmoid(logit / temperature), Guo et al. 2017 (arXiv 1706.04599); one parameter, keeps 0.5 where it is.
- Platt: sigmoid(slope * logit + intercept), Platt 1999; two parameters, for some dozens of predicted targets.
- isotonic: any increasing function (pool adjacent violators, linear between its steps); for hundreds.

Temperature and Platt are fitted by maximum likelihood to Platt's softened labels, (hits + 1) / (hits + 2) for a hit
and 1 / (others + 2) for another predicted target: a finite answer also where every one is a hit.

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
from scipy.optimize import isotonic_regression, minimize, minimize_scalar
from scipy.special import expit, logit

from ..targets import (
    IsotonicCalibration,
    PlattCalibration,
    TemperatureCalibration,
    checked_confidence,
    confidence_logit,
)
from .bootstrap import Estimate, Statistic, divide, estimate, ratio
from .matching import ImageComponents

TEMPERATURES = (1e-2, 1e2)  # the range searched
BINNINGS = ("mass", "width")
Z_95 = 1.959963984540054  # two-sided quantile of the standard normal distribution


# ---------------------------------------------------------------- fitting a calibration


def fit_temperature(confidence: np.ndarray, hit: np.ndarray) -> TemperatureCalibration:
    """The temperature, from 0.01 to 100, under which the hits are likeliest.

    Args:
        confidence: (predicted,) in [0, 1].
        hit: (predicted,) bool.

    Raises:
        ValueError: There is no predicted target, the lengths differ, or a confidence is outside [0, 1].
    """
    logits, label = _logits_and_labels(confidence, hit)
    found = minimize_scalar(
        lambda log_temperature: _negative_log_likelihood(logits * np.exp(-log_temperature), label),
        bounds=np.log(TEMPERATURES),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return TemperatureCalibration(float(np.exp(found.x)))


def fit_platt(confidence: np.ndarray, hit: np.ndarray) -> PlattCalibration:
    """The slope, at least 0, and the intercept under which the hits are likeliest.

    Args:
        confidence, hit: See `fit_temperature`.

    Raises:
        ValueError: As `fit_temperature` does.
    """
    logits, label = _logits_and_labels(confidence, hit)
    features = np.stack([logits, np.ones_like(logits)], axis=1)  # (predicted, 2)

    def gradient(parameters: np.ndarray) -> np.ndarray:
        return features.T @ (expit(features @ parameters) - label) / len(label)

    def hessian(parameters: np.ndarray) -> np.ndarray:
        rate = expit(features @ parameters)
        return (features.T * (rate * (1 - rate))) @ features / len(label)

    start = np.array([0.0, logit(label.mean())])  # the best of slope 0
    if np.ptp(logits) == 0 or gradient(start)[0] >= 0:  # convex: no better slope is positive
        return PlattCalibration(0.0, float(start[1]))
    found = minimize(
        lambda parameters: _negative_log_likelihood(features @ parameters, label),
        start,
        jac=gradient,
        hess=hessian,
        method="trust-exact",
        options={"gtol": 1e-9},
    )
    return PlattCalibration(float(found.x[0]), float(found.x[1]))


def fit_isotonic(confidence: np.ndarray, hit: np.ndarray) -> IsotonicCalibration:
    """The increasing function nearest to the hits in squares; confidences that tie are one point.

    Args:
        confidence, hit: See `fit_temperature`.

    Raises:
        ValueError: As `fit_temperature` does.
    """
    confidence, hit = _checked_pairs(confidence, hit)
    values, index, count = np.unique(confidence, return_inverse=True, return_counts=True)  # (values,) each
    rate = np.bincount(index, weights=hit) / count  # (values,)
    fitted = isotonic_regression(rate, weights=count).x  # (values,)
    first = np.diff(fitted, prepend=-1) > 0  # a step begins
    last = np.diff(fitted, append=2) > 0
    knots = first | last
    return IsotonicCalibration(tuple(values[knots].tolist()), tuple(fitted[knots].tolist()))


def _checked_pairs(confidence: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, hit = checked_confidence(confidence), np.asarray(hit)
    if confidence.ndim != 1 or not confidence.size:
        raise ValueError(f"`confidence` must have shape (predicted,), at least one, got {confidence.shape}")
    if hit.dtype != np.bool_ or hit.shape != confidence.shape:
        raise ValueError(f"`hit` must be bool of shape {confidence.shape}, got {hit.dtype} of {hit.shape}")
    return confidence, hit


def _logits_and_labels(confidence: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, hit = _checked_pairs(confidence, hit)
    hits, others = np.count_nonzero(hit), np.count_nonzero(~hit)
    return confidence_logit(confidence), np.where(hit, (hits + 1) / (hits + 2), 1 / (others + 2))


def _negative_log_likelihood(logits: np.ndarray, label: np.ndarray) -> float:
    """Mean over the predicted targets of the cross-entropy."""
    return float(np.mean(np.logaddexp(0, logits) - label * logits))


# ---------------------------------------------------------------- reliability


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
    """The predicted components of one image in label order; the confidence is the mean probability of their pixels.

    Args:
        components: Those of the image.
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
    low, high = _mass_edges(confidence, num_bins) if binning == "mass" else _width_edges(num_bins)  # (bins,) twice
    shape = (len(per_image), len(high))
    image_and_bin = (image, np.searchsorted(high, confidence, side="left"))

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
        ValueError: A confidence is outside [0, 1].
    """
    scored = [target for targets in per_image for target in targets]
    confidence = np.array([target.confidence for target in scored], dtype=np.float64)  # (predicted,)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(f"`per_image` must hold confidences in [0, 1], got {confidence.min()} to {confidence.max()}")
    return confidence, np.array([target.hit for target in scored], dtype=bool)


def wilson(hits: int, number: int) -> Estimate:
    """hits / number with Wilson's 95 % score interval; NaN where `number` is 0."""
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
    last = -(-np.arange(1, num_bins + 1) * len(ordered) // num_bins) - 1  # index of each bin's last in `ordered`
    high = np.unique(ordered[last])
    return np.concatenate([ordered[:1], high[:-1]]), high


def _width_edges(num_bins: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.arange(num_bins + 1) / num_bins
    return edges[:-1], edges[1:]

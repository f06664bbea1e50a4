"""Post-hoc calibration: a monotone map from a predicted target's confidence to how often such targets are hits.

Fit it on validation images, with the threshold and the settings it will be used with; a map of another threshold sees
other predicted targets. No map changes which targets are found, nor, ties apart, their order.

- temperature: sigmoid(logit / temperature), Guo et al. 2017 (arXiv 1706.04599); one parameter, keeps 0.5 where it is.
- Platt: sigmoid(slope * logit + intercept), Platt 1999; two parameters, for some dozens of predicted targets.
- isotonic: any increasing function (pool adjacent violators, linear between its steps); for hundreds.

Temperature and Platt are fitted by maximum likelihood to Platt's softened labels, (hits + 1) / (hits + 2) for a hit
and 1 / (others + 2) for another predicted target: a finite answer also where every one is a hit.
"""

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

TEMPERATURES = (1e-2, 1e2)  # the range searched


def fit_temperature(confidence: np.ndarray, hit: np.ndarray) -> TemperatureCalibration:
    """The temperature, from 0.01 to 100, under which the hits are likeliest.

    Args:
        confidence: (predicted,) in [0, 1].
        hit: (predicted,) bool.

    Raises:
        ValueError: there is no predicted target, the lengths differ, or a confidence is outside [0, 1].
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
        confidence, hit: as in `fit_temperature`.

    Raises:
        ValueError: as in `fit_temperature`.
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
        confidence, hit: as in `fit_temperature`.

    Raises:
        ValueError: as in `fit_temperature`.
    """
    confidence, hit = _checked_pairs(confidence, hit)
    values, place, count = np.unique(confidence, return_inverse=True, return_counts=True)  # (values,) each
    rate = np.bincount(place, weights=hit) / count  # (values,)
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

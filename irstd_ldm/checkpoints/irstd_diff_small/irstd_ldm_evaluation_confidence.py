"""Post-hoc calibration: a monotone map from a predicted target's confidence to how often such targets are hits.

Fit it on validation images, with the threshold and the settings it will be used with; a map of another threshold sees
other predicted targets. No map changes which targets are found, nor, ties apart, their order.

- temperature: sigmoid(logit / temperature), Guo et al. 2017 (arXiv 1706.04599); one parameter, keeps 0.5 where it is.
- Platt: sigmoid(slope * logit + intercept), Platt 1999; two parameters, for some dozens of predicted targets.
- isotonic: any increasing function (pool adjacent violators, linear between its steps); for hundreds.

Temperature and Platt are fitted by maximum likelihood to Platt's softened labels, (hits + 1) / (hits + 2) for a hit
and 1 / (others + 2) for another predicted target: a finite answer also where every one is a hit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression, minimize, minimize_scalar
from scipy.special import expit, logit

# A confidence of 1 in float32 has no finite logit.
MIN_CONFIDENCE = 1e-6
TEMPERATURES = (1e-2, 1e2)  # the range searched


@dataclass(frozen=True)
class TemperatureCalibration:
    """sigmoid(logit(confidence) / temperature); `temperature` > 0, above 1 for an overconfident detector."""

    temperature: float

    def apply(self, confidence: float | np.ndarray) -> np.ndarray:
        """Calibrated confidences of the same shape, float64, from confidences in [0, 1]."""
        return expit(_logit(confidence) / self.temperature)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "temperature", "temperature": self.temperature}


@dataclass(frozen=True)
class PlattCalibration:
    """sigmoid(slope * logit(confidence) + intercept); `slope` >= 0."""

    slope: float
    intercept: float

    def apply(self, confidence: float | np.ndarray) -> np.ndarray:
        """Calibrated confidences of the same shape, float64, from confidences in [0, 1]."""
        return expit(self.slope * _logit(confidence) + self.intercept)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "platt", "slope": self.slope, "intercept": self.intercept}


@dataclass(frozen=True)
class IsotonicCalibration:
    """Linear between knots, constant beyond the first and the last; both tuples ascend."""

    confidence: tuple[float, ...]
    calibrated: tuple[float, ...]

    def apply(self, confidence: float | np.ndarray) -> np.ndarray:
        """Calibrated confidences of the same shape, float64, from confidences in [0, 1]."""
        return np.interp(_checked(confidence), self.confidence, self.calibrated)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "isotonic", "confidence": list(self.confidence), "calibrated": list(self.calibrated)}


ConfidenceCalibration = TemperatureCalibration | PlattCalibration | IsotonicCalibration


def calibration_from_dict(stored: Mapping[str, Any]) -> ConfidenceCalibration:
    """What `to_dict` wrote.

    Raises:
        ValueError: the kind is unknown, or a value is missing or not allowed.
    """
    kind = stored.get("kind")
    names = {
        "temperature": {"temperature"},
        "platt": {"slope", "intercept"},
        "isotonic": {"confidence", "calibrated"},
    }.get(str(kind))
    if names is None:
        raise ValueError(f"`kind` must be one of temperature, platt, isotonic, got {kind!r}")
    if set(stored) != {"kind", *names}:
        raise ValueError(f"`stored` of kind {kind} must hold {', '.join(sorted(names))}, got {sorted(stored)}")
    if kind == "temperature":
        temperature = float(stored["temperature"])
        if not 0 < temperature < np.inf:
            raise ValueError(f"`temperature` must be positive and finite, got {temperature}")
        return TemperatureCalibration(temperature)
    if kind == "platt":
        slope, intercept = float(stored["slope"]), float(stored["intercept"])
        if not (0 <= slope < np.inf and np.isfinite(intercept)):
            raise ValueError(f"`slope` must be at least 0 and both finite, got slope {slope}, intercept {intercept}")
        return PlattCalibration(slope, intercept)
    knots = tuple(map(float, stored["confidence"])), tuple(map(float, stored["calibrated"]))
    if not knots[0] or len(knots[0]) != len(knots[1]):
        raise ValueError(
            f"`confidence` and `calibrated` must be of one length, at least 1, got {len(knots[0])} and {len(knots[1])}"
        )
    for name, values in zip(("confidence", "calibrated"), knots, strict=True):
        inside = np.all(np.isfinite(values)) and 0 <= values[0] and values[-1] <= 1
        if not (inside and np.all(np.diff(values) >= 0)):
            raise ValueError(f"`{name}` must ascend in [0, 1], got {list(values)}")
    return IsotonicCalibration(*knots)


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


def _checked(confidence: float | np.ndarray) -> np.ndarray:
    values = np.asarray(confidence, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"`confidence` must be in [0, 1], got {values.min():g} to {values.max():g}")
    return values


def _checked_pairs(confidence: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, hit = _checked(confidence), np.asarray(hit)
    if confidence.ndim != 1 or not confidence.size:
        raise ValueError(f"`confidence` must have shape (predicted,), at least one, got {confidence.shape}")
    if hit.dtype != np.bool_ or hit.shape != confidence.shape:
        raise ValueError(f"`hit` must be bool of shape {confidence.shape}, got {hit.dtype} of {hit.shape}")
    return confidence, hit


def _logit(confidence: float | np.ndarray) -> np.ndarray:
    return logit(np.clip(_checked(confidence), MIN_CONFIDENCE, 1 - MIN_CONFIDENCE))


def _logits_and_labels(confidence: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, hit = _checked_pairs(confidence, hit)
    hits, others = np.count_nonzero(hit), np.count_nonzero(~hit)
    return _logit(confidence), np.where(hit, (hits + 1) / (hits + 2), 1 / (others + 2))


def _negative_log_likelihood(logits: np.ndarray, label: np.ndarray) -> float:
    """Mean over the predicted targets of the cross-entropy."""
    return float(np.mean(np.logaddexp(0, logits) - label * logits))

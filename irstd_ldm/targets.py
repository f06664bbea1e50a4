"""Targets: the components of a mask, how far they stand out from the clutter, and how sure a detector is of them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from scipy import ndimage
from scipy.special import expit, logit

EIGHT_CONNECTIVITY = np.ones((3, 3), dtype=bool)
STRIP_PX = 2**20  # a foreground pixel takes some 50 bytes while it is counted
RING_PX = 10  # width of the ring around a target's box
MIN_CONFIDENCE = 1e-6  # a confidence of 1 in float32 has no finite logit


@dataclass(frozen=True)
class Component:
    """One 8-connected component of a mask.

    Attributes:
        label: Value in the label image, from 1.
        area_px: Number of pixels.
        x, y: Unweighted centroid in pixels, origin top left, pixel centres at integers.
        left, top, width, height: The smallest box of whole pixels that holds it.
    """

    label: int
    area_px: int
    x: float
    y: float
    left: int
    top: int
    width: int
    height: int


def label_components(mask: np.ndarray) -> tuple[np.ndarray, list[Component]]:
    """Labels the 8-connected components of a mask.

    Args:
        mask: (H, W) bool.

    Returns:
        The label image (H, W) int32, 0 where the mask is False, and the components, `components[k]` having
        label k + 1. Labels follow the raster order of each component's first pixel.

    Raises:
        TypeError: `mask` is not a bool array.
        ValueError: `mask` is not two-dimensional.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"`mask` must be a bool array, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.ndim != 2:
        raise ValueError(f"`mask` must have shape (H, W), got {mask.shape}")
    labels = np.zeros(mask.shape, dtype=np.int32)  # (H, W)
    count = ndimage.label(mask, structure=EIGHT_CONNECTIVITY, output=labels)
    area_px, sum_x, sum_y = np.zeros(count + 1, np.int64), np.zeros(count + 1), np.zeros(count + 1)
    strip = -(-STRIP_PX // max(labels[:1].size, 1))
    for top in range(0, len(labels), strip):
        rows, columns = np.nonzero(labels[top : top + strip])  # (area of all in the strip,)
        index = labels[top + rows, columns]
        area_px += np.bincount(index, minlength=count + 1)
        sum_x += np.bincount(index, weights=columns, minlength=count + 1)
        sum_y += np.bincount(index, weights=top + rows, minlength=count + 1)
    components = [
        Component(
            label=label,
            area_px=int(area_px[label]),
            x=float(sum_x[label] / area_px[label]),
            y=float(sum_y[label] / area_px[label]),
            left=int(columns.start),
            top=int(rows.start),
            width=int(columns.stop - columns.start),
            height=int(rows.stop - rows.start),
        )
        for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1)
    ]
    return labels, components


def ring_window(left: int, top: int, width: int, height: int, ring_px: int = RING_PX) -> tuple[slice, slice]:
    """Rows and columns of a target's box grown by the ring, for indexing an image."""
    rows = slice(max(top - ring_px, 0), top + height + ring_px)
    return rows, slice(max(left - ring_px, 0), left + width + ring_px)


def signal_to_clutter_ratio(image: np.ndarray, target: np.ndarray, mask: np.ndarray) -> float:
    """(mean of target - mean of ring) / std of ring; NaN where the ring is empty or constant.

    The ring is the box of `target` (H, W) bool, grown by 10 px, less all targets, `mask` (H, W) bool.
    """
    rows, columns = np.flatnonzero(target.any(axis=1)), np.flatnonzero(target.any(axis=0))
    window = ring_window(columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    clutter = image[window][~mask[window]].astype(np.float64)
    spread = clutter.std() if clutter.size else 0.0
    return float((image[target].mean(dtype=np.float64) - clutter.mean()) / spread) if spread else float("nan")


class ConfidenceCalibration:
    """Maps a detector's confidence to the share of targets that are real; a kind derives from it."""

    kind: ClassVar[str]

    def apply(self, confidence: float | np.ndarray) -> np.ndarray:
        """Calibrated confidences of the same shape, float64, from confidences in [0, 1]."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {"kind": self.kind, **values}


@dataclass(frozen=True)
class TemperatureCalibration(ConfidenceCalibration):
    """sigmoid(logit(confidence) / temperature); `temperature` > 0, above 1 for an overconfident detector."""

    kind = "temperature"
    temperature: float

    def apply(self, confidence: float | np.ndarray) -> np.ndarray:
        return expit(confidence_logit(confidence) / self.temperature)


@dataclass(frozen=True)
class PlattCalibration(ConfidenceCalibration):
    """sigmoid(slope * logit(confidence) + intercept); `slope` >= 0."""

    kind = "platt"
    slope: float
    intercept: float

    def apply(self, confidence: float | np.ndarray) -> np.ndarray:
        return expit(self.slope * confidence_logit(confidence) + self.intercept)


@dataclass(frozen=True)
class IsotonicCalibration(ConfidenceCalibration):
    """Linear between knots, constant beyond the first and the last; both tuples ascend."""

    kind = "isotonic"
    confidence: tuple[float, ...]
    calibrated: tuple[float, ...]

    def apply(self, confidence: float | np.ndarray) -> np.ndarray:
        return np.interp(checked_confidence(confidence), self.confidence, self.calibrated)


CALIBRATIONS = {one.kind: one for one in (TemperatureCalibration, PlattCalibration, IsotonicCalibration)}


def calibration_from_dict(stored: Mapping[str, Any]) -> ConfidenceCalibration:
    """The calibration that `to_dict` has written.

    Raises:
        ValueError: The kind is unknown, or a value is missing or not allowed.
    """
    kind = stored.get("kind")
    calibration = CALIBRATIONS.get(str(kind))
    if calibration is None:
        raise ValueError(f"`kind` must be one of {', '.join(CALIBRATIONS)}, got {kind!r}")
    names = [field.name for field in fields(calibration)]
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


def confidence_calibration(config: Mapping[str, Any]) -> ConfidenceCalibration | None:
    """The calibration of the targets' confidence that a checkpoint's config holds, None where it holds none."""
    stored = (config["calibration"] or {}).get("confidence")
    return None if stored is None else calibration_from_dict(stored)


def checked_confidence(confidence: float | np.ndarray) -> np.ndarray:
    """The confidences as float64; ValueError where one is outside [0, 1]."""
    values = np.asarray(confidence, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"`confidence` must be in [0, 1], got {values.min():g} to {values.max():g}")
    return values


def confidence_logit(confidence: float | np.ndarray) -> np.ndarray:
    """ln(p / (1 - p)) of confidences p in [0, 1], finite at both ends."""
    return logit(np.clip(checked_confidence(confidence), MIN_CONFIDENCE, 1 - MIN_CONFIDENCE))


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


def extract_targets(
    probability: np.ndarray,
    mask: np.ndarray,
    gray: np.ndarray,
    calibration: ConfidenceCalibration | None = None,
) -> list[Target]:
    """The targets of one image.

    Args:
        probability: (H, W) float32 in [0, 1].
        mask: (H, W) bool, probability > threshold.
        gray: (H, W) raw gray values of the input.
        calibration: Maps the mean probability of a target to its confidence; None leaves it.
    """
    labels, components = label_components(mask)
    targets = []
    for component in components:
        box = (component.left, component.top, component.width, component.height)
        window = np.s_[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
        around = ring_window(*box)
        inside = labels[window] == component.label
        rows, columns = np.nonzero(inside)
        weights = probability[window][inside].astype(np.float64)
        confidence = weights.mean() if calibration is None else calibration.apply(weights.mean())
        targets.append(
            Target(
                x=float(box[0] + np.average(columns, weights=weights)),
                y=float(box[1] + np.average(rows, weights=weights)),
                left=box[0],
                top=box[1],
                width=box[2],
                height=box[3],
                area_px=component.area_px,
                confidence=float(confidence),
                peak=float(weights.max()),
                scr=signal_to_clutter_ratio(gray[around], labels[around] == component.label, labels[around] > 0),
            )
        )
    return targets


def resolve_threshold(
    config: Mapping[str, Any], threshold: float | None, max_fa_per_million_px: float | None
) -> float:
    """The probability threshold of a call.

    Args:
        config: A checkpoint's, with `default_threshold` and `calibration`.
        threshold: In [0, 1]; None = the budget's, or else the checkpoint's default.
        max_fa_per_million_px: A false-alarm budget that was calibrated for the checkpoint.

    Raises:
        ValueError: Both arguments are given, the threshold is out of range, or the budget was never calibrated.
    """
    if max_fa_per_million_px is not None:
        if threshold is not None:
            raise ValueError("`threshold` and `max_fa_per_million_px` exclude each other, got both")
        thresholds = (config["calibration"] or {}).get("thresholds", {})
        by_budget = {float(budget): calibrated for budget, calibrated in thresholds.items()}
        if max_fa_per_million_px not in by_budget:
            stored = ", ".join(thresholds) or "none"
            raise ValueError(
                f"`max_fa_per_million_px` {max_fa_per_million_px!r} was never calibrated for this checkpoint; "
                f"stored: {stored}"
            )
        threshold = by_budget[max_fa_per_million_px]
    elif threshold is None:
        threshold = config["default_threshold"]
    if not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` must lie in [0, 1], got {threshold!r}")
    return threshold

"""Targets: which components of a probability map they are, how far they stand out, and how sure a detector is of them.

Two numbers decide. The mask threshold delineates: the pixels of a higher probability fall into 8-connected components.
The score threshold decides: a component whose score, the mean probability of its pixels, is higher is a target.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage
from scipy.special import expit, logit

EIGHT_CONNECTIVITY = np.ones((3, 3), dtype=bool)
STRIP_PX = 2**20  # a foreground pixel takes some 50 bytes while it is counted
RING_PX = 10  # width of the ring around a target's box
# The arguments of a call that name thresholds.
THRESHOLDS = ("threshold", "mask_threshold", "score_threshold")
DECIDING = (*THRESHOLDS, "max_false_targets_per_megapixel", "max_fa_per_million_px")
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
    for rows, columns in _foreground(labels):
        index = labels[rows, columns]
        area_px += np.bincount(index, minlength=count + 1)
        sum_x += np.bincount(index, weights=columns, minlength=count + 1)
        sum_y += np.bincount(index, weights=rows, minlength=count + 1)
    measured = zip(
        area_px[1:].tolist(),
        (sum_x[1:] / area_px[1:]).tolist(),
        (sum_y[1:] / area_px[1:]).tolist(),
        ndimage.find_objects(labels),
        strict=True,
    )
    components = [
        Component(label, area, x, y, columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        for label, (area, x, y, (rows, columns)) in enumerate(measured, start=1)
    ]
    return labels, components


def _foreground(labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the pixels of all components, strip by strip."""
    strip = -(-STRIP_PX // max(labels[:1].size, 1))
    for top in range(0, len(labels), strip):
        pixels = np.flatnonzero(labels[top : top + strip] > 0)  # flat and bool: a thirtieth of np.nonzero's time
        rows, columns = divmod(pixels, labels.shape[1])
        yield top + rows, columns


def component_means(values: np.ndarray, labels: np.ndarray, components: Sequence[Component]) -> np.ndarray:
    """The mean of a map (H, W) over the pixels of each component (components,) float64; of a probability, the score.

    `labels` and `components` are as `label_components` gives them.
    """
    total = np.zeros(len(components) + 1)
    for rows, columns in _foreground(labels):
        total += np.bincount(labels[rows, columns], weights=values[rows, columns], minlength=len(total))
    return total[1:] / [component.area_px for component in components]


def ring_window(left: int, top: int, width: int, height: int, ring_px: int = RING_PX) -> tuple[slice, slice]:
    """Rows and columns of a target's box grown by the ring, for indexing an image."""
    rows = slice(max(top - ring_px, 0), top + height + ring_px)
    return rows, slice(max(left - ring_px, 0), left + width + ring_px)


def signal_to_clutter_ratios(image: np.ndarray, labels: np.ndarray, components: Sequence[Component]) -> np.ndarray:
    """(mean of target - mean of ring) / std of ring of each component (components,); NaN: no ring, or a constant one.

    Args:
        image: (H, W) raw gray values.
        labels, components: As `label_components` gives them. The ring is a component's box grown by 10 px, without
            the pixels of all.
    """
    means = component_means(image, labels, components)
    ratios = np.full(len(components), np.nan)
    padded, is_clutter = np.pad(image, RING_PX), np.pad(labels == 0, RING_PX)
    by_size: dict[tuple[int, int], list[Component]] = {}
    for component in components:
        by_size.setdefault((component.height, component.width), []).append(component)
    for (height, width), of_size in by_size.items():
        shape = (height + 2 * RING_PX, width + 2 * RING_PX)
        image_windows, clutter_windows = (sliding_window_view(one, shape) for one in (padded, is_clutter))
        step = -(-STRIP_PX // (shape[0] * shape[1]))
        for part in (of_size[k : k + step] for k in range(0, len(of_size), step)):
            index, top, left = np.array([(one.label - 1, one.top, one.left) for one in part]).T  # (K,) each
            clutter = clutter_windows[top, left].reshape(len(part), -1)  # (K, window)
            values = image_windows[top, left].reshape(len(part), -1).astype(np.float64)
            reference = values[np.arange(len(part)), clutter.argmax(axis=1)]  # from which a constant ring differs by 0
            values -= reference[:, None]
            values *= clutter
            number = np.maximum(clutter.sum(axis=1), 1)
            mean = values.sum(axis=1) / number
            variance = np.einsum("kw,kw->k", values, values) / number - mean**2
            differs = variance > 0
            ratios[index[differs]] = (means[index] - reference - mean)[differs] / np.sqrt(variance[differs])
    return ratios


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
class Decision:
    """What is foreground, and which of its components are targets.

    Attributes:
        mask_threshold: Pixels of a higher probability are foreground, in [0, 1].
        score_threshold: Components of a higher score are targets, in [0, 1]. One up to `mask_threshold` keeps all.
    """

    mask_threshold: float
    score_threshold: float

    def __str__(self) -> str:
        return f"probability > {self.mask_threshold:.6g}, score > {self.score_threshold:.6g}"

    def mask(self, probability: np.ndarray) -> np.ndarray:
        """The targets' pixels (H, W) bool of a probability map (H, W)."""
        return self.label(probability)[0] > 0

    def label(self, probability: np.ndarray) -> tuple[np.ndarray, list[Component], np.ndarray]:
        """The targets of a probability map (H, W) as `label_components` gives them, and their scores (targets,)."""
        labels, components = label_components(probability > self.mask_threshold)
        scores = component_means(probability, labels, components)
        kept = scores > self.score_threshold
        if not kept.all():
            labels, components = label_components(np.append(False, kept)[labels])
        return labels, components, scores[kept]


@dataclass(frozen=True)
class Target:
    """One target: an 8-connected component of the mask, in pixels of the input.

    Attributes:
        x, y: Centroid weighted by probability, origin top left, pixel centres at integers.
        left, top, width, height: The smallest box of whole pixels that holds it.
        area_px: Number of pixels.
        score: Mean probability of its pixels, in (0, 1].
        confidence: The share of targets found with this score that are real, in [0, 1], where the checkpoint holds a
            calibration; else the score.
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
    score: float
    confidence: float
    peak: float
    scr: float

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """The box as (left, top, right, bottom), the latter two behind its last column and row."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def to_dict(self) -> dict[str, int | float | None]:
        """The attributes as values of strict JSON: a ratio that is not defined is None."""
        return {name: None if value != value else value for name, value in vars(self).items()}


def extract_targets(
    probability: np.ndarray, gray: np.ndarray, decision: Decision, calibration: ConfidenceCalibration | None = None
) -> tuple[np.ndarray, list[Target]]:
    """The mask (H, W) bool and the targets of one image, in raster order of their first pixels.

    Args:
        probability: (H, W) float32 in [0, 1].
        gray: (H, W) raw gray values of the input.
        decision: Where the mask ends and which components it holds.
        calibration: Maps the score of a target to its confidence; None leaves it.
    """
    labels, components, scores = decision.label(probability)
    sum_x, sum_y, peak = np.zeros((3, len(components) + 1))
    for rows, columns in _foreground(labels):
        index, weights = labels[rows, columns], probability[rows, columns].astype(np.float64)
        sum_x += np.bincount(index, weights * columns, minlength=len(peak))
        sum_y += np.bincount(index, weights * rows, minlength=len(peak))
        np.maximum.at(peak, index, weights)
    total = scores * [component.area_px for component in components]
    confidences = scores if calibration is None else calibration.apply(scores)
    ratios = signal_to_clutter_ratios(gray, labels, components)
    centroid_x, centroid_y = ((moment[1:] / total).tolist() for moment in (sum_x, sum_y))
    values = zip(scores.tolist(), confidences.tolist(), peak[1:].tolist(), ratios.tolist(), strict=True)
    targets = [
        Target(x, y, one.left, one.top, one.width, one.height, one.area_px, score, confidence, highest, scr)
        for one, x, y, (score, confidence, highest, scr) in zip(
            components, centroid_x, centroid_y, values, strict=True
        )
    ]
    return labels > 0, targets


def resolve_decision(
    config: Mapping[str, Any],
    threshold: float | None = None,
    mask_threshold: float | None = None,
    score_threshold: float | None = None,
    max_false_targets_per_megapixel: float | None = None,
    max_fa_per_million_px: float | None = None,
) -> Decision:
    """The thresholds of a call, from its arguments and a checkpoint's defaults.

    Args:
        config: A checkpoint's, with `default_mask_threshold`, `default_score_threshold` and `calibration`.
        threshold: Both thresholds, the old name; excludes the others.
        mask_threshold: In [0, 1]; None = the checkpoint's.
        score_threshold: In [0, 1]; None = the budget's, or else the checkpoint's.
        max_false_targets_per_megapixel, max_fa_per_million_px: A false-alarm budget that was calibrated for the
            checkpoint, in targets or in pixels.

    Raises:
        ValueError: Two arguments exclude each other, a threshold is out of range, or a budget was never calibrated.
    """
    named = {
        "max_false_targets_per_megapixel": max_false_targets_per_megapixel,
        "max_fa_per_million_px": max_fa_per_million_px,
    }
    budgets = {name: budget for name, budget in named.items() if budget is not None}
    deciding = [*budgets, *(["score_threshold"] if score_threshold is not None else [])]
    if threshold is not None:
        deciding += ["threshold"] + (["mask_threshold"] if mask_threshold is not None else [])
    if len(deciding) > 1:
        raise ValueError(f"{' and '.join(f'`{name}`' for name in sorted(deciding))} exclude each other, got all")
    mask_default = config["default_mask_threshold"]
    if threshold is not None:
        mask_threshold = score_threshold = threshold
    elif not deciding:
        score_threshold = config["default_score_threshold"]
    elif score_threshold is None:
        score_threshold = _budget_threshold(config, deciding[0], budgets[deciding[0]])
        if "thresholds" in config["calibration"]:  # an older calibration, whose thresholds are those of pixels
            mask_default = score_threshold
    decision = Decision(mask_default if mask_threshold is None else mask_threshold, score_threshold)
    for name, value in vars(decision).items():
        if not 0 <= value <= 1:
            name = name if threshold is None else "threshold"
            raise ValueError(f"`{name}` must lie in [0, 1], got {value!r}")
    return decision


def calibrated_budgets(config: Mapping[str, Any]) -> dict[str, dict[float, float]]:
    """Argument -> budget -> score threshold, of the budgets that a checkpoint's calibration holds."""
    calibration = config.get("calibration") or {}  # what detects nothing has none
    stored = calibration.get("score_thresholds", {"max_fa_per_million_px": calibration.get("thresholds", {})})
    return {
        name: {float(budget): threshold for budget, threshold in of_budget.items()}
        for name, of_budget in stored.items()
    }


def _budget_threshold(config: Mapping[str, Any], name: str, budget: float) -> float:
    by_budget = calibrated_budgets(config).get(name, {})
    if budget not in by_budget:
        stored = ", ".join(f"{one:g}" for one in by_budget) or "none"
        raise ValueError(f"`{name}` {budget!r} was never calibrated for this checkpoint; stored: {stored}")
    return by_budget[budget]

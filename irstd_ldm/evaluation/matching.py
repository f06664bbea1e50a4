"""Which predicted component hits which target."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..targets import Component, label_components

MATCHINGS = ("greedy", "optimal", "opdc")

# Overlap from which OPDC accepts a pair whatever its distance (arXiv 2509.16888).
OPDC_MIN_IOU = 0.5


@dataclass(frozen=True, eq=False)
class ImageComponents:
    """The components of one image's truth and prediction.

    Attributes:
        truth_labels, prediction_labels: (H, W) int32, 0 where there is no component.
        targets, predicted: `label_components` of the truth and of the prediction.
    """

    truth_labels: np.ndarray
    targets: list[Component]
    prediction_labels: np.ndarray
    predicted: list[Component]

    @cached_property
    def distance_px(self) -> np.ndarray:
        """Centroid distances (targets, predicted)."""
        return centroid_distances_px(centroids(self.targets), centroids(self.predicted))

    @cached_property
    def intersection_px(self) -> np.ndarray:
        """Common pixels (targets, predicted), int64."""
        both = (self.truth_labels > 0) & (self.prediction_labels > 0)
        common = np.zeros((len(self.targets), len(self.predicted)), dtype=np.int64)  # (targets, predicted)
        np.add.at(common, (self.truth_labels[both] - 1, self.prediction_labels[both] - 1), 1)
        return common

    @cached_property
    def overlap(self) -> np.ndarray:
        """IoU of every pair (targets, predicted)."""
        return pairwise_iou(self.intersection_px, areas_px(self.targets), areas_px(self.predicted))

    def match(self, *, centroid_tolerance_px: float = 3.0, matching: str = "greedy") -> list[tuple[int, int]]:
        """Pairs (index in `targets`, index in `predicted`), by increasing target; see `match_pairs`."""
        return match_pairs(
            self.distance_px,
            self.overlap if matching == "opdc" else None,
            centroid_tolerance_px=centroid_tolerance_px,
            matching=matching,
        )


def label_image(prediction: np.ndarray, truth: np.ndarray) -> ImageComponents:
    """Labels both masks of one image.

    Args:
        prediction, truth: (H, W) bool.

    Raises:
        TypeError: an array is not bool.
        ValueError: the shapes differ or are not two-dimensional.
    """
    for name, mask in (("prediction", prediction), ("truth", truth)):
        check_mask(name, mask, np.shape(prediction))
    return ImageComponents(*label_components(truth), *label_components(prediction))


def check_mask(name: str, mask: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises TypeError or ValueError naming `name` unless `mask` is a (H, W) bool array of `shape`."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"`{name}` must be a bool array, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.ndim != 2 or mask.shape != shape:
        raise ValueError(f"`{name}` must have shape (H, W) of `prediction` {shape}, got {mask.shape}")


def check_probability(probability: np.ndarray, of: str = "") -> None:
    """Raises TypeError or ValueError unless `probability` is a (H, W) floating point array.

    Args:
        probability: The map.
        of: Words behind its name in messages, such as " of frame 3".
    """
    if not isinstance(probability, np.ndarray) or not np.issubdtype(probability.dtype, np.floating):
        kind = getattr(probability, "dtype", type(probability).__name__)
        raise TypeError(f"`probability`{of} must be a floating point array, got {kind}")
    if probability.ndim != 2 or probability.size == 0:
        raise ValueError(f"`probability`{of} must have shape (H, W), got {probability.shape}")


def check_matching(matching: str, centroid_tolerance_px: float) -> None:
    """Raises ValueError unless both are allowed."""
    if matching not in MATCHINGS:
        raise ValueError(f"`matching` must be one of {', '.join(MATCHINGS)}, got {matching!r}")
    if not 0 < centroid_tolerance_px < float("inf"):
        raise ValueError(f"`centroid_tolerance_px` must be positive and finite, got {centroid_tolerance_px}")


def match_pairs(
    distance_px: np.ndarray, overlap: np.ndarray | None, *, centroid_tolerance_px: float, matching: str
) -> list[tuple[int, int]]:
    """Matches targets and predicted components one to one.

    - "greedy": each target in label order takes the first free predicted component, in label order, within the
      tolerance; the field's rule (BasicIRSTD, DNANet, MSHNet, SCTransNet).
    - "optimal": as many pairs within the tolerance as possible, and among those matchings the least total distance.
    - "opdc": overlap priority, then distance compensation (arXiv 2509.16888): the assignment of least total distance
      keeps its pairs with an IoU of at least 0.5; among the rest, a second one keeps its pairs within the tolerance.

    Distances are taken between float64 mean coordinates, the field's arithmetic: where a mean is not representable,
    an offset of exactly the tolerance can fall on either side by rounding (9 of 533 SIRST targets moved by 3 px).

    Args:
        distance_px: (targets, predicted), of the centroids, both in label order.
        overlap: (targets, predicted), IoU of every pair; only "opdc" needs it.
        centroid_tolerance_px: Largest centroid distance in pixels, itself excluded.
        matching: One of the names above.

    Returns:
        Pairs (target, predicted), by increasing target.

    Raises:
        ValueError: `matching` is unknown, or `centroid_tolerance_px` is not positive and finite.
    """
    check_matching(matching, centroid_tolerance_px)
    if not distance_px.size:
        return []
    within = distance_px < centroid_tolerance_px
    if matching == "greedy":
        return _match_greedy(within)
    if matching == "optimal":
        # Dearer than any complete set of pairs within the tolerance: the number of pairs comes first.
        outside_cost = centroid_tolerance_px * (min(distance_px.shape) + 1)
        return _assign(np.where(within, distance_px, outside_cost), within)
    assert overlap is not None
    by_overlap = _assign(distance_px, overlap >= OPDC_MIN_IOU)
    rows = np.setdiff1d(np.arange(len(distance_px)), [row for row, _ in by_overlap])
    columns = np.setdiff1d(np.arange(distance_px.shape[1]), [column for _, column in by_overlap])
    rest = np.ix_(rows, columns)
    by_distance = [(int(rows[i]), int(columns[j])) for i, j in _assign(distance_px[rest], within[rest])]
    return sorted(by_overlap + by_distance)


def centroid_distances_px(targets_xy: np.ndarray, predicted_xy: np.ndarray) -> np.ndarray:
    """Distances (targets, predicted) between centroids (targets, 2) and (predicted, 2)."""
    offset = targets_xy[:, None] - predicted_xy[None]  # (targets, predicted, 2)
    return np.sqrt((offset**2).sum(axis=2))


def pairwise_iou(intersection_px: np.ndarray, target_area_px: np.ndarray, predicted_area_px: np.ndarray) -> np.ndarray:
    """IoU (targets, predicted) from the common pixels (targets, predicted) and both areas."""
    return intersection_px / (target_area_px[:, None] + predicted_area_px[None] - intersection_px)


def centroids(components: list[Component]) -> np.ndarray:
    """Centroids (components, 2), x and y, float64."""
    return np.array([(component.x, component.y) for component in components]).reshape(-1, 2)


def areas_px(components: list[Component]) -> np.ndarray:
    """Areas (components,), int64."""
    return np.array([component.area_px for component in components], dtype=np.int64)


def _match_greedy(within: np.ndarray) -> list[tuple[int, int]]:
    free = np.ones(within.shape[1], dtype=bool)
    pairs = []
    for row in np.flatnonzero(within.any(axis=1)):
        candidates = np.flatnonzero(within[row] & free)
        if candidates.size:
            free[candidates[0]] = False
            pairs.append((int(row), int(candidates[0])))
    return pairs


def _assign(cost: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    rows, columns = linear_sum_assignment(cost)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]

"""Which predicted component hits which target."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from ..targets import Component, label_components
from .assignment import assign

MATCHINGS = ("greedy", "optimal", "opdc")

# Overlap from which OPDC accepts a pair whatever its distance (arXiv 2509.16888).
OPDC_MIN_IOU = 0.5
OPDC_PAIRS = 2**20  # targets times predicted components of which all distances are looked at


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
    def common_px(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs that overlap, (K,) each: index in `targets`, ascending, in `predicted`, common pixels."""
        both = (self.truth_labels > 0) & (self.prediction_labels > 0)
        return count_pairs(self.truth_labels[both] - 1, self.prediction_labels[both] - 1)

    def near_pairs(self, centroid_tolerance_px: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`near_pairs` of the centroids."""
        return near_pairs(centroids(self.targets), centroids(self.predicted), centroid_tolerance_px)

    def overlapping(self) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of an IoU of at least `OPDC_MIN_IOU`."""
        return overlapping_pairs(self.common_px, areas_px(self.targets), areas_px(self.predicted))

    def match(self, *, centroid_tolerance_px: float = 3.0, matching: str = "greedy") -> list[tuple[int, int]]:
        """Pairs (index in `targets`, index in `predicted`), by increasing target; see `match_pairs`."""
        return match_pairs(
            centroids(self.targets),
            centroids(self.predicted),
            self.overlapping() if matching == "opdc" else None,
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
    targets_xy: np.ndarray,
    predicted_xy: np.ndarray,
    overlapping: tuple[np.ndarray, np.ndarray] | None,
    *,
    centroid_tolerance_px: float,
    matching: str,
) -> list[tuple[int, int]]:
    """Matches targets and predicted components one to one.

    - "greedy": each target in label order takes the first free predicted component, in label order, within the
      tolerance; the field's rule (BasicIRSTD, DNANet, MSHNet, SCTransNet).
    - "optimal": as many pairs within the tolerance as possible, and among those matchings the least total distance.
    - "opdc": overlap priority, then distance compensation (arXiv 2509.16888): the assignment of least total distance
      keeps its pairs with an IoU of at least 0.5; among the rest, a second one keeps its pairs within the tolerance.
      Beyond `OPDC_PAIRS` pairs both assignments are of the pairs that they may keep, as in "optimal".

    Distances are taken between float64 mean coordinates, the field's arithmetic: where a mean is not representable,
    an offset of exactly the tolerance can fall on either side by rounding (9 of 533 SIRST targets moved by 3 px).

    Args:
        targets_xy, predicted_xy: (targets, 2) and (predicted, 2), the centroids, both in label order.
        overlapping: The pairs of an IoU of at least 0.5, see `overlapping_pairs`; only "opdc" needs them.
        centroid_tolerance_px: Largest centroid distance in pixels, itself excluded.
        matching: One of the names above.

    Returns:
        Pairs (target, predicted), by increasing target.

    Raises:
        ValueError: `matching` is unknown, `centroid_tolerance_px` is not positive and finite, or thousands of
            components on both sides lie within the tolerance of one another ("optimal", "opdc").
    """
    check_matching(matching, centroid_tolerance_px)
    near = near_pairs(targets_xy, predicted_xy, centroid_tolerance_px)
    if matching == "greedy":
        return _match_greedy(near)
    shape = len(targets_xy), len(predicted_xy)
    if matching == "optimal":
        # Dearer than any complete set of pairs within the tolerance: the number of pairs comes first.
        return assign(shape, *near, outside_cost=centroid_tolerance_px * (min(shape) + 1))
    assert overlapping is not None
    by_overlap = _match_nearest(targets_xy, predicted_xy, *overlapping)
    rows = np.setdiff1d(np.arange(shape[0]), [row for row, _ in by_overlap])
    columns = np.setdiff1d(np.arange(shape[1]), [column for _, column in by_overlap])
    targets_xy, predicted_xy = targets_xy[rows], predicted_xy[columns]
    near = near_pairs(targets_xy, predicted_xy, centroid_tolerance_px)
    by_distance = _match_nearest(targets_xy, predicted_xy, *near[:2])
    return sorted(by_overlap + [(int(rows[row]), int(columns[column])) for row, column in by_distance])


def near_pairs(
    targets_xy: np.ndarray, predicted_xy: np.ndarray, centroid_tolerance_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of centroids (targets, 2) and (predicted, 2) nearer than the tolerance, targets ascending.

    Returns:
        (K,) each: index of the target, of the predicted component, distance in px.
    """
    reach = centroid_tolerance_px * (1 + 1e-9)  # the tree rounds otherwise than the distances below
    found = cKDTree(targets_xy).sparse_distance_matrix(cKDTree(predicted_xy), reach, output_type="ndarray")
    order = np.lexsort([found["j"], found["i"]])
    rows, columns = found["i"][order], found["j"][order]
    distance_px = _distances_px(targets_xy[rows], predicted_xy[columns])
    kept = distance_px < centroid_tolerance_px
    return rows[kept], columns[kept], distance_px[kept]


def count_pairs(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each pair occurs among indices (M,) and (M,): rows, ascending, columns and counts, (K,) each."""
    width = int(columns.max(initial=0)) + 1
    codes, counts = np.unique(rows.astype(np.int64) * width + columns, return_counts=True)
    return codes // width, codes % width, counts


def overlapping_pairs(
    common_px: tuple[np.ndarray, np.ndarray, np.ndarray], target_area_px: np.ndarray, predicted_area_px: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of an IoU of at least `OPDC_MIN_IOU`, from `count_pairs` of the common pixels and all areas."""
    rows, columns, common = common_px
    iou = common / (target_area_px[rows] + predicted_area_px[columns] - common)
    return rows[iou >= OPDC_MIN_IOU], columns[iou >= OPDC_MIN_IOU]


def centroids(components: list[Component]) -> np.ndarray:
    """Centroids (components, 2), x and y, float64."""
    return np.array([(component.x, component.y) for component in components]).reshape(-1, 2)


def areas_px(components: list[Component]) -> np.ndarray:
    """Areas (components,), int64."""
    return np.array([component.area_px for component in components], dtype=np.int64)


def _distances_px(a_xy: np.ndarray, b_xy: np.ndarray) -> np.ndarray:
    return np.sqrt(((a_xy - b_xy) ** 2).sum(axis=-1))


def _match_greedy(near: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
    pairs: dict[int, int] = {}
    taken = set()
    for row, column in zip(near[0].tolist(), near[1].tolist(), strict=True):
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return list(pairs.items())


def _match_nearest(
    targets_xy: np.ndarray, predicted_xy: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> list[tuple[int, int]]:
    """The pairs among the allowed (rows[k], columns[k]) in the assignment of least total distance; see "opdc"."""
    shape = len(targets_xy), len(predicted_xy)
    if shape[0] * shape[1] > OPDC_PAIRS:
        distance_px = _distances_px(targets_xy[rows], predicted_xy[columns])
        return assign(shape, rows, columns, distance_px, outside_cost=distance_px.sum() + 1)
    allowed = set(zip(rows.tolist(), columns.tolist(), strict=True))
    chosen = linear_sum_assignment(_distances_px(targets_xy[:, None], predicted_xy[None]))
    return [pair for pair in zip(*(side.tolist() for side in chosen), strict=True) if pair in allowed]

"""Integer counts of one image; every metric is a ratio of their sums."""

from dataclasses import astuple, dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from .components import Component, label_components

MATCHINGS = ("greedy", "optimal", "opdc")

# Overlap from which OPDC accepts a pair whatever its distance (arXiv 2509.16888).
OPDC_MIN_IOU = 0.5


@dataclass(frozen=True)
class ImageCounts:
    """Counts of one image, or, after addition, of a set of images.

    Attributes:
        tp_px, fp_px, fn_px: true positive, false positive and false negative pixels.
        targets: components of the truth.
        hits: targets matched one to one with a predicted component.
        predicted: predicted components; `predicted - hits` of them are false alarms.
        false_alarm_px: pixels of the predicted components that match no target.
        legacy_false_alarm_px: the same without every component whose area equals that of a matched component of
            the same image, as DNANet, MSHNet, SCTransNet and IRSTD-Diff count. Never above `false_alarm_px`.
        area_px: pixels of the image.
        images: 1.
    """

    tp_px: int
    fp_px: int
    fn_px: int
    targets: int
    hits: int
    predicted: int
    false_alarm_px: int
    legacy_false_alarm_px: int
    area_px: int
    images: int = 1

    @classmethod
    def zero(cls) -> "ImageCounts":
        """The counts of no image, the neutral element of `+`."""
        return cls(0, 0, 0, 0, 0, 0, 0, 0, 0, images=0)

    def __add__(self, other: "ImageCounts") -> "ImageCounts":
        return ImageCounts(*(mine + others for mine, others in zip(astuple(self), astuple(other), strict=True)))


def count_image(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    centroid_tolerance_px: float = 3.0,
    matching: str = "greedy",
    union_truth: np.ndarray | None = None,
) -> ImageCounts:
    """Counts one image.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool. Its 8-connected components are the targets.
        centroid_tolerance_px: a predicted component hits a target if their centroids are nearer than this, strictly.
        matching: "greedy", "optimal" or "opdc", see `match_components`.
        union_truth: (H, W) bool, truth pixels that count in the union tp + fp + fn (`fn_px` is their number minus
            `tp_px`). None: `truth`. Only the protocol `basicirstd` needs another one.

    Raises:
        TypeError: an array is not bool.
        ValueError: the shapes differ, or `matching` or `centroid_tolerance_px` is not allowed.
    """
    union_truth = truth if union_truth is None else union_truth
    for name, mask in (("prediction", prediction), ("truth", truth), ("union_truth", union_truth)):
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"`{name}` must be a bool array, got {getattr(mask, 'dtype', type(mask).__name__)}")
        if mask.ndim != 2 or mask.shape != prediction.shape:
            raise ValueError(f"`{name}` must have shape (H, W) of `prediction` {prediction.shape}, got {mask.shape}")
    truth_labels, targets = label_components(truth)
    prediction_labels, predicted = label_components(prediction)
    pairs = match_components(
        truth_labels,
        targets,
        prediction_labels,
        predicted,
        centroid_tolerance_px=centroid_tolerance_px,
        matching=matching,
    )
    matched = {index for _, index in pairs}
    matched_areas_px = {predicted[index].area_px for index in matched}
    tp_px = int(np.count_nonzero(prediction & truth))
    return ImageCounts(
        tp_px=tp_px,
        fp_px=int(np.count_nonzero(prediction)) - tp_px,
        fn_px=int(np.count_nonzero(union_truth)) - tp_px,
        targets=len(targets),
        hits=len(pairs),
        predicted=len(predicted),
        false_alarm_px=sum(c.area_px for index, c in enumerate(predicted) if index not in matched),
        legacy_false_alarm_px=sum(c.area_px for c in predicted if c.area_px not in matched_areas_px),
        area_px=prediction.size,
    )


def match_components(
    truth_labels: np.ndarray,
    targets: list[Component],
    prediction_labels: np.ndarray,
    predicted: list[Component],
    *,
    centroid_tolerance_px: float = 3.0,
    matching: str = "greedy",
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
        truth_labels, targets: `label_components` of the truth.
        prediction_labels, predicted: `label_components` of the prediction.
        centroid_tolerance_px: largest centroid distance in pixels, itself excluded.
        matching: one of the names above.

    Returns:
        Pairs (index in `targets`, index in `predicted`), by increasing target.

    Raises:
        ValueError: `matching` is unknown, or `centroid_tolerance_px` is not positive and finite.
    """
    if matching not in MATCHINGS:
        raise ValueError(f"`matching` must be one of {', '.join(MATCHINGS)}, got {matching!r}")
    if not 0 < centroid_tolerance_px < float("inf"):
        raise ValueError(f"`centroid_tolerance_px` must be positive and finite, got {centroid_tolerance_px}")
    if not targets or not predicted:
        return []
    offset = _centroids(targets)[:, None] - _centroids(predicted)[None]  # (targets, predicted, 2)
    distance_px = np.sqrt((offset**2).sum(axis=2))  # (targets, predicted)
    within = distance_px < centroid_tolerance_px
    if matching == "greedy":
        return _match_greedy(within)
    if matching == "optimal":
        # Dearer than any complete set of pairs within the tolerance: the number of pairs comes first.
        outside_cost = centroid_tolerance_px * (min(distance_px.shape) + 1)
        return _assign(np.where(within, distance_px, outside_cost), within)
    overlap = _pairwise_iou(truth_labels, targets, prediction_labels, predicted)  # (targets, predicted)
    by_overlap = _assign(distance_px, overlap >= OPDC_MIN_IOU)
    rows = np.setdiff1d(np.arange(len(targets)), [row for row, _ in by_overlap])
    columns = np.setdiff1d(np.arange(len(predicted)), [column for _, column in by_overlap])
    rest = np.ix_(rows, columns)
    by_distance = [(int(rows[i]), int(columns[j])) for i, j in _assign(distance_px[rest], within[rest])]
    return sorted(by_overlap + by_distance)


def _centroids(components: list[Component]) -> np.ndarray:
    return np.array([(component.x, component.y) for component in components])  # (components, 2)


def _match_greedy(within: np.ndarray) -> list[tuple[int, int]]:
    free = np.ones(within.shape[1], dtype=bool)
    pairs = []
    for row in range(within.shape[0]):
        candidates = np.flatnonzero(within[row] & free)
        if candidates.size:
            free[candidates[0]] = False
            pairs.append((row, int(candidates[0])))
    return pairs


def _assign(cost: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    rows, columns = linear_sum_assignment(cost)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]


def _pairwise_iou(
    truth_labels: np.ndarray, targets: list[Component], prediction_labels: np.ndarray, predicted: list[Component]
) -> np.ndarray:
    both = (truth_labels > 0) & (prediction_labels > 0)
    intersection_px = np.zeros((len(targets), len(predicted)), dtype=np.int64)
    np.add.at(intersection_px, (truth_labels[both] - 1, prediction_labels[both] - 1), 1)
    target_area_px = np.array([target.area_px for target in targets])[:, None]
    predicted_area_px = np.array([component.area_px for component in predicted])[None]
    return intersection_px / (target_area_px + predicted_area_px - intersection_px)  # (targets, predicted)

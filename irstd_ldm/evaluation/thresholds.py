"""The counts of one image at many thresholds: of its pixels by probability, of its predicted targets by score.

Where masks end is decided once. A higher score threshold drops components as a whole, so that hits, false targets and
their pixels only fall with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial import cKDTree

from ..targets import Component, component_means
from .counts import ImageCounts
from .matching import (
    areas_px,
    centroids,
    check_mask,
    check_matching,
    check_probability,
    label_image,
    match_pairs,
)

# Even in the logit, where probabilities spread, as far as float32 tells them apart; 0.5 is one, 1 the last.
THRESHOLDS = np.append(1 / (1 + np.exp(-np.arange(-140, 161) / 10)), 1.0)  # (T,)
BOX_MIN_IOU = 0.5


@dataclass(frozen=True, eq=False)
class ThresholdCounts:
    """`ImageCounts` of one image at T thresholds, of its pixels and of its scores.

    Attributes:
        thresholds: (T,) float64, ascending.
        tp_px, fp_px, fn_px: (T,) int64, the pixels whose probability is greater.
        targets, hits, predicted, false_alarm_px, legacy_false_alarm_px, area_px, images: (T,) int64, the fields of
            `ImageCounts` where the components whose score is greater are the predicted targets.
        centroid_hits, box_hits: (T,) int64, predicted targets that hit where the highest score chooses first, as COCO
            does: the nearest free target within the centroid tolerance, and the free target whose box has the highest
            IoU with its own, at least 0.5.
        truth_px: Target pixels of the image: tp_px + fn_px, except under the protocol `basicirstd`.
    """

    thresholds: np.ndarray
    tp_px: np.ndarray
    fp_px: np.ndarray
    fn_px: np.ndarray
    targets: np.ndarray
    hits: np.ndarray
    predicted: np.ndarray
    false_alarm_px: np.ndarray
    legacy_false_alarm_px: np.ndarray
    centroid_hits: np.ndarray
    box_hits: np.ndarray
    area_px: np.ndarray
    images: np.ndarray
    truth_px: int

    def at(self, index: int) -> ImageCounts:
        """The counts at `thresholds[index]`."""
        return ImageCounts(**{field.name: int(getattr(self, field.name)[index]) for field in fields(ImageCounts)})


def count_image_at(
    probability: np.ndarray,
    truth: np.ndarray,
    thresholds: np.ndarray = THRESHOLDS,
    *,
    mask_threshold: float = 0.5,
    centroid_tolerance_px: float = 3.0,
    matching: str = "greedy",
    union_truth: np.ndarray | None = None,
) -> ThresholdCounts:
    """Counts one image at every threshold.

    Args:
        probability: (H, W) floating point without NaN. Thresholds are rounded to its type before they are compared
            with it, as NumPy does with a Python float.
        truth: (H, W) bool. Its 8-connected components are the targets.
        thresholds: (T,) float, finite and ascending, T >= 1.
        mask_threshold: The components of the pixels of a higher probability have a score.
        centroid_tolerance_px, matching, union_truth: See `count_image`.

    Raises:
        TypeError: `probability` is not floating point, or a mask is not bool.
        ValueError: A shape or a value is not allowed.
    """
    check_probability(probability)
    if np.isnan(probability.min()):
        raise ValueError("`probability` must not hold NaN")
    thresholds = np.array(thresholds, dtype=np.float64)
    finite = thresholds.ndim == 1 and thresholds.size > 0 and bool(np.isfinite(thresholds).all())
    if not (finite and (np.diff(thresholds) >= 0).all()):
        raise ValueError(f"`thresholds` must have shape (T,), be finite and ascend, got {thresholds}")
    check_mask("truth", truth, probability.shape)
    union_truth = truth if union_truth is None else union_truth
    check_mask("union_truth", union_truth, probability.shape)
    check_matching(matching, centroid_tolerance_px)

    num = len(thresholds)
    components = label_image(probability > mask_threshold, truth)
    levels = np.searchsorted(thresholds.astype(probability.dtype), probability)  # (H, W), thresholds below
    tp_px = _num_above(levels[truth], num)  # (T,)
    scores = component_means(probability, components.prediction_labels, components.predicted)
    score_levels = np.searchsorted(thresholds, scores)  # (predicted,), thresholds below
    area_px = areas_px(components.predicted)
    centroids_xy = centroids(components.targets), centroids(components.predicted)
    overlapping = components.overlapping() if matching == "opdc" else None
    by_target = np.zeros((num, 3), dtype=np.int64)  # (T, hits, false_alarm_px, legacy_false_alarm_px)
    for level in np.unique(score_levels)[::-1]:
        kept = score_levels >= level  # (predicted,)
        pairs = match_pairs(
            centroids_xy[0],
            centroids_xy[1][kept],
            _among(kept, overlapping),
            centroid_tolerance_px=centroid_tolerance_px,
            matching=matching,
        )
        matched_area_px = area_px[kept][[column for _, column in pairs]]
        of_matched_area = np.isin(area_px[kept], matched_area_px)
        total_px = area_px[kept].sum()
        by_target[:level] = (
            len(pairs),
            total_px - matched_area_px.sum(),
            total_px - area_px[kept][of_matched_area].sum(),
        )
    by_centroid = _hits_by_score(scores, *components.near_pairs(centroid_tolerance_px))
    rows, columns, iou = near_boxes(components.targets, components.predicted)
    by_box = _hits_by_score(scores, rows, columns, -iou)
    return ThresholdCounts(
        thresholds=thresholds,
        tp_px=tp_px,
        fp_px=_num_above(levels, num) - tp_px,
        fn_px=np.count_nonzero(union_truth) - tp_px,
        targets=np.full(num, len(components.targets), dtype=np.int64),
        hits=by_target[:, 0],
        predicted=_num_above(score_levels, num),
        false_alarm_px=by_target[:, 1],
        legacy_false_alarm_px=by_target[:, 2],
        centroid_hits=_num_above(score_levels[by_centroid], num),
        box_hits=_num_above(score_levels[by_box], num),
        area_px=np.full(num, probability.size, dtype=np.int64),
        images=np.ones(num, dtype=np.int64),
        truth_px=int(np.count_nonzero(truth)),
    )


def _num_above(levels: np.ndarray, num: int) -> np.ndarray:
    """How many `levels` are greater than 0, ..., num - 1: (num,)."""
    counts = np.bincount(levels.ravel(), minlength=num + 1)  # (num + 1,)
    return levels.size - np.cumsum(counts)[:-1]


def _among(kept: np.ndarray, pairs: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray] | None:
    """The pairs whose predicted component is `kept` (predicted,), which are numbered anew."""
    if pairs is None:
        return None
    rows, columns = pairs
    return rows[kept[columns]], (np.cumsum(kept) - 1)[columns[kept[columns]]]


def _hits_by_score(scores: np.ndarray, rows: np.ndarray, columns: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Which predicted targets (predicted,) hit, the highest score choosing the cheapest free target first.

    Args:
        scores: (predicted,).
        rows, columns, cost: (K,) each, target, predicted target and cost of the pairs that may hit.
    """
    hit, taken = np.zeros(len(scores), dtype=bool), set()
    for k in np.lexsort([cost, columns, -scores[columns]]):
        if not hit[columns[k]] and rows[k] not in taken:
            taken.add(rows[k])
            hit[columns[k]] = True
    return hit


def near_boxes(
    targets: Sequence[Component], predicted: Sequence[Component]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs whose boxes have an IoU of at least 0.5: index of the target, of the other, and IoU, (K,) each.

    Their centres are nearer than half the diagonal of either box.
    """
    boxes = [
        np.array([(one.left, one.top, one.width, one.height) for one in some], dtype=np.float64).reshape(-1, 4)
        for some in (targets, predicted)
    ]
    centres = [box[:, :2] + box[:, 2:] / 2 for box in boxes]
    reach = np.hypot(*boxes[0][:, 2:].T) / 2 + 1e-6
    found = cKDTree(centres[1]).query_ball_point(centres[0], reach)
    rows = np.repeat(np.arange(len(targets)), [len(columns) for columns in found])
    columns = np.array([column for of_target in found for column in of_target], dtype=np.intp)
    one, other = boxes[0][rows], boxes[1][columns]
    ends = np.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    common_px = np.maximum(ends - np.maximum(one[:, :2], other[:, :2]), 0).prod(axis=1)
    iou = common_px / (one[:, 2:].prod(axis=1) + other[:, 2:].prod(axis=1) - common_px)
    kept = iou >= BOX_MIN_IOU
    return rows[kept], columns[kept], iou[kept]

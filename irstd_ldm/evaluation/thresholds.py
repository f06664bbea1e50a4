"""The counts of one image at all thresholds, in one pass."""

from dataclasses import dataclass, fields

import numpy as np

from ..targets import label_components
from .component_tree import ComponentTree
from .counts import ImageCounts
from .matching import areas_px, centroid_distances_px, centroids, check_mask, check_matching, match_pairs, pairwise_iou

TAIL = 10.0 ** -np.arange(2.25, 6.01, 0.25)  # (16,), distances from the ends


@dataclass(frozen=True, eq=False)
class ThresholdCounts:
    """`ImageCounts` of one image at T thresholds.

    Attributes:
        thresholds: (T,) float64, ascending. Foreground is probability > threshold.
        tp_px, fp_px, fn_px, targets, hits, predicted, false_alarm_px, legacy_false_alarm_px, area_px, images: (T,)
            int64, the fields of `ImageCounts`.
        truth_px: target pixels of the image: tp_px + fn_px, except under the protocol `basicirstd`.
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
    area_px: np.ndarray
    images: np.ndarray
    truth_px: int

    def at(self, index: int) -> ImageCounts:
        """The counts at `thresholds[index]`."""
        return ImageCounts(**{field.name: int(getattr(self, field.name)[index]) for field in fields(ImageCounts)})


def default_thresholds(num_even: int = 101) -> np.ndarray:
    """Ascending thresholds (num_even + 32,): equal steps from 0 to 1, both included, and more towards both ends.

    The latter lie 10^-2.25, 10^-2.5, ..., 10^-6 from 0 and from 1: most probabilities of a trained network are there,
    and with them the false alarms that decide a small budget.

    Args:
        num_even: number of equal steps; 0.5 is one of 101.
    """
    return np.sort(np.concatenate([np.linspace(0, 1, num_even), TAIL, 1 - TAIL]))


def count_image_at(
    probability: np.ndarray,
    truth: np.ndarray,
    thresholds: np.ndarray,
    *,
    centroid_tolerance_px: float = 3.0,
    matching: str = "greedy",
    union_truth: np.ndarray | None = None,
) -> ThresholdCounts:
    """Counts one image at every threshold, equal to `count_image(probability > float(t), truth, ...)` for each t.

    Args:
        probability: (H, W) floating point without NaN. Thresholds are rounded to its type before they are compared,
            as NumPy does with a Python float.
        truth: (H, W) bool. Its 8-connected components are the targets.
        thresholds: (T,) float, finite and ascending, T >= 1.
        centroid_tolerance_px, matching, union_truth: as in `count_image`.

    Raises:
        TypeError: `probability` is not floating point, or a mask is not bool.
        ValueError: a shape or a value is not allowed.
    """
    if not isinstance(probability, np.ndarray) or not np.issubdtype(probability.dtype, np.floating):
        kind = getattr(probability, "dtype", type(probability).__name__)
        raise TypeError(f"`probability` must be a floating point array, got {kind}")
    if probability.ndim != 2 or probability.size == 0:
        raise ValueError(f"`probability` must have shape (H, W), got {probability.shape}")
    if np.isnan(probability.min()):
        raise ValueError("`probability` must not hold NaN")
    thresholds = _checked(thresholds)
    check_mask("truth", truth, probability.shape)
    union_truth = truth if union_truth is None else union_truth
    check_mask("union_truth", union_truth, probability.shape)
    check_matching(matching, centroid_tolerance_px)

    num = len(thresholds)
    levels = np.searchsorted(thresholds.astype(probability.dtype), probability)  # (H, W), thresholds below
    tp_px = _num_above(levels[truth], num)  # (T,)
    truth_labels, targets = label_components(truth)
    truth_pixels = np.flatnonzero(truth)  # (truth_px,)
    target_of_pixel = truth_labels.ravel()[truth_pixels] - 1  # (truth_px,)
    by_target = np.zeros((num, 4), dtype=np.int64)  # (T, hits, predicted, false_alarm_px, legacy_false_alarm_px)
    tree = ComponentTree(levels, num)
    for index, components in tree:
        overlap = None
        if matching == "opdc":
            component_of_pixel = components.component_of_basin[tree.basin_of_pixel[truth_pixels]]
            both = levels.ravel()[truth_pixels] > index
            common = np.zeros((len(targets), len(components.area_px)), dtype=np.int64)  # (targets, predicted)
            np.add.at(common, (target_of_pixel[both], component_of_pixel[both]), 1)
            overlap = pairwise_iou(common, areas_px(targets), components.area_px)
        pairs = match_pairs(
            centroid_distances_px(centroids(targets), components.centroids),
            overlap,
            centroid_tolerance_px=centroid_tolerance_px,
            matching=matching,
        )
        matched_area_px = components.area_px[[predicted for _, predicted in pairs]]
        total_px = components.area_px.sum()
        of_matched_area = np.isin(components.area_px, matched_area_px)
        by_target[: index + 1] = (  # up to the next threshold that adds pixels
            len(pairs),
            len(components.area_px),
            total_px - matched_area_px.sum(),
            total_px - components.area_px[of_matched_area].sum(),
        )
    return ThresholdCounts(
        thresholds=thresholds,
        tp_px=tp_px,
        fp_px=_num_above(levels, num) - tp_px,
        fn_px=np.count_nonzero(union_truth) - tp_px,
        targets=np.full(num, len(targets), dtype=np.int64),
        hits=by_target[:, 0],
        predicted=by_target[:, 1],
        false_alarm_px=by_target[:, 2],
        legacy_false_alarm_px=by_target[:, 3],
        area_px=np.full(num, probability.size, dtype=np.int64),
        images=np.ones(num, dtype=np.int64),
        truth_px=truth_pixels.size,
    )


def _checked(thresholds: np.ndarray) -> np.ndarray:
    values = np.array(thresholds, dtype=np.float64)
    if values.ndim == 1 and values.size and np.isfinite(values).all() and (np.diff(values) >= 0).all():
        return values
    raise ValueError(f"`thresholds` must have shape (T,), be finite and ascend, got {thresholds}")


def _num_above(levels: np.ndarray, num: int) -> np.ndarray:
    """How many `levels` are greater than 0, ..., num - 1: (num,)."""
    counts = np.bincount(levels.ravel(), minlength=num + 1)  # (num + 1,)
    return levels.size - np.cumsum(counts)[:-1]

"""The counts of one image at all thresholds, in one pass.

While the threshold falls, pixels are added and components join; none falls apart. Each pixel and each pair of
neighbouring pixels is therefore looked at once, at the threshold from which on it is foreground; areas and coordinate
sums are those of what was joined.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..targets import label_components
from .counts import ImageCounts
from .matching import (
    areas_px,
    centroids,
    check_mask,
    check_matching,
    check_probability,
    count_pairs,
    match_pairs,
    overlapping_pairs,
)

TAIL = 10.0 ** -np.arange(2.25, 6.01, 0.25)  # (16,), distances from the ends


@dataclass(frozen=True, eq=False)
class ThresholdCounts:
    """`ImageCounts` of one image at T thresholds.

    Attributes:
        thresholds: (T,) float64, ascending. Foreground is probability > threshold.
        tp_px, fp_px, fn_px, targets, hits, predicted, false_alarm_px, legacy_false_alarm_px, area_px, images: (T,)
            int64, the fields of `ImageCounts`.
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
    area_px: np.ndarray
    images: np.ndarray
    truth_px: int

    def at(self, index: int) -> ImageCounts:
        """The counts at `thresholds[index]`."""
        return ImageCounts(**{field.name: int(getattr(self, field.name)[index]) for field in fields(ImageCounts)})


def default_thresholds(num_even: int = 101) -> np.ndarray:
    """Ascending thresholds (num_even + 32,): equal steps from 0 to 1, both included, and more towards both ends.

    The latter lie 10^-2.25, 10^-2.5, ..., 10^-6 from 0 and from 1: most probabilities of a trained network are there,
    and with them the false alarms that decide a small budget. 0.5 is one of 101 equal steps.
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
    levels = np.searchsorted(thresholds.astype(probability.dtype), probability)  # (H, W), thresholds below
    tp_px = _num_above(levels[truth], num)  # (T,)
    truth_labels, targets = label_components(truth)
    targets_xy = centroids(targets)
    truth_pixels = np.flatnonzero(truth)  # (truth_px,)
    target_of_pixel = truth_labels.ravel()[truth_pixels] - 1  # (truth_px,)
    by_target = np.zeros((num, 4), dtype=np.int64)  # (T, hits, predicted, false_alarm_px, legacy_false_alarm_px)
    for index, components in components_by_level(levels, num):
        overlapping = None
        if matching == "opdc":
            predicted = components.component_of_pixel[truth_pixels]
            both = predicted >= 0
            common_px = count_pairs(target_of_pixel[both], predicted[both])
            overlapping = overlapping_pairs(common_px, areas_px(targets), components.area_px)
        pairs = match_pairs(
            targets_xy,
            components.centroids,
            overlapping,
            centroid_tolerance_px=centroid_tolerance_px,
            matching=matching,
        )
        matched_area_px = components.area_px[[column for _, column in pairs]]
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


def _num_above(levels: np.ndarray, num: int) -> np.ndarray:
    """How many `levels` are greater than 0, ..., num - 1: (num,)."""
    counts = np.bincount(levels.ravel(), minlength=num + 1)  # (num + 1,)
    return levels.size - np.cumsum(counts)[:-1]


@dataclass(frozen=True, eq=False)
class ThresholdComponents:
    """The 8-connected components at one threshold, in label order (raster order of the first pixel).

    Attributes:
        area_px: (components,) int64.
        centroids: (components, 2) float64, x and y, the same numbers as `label_components` gives.
        component_of_pixel: (H * W,), index into the above, -1 for background; valid until the next threshold.
    """

    area_px: np.ndarray
    centroids: np.ndarray
    component_of_pixel: np.ndarray


def components_by_level(levels: np.ndarray, num_levels: int) -> Iterator[tuple[int, ThresholdComponents]]:
    """Yields (k, components of {levels > k}) from the highest k down, for each k at which pixels are added.

    Args:
        levels: (H, W), integers from 0 to `num_levels`.
        num_levels: At least 1.
    """
    levels = levels.astype(np.min_scalar_type(num_levels))  # 8 and 16 bit are sorted by radix
    by_level, pixel_ends = _sorted_by_level(levels.ravel(), num_levels)  # (H * W,) pixels, raster order in a level
    pairs, pair_levels = _neighbours(levels)
    pair_order, pair_ends = _sorted_by_level(pair_levels, num_levels)
    pairs = pairs[:, pair_order]
    component = np.full(levels.size, -1)  # (H * W,)
    sums = np.zeros((3, 0))  # (3, components), area, sums of x and of y, whole numbers
    first = np.zeros(0, dtype=np.int64)  # (components,), lowest pixel
    for level in range(num_levels, 0, -1):
        pixels = by_level[pixel_ends[level - 1] : pixel_ends[level]]
        if not pixels.size:
            continue
        rows, columns = np.divmod(pixels, levels.shape[1])
        component[pixels] = len(first) + np.arange(len(pixels))  # a component of its own, until joined
        sums = np.concatenate([sums, [np.ones(len(pixels)), columns, rows]], axis=1)
        first = np.append(first, pixels)
        one, other = component[pairs[:, pair_ends[level - 1] : pair_ends[level]]]
        graph = coo_matrix((np.ones(len(one)), (one, other)), shape=(len(first), len(first)))
        num, joined = connected_components(graph, directed=False)
        lowest = np.full(num, levels.size)
        np.minimum.at(lowest, joined, first)
        order = np.argsort(lowest)
        joined = np.argsort(order)[joined]  # in label order
        first = lowest[order]
        sums = np.stack([np.bincount(joined, weights=values) for values in sums])
        foreground = by_level[pixel_ends[level - 1] :]
        component[foreground] = joined[component[foreground]]
        yield level - 1, ThresholdComponents(sums[0].astype(np.int64), (sums[1:] / sums[0]).T, component)


def _sorted_by_level(levels: np.ndarray, num_levels: int) -> tuple[np.ndarray, np.ndarray]:
    """The order that sorts the levels, and the number of those up to each level (num_levels + 1,)."""
    return np.argsort(levels, kind="stable"), np.cumsum(np.bincount(levels, minlength=num_levels + 1))


def _neighbours(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of 8-connected pixels above level 0 once (2, pairs), and the highest level at which both are."""
    height, width = levels.shape
    number = np.arange(levels.size).reshape(levels.shape)
    pairs, pair_levels = [], []
    for rows, columns in ((0, 1), (1, -1), (1, 0), (1, 1)):
        here = np.s_[: height - rows, max(-columns, 0) : width - max(columns, 0)]
        there = np.s_[rows:, max(columns, 0) : width + min(columns, 0)]
        level = np.minimum(levels[here], levels[there])
        kept = level > 0
        pairs.append([number[here][kept], number[there][kept]])
        pair_levels.append(level[kept])
    return np.concatenate(pairs, axis=1), np.concatenate(pair_levels)

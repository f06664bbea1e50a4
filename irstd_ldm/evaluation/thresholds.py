"""The counts of one image at all thresholds, in one pass.

The components at all thresholds, from the highest to the lowest, come from one tree. Every pixel belongs to the basin
of a local maximum, to which a path of pixels leads that are not lower: wherever the pixel is foreground, so is the
path. The components at a threshold are therefore unions of basins, joined where basins touch above it; the maximum
spanning forest of the touching basins holds all joins that matter. Areas and coordinate sums only grow while the
threshold falls.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree

from ..targets import label_components
from .counts import ImageCounts
from .matching import (
    areas_px,
    centroid_distances_px,
    centroids,
    check_mask,
    check_matching,
    check_probability,
    match_pairs,
    pairwise_iou,
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
    and with them the false alarms that decide a small budget.

    Args:
        num_even: Number of equal steps; 0.5 is one of 101.
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


@dataclass(frozen=True, eq=False)
class ThresholdComponents:
    """The 8-connected components at one threshold, in label order (raster order of the first pixel).

    Attributes:
        area_px: (components,) int64.
        centroids: (components, 2) float64, x and y, the same numbers as `label_components` gives.
        component_of_basin: (basins,), index into the above, -1 where the basin has no foreground yet.
    """

    area_px: np.ndarray
    centroids: np.ndarray
    component_of_basin: np.ndarray


class ComponentTree:
    """The components of {levels > k} for k = num_levels - 1, ..., 0.

    Args:
        levels: (H, W), integers from 0 to `num_levels`.
        num_levels: At least 1.
    """

    def __init__(self, levels: np.ndarray, num_levels: int):
        self._num_levels = num_levels
        self._width = levels.shape[1]
        levels = levels.astype(np.min_scalar_type(num_levels))  # 8 and 16 bit are sorted by radix
        self._by_level = np.argsort(levels, axis=None, kind="stable")  # (H * W,) pixels by level, then raster order
        counts = np.bincount(levels.ravel(), minlength=num_levels + 1)
        self._ends = np.cumsum(counts)  # (num_levels + 1,)
        basins = _basins(levels.shape, self._by_level)  # (H, W)
        self.basin_of_pixel = basins.ravel()
        self._num_basins = int(self.basin_of_pixel.max()) + 1
        self._joins = _spanning_forest(levels, basins, num_levels, self._num_basins)

    def __iter__(self) -> Iterator[tuple[int, ThresholdComponents]]:
        """Yields (k, components of {levels > k}) from the highest k down, for each k at which pixels are added."""
        parent = np.arange(self._num_basins)  # (basins,), the basin that stands for the component
        area_px, sum_x, sum_y = np.zeros((3, self._num_basins), dtype=np.int64)  # (basins,) each
        first = np.full(self._num_basins, len(self.basin_of_pixel))  # (basins,), lowest pixel number
        for level in range(self._num_levels, 0, -1):
            pixels = self._by_level[self._ends[level - 1] : self._ends[level]]  # raster order
            if not pixels.size:
                continue
            into = parent[self.basin_of_pixel[pixels]]
            rows, columns = np.divmod(pixels, self._width)
            np.add.at(area_px, into, 1)
            np.add.at(sum_x, into, columns)
            np.add.at(sum_y, into, rows)
            np.minimum.at(first, into, pixels)
            absorbed = _join(parent, self._joins[level])
            into = parent[absorbed]
            for sums in (area_px, sum_x, sum_y):
                np.add.at(sums, into, sums[absorbed])
            np.minimum.at(first, into, first[absorbed])
            area_px[absorbed] = 0
            alive = np.flatnonzero(area_px)
            alive = alive[np.argsort(first[alive])]
            component_of_basin = np.full(self._num_basins, -1)
            component_of_basin[alive] = np.arange(len(alive))
            yield (
                level - 1,
                ThresholdComponents(
                    area_px=area_px[alive],
                    centroids=np.stack([sum_x[alive], sum_y[alive]], axis=1) / area_px[alive, None],
                    component_of_basin=component_of_basin[parent],
                ),
            )


def _basins(shape: tuple[int, ...], by_level: np.ndarray) -> np.ndarray:
    """The basin number of every pixel (H, W): where the path of highest neighbours from it ends."""
    rank = np.empty(len(by_level), dtype=np.intp)
    rank[by_level] = np.arange(len(by_level))
    highest = rank.reshape(shape)  # (H, W), becomes the highest rank of the 3 x 3 neighbourhood
    for axis in (0, 1):
        moved = np.moveaxis(highest, axis, 0)
        grown = moved.copy()
        np.maximum(grown[1:], moved[:-1], out=grown[1:])
        np.maximum(grown[:-1], moved[1:], out=grown[:-1])
        highest = np.moveaxis(grown, 0, axis)
    uphill = highest.ravel()[by_level]  # (H * W,), from rank to rank
    while not np.array_equal(uphill, further := uphill[uphill]):
        uphill = further
    is_top = uphill == np.arange(len(uphill))
    return (np.cumsum(is_top) - 1)[uphill[rank]].reshape(shape)


def _spanning_forest(
    levels: np.ndarray, basins: np.ndarray, num_levels: int, num_basins: int
) -> list[list[tuple[int, int]]]:
    """For every level the pairs of basins that join there: the maximum spanning forest of the basins that touch."""
    height, width = levels.shape
    keys = []
    for rows, columns in ((0, 1), (1, -1), (1, 0), (1, 1)):  # every pair of 8-connected neighbours once
        here = np.s_[: height - rows, max(-columns, 0) : width - max(columns, 0)]
        there = np.s_[rows:, max(columns, 0) : width + min(columns, 0)]
        level = np.minimum(levels[here], levels[there])
        touch = (basins[here] != basins[there]) & (level > 0)
        one, other, level = basins[here][touch], basins[there][touch], level[touch].astype(np.int64)
        pair = np.minimum(one, other) * num_basins + np.maximum(one, other)
        keys.append(pair * (num_levels + 1) + num_levels - level)  # the pair, then the highest level first
    ordered = np.sort(np.concatenate(keys))
    pair, below = np.divmod(ordered, num_levels + 1)
    best = np.flatnonzero(np.diff(pair, prepend=-1))
    one, other = np.divmod(pair[best], num_basins)
    graph = coo_matrix((below[best] + 1.0, (one, other)), shape=(num_basins, num_basins))  # 0 would be no edge
    forest = minimum_spanning_tree(graph.tocsr()).tocoo()
    joins: list[list[tuple[int, int]]] = [[] for _ in range(num_levels + 1)]
    for one, other, cost in zip(forest.row.tolist(), forest.col.tolist(), forest.data.tolist(), strict=True):
        joins[num_levels + 1 - int(cost)].append((one, other))
    return joins


def _join(parent: np.ndarray, joins: list[tuple[int, int]]) -> np.ndarray:
    """Joins components in `parent`, which maps straight to the top, and returns the basins that were absorbed."""
    absorbed = []
    for one, other in joins:
        while one != parent[one]:
            one = parent[one]
        while other != parent[other]:
            other = parent[other]
        parent[other] = one
        absorbed.append(other)
    if absorbed:
        while not np.array_equal(parent, further := parent[parent]):
            parent[:] = further
    return np.array(absorbed, dtype=np.intp)

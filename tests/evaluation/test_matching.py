"""Matching by sparse pairs gives what all distances and overlaps of an image give."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from irstd_ldm.evaluation.assignment import assign
from irstd_ldm.evaluation.counts import count_components, count_hierarchical, target_records
from irstd_ldm.evaluation.matching import OPDC_MIN_IOU, areas_px, centroids, label_image
from irstd_ldm.targets import ring_window

TOLERANCE_PX = 3.0


def dense(components):
    """Distances and IoU of every target with every predicted component, (targets, predicted) each."""
    offset = centroids(components.targets)[:, None] - centroids(components.predicted)[None]
    common = np.zeros(offset.shape[:2], np.int64)
    both = (components.truth_labels > 0) & (components.prediction_labels > 0)
    np.add.at(common, (components.truth_labels[both] - 1, components.prediction_labels[both] - 1), 1)
    areas = areas_px(components.targets)[:, None] + areas_px(components.predicted)[None]
    return np.sqrt((offset**2).sum(axis=2)), common / (areas - common)


def greedy(distance):
    free, pairs = set(range(distance.shape[1])), []
    for row, of_row in enumerate(distance):
        column = next((column for column in sorted(free) if of_row[column] < TOLERANCE_PX), None)
        if column is not None:
            free.remove(column)
            pairs.append((row, column))
    return pairs


def least(cost, allowed):
    return [
        pair for pair in zip(*(side.tolist() for side in linear_sum_assignment(cost)), strict=True) if allowed[pair]
    ]


def optimal(distance):
    within = distance < TOLERANCE_PX
    return least(np.where(within, distance, TOLERANCE_PX * (min(distance.shape) + 1)), within)


def opdc(distance, overlap):
    first = least(distance, overlap >= OPDC_MIN_IOU)
    rows = [row for row in range(distance.shape[0]) if row not in {pair[0] for pair in first}]
    columns = [column for column in range(distance.shape[1]) if column not in {pair[1] for pair in first}]
    rest = distance[np.ix_(rows, columns)]
    return sorted(first + [(rows[row], columns[column]) for row, column in least(rest, rest < TOLERANCE_PX)])


@st.composite
def masks(draw):
    """Two masks of one image of some size and density, the second with parts of the first."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    truth = rng.random(shape) < draw(st.sampled_from([0, 0.02, 0.1, 0.3, 0.9]))
    kept = truth & (rng.random(shape) < draw(st.sampled_from([0, 0.5, 0.9, 1])))
    return kept | (rng.random(shape) < draw(st.sampled_from([0, 0.02, 0.1, 0.3]))), truth


@given(masks())
def test_pairs_are_those_of_all_distances(drawn):
    components = label_image(*drawn)
    distance, overlap = dense(components)
    assert components.match(matching="greedy") == greedy(distance)
    assert components.match(matching="opdc") == opdc(distance, overlap)
    found, expected = components.match(matching="optimal"), optimal(distance)
    assert len(found) == len(expected)  # of equal distances either choice is one
    assert sum(distance[pair] for pair in found) == pytest.approx(sum(distance[pair] for pair in expected))


@given(masks())
def test_hierarchical_counts_are_those_of_all_overlaps(drawn):
    components = label_image(*drawn)
    distance, overlap = dense(components)
    counts = count_hierarchical(components)
    pairs = opdc(distance, overlap)
    near = (overlap >= OPDC_MIN_IOU) | (distance < TOLERANCE_PX)
    assert counts.far_targets == sum(not row.any() for row in near)
    assert counts.far_predicted == sum(not column.any() for column in near.T)
    assert counts.lost_targets + counts.far_targets + counts.matched == len(components.targets)
    assert counts.lost_predicted + counts.far_predicted + counts.matched == len(components.predicted)
    assert counts.iou == pytest.approx(sum(overlap[pair] for pair in pairs))


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 5))
def test_assignment_is_the_best_of_all(seed, num_rows, num_columns):
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(rng.random((num_rows, num_columns)) < 0.5)
    cost = rng.random(len(rows)) - 0.5
    of_pair = dict(zip(zip(rows.tolist(), columns.tolist(), strict=True), cost, strict=True))
    best = (0, 0.0)
    for number in range(1, min(num_rows, num_columns) + 1):
        for choice in itertools.combinations(of_pair, number):
            if len({row for row, _ in choice}) == len({column for _, column in choice}) == number:
                best = min(best, (-number, sum(of_pair[pair] for pair in choice)))
    chosen = assign((num_rows, num_columns), rows, columns, cost, outside_cost=100.0)
    assert chosen == sorted(chosen)
    assert (-len(chosen), sum(of_pair[pair] for pair in chosen)) == (best[0], pytest.approx(best[1]))


def test_components_that_cannot_be_assigned_are_refused():
    grid = np.arange(6000)
    with pytest.raises(ValueError, match="6000 and 6000 components lie so near"):
        rows, columns = np.concatenate([grid, grid[1:]]), np.concatenate([grid, grid[:-1]])
        assign((6000, 6000), rows, columns, np.ones(len(rows)), outside_cost=1e5)


@pytest.fixture(scope="module")
def crowded():
    """115,600 targets of one pixel, nine in ten of them predicted a pixel beside, and 38,000 predicted elsewhere."""
    rng = np.random.default_rng(0)
    truth = np.zeros((4096, 4096), bool)
    truth[8:-8:12, 8:-8:12] = True
    moved = np.roll(truth, 1, axis=1) & (rng.random(truth.shape) < 0.9)
    return label_image(moved | (rng.random(truth.shape) < 0.003), truth)


@pytest.mark.parametrize("matching", ["greedy", "optimal", "opdc"])
def test_100_000_components_take_seconds(crowded, matching, seconds):
    with seconds(5):
        pairs = crowded.match(matching=matching)
        counts = count_components(crowded, pairs)
    assert counts.hits > 0.9 * counts.targets > 100_000
    if matching == "opdc":
        with seconds(10):
            assert count_hierarchical(crowded).matched == len(pairs)


def test_scr_is_that_of_each_target_and_its_ring_alone():
    rng = np.random.default_rng(0)
    image, truth = rng.integers(0, 1000, (80, 90)).astype(np.uint16), rng.random((80, 90)) < 0.004
    components = label_image(truth, truth)
    for record, target in zip(target_records(components, [], image), components.targets, strict=True):
        window = ring_window(target.left, target.top, target.width, target.height)
        clutter = image[window][~truth[window]]
        mean = image[components.truth_labels == target.label].mean()
        assert record.scr == pytest.approx((mean - clutter.mean()) / clutter.std(), rel=1e-9)

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from irstd_ldm.evaluation.thresholds import components_by_level
from irstd_ldm.targets import label_components


def check(levels, num_levels):
    """Equal to labelling every threshold on its own, down to the bits of the centroids."""
    seen = {
        k: replace(one, component_of_pixel=one.component_of_pixel.copy())
        for k, one in components_by_level(levels, num_levels)
    }
    for level in range(num_levels):
        labels, components = label_components(levels > level)
        if not np.any(levels == level + 1):  # no pixel is added here: as at the next higher threshold that has one
            assert level not in seen
            continue
        found = seen[level]
        assert found.area_px.tolist() == [component.area_px for component in components]
        assert found.centroids.tolist() == [[component.x, component.y] for component in components]
        assert np.array_equal(found.component_of_pixel + 1, labels.ravel())
    assert list(seen) == sorted(seen, reverse=True)


def test_two_peaks_join_where_the_saddle_is():
    levels = np.array([[0, 3, 1, 2, 0, 1]])
    found = {level: (c.area_px.tolist(), c.centroids[:, 0].tolist()) for level, c in components_by_level(levels, 3)}
    assert found == {2: ([1], [1.0]), 1: ([1, 1], [1.0, 3.0]), 0: ([3, 1], [2.0, 5.0])}


@pytest.mark.parametrize("seed", range(12))
def test_equals_labelling_on_noise(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 40, size=2)
    num_levels = int(rng.choice([1, 2, 5, 30, 300]))
    noise = rng.random(shape)
    smooth = ndimage.gaussian_filter(noise, rng.uniform(0.5, 3))
    smooth = (smooth - smooth.min()) / (np.ptp(smooth) + 1e-9)
    for map in (noise, smooth, noise**4, np.round(smooth * 3) / 3):
        check(np.rint(map * num_levels).astype(int), num_levels)


@pytest.mark.parametrize(
    "levels",
    [
        np.zeros((4, 5), int),
        np.full((4, 5), 2),
        np.array([[1]]),
        np.eye(6, dtype=int) * 2,  # one component by its corners
        np.add.outer(np.arange(7), np.arange(9)) % 3,  # stripes
        np.array([[2, 0, 2, 0, 2], [2, 0, 0, 0, 2], [2, 2, 1, 2, 2]]),  # first pixels are not in peak order
        np.tile([[0, 1], [1, 0]], (5, 6)),  # plateaus that touch by corners
    ],
)
def test_equals_labelling_on_shapes(levels):
    check(levels, 2)


def test_a_spiral_plateau():
    size = 21
    levels = np.zeros((size, size), int)
    row, column, step, turn = 0, 0, size - 1, 0
    while step > 0:
        d_row, d_column = ((0, 1), (1, 0), (0, -1), (-1, 0))[turn % 4]
        for _ in range(step):
            levels[row, column] = 1
            row, column = row + d_row, column + d_column
        turn += 1
        step -= 2 * (turn % 2 == 1 and turn > 1)
    levels[row, column] = 2
    assert label_components(levels > 0)[1][0].area_px > 100
    check(levels, 2)

"""Time that grows with the image and not with the square of its components."""

import numpy as np
import pytest

from irstd_ldm import targets


@pytest.fixture(scope="module")
def probability():
    """115,600 components of one and of four pixels in 4096x4096."""
    found = np.zeros((4096, 4096), np.float32)
    found[8:-8:12, 8:-8:12] = 0.9
    for rows, columns in ((8, 9), (9, 8), (9, 9)):
        found[rows:-8:24, columns:-8:24] = 0.7
    return found


def test_labels_of_100_000_components_take_seconds(probability, seconds):
    with seconds(5):
        labels, components = targets.label_components(probability > 0.5)
    assert len(components) == labels.max() == 115_600


def all_targets(probability, gray):
    return targets.extract_targets(probability, gray, targets.Decision(0.5, 0.5))[1]


@pytest.mark.skipif(not hasattr(targets, "Decision"), reason="targets are found one by one")
def test_targets_of_100_000_components_take_seconds(probability, seconds):
    gray = np.random.default_rng(0).integers(0, 255, probability.shape).astype(np.uint8)
    with seconds(10):
        found = all_targets(probability, gray)
    assert len(found) == 115_600
    assert sum(target.area_px for target in found) == np.count_nonzero(probability)
    window = np.s_[:64, :64]  # the target at (32, 32) has its whole ring there
    (alone,) = [one for one in all_targets(probability[window], gray[window]) if one.left == one.top == 32]
    (among,) = [one for one in found if one.left == one.top == 32]
    assert vars(alone) == pytest.approx(vars(among))


@pytest.mark.skipif(not hasattr(targets, "Decision"), reason="targets are found one by one")
def test_long_components_take_seconds(seconds):
    """Diagonals, of which every box is that of the image."""
    rows, columns = np.indices((1024, 1024))
    probability = ((columns - rows) % 4 == 0).astype(np.float32)
    with seconds(10):
        assert len(all_targets(probability, rows.astype(np.uint16))) == 511

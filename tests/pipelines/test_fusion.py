"""Fusion of an ensemble's members: by hand, and STAPLE against its own equations."""

import numpy as np
import pytest

from irstd_ldm.pipelines import fusion
from irstd_ldm.pipelines.fusion import FUSIONS, staple


def test_mean_and_median_of_three_members():
    members = np.array([0.1, 0.9, 0.8], np.float32).reshape(3, 1, 1)
    assert FUSIONS["mean"](members) == pytest.approx(0.6)
    assert FUSIONS["median"](members) == pytest.approx(0.8)


def test_staple_takes_decisions_above_a_half():
    members = np.array([[[0.5, 0.51, 0.9, 0.0]]] * 3)
    np.testing.assert_allclose(FUSIONS["staple"](members), [[0, 1, 1, 0]], atol=1e-3)


@pytest.mark.parametrize("num_members", (1, 2, 5))
def test_members_that_agree_are_believed(num_members):
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:6] = True
    np.testing.assert_allclose(staple(np.repeat(mask[None], num_members, axis=0)), mask, atol=1e-4)


@pytest.mark.parametrize("value", (False, True))
def test_all_of_one_class_stays_so(value):
    np.testing.assert_array_equal(staple(np.full((3, 4, 5), value)), np.full((4, 5), float(value)))


def test_two_iterations_by_hand(monkeypatch):
    """Two members, ten pixels: both mark pixel 0, the first alone marks pixel 1.

    The prior is 3/20. From performances of 1 - 1e-5 pixel 1 has odds 3/17: p(1-q) and (1-p)q cancel. Hence W is
    (1, 3/20, 0, ...), the sensitivities 1 and 1 / (23/20) = 20/23, the specificities 8 / (177/20) = 160/177 and 1.
    With these: member 2, never wrong about background, misses a target with 3/23; member 1 invents one with 17/177.
    The odds of pixel 1 are 3/17 * (1 * 3/23) / (17/177 * 1) = 0.2397, its probability 0.1933 after two E-steps.
    """
    decisions = np.zeros((2, 1, 10), bool)
    decisions[:, 0, 0] = True
    decisions[0, 0, 1] = True
    for iterations, probability in ((1, 3 / 20), (2, 0.1933)):
        monkeypatch.setattr(fusion, "MAX_ITERATIONS", iterations)
        np.testing.assert_allclose(staple(decisions)[0, :3], [1, probability, 0], atol=1e-4)


def test_the_result_satisfies_the_equations():
    """W = prior-weighted likelihood of the decisions; performances = W-weighted agreement, written out per pixel."""
    rng = np.random.default_rng(0)
    truth = rng.random((20, 30)) < 0.3
    sensitivity, specificity = np.array([0.9, 0.8, 0.6, 0.7]), np.array([0.95, 0.9, 0.7, 0.8])
    hit, passed = (rng.random((4, 20, 30)) < rate[:, None, None] for rate in (sensitivity, specificity))
    decisions = np.where(truth, hit, ~passed)
    fused = staple(decisions)
    assert ((fused > 0.05) & (fused < 0.95)).sum() > 10  # not a trivial case
    p = (decisions * fused).sum(axis=(1, 2)) / fused.sum()
    q = (~decisions * (1 - fused)).sum(axis=(1, 2)) / (1 - fused).sum()
    expected = np.empty_like(fused)
    for row, column in np.ndindex(fused.shape):
        marks = decisions[:, row, column]
        for_foreground = decisions.mean() * np.prod(np.where(marks, p, 1 - p))
        for_background = (1 - decisions.mean()) * np.prod(np.where(marks, 1 - q, q))
        expected[row, column] = for_foreground / (for_foreground + for_background)
    np.testing.assert_allclose(fused, expected, atol=1e-4)
    np.testing.assert_allclose(p, sensitivity, atol=0.15)
    np.testing.assert_allclose(q, specificity, atol=0.1)


def test_a_member_that_guesses_is_overruled():
    rng = np.random.default_rng(0)
    mask = np.zeros((24, 24), bool)
    mask[5:9, 5:9] = mask[15:18, 3:6] = True
    guess = rng.random((24, 24)) < 0.5
    np.testing.assert_array_equal(staple(np.stack([mask, guess, mask])) > 0.5, mask)

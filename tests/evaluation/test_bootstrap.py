import numpy as np
import pytest

from irstd_ldm.evaluation import bootstrap
from irstd_ldm.evaluation.bootstrap import Estimate, Statistic, divide, estimate, paired_differences, ratio

RNG = np.random.default_rng(0)
NUMERATOR, DENOMINATOR = RNG.integers(0, 9, 40), RNG.integers(1, 9, 40)


def test_divide():
    assert divide(np.array([1.0, 2.0]), np.array([4.0, 0.0]), empty=7.0).tolist() == [0.25, 7.0]
    assert np.isnan(divide(np.zeros((2, 3)), np.zeros((2, 1)))).all()


def test_equals_the_plain_resampling():
    rng = np.random.default_rng(3)
    plain = []
    for _ in range(200):
        drawn = rng.integers(40, size=40)
        plain.append(NUMERATOR[drawn].sum() / DENOMINATOR[drawn].sum())
    found = estimate({"r": ratio(NUMERATOR, DENOMINATOR)}, num_resamples=200, seed=3)["r"]
    assert found.value == NUMERATOR.sum() / DENOMINATOR.sum()
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), rel=1e-12)


def test_all_metrics_share_the_resampled_sets():
    one = ratio(NUMERATOR, DENOMINATOR)
    halves = Statistic(np.column_stack([DENOMINATOR, NUMERATOR]).astype(float), lambda s: s[:, 1] / s[:, 0] / 2)
    found = estimate({"one": one, "halves": halves})
    assert found["halves"] == Estimate(found["one"].value / 2, found["one"].low / 2, found["one"].high / 2)
    assert found["one"] == estimate({"one": one})["one"]


def test_the_sets_are_drawn_once_for_all_metrics(monkeypatch):
    draws = []

    class CountingGenerator(np.random.Generator):
        def integers(self, *args, **kwargs):
            draws.append(kwargs["size"])
            return super().integers(*args, **kwargs)

    monkeypatch.setattr(bootstrap.np.random, "default_rng", lambda seed: CountingGenerator(np.random.PCG64(seed)))
    estimate({name: ratio(NUMERATOR, DENOMINATOR) for name in "abcdef"}, num_resamples=50)
    assert draws == [(50, 40)]


def test_memory_is_that_of_a_chunk(monkeypatch):
    whole = estimate({"r": ratio(NUMERATOR, DENOMINATOR)})
    monkeypatch.setattr(bootstrap, "BOOTSTRAP_CHUNK", 41 * 7)
    assert estimate({"r": ratio(NUMERATOR, DENOMINATOR)}) == whole


def test_undefined_resamples_are_left_out():
    # Image 1 alone defines the ratio; a quarter of the sets of two images misses it.
    found = estimate({"r": ratio(np.array([1, 0]), np.array([2, 0]))})["r"]
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    never = estimate({"r": ratio(np.zeros(2), np.zeros(2))})["r"]
    assert np.isnan([never.value, never.low, never.high]).all()


def test_paired_differences_of_common_metrics():
    a = {"r": ratio(NUMERATOR, DENOMINATOR), "only a": ratio(NUMERATOR, DENOMINATOR)}
    b = {"r": ratio(NUMERATOR + 1, DENOMINATOR)}
    found = paired_differences(a, b)
    assert list(found) == ["r"]
    assert found["r"].difference == pytest.approx(40 / DENOMINATOR.sum())
    assert found["r"].low < found["r"].difference < found["r"].high
    assert (found["r"].probability_b_above_a, found["r"].num_images) == (1.0, 40)


def test_refuses():
    fine = ratio(NUMERATOR, DENOMINATOR)
    with pytest.raises(ValueError, match=r"`statistics` must be of the same images, at least one, got \[3, 40\]"):
        estimate({"r": fine, "s": ratio(np.ones(3), np.ones(3))})
    with pytest.raises(ValueError, match="at least one, got"):
        estimate({"r": ratio(np.zeros(0), np.zeros(0))})
    with pytest.raises(ValueError, match="`num_resamples` must be at least 1, got 0"):
        estimate({"r": fine}, num_resamples=0)
    with pytest.raises(ValueError, match=r"`level` must be in \(0, 1\), got 1"):
        estimate({"r": fine}, level=1)
    with pytest.raises(ValueError, match="at least one, got"):
        paired_differences({"r": fine}, {"s": fine})

import math

import numpy as np
import pytest

from irstd_ldm.evaluation.confidence import ScoredTarget, reliability, scored_targets, wilson
from irstd_ldm.evaluation.matching import label_image


def scored(*pairs):
    return [ScoredTarget(confidence, bool(hit)) for confidence, hit in pairs]


HAND = [scored((0.25, 0), (0.75, 1)), [], scored((0.75, 1), (1.0, 0))]


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_two_bins_by_hand(binning):
    found = reliability(HAND, num_targets=5, num_bins=2, binning=binning)
    assert (found.num_images, found.num_predicted, found.num_hits, found.num_missed) == (3, 4, 2, 3)
    # Width: 0.25 alone, then 0.75, 0.75, 1. Mass: two of four go to 0.75, and its tie with them.
    if binning == "width":
        expected = [(0.0, 0.5, 1, 0, 0.25), (0.5, 1.0, 3, 2, 2.5 / 3)]
        assert found.ece.value == pytest.approx((0.25 + 0.5) / 4)
    else:
        expected = [(0.25, 0.75, 3, 2, 1.75 / 3), (0.75, 1.0, 1, 0, 1.0)]
        assert found.ece.value == pytest.approx((0.25 + 1) / 4)
    bins = [(one.low, one.high, one.num_predicted, one.num_hits, one.mean_confidence) for one in found.bins]
    assert bins == [pytest.approx(one) for one in expected]
    assert [one.hit_rate.value for one in found.bins] == [one.num_hits / one.num_predicted for one in found.bins]
    assert found.brier.value == pytest.approx((3 * 0.25**2 + 1) / 4)
    assert found.brier_of_hit_rate == 0.25


def test_bins_hold_their_upper_bound():
    found = reliability([scored((0.0, 0), (0.1, 0), (0.3, 1), (0.30001, 1), (1.0, 1))], num_targets=3, binning="width")
    counts = [one.num_predicted for one in found.bins]
    assert counts == [2, 0, 1, 1, 0, 0, 0, 0, 0, 1]
    assert math.isnan(found.bins[1].mean_confidence) and math.isnan(found.bins[1].hit_rate.value)


@pytest.mark.parametrize(("number", "counts"), [(10, [2] * 5), (12, [3, 2, 3, 2, 2]), (3, [1] * 3)])
def test_bins_of_equal_mass(number, counts):
    targets = [scored((k / 100, 0)) for k in range(number)]
    found = reliability(targets, num_targets=0, num_bins=5, num_resamples=1)
    assert [one.num_predicted for one in found.bins] == counts


def test_confidences_that_hold_have_no_error():
    targets = scored(*[(0.75, k < 3) for k in range(4)], *[(0.2, k < 1) for k in range(5)])
    assert reliability([targets], num_targets=4).ece.value == pytest.approx(0)


def test_intervals_are_those_of_plain_resampling():
    rng = np.random.default_rng(1)
    images = [scored(*zip(rng.random(n), rng.random(n) < 0.5, strict=True)) for n in rng.integers(0, 4, 15)]
    found = reliability(images, num_targets=50, num_bins=4, binning="width", num_resamples=60, seed=3)
    errors, scores = [], []
    for drawn in np.random.default_rng(3).integers(15, size=(60, 15)):
        pairs = [(one.confidence, one.hit) for k in drawn for one in images[k]]
        error = 0.0
        for low in (0, 0.25, 0.5, 0.75):
            inside = [(confidence, hit) for confidence, hit in pairs if low < confidence <= low + 0.25]
            error += abs(sum(confidence - hit for confidence, hit in inside))
        errors.append(error / len(pairs))
        scores.append(np.mean([(confidence - hit) ** 2 for confidence, hit in pairs]))
    assert (found.ece.low, found.ece.high) == pytest.approx(tuple(np.quantile(errors, [0.025, 0.975])))
    assert (found.brier.low, found.brier.high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])))


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_without_predicted_targets_everything_is_undefined(binning):
    found = reliability([[], []], num_targets=7, binning=binning)
    assert (found.num_missed, found.num_predicted) == (7, 0)
    assert np.isnan([getattr(one, end) for one in (found.ece, found.brier) for end in ("value", "low", "high")]).all()
    assert len(found.bins) == (10 if binning == "width" else 0)


@pytest.mark.parametrize(
    ("hits", "number", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (1, 1, 0.2065, 1.0)]
)
def test_wilson(hits, number, low, high):
    # Published values of the 95 % score interval.
    found = wilson(hits, number)
    assert (found.value, found.low, found.high) == pytest.approx((hits / number, low, high), abs=5e-5)


def test_confidence_is_the_mean_probability_of_the_component():
    probability = np.zeros((20, 30), np.float32)
    probability[2, 2:4] = 0.6, 1.0
    probability[10, 20] = 0.75
    truth = np.zeros((20, 30), bool)
    truth[10, 21] = True
    components = label_image(probability > 0.5, truth)
    found = scored_targets(components, components.match(), probability)
    assert [(round(one.confidence, 6), one.hit) for one in found] == [(0.8, False), (0.75, True)]


@pytest.mark.parametrize(
    ("per_image", "settings", "message"),
    [
        ([], {}, "`per_image` must hold at least one image"),
        ([scored((1.5, 1))], {}, r"`per_image` must hold confidences in \[0, 1\]"),
        ([scored((math.nan, 1))], {}, r"`per_image` must hold confidences in \[0, 1\]"),
        (HAND, {"num_targets": 1}, "`num_targets` must be at least the 2 hits, got 1"),
        (HAND, {"num_bins": 0}, "`num_bins` must be at least 1"),
        (HAND, {"binning": "log"}, "`binning` must be one of mass, width, got 'log'"),
    ],
)
def test_refuses(per_image, settings, message):
    with pytest.raises(ValueError, match=message):
        reliability(per_image, **{"num_targets": 9, **settings})

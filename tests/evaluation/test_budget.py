"""Budget thresholds on counts that are known by hand."""

import math

import numpy as np
import pytest
from scipy.stats import poisson

from irstd_ldm.evaluation.curves import poisson_upper_bound, threshold_for_budget
from irstd_ldm.evaluation.thresholds import ThresholdCounts, count_image_at

THRESHOLDS = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
FA, FALSE_TARGETS = "fa_per_million_px", "false_targets_per_megapixel"


def image(*blobs: tuple[int, float], found: float | None = 0.95) -> ThresholdCounts:
    """100x100 px with a 2x2 target of probability `found` (None: no target) and false blobs of (px, probability)."""
    probability, truth = np.zeros((100, 100)), np.zeros((100, 100), bool)
    if found is not None:
        truth[4:6, 4:6], probability[4:6, 4:6] = True, found
    for index, (area_px, value) in enumerate(blobs):
        probability[20 + 10 * index, 30 : 30 + area_px] = value
    return count_image_at(probability, truth, THRESHOLDS)


IMAGES = [image((3, 0.75)), image((1, 0.65), found=0.85), image(), image()]  # 1 px or 1 target is 25 per million


@pytest.mark.parametrize(
    ("rate", "budget", "threshold", "found"),
    [
        (FA, 20, 0.8, 0),
        (FA, 75, 0.7, 75),
        (FA, 100, 0.5, 100),
        (FALSE_TARGETS, 24, 0.8, 0),
        (FALSE_TARGETS, 25, 0.7, 25),
        (FALSE_TARGETS, 50, 0.5, 50),
    ],
)
def test_the_lowest_threshold_that_keeps_the_budget(rate, budget, threshold, found):
    chosen = threshold_for_budget(IMAGES, rate, budget)
    assert (chosen.score_threshold, chosen.found, chosen.pd) == (threshold, found, 1)


def test_a_tighter_budget_never_has_more_false_targets():
    rng = np.random.default_rng(0)
    images = [image(*((int(rng.integers(1, 9)), rng.uniform(0.5, 1)) for _ in range(7))) for _ in range(5)]
    chosen = [threshold_for_budget(images, FALSE_TARGETS, budget) for budget in (10, 50, 100, 300, 1000)]
    assert np.all(np.diff([one.score_threshold for one in chosen]) <= 0)
    assert np.all(np.diff([one.found for one in chosen]) >= 0)
    assert np.all(np.diff([one.pd for one in chosen]) >= 0)


def test_poisson_upper_bound():
    assert poisson_upper_bound(0) == pytest.approx(-math.log(0.05))  # 3, the rule of three
    for number in (1, 4, 30):
        assert poisson.cdf(number, poisson_upper_bound(number)) == pytest.approx(0.05)


def test_what_images_without_a_false_target_promise():
    found = threshold_for_budget([image() for _ in range(10)], FALSE_TARGETS, 40)  # 0.1 megapixels
    assert (found.found, found.upper_bound, found.smallest_resolved) == pytest.approx((0, 29.957, 29.957), abs=1e-3)
    assert found.is_resolved
    found = threshold_for_budget([image() for _ in range(10)], FALSE_TARGETS, 20)
    assert not found.is_resolved and found.score_threshold == 0.5
    found = threshold_for_budget([image() for _ in range(10)], FA, 100)  # of targets of 4 px
    assert (found.upper_bound, found.smallest_resolved) == pytest.approx((4 * 29.957, 4 * 29.957), abs=5e-3)


def test_the_bound_of_false_targets_is_poissons():
    found = threshold_for_budget([image((3, 0.95), (3, 0.95)), *[image() for _ in range(9)]], FALSE_TARGETS, 20)
    assert found.found == 20
    assert found.upper_bound == pytest.approx(poisson_upper_bound(2) / 0.1)


def test_the_bound_of_false_alarm_pixels_is_the_bootstraps():
    found = threshold_for_budget([image((50, 0.95)), *[image() for _ in range(9)]], FA, 500)
    assert found.found == 500
    assert found.upper_bound == pytest.approx(1500)  # the image is drawn 3 times or more in 7 % of the resamples


def test_frames_without_labels_count_every_detection():
    frames = [image((4, 0.75), found=None) for _ in range(3)]
    found = threshold_for_budget(frames, FALSE_TARGETS, 50)
    assert found.score_threshold == 0.8 and math.isnan(found.pd)
    assert threshold_for_budget([*IMAGES, *frames], FALSE_TARGETS, 50).score_threshold == 0.8


@pytest.mark.parametrize(
    ("counts", "rate", "budget", "message"),
    [
        ([], FA, 10, "`counts` must hold at least one image"),
        ([image()], FA, 0, "`budget` must be positive and finite, got 0"),
        ([image()], "fa", 1, "`rate` must be one of fa_per_million_px, false_targets_per_megapixel, got 'fa'"),
    ],
)
def test_errors(counts, rate, budget, message):
    with pytest.raises(ValueError, match=message):
        threshold_for_budget(counts, rate, budget)

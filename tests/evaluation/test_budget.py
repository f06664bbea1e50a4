"""Budget thresholds on counts that are known by hand."""

import numpy as np
import pytest

from irstd_ldm.evaluation.curves import BUDGET_THRESHOLDS, threshold_for_budget
from irstd_ldm.evaluation.thresholds import ThresholdCounts, count_image_at

THRESHOLDS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


def image(*blobs: tuple[int, float], found: float | None = 0.95) -> ThresholdCounts:
    """100x100 px with a 2x2 target of probability `found` (None: no target) and false blobs of (px, probability)."""
    probability, truth = np.zeros((100, 100)), np.zeros((100, 100), bool)
    if found is not None:
        truth[4:6, 4:6], probability[4:6, 4:6] = True, found
    for index, (area_px, value) in enumerate(blobs):
        probability[20 + 10 * index, 30 : 30 + area_px] = value
    return count_image_at(probability, truth, THRESHOLDS)


def test_the_lowest_threshold_that_keeps_the_budget():
    counts = {"val": [image((3, 0.6)), image((1, 0.4), found=0.8), image(), image()]}  # 1 px is 25 per million
    found = threshold_for_budget(counts, THRESHOLDS, 50)
    assert (found.threshold, found.fa_per_million_px, found.pd) == (0.7, 0, 1)
    found = threshold_for_budget(counts, THRESHOLDS, 75)
    assert (found.threshold, found.fa_per_million_px) == (0.5, 75)
    assert threshold_for_budget(counts, THRESHOLDS, 100).threshold == 0.1
    assert found.smallest_measurable_fa == 100 and not found.is_resolved  # a target has 4 px
    assert threshold_for_budget(counts, THRESHOLDS, 100).is_resolved


def test_a_threshold_must_hold_from_there_on():
    """At 0.3 a component reaches over the target and is a hit; above, what is left of it is a false alarm."""
    probability, truth = np.zeros((100, 100)), np.zeros((100, 100), bool)
    truth[50, 50] = True
    probability[50, 44:57] = 0.4
    probability[50, 55:57] = 0.6
    counts = [count_image_at(probability, truth, THRESHOLDS)]
    assert [c.false_alarm_px for c in map(counts[0].at, range(5))] == [0, 0, 2, 0, 0]
    assert threshold_for_budget({"val": counts}, THRESHOLDS, 100).threshold == 0.7


def test_every_set_keeps_the_budget_on_its_own():
    easy, hard = [image() for _ in range(50)], [image((4, 0.6), found=None)]
    both = threshold_for_budget({"val": easy, "frames": hard}, THRESHOLDS, 100)
    assert threshold_for_budget({"val": easy + hard}, THRESHOLDS, 100).threshold == 0.1
    assert (both.threshold, both.pd) == (0.7, 1)
    assert both.smallest_measurable_fa == 400


def test_no_false_alarm_still_leaves_three_by_the_rule_of_three():
    found = threshold_for_budget({"val": [image() for _ in range(10)]}, THRESHOLDS, 100)
    assert found.fa_per_million_px == 0
    assert found.fa_upper_bound == pytest.approx(3 * 4 / 100_000 * 1e6)


def test_the_bound_of_false_alarms_is_the_bootstraps():
    found = threshold_for_budget({"val": [image((50, 0.95)), *[image() for _ in range(9)]]}, THRESHOLDS, 500)
    assert found.fa_per_million_px == 500
    assert found.fa_upper_bound == pytest.approx(1500)  # the image is drawn 3 times or more in 7 % of the resamples


@pytest.mark.parametrize(
    ("sets", "budget", "message"),
    [
        ({}, 10, "`sets` must hold at least one set"),
        ({"val": []}, 10, "`sets` must hold at least one set"),
        ({"val": [image()]}, 0, "`max_fa_per_million_px` must be positive"),
        ({"val": [image((1, 0.95))]}, 10, "`max_fa_per_million_px` 10 cannot be kept.* 0.9, are 100 per"),
        ({"val": [image(found=None)]}, 10, "`sets` must hold at least one target"),
    ],
)
def test_errors(sets, budget, message):
    with pytest.raises(ValueError, match=message):
        threshold_for_budget(sets, THRESHOLDS, budget)


def test_the_grid_is_fine_where_detectors_are_sure():
    assert np.all(np.diff(BUDGET_THRESHOLDS) > 0)
    assert BUDGET_THRESHOLDS[0] < 0.011 and BUDGET_THRESHOLDS[-1] == 1
    assert len(np.unique(BUDGET_THRESHOLDS.astype(np.float32))) == len(BUDGET_THRESHOLDS)

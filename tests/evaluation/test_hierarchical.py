import math

import numpy as np
import pytest

from irstd_ldm.evaluation.bootstrap import estimate
from irstd_ldm.evaluation.counts import HierarchicalCounts, count_hierarchical
from irstd_ldm.evaluation.matching import label_image
from irstd_ldm.evaluation.metrics import METRICS

HIERARCHICAL_METRICS = [metric for metric in METRICS.values() if metric.counted == "hierarchical"]
SEGMENTATION_SPLIT = [key for key in METRICS if key.startswith("seg_")]
LOCALISATION_SPLIT = [key for key in METRICS if key.startswith("loc_")]


def hierarchical_metrics(counts):
    return {metric.key: metric.value(counts) for metric in HIERARCHICAL_METRICS}


def boxes(*corners_and_sizes):
    mask = np.zeros((40, 40), dtype=bool)
    for top, left, height, width in corners_and_sizes:
        mask[top : top + height, left : left + width] = True
    return mask


def counted(prediction, truth, **settings):
    return count_hierarchical(label_image(prediction, truth), **settings)


BLOB = (10, 10, 3, 3)
NOTHING = dict.fromkeys(vars(HierarchicalCounts(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)), 0)

# Each case: prediction, truth, what is not 0.
CASES = {
    "perfect": (boxes(BLOB), boxes(BLOB), {"matched": 1, "iou": 1}),
    # 6 px common; 3 px of background, 3 px missed; union 12 px.
    "shifted": (
        boxes((10, 11, 3, 3)),
        boxes(BLOB),
        {"matched": 1, "iou": 6 / 12, "interference": 3 / 12, "perception": 3 / 12},
    ),
    "miss": (boxes((30, 30, 2, 2)), boxes(BLOB), {"far_predicted": 1, "far_targets": 1}),
    "nothing_predicted": (boxes(), boxes(BLOB), {"far_targets": 1, "without_predicted": 1}),
    "false_alarm": (boxes(BLOB), boxes(), {"far_predicted": 1, "without_targets": 1}),
    "empty_in_both": (boxes(), boxes(), {"without_predicted": 1, "without_targets": 1}),
    # A 3x5 bar over two 3x2 targets with centroids 1.5 px from the bar's: one is matched, 6 px lie on the other.
    "one_on_two_targets": (
        boxes((10, 10, 3, 5)),
        boxes((10, 10, 3, 2), (10, 13, 3, 2)),
        {"matched": 1, "lost_targets": 1, "iou": 6 / 15, "merging": 6 / 15, "interference": 3 / 15},
    ),
    "two_on_one_target": (
        boxes((10, 10, 3, 2), (10, 13, 3, 2)),
        boxes((10, 10, 3, 5)),
        {"matched": 1, "lost_predicted": 1, "iou": 6 / 15, "perception": 9 / 15},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    prediction, truth, expected = CASES[name]
    assert vars(counted(prediction, truth)) == pytest.approx(NOTHING | expected)


def test_the_tolerance_decides_what_is_near():
    prediction = boxes((10, 14, 3, 3))
    assert counted(prediction, boxes(BLOB)).matched == 0
    assert counted(prediction, boxes(BLOB), centroid_tolerance_px=4.5).matched == 1


def test_hiou_is_the_product_and_the_splits_add_up_to_one():
    found = hierarchical_metrics([counted(*case[:2]) for case in CASES.values()])
    # Matched 4; far predicted 2 and targets 2; lost 1 and 1; placeholders 2 and 2.
    assert found["loc_iou"] == pytest.approx(4 / 14)
    assert found["seg_iou"] == pytest.approx((1 + 6 / 12 + 6 / 15 + 6 / 15) / 4)
    assert found["hiou"] == pytest.approx(found["loc_iou"] * found["seg_iou"])
    assert sum(found[name] for name in SEGMENTATION_SPLIT) == pytest.approx(1)
    assert sum(found[name] for name in LOCALISATION_SPLIT) == pytest.approx(1)
    assert (found["loc_s2m_err"], found["loc_m2s_err"]) == pytest.approx((1 / 14, 1 / 14))
    assert (found["loc_itf_err"], found["loc_pcp_err"]) == pytest.approx((4 / 14, 4 / 14))
    assert found["seg_mrg_err"] == pytest.approx(6 / 15 / 4)


def test_without_placeholders_a_miss_costs_its_target_alone():
    # One target found, one missed in an image where nothing is predicted.
    counts = [counted(*CASES[name][:2]) for name in ("perfect", "nothing_predicted")]
    assert hierarchical_metrics(counts)["hiou"] == pytest.approx(1 / 3)
    assert hierarchical_metrics(counts)["hiou_without_placeholders"] == pytest.approx(1 / 2)


def test_undefined_values():
    missed = hierarchical_metrics([counted(*CASES["miss"][:2])])
    assert missed["hiou"] == missed["loc_iou"] == 0
    assert all(math.isnan(missed[name]) for name in SEGMENTATION_SPLIT)
    empty = hierarchical_metrics([counted(*CASES["empty_in_both"][:2])])
    assert empty["hiou"] == 0
    assert empty["hiou_without_placeholders"] == 1


def test_statistics_are_the_metrics():
    counts = [counted(*case[:2]) for case in CASES.values()] * 5
    found = estimate({metric.key: metric.statistic(counts) for metric in HIERARCHICAL_METRICS})
    assert {name: one.value for name, one in found.items()} == pytest.approx(hierarchical_metrics(counts))
    assert len(found) == 11 and all(one.low < one.value < one.high for one in found.values())

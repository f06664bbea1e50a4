"""Counts at all thresholds against the plain loop over decisions."""

from dataclasses import fields

import numpy as np
import pytest
from scipy import ndimage

from irstd_ldm.evaluation.counts import ImageCounts, count_image
from irstd_ldm.evaluation.matching import MATCHINGS
from irstd_ldm.evaluation.thresholds import THRESHOLDS, count_image_at, near_boxes
from irstd_ldm.targets import Decision, label_components

OF_PIXELS = ("tp_px", "fp_px", "fn_px")
OF_TARGETS = [field.name for field in fields(ImageCounts) if field.name not in OF_PIXELS]


def check(probability, truth, thresholds, mask_threshold, **settings):
    seen = count_image_at(probability, truth, thresholds, mask_threshold=mask_threshold, **settings)
    pixels = [count_image(probability > threshold, truth, **settings) for threshold in thresholds.tolist()]
    masks = [Decision(mask_threshold, threshold).mask(probability) for threshold in thresholds.tolist()]
    targets = [count_image(mask, truth, **settings) for mask in masks]
    for names, expected in ((OF_PIXELS, pixels), (OF_TARGETS, targets)):
        for name in names:
            assert getattr(seen, name).tolist() == [getattr(counts, name) for counts in expected], name
    return seen


def scaled(values):
    return (values - values.min()) / (np.ptp(values) or 1)


def smoothed_noise(rng, shape, sigma=2.0):
    return scaled(ndimage.gaussian_filter(rng.random(shape), sigma))


def random_map(rng, shape, kind):
    if kind == "noise":
        return rng.random(shape)
    if kind == "smooth":
        return smoothed_noise(rng, shape, rng.uniform(0.5, 3))
    return np.round(smoothed_noise(rng, shape, 1.0) * 255).astype(np.uint8) / np.float32(255)  # an 8-bit file


@pytest.mark.parametrize("kind", ["noise", "smooth", "8 bit"])
@pytest.mark.parametrize("matching", MATCHINGS)
def test_equals_the_plain_loop_and_is_monotone(kind, matching):
    rng = np.random.default_rng([MATCHINGS.index(matching), len(kind)])
    for _ in range(8):
        shape = rng.integers(1, 45, size=2)
        probability = random_map(rng, shape, kind).astype(rng.choice([np.float32, np.float64]))
        truth = rng.random(shape) < rng.choice([0, 0.01, 0.05, 0.4])
        thresholds = np.sort(rng.random(12)) if rng.random() < 0.5 else THRESHOLDS[::20]
        tolerance = float(rng.choice([1.5, 3, 7]))
        settings = {"matching": matching, "centroid_tolerance_px": tolerance}
        seen = check(probability, truth, thresholds, rng.choice([0.2, 0.5, 0.7]), **settings)
        falling = [seen.tp_px, seen.fp_px, seen.predicted, seen.centroid_hits, seen.box_hits]
        if matching != "opdc":  # whose assignments of least total distance change as a whole
            falling += [seen.hits, seen.predicted - seen.hits, seen.false_alarm_px]
        assert all(np.all(np.diff(values) <= 0) for values in falling)


def test_by_hand():
    # A target of 2 px at 0.9 and 0.7, score 0.8; a false pixel at 0.7, another at 0.3, below the mask's threshold.
    probability, truth = np.zeros((5, 20)), np.zeros((5, 20), dtype=bool)
    truth[2, 2:4] = True
    probability[2, 2:4] = 0.9, 0.7
    probability[2, 12], probability[2, 18] = 0.7, 0.3
    seen = count_image_at(probability, truth, np.array([0.0, 0.3, 0.69, 0.75, 0.85]))
    assert seen.tp_px.tolist() == [2, 2, 2, 1, 1]
    assert seen.fp_px.tolist() == [2, 1, 1, 0, 0]
    assert seen.hits.tolist() == [1, 1, 1, 1, 0]
    assert seen.predicted.tolist() == [2, 2, 2, 1, 0]
    assert seen.false_alarm_px.tolist() == [1, 1, 1, 0, 0]
    assert seen.centroid_hits.tolist() == seen.box_hits.tolist() == [1, 1, 1, 1, 0]
    assert (seen.targets.tolist(), seen.area_px.tolist(), seen.truth_px) == ([1] * 5, [100] * 5, 2)


def test_the_highest_score_chooses_first_and_boxes_need_half():
    # Two components within 3 px of the only target: the later in label order has the higher score and takes it.
    probability, truth = np.zeros((9, 20)), np.zeros((9, 20), dtype=bool)
    truth[4:6, 4:6] = True
    probability[3, 4:6], probability[5:7, 4:6] = 0.6, 0.8
    seen = count_image_at(probability, truth, np.array([0.5, 0.7]))
    assert seen.centroid_hits.tolist() == [1, 1] and seen.hits.tolist() == [1, 1]
    assert seen.box_hits.tolist() == [0, 0]  # boxes share 2 of 6 px
    truth[6, 4:6] = True  # now the lower one has 4 of 6 px of the target's
    assert count_image_at(probability, truth, np.array([0.5, 0.7])).box_hits.tolist() == [1, 1]


def test_near_boxes_by_hand():
    one, other = np.zeros((2, 8, 8), dtype=bool)
    one[1:3, 1:5], other[2:4, 3:5] = True, True  # 8 and 4 px, common 2
    (targets, predicted) = (label_components(mask)[1] for mask in (one, other))
    assert near_boxes(targets, predicted)[2].size == 0  # 2 of 10 px
    other[1:4, 2:5] = True  # 9 px, common 6 of 11
    rows, columns, iou = near_boxes(targets, label_components(other)[1])
    assert (rows.tolist(), columns.tolist(), iou.tolist()) == ([0], [0], [6 / 11])
    assert all(side.size == 0 for side in (*near_boxes(targets, []), *near_boxes([], predicted)))


def test_the_grid():
    assert np.all(np.diff(THRESHOLDS) > 0)
    assert 0.5 in THRESHOLDS and THRESHOLDS[-1] == 1
    assert THRESHOLDS[0] < 1e-6 and 1 - THRESHOLDS[-2] < 1.2e-7


def test_thresholds_are_compared_in_the_type_of_the_map():
    probability = np.full((1, 1), 51 / 255, dtype=np.float32)  # the float32 nearest 0.2 is above 0.2
    truth = np.ones((1, 1), dtype=bool)
    assert count_image_at(probability, truth, np.array([0.2])).tp_px.tolist() == [0]
    assert count_image_at(probability.astype(np.float64), truth, np.array([0.2])).tp_px.tolist() == [1]


def test_union_truth_counts_only_in_the_false_negatives():
    truth, union = np.zeros((2, 4, 4), dtype=bool)
    truth[1, 1], union[1, :3] = True, True
    probability = np.where(union, 0.75, 0.0)
    check(probability, truth, np.linspace(0, 1, 5), 0.5, union_truth=union)
    assert count_image_at(probability, truth, np.array([0.0]), union_truth=union).truth_px == 1


MAP, TRUTH = np.zeros((3, 4)), np.zeros((3, 4), dtype=bool)


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((TRUTH, TRUTH, [0.5]), {}, TypeError, "`probability` must be a floating point array, got bool"),
        ((MAP[0], TRUTH, [0.5]), {}, ValueError, r"`probability` must have shape \(H, W\), got \(4,\)"),
        ((MAP * np.nan, TRUTH, [0.5]), {}, ValueError, "`probability` must not hold NaN"),
        ((MAP, TRUTH, []), {}, ValueError, r"`thresholds` must have shape \(T,\), be finite and ascend"),
        ((MAP, TRUTH, [0.5, 0.4]), {}, ValueError, "`thresholds`"),
        ((MAP, TRUTH, [0.5, np.inf]), {}, ValueError, "`thresholds`"),
        ((MAP, MAP, [0.5]), {}, TypeError, "`truth` must be a bool array, got float64"),
        ((MAP, TRUTH[:2], [0.5]), {}, ValueError, "`truth` must have shape"),
        ((MAP, TRUTH, [0.5]), {"union_truth": TRUTH[:2]}, ValueError, "`union_truth` must have shape"),
        ((MAP, TRUTH, [0.5]), {"matching": "nearest"}, ValueError, "`matching` must be one of"),
        ((MAP, TRUTH, [0.5]), {"centroid_tolerance_px": 0}, ValueError, "`centroid_tolerance_px` must be positive"),
    ],
)
def test_refuses(arguments, settings, error, message):
    with pytest.raises(error, match=message):
        count_image_at(*arguments, **settings)

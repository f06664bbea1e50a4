from dataclasses import replace

import numpy as np
import pytest

from irstd_ldm.evaluation.counts import ImageCounts, count_image

SIDE = 40


def boxes(*corners_and_sizes):
    """(SIDE, SIDE) bool with filled boxes (top, left, height, width)."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    for top, left, height, width in corners_and_sizes:
        mask[top : top + height, left : left + width] = True
    return mask


def counts(tp, fp, fn, targets, hits, predicted, fa, legacy_fa):
    return ImageCounts(tp, fp, fn, targets, hits, predicted, fa, legacy_fa, area_px=SIDE * SIDE)


BLOB = (10, 10, 3, 3)

# Each case: prediction, truth, expected.
CASES = {
    "perfect": (boxes(BLOB), boxes(BLOB), counts(9, 0, 0, 1, 1, 1, 0, 0)),
    "miss": (boxes(), boxes(BLOB), counts(0, 0, 9, 1, 0, 0, 0, 0)),
    "empty_in_both": (boxes(), boxes(), counts(0, 0, 0, 0, 0, 0, 0, 0)),
    "empty_truth_with_false_alarm": (boxes(BLOB), boxes(), counts(0, 9, 0, 0, 0, 1, 9, 9)),
    # Three columns of three rows overlap in one: 3 px.
    "shift_by_2_px_is_a_hit": (boxes((10, 12, 3, 3)), boxes(BLOB), counts(3, 6, 6, 1, 1, 1, 0, 0)),
    "shift_by_exactly_3_px_is_a_miss": (boxes((10, 13, 3, 3)), boxes(BLOB), counts(0, 9, 9, 1, 0, 1, 9, 9)),
    # sqrt(2^2 + 2^2) = 2.83 < 3; one pixel overlaps.
    "diagonal_shift_by_2_2_px_is_a_hit": (boxes((12, 12, 3, 3)), boxes(BLOB), counts(1, 8, 8, 1, 1, 1, 0, 0)),
    "diagonal_shift_by_2_3_px_is_a_miss": (boxes((12, 13, 3, 3)), boxes(BLOB), counts(0, 9, 9, 1, 0, 1, 9, 9)),
    # The legacy count drops both 9 px false blobs, because the hit has 9 px too.
    "two_false_blobs_of_the_hit_s_area": (
        boxes(BLOB, (20, 10, 3, 3), (30, 10, 3, 3)),
        boxes(BLOB),
        counts(9, 18, 0, 1, 1, 3, 18, 0),
    ),
    "false_blobs_of_equal_area_without_a_hit": (
        boxes((20, 10, 3, 3), (30, 10, 3, 3)),
        boxes(BLOB),
        counts(0, 18, 9, 1, 0, 2, 18, 18),
    ),
    "false_blob_of_another_area": (boxes(BLOB, (20, 10, 2, 2)), boxes(BLOB), counts(9, 4, 0, 1, 1, 2, 4, 4)),
    # A 3x5 bar over two 3x2 targets with centroids 1.5 px from the bar's: one hit, one miss.
    "one_blob_over_two_targets": (
        boxes((10, 10, 3, 5)),
        boxes((10, 10, 3, 2), (10, 13, 3, 2)),
        counts(12, 3, 0, 2, 1, 1, 0, 0),
    ),
    # Two halves of a target: the first is the hit, the second a false alarm of truly positive pixels. Areas 6 and 6.
    "two_blobs_in_one_target": (
        boxes((10, 10, 3, 2), (10, 13, 3, 2)),
        boxes((10, 10, 3, 5)),
        counts(12, 0, 3, 1, 1, 2, 6, 0),
    ),
    # Only the distance of centroids makes a hit: 20x20 px centred on 2x2 px.
    "huge_blob_centred_on_a_target_is_a_hit": (
        boxes((10, 10, 20, 20)),
        boxes((19, 19, 2, 2)),
        counts(4, 396, 0, 1, 1, 1, 0, 0),
    ),
    # Touching corners only: one target with its centroid between the squares, not two.
    "diagonal_squares_are_one_target": (
        boxes((10, 10, 2, 2), (12, 12, 2, 2)),
        boxes((10, 10, 2, 2), (12, 12, 2, 2)),
        counts(8, 0, 0, 1, 1, 1, 0, 0),
    ),
    "target_on_the_border": (boxes((0, 0, 1, 2)), boxes((0, 0, 2, 2)), counts(2, 0, 2, 1, 1, 1, 0, 0)),
    "everything_predicted": (
        np.ones((SIDE, SIDE), dtype=bool),
        boxes(BLOB),
        counts(9, 1591, 0, 1, 0, 1, 1600, 1600),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_computed(name):
    prediction, truth, expected = CASES[name]
    assert count_image(prediction, truth) == expected


# Target 1 at (10, 10), target 2 at (14, 9). In label order, prediction 1 at (12, 10) is 2 px from target 1 and 2.24 px
# from target 2; prediction 2 at (12, 12) is 2.83 px from target 1 and 3.61 px from target 2.
CROWDED_TRUTH = boxes((10, 10, 1, 1), (14, 9, 1, 1))
CROWDED_PREDICTION = boxes((12, 10, 1, 1), (12, 12, 1, 1))


@pytest.mark.parametrize(("matching", "hits", "false_alarm_px"), [("greedy", 1, 1), ("optimal", 2, 0)])
def test_greedy_gives_away_a_prediction_that_optimal_keeps(matching, hits, false_alarm_px):
    seen = count_image(CROWDED_PREDICTION, CROWDED_TRUTH, matching=matching)
    assert (seen.hits, seen.false_alarm_px) == (hits, false_alarm_px)


def test_greedy_takes_the_first_label_not_the_nearest():
    # 4 px at distance 2.5 come before 1 px at distance 0; the false alarm is the other one.
    prediction = boxes((8, 9, 2, 2), (11, 10, 1, 1))
    truth = boxes((11, 10, 1, 1))
    assert count_image(prediction, truth, matching="greedy").false_alarm_px == 1
    assert count_image(prediction, truth, matching="optimal").false_alarm_px == 4


@pytest.mark.parametrize(
    ("shift_px", "matching", "hits"),
    [
        (4, "greedy", 0),
        (4, "optimal", 0),
        (4, "opdc", 1),  # IoU 8 / 16 = 0.5
        (5, "opdc", 0),  # IoU 7 / 17 < 0.5, distance 5
        (2, "opdc", 1),
    ],
)
def test_opdc_accepts_overlap_at_any_distance(shift_px, matching, hits):
    truth = boxes((10, 10, 1, 12))
    prediction = boxes((10, 10 + shift_px, 1, 12))
    assert count_image(prediction, truth, matching=matching).hits == hits


def test_opdc_compensates_by_distance_without_overlap():
    assert count_image(boxes((10, 12, 1, 1)), boxes((10, 10, 1, 1)), matching="opdc").hits == 1


def test_opdc_prefers_the_overlapping_prediction_to_the_first_one():
    # A 1 px speck 2.5 px above the target's centre comes first in label order; the true blob overlaps by 9 / 12.
    truth = boxes((10, 10, 4, 3))
    prediction = boxes((9, 14, 1, 1), (10, 10, 3, 3))
    assert count_image(prediction, truth, matching="greedy", centroid_tolerance_px=5).false_alarm_px == 9
    assert count_image(prediction, truth, matching="opdc", centroid_tolerance_px=5).false_alarm_px == 1


@pytest.mark.parametrize(("tolerance_px", "hits"), [(2.0, 0), (2.01, 1), (3.5, 1)])
def test_the_tolerance_is_exclusive(tolerance_px, hits):
    seen = count_image(boxes((10, 12, 3, 3)), boxes(BLOB), centroid_tolerance_px=tolerance_px)
    assert seen.hits == hits


def test_union_truth_counts_only_in_the_false_negatives():
    # 5x5 with a grey rim: 9 px in the intersection, 25 px on both sides of the union.
    seen = count_image(boxes((10, 10, 5, 5)), boxes((11, 11, 3, 3)), union_truth=boxes((10, 10, 5, 5)))
    assert seen == counts(9, 16, 16, 1, 1, 1, 0, 0)


def test_images_that_are_not_square():
    truth = np.zeros((3, 50), dtype=bool)
    truth[1, 40] = True
    assert count_image(truth, truth) == ImageCounts(1, 0, 0, 1, 1, 1, 0, 0, area_px=150)


def test_counts_add_up():
    hit, miss = CASES["perfect"][2], CASES["miss"][2]
    assert hit + miss == replace(counts(9, 0, 9, 2, 1, 1, 0, 0), area_px=3200, images=2)
    assert ImageCounts.zero() + hit == hit
    assert ImageCounts.zero().images == 0


def test_counts_are_python_integers():
    assert all(type(value) is int for value in vars(count_image(*CASES["one_blob_over_two_targets"][:2])).values())


def test_no_matching_uses_a_component_twice():
    rng = np.random.default_rng(1)
    for _ in range(30):
        prediction, truth = rng.random((2, 24, 24)) < 0.08
        seen = {name: count_image(prediction, truth, matching=name) for name in ("greedy", "optimal", "opdc")}
        assert all(c.hits <= min(c.targets, c.predicted) for c in seen.values())
        assert seen["greedy"].hits <= seen["optimal"].hits
        assert all(c.legacy_false_alarm_px <= c.false_alarm_px for c in seen.values())


MASK = np.zeros((4, 4), dtype=bool)


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((MASK.astype(np.float32), MASK), {}, TypeError, "`prediction` must be a bool array, got float32"),
        ((MASK, MASK.astype(np.uint8)), {}, TypeError, "`truth` must be a bool array, got uint8"),
        ((MASK, MASK[:3]), {}, ValueError, r"`truth` must have shape .* \(4, 4\), got \(3, 4\)"),
        ((MASK[None], MASK[None]), {}, ValueError, r"`prediction` must have shape"),
        ((MASK, MASK), {"union_truth": MASK[:3]}, ValueError, "`union_truth` must have shape"),
        ((MASK, MASK), {"matching": "nearest"}, ValueError, "`matching` must be one of greedy, optimal, opdc, got"),
        ((MASK, MASK), {"centroid_tolerance_px": 0}, ValueError, "`centroid_tolerance_px` must be positive"),
        ((MASK, MASK), {"centroid_tolerance_px": float("nan")}, ValueError, "`centroid_tolerance_px`"),
    ],
)
def test_refuses(arguments, settings, error, message):
    with pytest.raises(error, match=message):
        count_image(*arguments, **settings)

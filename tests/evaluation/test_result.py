import json

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.evaluation.metrics import bootstrap_interval
from irstd_ldm.evaluation.protocols import find_predictions, read_prediction
from irstd_ldm.evaluation.result import compare_results, evaluate_probabilities
from irstd_ldm.evaluation.thresholds import THRESHOLDS


def pair(stem, truth_boxes, predicted_boxes, shape=(50, 100)):
    """(stem, probability, mask); boxes are (top, left, height, width), predicted ones with a probability."""
    mask = np.zeros(shape, dtype=np.uint8)
    for top, left, height, width in truth_boxes:
        mask[top : top + height, left : left + width] = 255
    probability = np.zeros(shape, dtype=np.float32)
    for top, left, height, width, value in predicted_boxes:
        probability[top : top + height, left : left + width] = value
    return stem, probability, mask


def three_pairs():
    """A perfect hit with an equal-area false alarm, a miss, and an image empty in both."""
    return [
        pair("a", [(10, 10, 3, 3)], [(10, 10, 3, 3, 0.9), (30, 30, 3, 3, 0.6)]),
        pair("b", [(20, 20, 2, 2)], [(20, 20, 2, 2, 0.5)]),
        pair("c", [], []),
    ]


def test_summary_by_hand():
    result = evaluate_probabilities(iter(three_pairs()))
    summary = result.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    intervals, curves = summary.pop("intervals_95"), summary.pop("curves")
    by_area = summary.pop("pd_by_area_px")
    at_fa, at_false_targets = summary.pop("pd_at_fa_per_million_px"), summary.pop("pd_at_false_targets_per_megapixel")
    numbers = {
        "iou": 9 / 22,
        "niou": (0.5 + 0 + 1) / 3,
        "pd": 0.5,
        "fa_per_million_px": 600.0,
        "precision_px": 0.5,
        "recall_px": 9 / 13,
        "f1_px": 18 / 31,
        "precision_targets": 0.5,
        "recall_targets": 0.5,
        "f1_targets": 0.5,
        "false_targets_per_image": 1 / 3,
        "false_targets_per_megapixel": 1e6 / 15000,
        # Matched 1; a false alarm, a miss; b and c have a placeholder for no prediction, c one for no target.
        "hiou": 1 / 6,
        "hiou_without_placeholders": 1 / 3,
        "seg_iou": 1,
        "seg_mrg_err": 0,
        "seg_itf_err": 0,
        "seg_pcp_err": 0,
        "loc_iou": 1 / 6,
        "loc_s2m_err": 0,
        "loc_m2s_err": 0,
        "loc_itf_err": 3 / 6,
        "loc_pcp_err": 2 / 6,
        # In pixels and tpr: (0, 0), (0, 9/13), (9, 9/13), (9, 1), all.
        "roc_auc": 1 - 9 / 14987 * 4 / 13,
        "average_precision": 9 / 13 + 4 / 13 * 13 / 22,
        "ap_centroid": 51 / 101,  # one of two targets is there to be found
        "ap_box_50": 51 / 101,
    }
    assert {name: summary.pop(name) for name in numbers} == pytest.approx(numbers)
    assert set(intervals) == set(numbers)
    for metric, (low, high) in intervals.items():
        assert low - 1e-12 <= numbers[metric] <= high + 1e-12
    assert summary == {
        "pd_by_scr": None,
        "num_images": 3,
        "num_images_empty_in_both": 1,
        "num_targets": 2,
        "num_hits": 1,
        "num_predicted": 2,
        "num_px": 15000,
        "tp_px": 9,
        "fp_px": 9,
        "fn_px": 4,
        "false_alarm_px": 9,
        "false_alarm_count": "exact",
        "mask_threshold": 0.5,
        "score_threshold": 0.5,
        "protocol": "native",
        "protocol_description": "native size, truth >= 128",
        "connectivity": 8,
        "matching": "greedy",
        "centroid_tolerance_px": 3.0,
        "num_resamples": 1000,
        "bootstrap_seed": 0,
    }
    assert [(row["name"], row["num_targets"], row["num_hits"], row["pd"]) for row in by_area[:3]] == [
        ("area 1-8 px", 1, 0, 0.0),
        ("area 9-24 px", 1, 1, 1.0),
        ("area 25-48 px", 0, 0, None),
    ]
    # The false alarm has 0.6, the target that is found 0.9; the other, at 0.5, is no foreground.
    assert list(at_fa) == ["1", "10", "100"]
    assert {key: at_fa["10"][key] for key in ("threshold", "pd", "fa_per_million_px")} == {
        "threshold": THRESHOLDS[THRESHOLDS < 0.9][-1],
        "pd": 0.5,
        "fa_per_million_px": 0.0,
    }
    assert at_false_targets["10"] == at_false_targets["0.1"] == at_fa["10"]
    assert len(curves["thresholds"]) == len(THRESHOLDS) and curves["num_targets"] == 2


def test_intervals_are_those_of_each_metric_alone():
    result = evaluate_probabilities(three_pairs() * 5, num_resamples=200, seed=4)
    counts = [image.counts for image in result.per_image]
    for metric in ("iou", "niou", "pd", "fa_per_million_px", "precision_targets"):
        expected = bootstrap_interval(counts, metric, num_resamples=200, seed=4)
        assert result.summary()["intervals_95"][metric] == pytest.approx(list(expected), rel=1e-12)


def test_the_sets_are_resampled_once_for_summary_and_table(monkeypatch):
    result = evaluate_probabilities(three_pairs())
    seeds = []
    default_rng = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: seeds.append(seed) or default_rng(seed))
    result.summary()
    result.table()
    assert seeds == [0]


def test_scr_needs_the_images():
    rng = np.random.default_rng(0)
    pairs = []
    for stem, probability, mask in three_pairs():
        image = rng.integers(90, 110, mask.shape).astype(np.uint8)
        image[mask > 0] = 250 if stem == "a" else 120
        pairs.append((stem, probability, mask, image))
    summary = evaluate_probabilities(pairs).summary()
    found = {row["name"]: (row["num_targets"], row["pd"]) for row in summary["pd_by_scr"]}
    assert found["SCR >= 16"] == (1, 1.0)
    assert found["SCR 2-4"] == (1, 0.0)
    assert sum(row["num_targets"] for row in summary["pd_by_scr"]) == summary["num_targets"] == 2
    assert summary["pd_by_scr"][0]["low"] is None and summary["pd_by_scr"][0]["high"] == 2


def test_an_image_of_another_size_is_refused():
    stem, probability, mask = three_pairs()[0]
    with pytest.raises(ValueError, match=r"`image` of a must have shape \(50, 100\), got \(49, 100\)"):
        evaluate_probabilities([(stem, probability, mask, mask[1:])])


def test_curves_may_be_left_out():
    summary = evaluate_probabilities(three_pairs(), curves=False).summary()
    assert (
        summary["curves"] is summary["pd_at_fa_per_million_px"] is summary["pd_at_false_targets_per_megapixel"] is None
    )
    assert "roc_auc" not in summary
    with_curves = evaluate_probabilities(three_pairs()).summary()
    assert {key: with_curves[key] for key in ("iou", "pd", "hiou")} == {
        key: summary[key] for key in ("iou", "pd", "hiou")
    }


def test_the_threshold_is_a_point_of_the_curves():
    result = evaluate_probabilities(three_pairs())
    (index,) = np.flatnonzero(result.curves.thresholds == result.decision.score_threshold)
    for image in result.per_image:
        assert image.at_thresholds.at(index) == image.counts


def test_compare_results():
    pairs = three_pairs()
    better = [(stem, np.where(mask > 0, 0.9, 0.0), mask) for stem, _, mask in pairs]
    a, b = evaluate_probabilities(pairs * 4), evaluate_probabilities(better * 4)
    found = compare_results(a, b)
    assert found["pd"].difference == 0.5 and found["pd"].probability_b_above_a > 0.95
    assert found["fa_per_million_px"].difference == pytest.approx(-600) and found["fa_per_million_px"].high < 0
    assert {"iou", "hiou", "roc_auc", "pd_at_10_fa_per_million_px", "pd: area 9-24 px"} <= set(found)
    with pytest.raises(ValueError, match="`b` must be of the images of `a`"):
        compare_results(a, evaluate_probabilities(better))
    with pytest.raises(ValueError, match="`b` must be under the protocol of `a` 'native', got 'resize256'"):
        compare_results(a, evaluate_probabilities(better * 4, protocol="resize256"))


def test_per_image_counts():
    result = evaluate_probabilities(three_pairs())
    assert [image.stem for image in result.per_image] == ["a", "b", "c"]
    assert [image.counts.hits for image in result.per_image] == [1, 0, 0]
    assert result.counts.images == 3


@pytest.mark.parametrize(("value", "hits"), [(0.5, 0), (np.nextafter(np.float32(0.5), np.float32(1)), 1)])
def test_the_threshold_is_strict(value, hits):
    result = evaluate_probabilities([pair("b", [(20, 20, 2, 2)], [(20, 20, 2, 2, value)])])
    assert result.counts.hits == hits


@pytest.mark.parametrize(
    ("mask_threshold", "score_threshold", "predicted"),
    [(0, None, 2), (0.4, None, 2), (0.7, None, 1), (1, None, 0), (0.4, 0.7, 1), (0.4, 1, 0), (0.7, 0.1, 1)],
)
def test_other_thresholds(mask_threshold, score_threshold, predicted):
    settings = {"mask_threshold": mask_threshold, "score_threshold": score_threshold}
    assert evaluate_probabilities(three_pairs()[:1], **settings).counts.predicted == predicted


@pytest.mark.parametrize(
    ("settings", "hits"), [({}, 0), ({"centroid_tolerance_px": 4.5}, 1), ({"matching": "opdc"}, 1)]
)
def test_a_shift_by_4_px_along_a_12_px_target(settings, hits):
    shifted = pair("a", [(10, 10, 1, 12)], [(10, 14, 1, 12, 1.0)])
    result = evaluate_probabilities([shifted], **settings)
    assert result.counts.hits == hits
    assert result.summary() | settings == result.summary()


def test_legacy_false_alarms_drop_the_blob_of_the_hit_s_area():
    summary = evaluate_probabilities(three_pairs(), legacy_false_alarms=True).summary()
    assert (summary["fa_per_million_px"], summary["false_alarm_px"]) == (0.0, 0)
    assert summary["false_alarm_count"] == "legacy equal-area"
    assert summary["intervals_95"]["fa_per_million_px"] == [0.0, 0.0]
    # The pixel metrics know no components.
    assert summary["fp_px"] == 9


def test_undefined_values_are_null():
    result = evaluate_probabilities([pair("c", [], [])])
    summary = result.summary()
    assert summary["iou"] == summary["niou"] == 1.0
    assert summary["pd"] is summary["precision_px"] is summary["recall_px"] is None
    assert summary["intervals_95"]["pd"] == [None, None]
    json.dumps(summary, allow_nan=False)
    assert "Pd (target recall)                 -    - to -" in result.table().splitlines()
    assert "Pd at" not in result.table()


def test_table_states_everything():
    table = evaluate_probabilities([three_pairs()[0]] * 2, mask_threshold=0.25, matching="optimal").table()
    assert table.splitlines() == [
        "protocol native: native size, truth >= 128",
        "foreground: probability > 0.25, in components (8-connectivity) whose mean probability > 0.25",
        "hit: optimal matching, centroid distance < 3 px",
        "false alarms: exact pixel count",
        "2 images (0 empty in truth and prediction), 2 targets, 10000 px",
        "",
        "metric                         value    95 % interval",
        "IoU                           0.5000    0.5000 to 0.5000",
        "nIoU                          0.5000    0.5000 to 0.5000",
        "hIoU                          0.5000    0.5000 to 0.5000",
        "  without placeholders        0.5000    0.5000 to 0.5000",
        "  IoU of matched targets      1.0000    1.0000 to 1.0000",
        "  matched / all objects       0.5000    0.5000 to 0.5000",
        "Pd (target recall)            1.0000    1.0000 to 1.0000",
        "Fa (1e-6)                    1800.00    1800.00 to 1800.00",
        "target precision              0.5000    0.5000 to 0.5000",
        "target F1                     0.6667    0.6667 to 0.6667",
        "false targets per image       1.0000    1.0000 to 1.0000",
        "false targets per Mpx       200.0000    200.0000 to 200.0000",
        "pixel precision               0.5000    0.5000 to 0.5000",
        "pixel recall                  1.0000    1.0000 to 1.0000",
        "pixel F1                      0.6667    0.6667 to 0.6667",
        "ROC AUC (pixels)              1.0000    1.0000 to 1.0000",
        "average precision (pixels)    1.0000    1.0000 to 1.0000",
        "AP, centroid (targets)        1.0000    1.0000 to 1.0000",
        "AP, box IoU 0.5 (targets)     1.0000    1.0000 to 1.0000",
        "",
        "Pd at a budget, by the score threshold that is the best on these very images",
        "Fa (1e-6) <= 1                1.0000    1.0000 to 1.0000    score > 0.890903",
        "Fa (1e-6) <= 10               1.0000    1.0000 to 1.0000    score > 0.890903",
        "Fa (1e-6) <= 100              1.0000    1.0000 to 1.0000    score > 0.890903",
        "false targets/Mpx <= 0.1      1.0000    1.0000 to 1.0000    score > 0.890903",
        "false targets/Mpx <= 1        1.0000    1.0000 to 1.0000    score > 0.890903",
        "false targets/Mpx <= 10       1.0000    1.0000 to 1.0000    score > 0.890903",
        "",
        "Pd by size and by SCR of the targets",
        "area 9-24 px                  1.0000    1.0000 to 1.0000    2 targets",
    ]


def test_intervals_are_a_function_of_the_seed():
    pairs = [three_pairs()[k % 3] for k in range(20)]
    first, again, other = (
        evaluate_probabilities(pairs, seed=seed).summary()["intervals_95"]["iou"] for seed in (5, 5, 6)
    )
    assert first == again != other


def test_basicirstd_reads_the_grey_levels():
    stem, probability, mask = pair("grey", [(10, 10, 5, 5)], [(10, 10, 5, 5, 1.0)])
    mask[mask == 255] = 128
    mask[11:14, 11:14] = 255
    assert evaluate_probabilities([(stem, probability, mask)]).summary()["iou"] == 1.0
    summary = evaluate_probabilities([(stem, probability, mask)], protocol="basicirstd").summary()
    assert summary["iou"] == pytest.approx(9 / 41)
    assert (summary["pd"], summary["fa_per_million_px"]) == (1.0, 0.0)


def test_resize256_scores_on_the_small_grid():
    truth = [(100, 200, 8, 8)]
    stem, probability, mask = pair("big", truth, [(100, 200, 8, 8, 1.0)], shape=(512, 512))
    for prediction in (probability, probability[1::2, 1::2]):
        summary = evaluate_probabilities([(stem, prediction, mask)], protocol="resize256").summary()
        assert (summary["tp_px"], summary["fp_px"], summary["fn_px"]) == (16, 0, 0)
        assert summary["num_px"] == 65536


def test_truth_may_be_bool():
    stem, probability, mask = three_pairs()[0]
    from_bool = evaluate_probabilities([(stem, probability, mask > 0)]).summary()
    assert from_bool == evaluate_probabilities([(stem, probability, mask)]).summary()


STEM, PROBABILITY, MASK = pair("x", [(1, 1, 2, 2)], [(1, 1, 2, 2, 1.0)])


@pytest.mark.parametrize(
    ("pairs", "settings", "error", "message"),
    [
        ([], {}, ValueError, "`pairs` must hold at least one image"),
        (
            [(STEM, PROBABILITY, MASK)],
            {"mask_threshold": 1.5},
            ValueError,
            r"`mask_threshold` must be in \[0, 1\], got 1.5",
        ),
        ([(STEM, PROBABILITY, MASK)], {"score_threshold": float("nan")}, ValueError, "`score_threshold`"),
        ([(STEM, PROBABILITY, MASK)], {"protocol": "mine"}, ValueError, "`protocol` must be one of"),
        ([(STEM, PROBABILITY, MASK)], {"matching": "nearest"}, ValueError, "`matching` must be one of"),
        ([(STEM, PROBABILITY, MASK)], {"num_resamples": 0}, ValueError, "`num_resamples` must be at least 1"),
        (
            [(STEM, PROBABILITY > 0, MASK)],
            {},
            TypeError,
            "`probability` of x must be a floating point array, got bool",
        ),
        ([(STEM, PROBABILITY[None], MASK)], {}, ValueError, r"`probability` of x must have shape \(H, W\)"),
        ([(STEM, PROBABILITY * 255, MASK)], {}, ValueError, r"`probability` of x must be in \[0, 1\], got 0 to 255"),
        ([(STEM, PROBABILITY * np.nan, MASK)], {}, ValueError, r"`probability` of x must be in \[0, 1\]"),
        ([(STEM, PROBABILITY.T, MASK)], {}, ValueError, r"of x must have shape \(50, 100\), got \(100, 50\)"),
        (
            [(STEM, PROBABILITY.T, MASK)],
            {"protocol": "resize256"},
            ValueError,
            r"must have shape \(50, 100\) or \(256, 256\), got \(100, 50\)",
        ),
        ([(STEM, PROBABILITY, MASK > 0)], {"protocol": "basicirstd"}, TypeError, "uint8 mask as stored"),
    ],
)
def test_refuses(pairs, settings, error, message):
    with pytest.raises(error, match=message):
        evaluate_probabilities(pairs, **settings)


def test_predictions_from_a_folder_score_like_arrays(tmp_path):
    pairs = three_pairs()
    for stem, probability, _ in pairs:
        Image.fromarray(np.round(probability * 255).astype(np.uint8)).save(tmp_path / f"{stem}.png")
    files = find_predictions(tmp_path, [stem for stem, _, _ in pairs])
    from_files = evaluate_probabilities((stem, read_prediction(files[stem]), mask) for stem, _, mask in pairs)
    # 0.5 of an 8-bit image is 128 / 255, just above the threshold: image b becomes a hit.
    assert [image.counts.hits for image in from_files.per_image] == [1, 1, 0]

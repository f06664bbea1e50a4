import json
import logging

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.evaluation.report import evaluate_probabilities, find_predictions, read_prediction


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
    assert json.loads(json.dumps(summary)) == summary
    intervals = summary.pop("intervals_95")
    assert summary == {
        "iou": pytest.approx(9 / 22),
        "niou": pytest.approx((0.5 + 0 + 1) / 3),
        "pd": 0.5,
        "fa_per_million_px": pytest.approx(600.0),
        "precision_px": 0.5,
        "recall_px": pytest.approx(9 / 13),
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
        "threshold": 0.5,
        "protocol": "native",
        "protocol_description": "native size, truth >= 128",
        "connectivity": 8,
        "matching": "greedy",
        "centroid_tolerance_px": 3.0,
        "num_resamples": 1000,
        "bootstrap_seed": 0,
    }
    assert set(intervals) == {"iou", "niou", "pd", "fa_per_million_px", "precision_px", "recall_px"}
    for metric, (low, high) in intervals.items():
        assert low <= summary[metric] <= high


def test_per_image_counts():
    result = evaluate_probabilities(three_pairs())
    assert [image.stem for image in result.per_image] == ["a", "b", "c"]
    assert [image.counts.hits for image in result.per_image] == [1, 0, 0]
    assert result.counts.images == 3


@pytest.mark.parametrize(("value", "hits"), [(0.5, 0), (np.nextafter(np.float32(0.5), np.float32(1)), 1)])
def test_the_threshold_is_strict(value, hits):
    result = evaluate_probabilities([pair("b", [(20, 20, 2, 2)], [(20, 20, 2, 2, value)])])
    assert result.counts.hits == hits


@pytest.mark.parametrize(("threshold", "predicted"), [(0, 2), (0.4, 2), (0.7, 1), (1, 0)])
def test_other_thresholds(threshold, predicted):
    assert evaluate_probabilities(three_pairs()[:1], threshold=threshold).counts.predicted == predicted


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
    assert "Pd                       -    - to -" in result.table()


def test_table_states_everything():
    table = evaluate_probabilities([three_pairs()[0]] * 2, threshold=0.25, matching="optimal").table()
    assert table.splitlines() == [
        "protocol native: native size, truth >= 128",
        "foreground: probability > 0.25; targets: 8-connectivity",
        "hit: optimal matching, centroid distance < 3 px",
        "false alarms: exact pixel count",
        "2 images (0 empty in truth and prediction), 2 targets, 10000 px",
        "",
        "metric               value    95 % interval",
        "IoU                 0.5000    0.5000 to 0.5000",
        "nIoU                0.5000    0.5000 to 0.5000",
        "Pd                  1.0000    1.0000 to 1.0000",
        "Fa (1e-6)          1800.00    1800.00 to 1800.00",
        "pixel precision     0.5000    0.5000 to 0.5000",
        "pixel recall        1.0000    1.0000 to 1.0000",
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
    assert evaluate_probabilities([(stem, probability, mask > 0)]) == evaluate_probabilities(
        [(stem, probability, mask)]
    )


STEM, PROBABILITY, MASK = pair("x", [(1, 1, 2, 2)], [(1, 1, 2, 2, 1.0)])


@pytest.mark.parametrize(
    ("pairs", "settings", "error", "message"),
    [
        ([], {}, ValueError, "`pairs` must hold at least one image"),
        ([(STEM, PROBABILITY, MASK)], {"threshold": 1.5}, ValueError, r"`threshold` must be in \[0, 1\], got 1.5"),
        ([(STEM, PROBABILITY, MASK)], {"threshold": float("nan")}, ValueError, "`threshold`"),
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


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("8bit.png", np.array([[0, 51], [128, 255]], dtype=np.uint8), [[0, 0.2], [128 / 255, 1]]),
        ("8bit.bmp", np.array([[0, 51], [128, 255]], dtype=np.uint8), [[0, 0.2], [128 / 255, 1]]),
        ("16bit.png", np.array([[0, 13107], [32768, 65535]], dtype=np.uint16), [[0, 0.2], [32768 / 65535, 1]]),
        ("16bit.tif", np.array([[0, 13107], [32768, 65535]], dtype=np.uint16), [[0, 0.2], [32768 / 65535, 1]]),
        ("1bit.png", np.array([[False, True], [True, False]]), [[0, 1], [1, 0]]),
        ("rgb.png", np.array([[[0] * 3, [51] * 3], [[9] * 3, [255] * 3]], dtype=np.uint8), [[0, 0.2], [9 / 255, 1]]),
    ],
)
def test_read_prediction(tmp_path, name, values, expected):
    Image.fromarray(values).save(tmp_path / name)
    probability = read_prediction(tmp_path / name)
    assert probability.dtype == np.float32
    assert probability == pytest.approx(np.array(expected), abs=1e-7)
    assert probability.max() == 1.0


def test_read_prediction_warns_of_a_mask_of_zeros_and_ones(tmp_path, caplog):
    Image.fromarray(np.eye(3, dtype=np.uint8)).save(tmp_path / "ones.png")
    with caplog.at_level(logging.WARNING):
        assert read_prediction(tmp_path / "ones.png").max() == np.float32(1 / 255)
    assert "ones.png: highest value 1 of 255" in caplog.text


def colour_image(path):
    Image.new("RGB", (4, 4), (255, 0, 0)).save(path)


def palette_image(path):
    Image.new("P", (4, 4)).save(path)


def text_file(path):
    path.write_text("not an image")


def empty_file(path):
    path.write_bytes(b"")


def truncated_image(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (colour_image, "is a colour image"),
        (palette_image, "has Pillow mode P"),
        (text_file, "cannot be read as an image"),
        (empty_file, "cannot be read as an image"),
        (truncated_image, "cannot be read as an image"),
    ],
)
def test_read_prediction_refuses(tmp_path, write, message):
    write(tmp_path / "bad.png")
    with pytest.raises(ValueError, match=rf"bad\.png {message}"):
        read_prediction(tmp_path / "bad.png")


def test_read_prediction_without_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.png"):
        read_prediction(tmp_path / "absent.png")


def test_find_predictions(tmp_path):
    for name in ("b_1.png", "a.TIF", "unused.png", "a.txt"):
        (tmp_path / name).touch()
    assert find_predictions(tmp_path, ["b_1", "a"]) == {"b_1": tmp_path / "b_1.png", "a": tmp_path / "a.TIF"}
    with pytest.raises(ValueError, match="has no prediction for 2 of 3 images: c, d"):
        find_predictions(tmp_path, ["a", "c", "d"])
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="several predictions of one image: a.TIF, a.png"):
        find_predictions(tmp_path, ["a"])
    with pytest.raises(ValueError, match="`root` must be a folder of predictions, got .*nowhere"):
        find_predictions(tmp_path / "nowhere", ["a"])


def test_predictions_from_a_folder_score_like_arrays(tmp_path):
    pairs = three_pairs()
    for stem, probability, _ in pairs:
        Image.fromarray(np.round(probability * 255).astype(np.uint8)).save(tmp_path / f"{stem}.png")
    files = find_predictions(tmp_path, [stem for stem, _, _ in pairs])
    from_files = evaluate_probabilities((stem, read_prediction(files[stem]), mask) for stem, _, mask in pairs)
    # 0.5 of an 8-bit image is 128 / 255, just above the threshold: image b becomes a hit.
    assert [image.counts.hits for image in from_files.per_image] == [1, 1, 0]

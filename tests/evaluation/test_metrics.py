import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import irstd_ldm.evaluation
from irstd_ldm.evaluation import bootstrap
from irstd_ldm.evaluation.counts import ImageCounts
from irstd_ldm.evaluation.metrics import (
    METRICS,
    bootstrap_interval,
    detection_scores,
    fa_per_million_px,
    iou,
    metric_rows,
    metrics_of,
    paired_bootstrap,
    pd,
)

# Sums: tp 18, fp 6, fn 12; 5 targets, 3 hits of 5 predicted; 30 false-alarm px (20 legacy) of 40000; 2 images.
HALF = ImageCounts(10, 2, 8, 3, 2, 3, 10, 0, area_px=10000)
ONE_THIRD = ImageCounts(8, 4, 4, 2, 1, 2, 20, 20, area_px=30000)
EMPTY = ImageCounts(0, 0, 0, 0, 0, 0, 0, 0, area_px=10000)
FALSE_ALARM = ImageCounts(0, 5, 0, 0, 0, 1, 5, 5, area_px=10000)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (iou, 18 / 36),
        (pd, 3 / 5),
        (fa_per_million_px, 750.0),
        (lambda c: fa_per_million_px(c, legacy=True), 500.0),
        ("precision_px", 18 / 24),
        ("recall_px", 18 / 30),
        ("f1_px", 36 / (36 + 6 + 12)),
        ("precision_targets", 3 / 5),
        ("recall_targets", 3 / 5),
        ("f1_targets", 6 / (5 + 5)),
        ("false_targets_per_image", 2 / 2),
    ],
)
def test_ratio_of_sums(metric, expected):
    seen = metric(HALF + ONE_THIRD) if callable(metric) else METRICS[metric].value([HALF, ONE_THIRD])
    assert seen == pytest.approx(expected, rel=1e-12)


# tp, fp and fn of pixels, targets, hits, predicted, and by hand precision, recall and F1 of pixels and of targets.
BY_HAND = {
    "perfect": ((4, 0, 0, 2, 2, 2), (1, 1, 1), (1, 1, 1)),
    "half of the pixels, one of two targets": ((6, 0, 6, 2, 1, 1), (1, 1 / 2, 2 / 3), (1, 1 / 2, 2 / 3)),
    "one true of four predicted": ((1, 9, 0, 1, 1, 4), (1 / 10, 1, 2 / 11), (1 / 4, 1, 2 / 5)),
    "2 of 3 targets by 5 components": ((3, 5, 4, 3, 2, 5), (3 / 8, 3 / 7, 2 / 5), (2 / 5, 2 / 3, 1 / 2)),
    "all missed": ((0, 3, 3, 1, 0, 1), (0, 0, 0), (0, 0, 0)),
    "nothing predicted": ((0, 0, 3, 1, 0, 0), (math.nan, 0, 0), (math.nan, 0, 0)),
    "no target": ((0, 5, 0, 0, 0, 1), (0, math.nan, 0), (0, math.nan, 0)),
    "empty in both": ((0, 0, 0, 0, 0, 0), (math.nan, math.nan, 1), (math.nan,) * 3),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_precision_recall_and_f1_by_hand(case):
    counted, of_pixels, of_targets = BY_HAND[case]
    counts = ImageCounts(*counted, false_alarm_px=0, legacy_false_alarm_px=0, area_px=100)
    for kind, expected in (("px", of_pixels), ("targets", of_targets)):
        seen = [METRICS[f"{name}_{kind}"].value([counts]) for name in ("precision", "recall", "f1")]
        assert seen == pytest.approx(expected, rel=1e-12, nan_ok=True), kind
    overlap = iou(counts)
    assert METRICS["f1_px"].value([counts]) == pytest.approx(2 * overlap / (1 + overlap), rel=1e-12)
    precision, recall, f1 = of_targets
    if precision and recall:  # the harmonic mean
        assert f1 == pytest.approx(2 / (1 / precision + 1 / recall), nan_ok=True) or math.isnan(precision + recall)


def test_f1_of_a_set_is_that_of_the_sums():
    counts = [ImageCounts(4, 0, 0, 2, 2, 2, 0, 0, area_px=100), ImageCounts(0, 8, 4, 1, 0, 3, 8, 8, area_px=100)]
    assert METRICS["f1_px"].value(counts) == 8 / (8 + 8 + 4)
    assert METRICS["f1_targets"].value(counts) == 4 / (3 + 5)


def test_niou_is_the_mean_over_images():
    assert METRICS["niou"].value([HALF, ONE_THIRD]) == pytest.approx((10 / 20 + 8 / 16) / 2)
    assert METRICS["niou"].value([HALF, FALSE_ALARM]) == pytest.approx(0.25)


def test_an_image_empty_in_both_counts_one_in_niou_and_nothing_in_iou():
    assert METRICS["niou"].value([HALF, EMPTY]) == pytest.approx(0.75)
    assert iou(HALF + EMPTY) == iou(HALF) == 0.5
    assert iou(EMPTY) == 1.0


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (pd(FALSE_ALARM), "no target"),
        (METRICS["precision_px"].value([EMPTY]), "no predicted pixel"),
        (METRICS["recall_px"].value([FALSE_ALARM]), "no truth pixel"),
        (METRICS["precision_targets"].value([EMPTY]), "no predicted component"),
        (METRICS["recall_targets"].value([FALSE_ALARM]), "no target"),
        (METRICS["f1_targets"].value([EMPTY]), "no target and nothing predicted"),
        (METRICS["false_targets_per_image"].value([]), "no image"),
        (METRICS["niou"].value([]), "no image"),
        (fa_per_million_px(ImageCounts.zero()), "no image"),
    ],
)
def test_undefined_is_nan(value, what):
    assert math.isnan(value), what


def bernoulli_images(num_images, hit_rate, seed=0):
    hits = np.random.default_rng(seed).random(num_images) < hit_rate
    return [ImageCounts(int(h), 0, int(not h), 1, int(h), int(h), 0, 0, area_px=100) for h in hits]


@pytest.mark.parametrize("metric", [key for key, one in METRICS.items() if one.counted == "counts" and one.numerator])
def test_interval_covers_the_point_estimate(metric):
    counts = [HALF, ONE_THIRD, FALSE_ALARM, EMPTY, HALF, ONE_THIRD, HALF] * 4
    low, high = bootstrap_interval(counts, metric)
    assert low < METRICS[metric].value(counts) < high


@pytest.mark.parametrize("num_images", [400, 1600])
@pytest.mark.parametrize(("level", "num_deviations"), [(0.95, 1.96), (0.6827, 1.0)])
def test_interval_of_a_proportion_is_the_normal_one(num_images, level, num_deviations):
    counts = bernoulli_images(num_images, 0.7)
    point = pd(sum(counts, ImageCounts.zero()))
    deviation = math.sqrt(point * (1 - point) / num_images)
    interval = bootstrap_interval(counts, "pd", num_resamples=4000, level=level)
    expected = (point - num_deviations * deviation, point + num_deviations * deviation)
    assert interval == pytest.approx(expected, abs=0.15 * deviation)


def test_interval_shrinks_with_the_number_of_images():
    widths = [np.diff(bootstrap_interval(bernoulli_images(n, 0.5), "pd"))[0] for n in (50, 200, 800)]
    assert widths[0] > 1.5 * widths[1] > 1.5**2 * widths[2]


def test_interval_widens_with_the_level():
    counts = bernoulli_images(60, 0.5)
    low_50, high_50 = bootstrap_interval(counts, "pd", level=0.5)
    low_99, high_99 = bootstrap_interval(counts, "pd", level=0.99)
    assert low_99 < low_50 < high_50 < high_99


def test_interval_is_a_function_of_the_seed():
    counts = bernoulli_images(60, 0.5) + [ONE_THIRD]
    assert bootstrap_interval(counts, "iou", seed=3) == bootstrap_interval(counts, "iou", seed=3)
    assert bootstrap_interval(counts, "iou", seed=3) != bootstrap_interval(counts, "iou", seed=4)


def test_interval_does_not_depend_on_the_chunk(monkeypatch):
    counts = bernoulli_images(60, 0.5) + [ONE_THIRD]
    whole = bootstrap_interval(counts, "iou")
    monkeypatch.setattr(bootstrap, "BOOTSTRAP_CHUNK", 61 * 7)
    assert bootstrap_interval(counts, "iou") == whole


def test_interval_leaves_out_resamples_without_a_target():
    # A quarter of the resamples holds no target.
    assert bootstrap_interval([HALF, EMPTY], "pd") == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert all(math.isnan(end) for end in bootstrap_interval([EMPTY, FALSE_ALARM], "pd"))


def test_interval_of_one_image_is_a_point():
    assert bootstrap_interval([HALF], "iou") == (0.5, 0.5)


def test_paired_bootstrap_sees_a_difference_that_separate_intervals_hide():
    # Every image is as hard for both; B finds one target in twenty that A misses.
    easy = np.random.default_rng(0).random(200) < 0.5
    gained = ~easy & (np.arange(200) % 20 == 0)
    a = [ImageCounts(int(e), 0, int(not e), 1, int(e), int(e), 0, 0, area_px=100) for e in easy]
    b = [ImageCounts(int(e), 0, int(not e), 1, int(e), int(e), 0, 0, area_px=100) for e in easy | gained]
    assert bootstrap_interval(a, "pd")[1] > bootstrap_interval(b, "pd")[0]
    found = paired_bootstrap(a, b, "pd")
    assert found.difference == pytest.approx(gained.sum() / 200)
    assert 0 <= found.low < found.difference < found.high
    assert found.probability_b_above_a > 0.95
    back = paired_bootstrap(b, a, "pd")
    assert (back.difference, back.low, back.high) == (-found.difference, -found.high, -found.low)
    assert back.probability_b_above_a == pytest.approx(1 - found.probability_b_above_a)


def test_a_detector_compared_with_itself_is_a_tie():
    found = paired_bootstrap([HALF, ONE_THIRD, EMPTY], [HALF, ONE_THIRD, EMPTY], "iou")
    assert (found.difference, found.low, found.high, found.probability_b_above_a) == (0, 0, 0, 0.5)
    assert found.num_images == 3


def test_paired_bootstrap_refuses_different_numbers_of_images():
    with pytest.raises(ValueError, match="`counts_b` must be of the 2 images of `counts_a`, got 1"):
        paired_bootstrap([HALF, EMPTY], [HALF], "iou")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"counts": []}, "`counts` must hold at least one image"),
        ({"metric": "f1"}, "`metric` must be one of iou, niou, pd, .*, got 'f1'"),
        ({"num_resamples": 0}, "`num_resamples` must be at least 1, got 0"),
        ({"level": 1.0}, r"`level` must be in \(0, 1\), got 1.0"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**{"counts": [HALF], "metric": "iou"} | settings)


def test_the_table_has_one_entry_per_key_and_every_entry_says_what_it_is():
    assert all(key == metric.key and metric.label and metric.meaning for key, metric in METRICS.items())
    titles = [metric.title for metric in METRICS.values()]
    assert len(set(titles)) == len(titles)
    assert [metric.key for metric in metrics_of("cross")] == list(detection_scores([HALF]))
    assert METRICS["fa_per_million_px"].heading == "Fa (1e-6)" and METRICS["pd"].title == "Pd (target recall)"


def test_the_docs_explain_every_metric_as_the_table_does():
    text = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for metric in METRICS.values():
        assert f"| `{metric.key}` | {metric.title} | {metric.meaning} | {metric.undefined} |\n" in text


def test_rows_of_a_card():
    metrics = {"iou": 0.79151, "niou": 0.8, "pd": None, "fa_per_million_px": 9.96, "f1_px": 0.88, "num_targets": 3}
    metrics["intervals_95"] = {"iou": [0.7, 0.85], "niou": [None, None], "fa_per_million_px": [0.0, 20.04]}
    metrics["intervals_95"]["f1_px"] = [0.8, 0.9]
    assert metric_rows(metrics) == [
        ("IoU", "79.2 (70.0 to 85.0)"),
        ("nIoU", "80.0 (- to -)"),
        ("Pd", "-"),
        ("Fa, 1e-6", "10.0 (0.0 to 20.0)"),
        ("pixel F1", "88.0 (80.0 to 90.0)"),
    ]
    without_targets = dict(metric_rows(metrics | {"num_targets": 0}))
    assert without_targets["IoU"] == without_targets["pixel F1"] == "-"
    assert without_targets["Fa, 1e-6"] == "10.0 (0.0 to 20.0)"


def test_public_names_are_loaded_on_first_use():
    for name in irstd_ldm.evaluation.__all__:
        assert getattr(irstd_ldm.evaluation, name) is not None and name in dir(irstd_ldm.evaluation)
    with pytest.raises(AttributeError, match="has no attribute 'f1'"):
        _ = irstd_ldm.evaluation.f1
    code = "import sys, irstd_ldm.evaluation; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"

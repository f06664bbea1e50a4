import math

import numpy as np
import pytest

from irstd_ldm.evaluation import bootstrap, metrics
from irstd_ldm.evaluation.counts import ImageCounts
from irstd_ldm.evaluation.metrics import (
    bootstrap_interval,
    fa_per_million_px,
    false_targets_per_image,
    iou,
    niou,
    paired_bootstrap,
    pd,
    precision_px,
    precision_targets,
    recall_px,
    recall_targets,
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
        (precision_px, 18 / 24),
        (recall_px, 18 / 30),
        (precision_targets, 3 / 5),
        (recall_targets, 3 / 5),
        (false_targets_per_image, 2 / 2),
    ],
    ids=[
        "iou",
        "pd",
        "fa",
        "legacy_fa",
        "precision_px",
        "recall_px",
        "precision_targets",
        "recall_targets",
        "false_targets_per_image",
    ],
)
def test_ratio_of_sums(metric, expected):
    assert metric(HALF + ONE_THIRD) == pytest.approx(expected, rel=1e-12)


def test_niou_is_the_mean_over_images():
    assert niou([HALF, ONE_THIRD]) == pytest.approx((10 / 20 + 8 / 16) / 2)
    assert niou([HALF, FALSE_ALARM]) == pytest.approx(0.25)


def test_an_image_empty_in_both_counts_one_in_niou_and_nothing_in_iou():
    assert niou([HALF, EMPTY]) == pytest.approx(0.75)
    assert iou(HALF + EMPTY) == iou(HALF) == 0.5
    assert iou(EMPTY) == 1.0


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (pd(FALSE_ALARM), "no target"),
        (precision_px(EMPTY), "no predicted pixel"),
        (recall_px(FALSE_ALARM), "no truth pixel"),
        (precision_targets(EMPTY), "no predicted component"),
        (recall_targets(FALSE_ALARM), "no target"),
        (false_targets_per_image(ImageCounts.zero()), "no image"),
        (niou([]), "no image"),
        (fa_per_million_px(ImageCounts.zero()), "no image"),
    ],
)
def test_undefined_is_nan(value, what):
    assert math.isnan(value), what


def bernoulli_images(num_images, hit_rate, seed=0):
    hits = np.random.default_rng(seed).random(num_images) < hit_rate
    return [ImageCounts(int(h), 0, int(not h), 1, int(h), int(h), 0, 0, area_px=100) for h in hits]


@pytest.mark.parametrize("metric", sorted(metrics.RATIOS))
def test_interval_covers_the_point_estimate(metric):
    counts = [HALF, ONE_THIRD, FALSE_ALARM, EMPTY, HALF, ONE_THIRD, HALF] * 4
    low, high = bootstrap_interval(counts, metric)
    total = sum(counts, ImageCounts.zero())
    point = {
        "iou": iou(total),
        "niou": niou(counts),
        "pd": pd(total),
        "fa_per_million_px": fa_per_million_px(total),
        "legacy_fa_per_million_px": fa_per_million_px(total, legacy=True),
        "precision_px": precision_px(total),
        "recall_px": recall_px(total),
        "precision_targets": precision_targets(total),
        "recall_targets": recall_targets(total),
        "false_targets_per_image": false_targets_per_image(total),
    }[metric]
    assert low < point < high


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

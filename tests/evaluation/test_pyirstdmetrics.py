"""Equality with PyIRSTDMetrics, an implementation of others, on its threshold grid."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from irstd_ldm.evaluation.metrics import fa_per_million_px, iou, niou, pd
from irstd_ldm.evaluation.report import evaluate_probabilities

oracle = pytest.importorskip("py_irstd_metrics", reason="make test installs pyirstdmetrics")

NUAA_MASKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "NUAA-SIRST" / "masks"
NUM_THRESHOLDS = 5
GRID = np.linspace(0, 1, NUM_THRESHOLDS, endpoint=False)


def random_pair(rng):
    """Discs as truth; some found, moved, grown, missed, and false ones, at probabilities of the grid and between."""
    height, width = rng.integers(48, 97, size=2)
    rows, columns = np.mgrid[:height, :width]
    truth = np.zeros((height, width), dtype=bool)
    probability = np.zeros((height, width))
    for _ in range(rng.integers(1, 7)):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.6, 4)
        truth |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        if rng.random() < 0.8:
            move_y, move_x = rng.uniform(-4, 4, size=2)
            disc = (rows - y - move_y) ** 2 + (columns - x - move_x) ** 2 <= (radius * rng.uniform(0.7, 1.5)) ** 2
            probability[disc] = rng.choice([0.2, 0.35, 0.5, 0.6, 0.8, 0.97])
    probability[rng.random((height, width)) < 0.01] = rng.uniform(0, 1)
    return probability, truth


def perturb(truth, rng):
    """The truth moved by up to 4 px, grown, dimmed by target, some targets dropped, and false specks."""
    labels, count = ndimage.label(truth, structure=np.ones((3, 3)))
    level = np.concatenate([[0.0], rng.choice([0.0, 0.3, 0.55, 0.95], size=count)])
    probability = np.roll(level[labels], rng.integers(-4, 5, size=2), axis=(0, 1))
    if rng.random() < 0.3:
        probability = ndimage.grey_dilation(probability, size=(3, 3))
    specks = rng.random(truth.shape) < 1e-4
    probability[specks] = rng.uniform(0, 1, size=truth.shape)[specks]
    return probability


@pytest.fixture(scope="module")
def blob_pairs():
    rng = np.random.default_rng(0)
    return [random_pair(rng) for _ in range(30)]


@pytest.fixture(scope="module")
def nuaa_pairs():
    if not NUAA_MASKS.is_dir():
        pytest.skip(f"needs {NUAA_MASKS}")
    rng = np.random.default_rng(1)
    truths = [np.asarray(Image.open(path).convert("L")) >= 128 for path in sorted(NUAA_MASKS.glob("*.png"))[:60]]
    return [(perturb(truth, rng), truth) for truth in truths]


def check_pixel_metrics(pairs):
    for threshold in GRID:
        metrics = oracle.CMMetrics(num_bins=NUM_THRESHOLDS, threshold=threshold)
        metrics.add_handler("iou", oracle.IoUHandler(sample_based=False))
        metrics.add_handler("niou", oracle.IoUHandler(sample_based=True))
        for probability, truth in pairs:
            metrics.update(probability, truth)
        expected = metrics.get()
        result = evaluate_probabilities(((str(k), *pair) for k, pair in enumerate(pairs)), threshold=threshold)
        assert iou(result.counts) == pytest.approx(expected["iou"]["binary"], abs=1e-9)
        assert 0 < niou([image.counts for image in result.per_image]) < 1
        assert niou([image.counts for image in result.per_image]) == pytest.approx(
            expected["niou"]["binary"], abs=1e-9
        )


def check_target_metrics(pairs, matching, expected):
    found = []
    for threshold in GRID:
        total = evaluate_probabilities(
            ((str(k), *pair) for k, pair in enumerate(pairs)), threshold=threshold, matching=matching
        ).counts
        found.append((pd(total), fa_per_million_px(total) * 1e-6))
    assert len(set(found)) > 2
    assert np.array(found) == pytest.approx(
        np.stack([expected["probability_detection"], expected["false_alarm"]], axis=1), abs=1e-9
    )


def oracle_counts(metrics, pairs):
    for probability, truth in pairs:
        metrics.update(probability, truth)
    return metrics.get()


# The oracle gives an image empty in both an IoU of 0, ours 1: every pair here has a target.
def test_iou_and_niou_on_random_blobs(blob_pairs):
    assert all(truth.any() for _, truth in blob_pairs)
    check_pixel_metrics(blob_pairs)


def test_iou_and_niou_on_nuaa_sirst(nuaa_pairs):
    assert all(truth.any() for _, truth in nuaa_pairs)
    check_pixel_metrics(nuaa_pairs)


def test_pd_and_fa_on_random_blobs(blob_pairs):
    metrics = oracle.ProbabilityDetectionAndFalseAlarmRate(num_bins=NUM_THRESHOLDS, distance_threshold=3)
    check_target_metrics(blob_pairs, "greedy", oracle_counts(metrics, blob_pairs))


def test_pd_and_fa_on_nuaa_sirst(nuaa_pairs):
    metrics = oracle.ProbabilityDetectionAndFalseAlarmRate(num_bins=NUM_THRESHOLDS, distance_threshold=3)
    check_target_metrics(nuaa_pairs, "greedy", oracle_counts(metrics, nuaa_pairs))


def test_opdc_on_random_blobs(blob_pairs):
    metrics = oracle.MatchingBasedMetrics(num_bins=NUM_THRESHOLDS, matching_method=oracle.OPDCMatching())
    check_target_metrics(blob_pairs, "opdc", oracle_counts(metrics, blob_pairs))


def test_opdc_on_nuaa_sirst(nuaa_pairs):
    metrics = oracle.MatchingBasedMetrics(num_bins=NUM_THRESHOLDS, matching_method=oracle.OPDCMatching())
    check_target_metrics(nuaa_pairs, "opdc", oracle_counts(metrics, nuaa_pairs))

"""Equality with PyIRSTDMetrics, an implementation of others, on its threshold grid."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from irstd_ldm.cli.main import main
from irstd_ldm.evaluation.counts import count_hierarchical
from irstd_ldm.evaluation.curves import Curves
from irstd_ldm.evaluation.matching import label_image
from irstd_ldm.evaluation.metrics import METRICS, fa_per_million_px, iou, pd
from irstd_ldm.evaluation.result import evaluate_probabilities
from irstd_ldm.evaluation.thresholds import count_image_at

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
    return [random_pair(rng) for _ in range(12)]


@pytest.fixture(scope="module")
def nuaa_pairs():
    if not NUAA_MASKS.is_dir():
        pytest.skip(f"needs {NUAA_MASKS}")
    rng = np.random.default_rng(1)
    truths = [np.asarray(Image.open(path).convert("L")) >= 128 for path in sorted(NUAA_MASKS.glob("*.png"))[:24]]
    return [(perturb(truth, rng), truth) for truth in truths]


def evaluated(pairs, **settings):
    return evaluate_probabilities(((str(k), *pair) for k, pair in enumerate(pairs)), curves=False, **settings)


def oracle_counts(metrics, pairs):
    for probability, truth in pairs:
        metrics.update(probability, truth)
    return metrics.get()


def check_pixel_metrics(pairs):
    for threshold in GRID:
        metrics = oracle.CMMetrics(num_bins=NUM_THRESHOLDS, threshold=threshold)
        metrics.add_handler("iou", oracle.IoUHandler(sample_based=False))
        metrics.add_handler("niou", oracle.IoUHandler(sample_based=True))
        metrics.add_handler("precision", oracle.PrecisionHandler(sample_based=False))
        metrics.add_handler("recall", oracle.RecallHandler(sample_based=False))
        metrics.add_handler(
            "f1", oracle.FmeasureHandler(beta=1, with_dynamic=False, with_binary=True, sample_based=False)
        )
        expected = oracle_counts(metrics, pairs)
        result = evaluated(pairs, mask_threshold=threshold)
        seen = {
            "iou": iou(result.counts),
            "niou": METRICS["niou"].value([image.counts for image in result.per_image]),
            "precision": METRICS["precision_px"].value([result.counts]),
            "recall": METRICS["recall_px"].value([result.counts]),
            "f1": METRICS["f1_px"].value([result.counts]),
        }
        assert 0 < seen["niou"] < 1
        assert seen == pytest.approx({name: values["binary"] for name, values in expected.items()}, abs=1e-9)


def check_target_metrics(pairs, matching, expected):
    totals = [evaluated(pairs, mask_threshold=threshold, matching=matching).counts for threshold in GRID]
    found = [(pd(total), fa_per_million_px(total) * 1e-6) for total in totals]
    assert len(set(found)) > 2
    assert np.array(found) == pytest.approx(
        np.stack([expected["probability_detection"], expected["false_alarm"]], axis=1), abs=1e-9
    )


def check_hierarchical_metrics(pairs):
    matched = oracle.MatchingBasedMetrics(num_bins=NUM_THRESHOLDS, matching_method=oracle.OPDCMatching())
    hiou = oracle_counts(matched, pairs)["hiou"]
    split = oracle_counts(oracle.HierarchicalIoUBasedErrorAnalysis(num_bins=NUM_THRESHOLDS), pairs)
    assert set(split) == {key for key in METRICS if key.startswith(("seg_", "loc_"))}
    for index, threshold in enumerate(GRID):
        counts = [count_hierarchical(label_image(probability > threshold, truth)) for probability, truth in pairs]
        seen = {key: METRICS[key].value(counts) for key in ("hiou", *split)}
        expected = {"hiou": hiou[index]} | {name: values[index] for name, values in split.items()}
        assert 0 < seen["hiou"] < seen["loc_iou"] < 1
        assert seen == pytest.approx(expected, abs=1e-9)


def check_roc(pairs):
    # The oracle counts values >= a threshold, ours those above it: no value may lie on one. Its curve is a mean over
    # images; ours is of the set, so it is shown all pixels as one image.
    rng = np.random.default_rng(2)
    pairs = [(0.9 * probability + rng.uniform(0.01, 0.09), truth) for probability, truth in pairs]
    num = 50
    metrics = oracle.CMMetrics(num_bins=num + 1)
    metrics.add_handler("tpr", oracle.TPRHandler(with_dynamic=True, with_binary=False))
    metrics.add_handler("fpr", oracle.FPRHandler(with_dynamic=True, with_binary=False))
    flat = [np.concatenate([pair[k].ravel() for pair in pairs])[None] for k in (0, 1)]
    expected = {name: values["dynamic"] for name, values in oracle_counts(metrics, [flat]).items()}
    curves = Curves([count_image_at(*pair, np.linspace(0, 1, num, endpoint=False)) for pair in pairs])
    assert curves.tpr[::-1] == pytest.approx(expected["tpr"], abs=1e-9)
    assert curves.fpr[::-1] == pytest.approx(expected["fpr"], abs=1e-9)
    tpr, fpr = (np.concatenate([[0], expected[name], [1]]) for name in ("tpr", "fpr"))
    area = np.trapezoid(tpr, fpr)
    assert 0.5 < area < 1
    assert curves.statistics()["roc_auc"].point() == pytest.approx(area, abs=1e-9)


@pytest.fixture(params=["random blobs", "nuaa-sirst"])
def pairs(request):
    found = request.getfixturevalue("blob_pairs" if request.param == "random blobs" else "nuaa_pairs")
    # The oracle gives an image empty in both an IoU of 0, ours 1.
    assert all(truth.any() for _, truth in found)
    return found


def test_iou_niou_precision_and_recall(pairs):
    check_pixel_metrics(pairs)


def test_pd_and_fa(pairs):
    metrics = oracle.ProbabilityDetectionAndFalseAlarmRate(num_bins=NUM_THRESHOLDS, distance_threshold=3)
    check_target_metrics(pairs, "greedy", oracle_counts(metrics, pairs))


def test_opdc(pairs):
    metrics = oracle.MatchingBasedMetrics(num_bins=NUM_THRESHOLDS, matching_method=oracle.OPDCMatching())
    check_target_metrics(pairs, "opdc", oracle_counts(metrics, pairs))


def test_hiou_and_its_split(pairs):
    assert any(not (probability > threshold).any() for probability, _ in pairs for threshold in GRID)
    check_hierarchical_metrics(pairs)


def test_hiou_on_images_that_are_empty(blob_pairs):
    empty = np.zeros((20, 30))
    check_hierarchical_metrics([*blob_pairs[:6], (empty, empty > 0), (blob_pairs[0][0], blob_pairs[0][1] & False)])


def test_roc_and_its_area(pairs):
    check_roc(pairs)


def write_data_set(root, pairs, as_file):
    for stem, (probability, truth) in enumerate(pairs):
        for folder, array in (("images", np.zeros(truth.shape, np.uint8)), ("masks", truth.astype(np.uint8) * 255)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{stem}.png")
        (root / "predictions").mkdir(exist_ok=True)
        Image.fromarray(as_file(probability)).save(root / "predictions" / f"{stem}.png")
    (root / "test.txt").write_text("".join(f"{stem}\n" for stem in range(len(pairs))))


@pytest.mark.parametrize(
    ("as_file", "full_scale"),
    [
        (lambda probability: (probability > 0.5).astype(np.uint8) * np.uint8(255), 255),
        (lambda probability: np.rint(probability * 255).astype(np.uint8), 255),
        (lambda probability: np.rint(probability * 65535).astype(np.uint16), 65535),
    ],
    ids=["masks", "8-bit probabilities", "16-bit probabilities"],
)
def test_a_folder_of_another_detectors_masks(nuaa_pairs, tmp_path, as_file, full_scale):
    pairs = nuaa_pairs[:10]
    write_data_set(tmp_path, pairs, as_file)
    arguments = ["--data", str(tmp_path), "--predictions", str(tmp_path / "predictions")]
    assert main(["evaluate", *arguments, "--output", str(tmp_path / "out")]) == 0
    seen = json.loads((tmp_path / "out" / "metrics.json").read_text())

    stored = [(as_file(probability) / full_scale, truth) for probability, truth in pairs]
    pixels = oracle.CMMetrics(threshold=0.5)
    pixels.add_handler("iou", oracle.IoUHandler(sample_based=False))
    pixels.add_handler("niou", oracle.IoUHandler(sample_based=True))
    expected = {name: values["binary"] for name, values in oracle_counts(pixels, stored).items()}
    found = oracle_counts(oracle.ProbabilityDetectionAndFalseAlarmRate(), stored)
    expected |= {"pd": found["probability_detection"][0], "fa_per_million_px": 1e6 * found["false_alarm"][0]}
    expected["hiou"] = oracle_counts(oracle.MatchingBasedMetrics(), stored)["hiou"][0]
    split = oracle_counts(oracle.HierarchicalIoUBasedErrorAnalysis(), stored)
    expected |= {name: values[0] for name, values in split.items()}
    assert 0 < expected["pd"] < 1 and expected["fa_per_million_px"] > 0
    assert {name: seen[name] for name in expected} == pytest.approx(expected, abs=1e-9)

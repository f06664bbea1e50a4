import json
import math

import numpy as np
import pytest

from irstd_ldm.evaluation.bootstrap import estimate
from irstd_ldm.evaluation.curves import Curves, OperatingPoint
from irstd_ldm.evaluation.metrics import METRICS, fa_per_million_px, pd
from irstd_ldm.evaluation.thresholds import THRESHOLDS as SCORES
from irstd_ldm.evaluation.thresholds import count_image_at
from irstd_ldm.targets import component_means, label_components

THRESHOLDS = np.array([0.0, 0.25, 0.5, 0.75])


def image(*pixels, shape=(10, 100)):
    """(probability, truth); pixels are (row, column, probability, is target)."""
    probability, truth = np.zeros(shape), np.zeros(shape, dtype=bool)
    for row, column, value, is_target in pixels:
        probability[row, column], truth[row, column] = value, is_target
    return probability, truth


# Four targets of a pixel at .9, .6, .3 and 0; false alarms of a pixel at .8 and .3; 2000 px in two images.
IMAGES = [
    image((1, 10, 0.9, True), (1, 30, 0.3, True), (1, 50, 0.8, False)),
    image((1, 10, 0.6, True), (1, 30, 0.0, True), (1, 50, 0.3, False)),
]


def curves(images=IMAGES, thresholds=THRESHOLDS, **settings):
    return Curves([count_image_at(*pair, thresholds, mask_threshold=0.0) for pair in images], **settings)


def test_curves_by_hand():
    found = curves()
    assert found.tpr.tolist() == [3 / 4, 3 / 4, 2 / 4, 1 / 4]
    assert found.fpr == pytest.approx(np.array([2, 2, 1, 1]) / 1996)
    assert found.precision_px.tolist() == [3 / 5, 3 / 5, 2 / 3, 1 / 2]
    assert found.pd.tolist() == [3 / 4, 3 / 4, 2 / 4, 1 / 4]
    assert found.fa_per_million_px.tolist() == [1000, 1000, 500, 500]
    assert found.false_targets_per_megapixel.tolist() == [1000, 1000, 500, 500]
    assert found.precision_targets.tolist() == [3 / 5, 3 / 5, 2 / 3, 1 / 2]
    assert (found.num_images, found.num_targets, found.num_px, found.truth_px) == (2, 4, 2000, 4)


def test_areas_by_hand():
    found = curves()
    # (0, 0), (1, .25), (1, .5), (2, .75), (1996, 1) in pixels and tpr.
    area = 1 * (0 + 0.25) / 2 + 1 * (0.5 + 0.75) / 2 + 1994 * (0.75 + 1) / 2
    assert found.statistics()["roc_auc"].point() == pytest.approx(area / 1996)
    # Each gain in recall is 1/4: precisions 1/2, 2/3, 3/5, and 4/2000 when everything is foreground.
    assert found.statistics()["average_precision"].point() == pytest.approx((1 / 2 + 2 / 3 + 3 / 5 + 4 / 2000) / 4)


def test_a_perfect_and_a_useless_detector():
    truth = np.zeros((20, 20), dtype=bool)
    truth[5, 5:8] = True
    perfect, useless = truth.astype(float), np.full((20, 20), 0.5)
    assert (
        curves([(perfect, truth)]).statistics()["roc_auc"].point()
        == curves([(perfect, truth)]).statistics()["average_precision"].point()
        == 1
    )
    assert curves([(useless, truth)]).statistics()["roc_auc"].point() == 0.5
    assert curves([(useless, truth)]).statistics()["average_precision"].point() == pytest.approx(3 / 400)
    assert curves([(1 - perfect, truth)]).statistics()["roc_auc"].point() == 0


def test_the_area_is_the_chance_that_a_target_pixel_ranks_above_another():
    rng = np.random.default_rng(0)
    truth = rng.random((30, 30)) < 0.1
    level = np.clip(rng.normal(0.4 + 0.2 * truth, 0.2), 0, 1)
    probability = np.round(level * 10) / 10
    above = np.mean(probability[truth][:, None] > probability[~truth]) + 0.5 * np.mean(
        probability[truth][:, None] == probability[~truth]
    )
    between = np.arange(0.05, 1, 0.1)  # every value of its own
    assert curves([(probability, truth)], between).statistics()["roc_auc"].point() == pytest.approx(above, abs=1e-12)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (2000, OperatingPoint(0.25, 0.75, 1000, 1000)),  # of equal Pd and Fa the higher threshold
        (1000, OperatingPoint(0.25, 0.75, 1000, 1000)),  # the budget itself is allowed
        (999, OperatingPoint(0.5, 0.5, 500, 500)),
        (499, None),
    ],
)
def test_pd_at_fa(budget, expected):
    assert curves().pd_at("fa_per_million_px", budget) == expected


def test_pd_at_false_targets_per_megapixel():
    assert curves().pd_at("false_targets_per_megapixel", 900) == OperatingPoint(0.5, 0.5, 500, 500)
    assert curves().pd_at("false_targets_per_megapixel", 100) is None
    assert curves(thresholds=np.linspace(0, 1, 5)).pd_at("false_targets_per_megapixel", 100) == OperatingPoint(
        1, 0, 0, 0
    )


def test_a_budget_is_resolved_where_scores_are_nearly_one():
    images = [image((1, 10, 1 - 1e-5, True), (1, 50, 1 - 1e-3, False))]
    assert curves(images, SCORES).pd_at("fa_per_million_px", 1).pd == 1
    assert curves(images, np.linspace(0, 1, 101)).pd_at("fa_per_million_px", 1).pd == 0


def test_a_component_is_dropped_as_a_whole():
    # The false alarm of 4 px, two of them at .4, would fall apart at a threshold of .5 on its pixels.
    probability, truth = image((1, 10, 0.9, True), (5, 50, 0.6, False), (5, 51, 0.4, False), (5, 53, 0.6, False))
    probability[5, 52] = 0.4
    found = curves([(probability, truth)], np.array([0.25, 0.49, 0.51]))
    assert found.fa_per_million_px.tolist() == [4000, 4000, 0]
    assert found.pd_at("fa_per_million_px", 5000) == OperatingPoint(0.51, 1, 0, 0)


def test_legacy_false_alarms_change_the_budget():
    assert curves(legacy_false_alarms=True).fa_per_million_px.tolist() == [0, 0, 0, 0]
    assert curves(legacy_false_alarms=True).pd_at("fa_per_million_px", 1) == OperatingPoint(0.25, 0.75, 0, 1000)


def test_curves_pass_through_the_metrics_of_one_threshold():
    rng = np.random.default_rng(1)
    images = [(rng.random((30, 40)), rng.random((30, 40)) < 0.02) for _ in range(3)]
    counts = [count_image_at(*pair, THRESHOLDS) for pair in images]
    found = Curves(counts)
    for index in range(len(THRESHOLDS)):
        total = counts[0].at(index) + counts[1].at(index) + counts[2].at(index)
        assert found.tpr[index] == METRICS["recall_px"].value([total])
        assert found.precision_px[index] == METRICS["precision_px"].value([total])
        assert found.pd[index] == pd(total)
        assert found.fa_per_million_px[index] == pytest.approx(fa_per_million_px(total), rel=1e-12)
        expected = METRICS["false_targets_per_megapixel"].value([total])
        assert found.false_targets_per_megapixel[index] == pytest.approx(expected, rel=1e-12)
        assert found.precision_targets[index] == METRICS["precision_targets"].value([total])


def test_average_precision_of_targets_by_hand():
    # Scores .9 hit, .8 false, .6 hit, .3 hit and false; a fourth target is missed. Recalls 1/4, 2/4, 3/4 at precisions
    # 1, 2/3, 3/5; 26 of the 101 recalls are at most 1/4, 25 each lie in the next two quarters, 25 above 3/4.
    statistics = curves(thresholds=SCORES).statistics()
    for name in ("ap_centroid", "ap_box_50"):
        assert statistics[name].point() == pytest.approx((26 * 1 + 25 * 2 / 3 + 25 * 3 / 5) / 101)


def test_average_precision_equals_that_of_coco():
    coco, evaluator = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    rng, pairs = np.random.default_rng(3), []
    levels = rng.permutation((SCORES[150:250:2] + SCORES[151:251:2]) / 2)  # one between two thresholds
    for index in range(6):
        probability, truth = np.zeros((60, 60)), np.zeros((60, 60), dtype=bool)
        for k in range(6):
            top, left = 5 + 10 * k, int(rng.integers(4, 50))
            truth[top : top + 3, left : left + 4] = rng.random() < 0.8
            shift = int(rng.integers(0, 5))
            probability[top : top + 3, left + shift : left + shift + 4] = levels[6 * index + k]
        pairs.append((probability, truth))
    truths, found = coco.COCO(), []
    truths.dataset = {"images": [], "categories": [{"id": 1}], "annotations": []}
    for index, (probability, truth) in enumerate(pairs, start=1):
        truths.dataset["images"].append({"id": index})
        for one in label_components(truth)[1]:
            box = [one.left, one.top, one.width, one.height]
            number = len(truths.dataset["annotations"]) + 1
            common = {"image_id": index, "category_id": 1, "iscrowd": 0, "area": one.area_px}
            truths.dataset["annotations"].append({"id": number, "bbox": box, **common})
        labels, components = label_components(probability > 0.5)
        scores = component_means(probability, labels, components)
        for one, score in zip(components, scores, strict=True):
            box = [one.left, one.top, one.width, one.height]
            found.append({"image_id": index, "category_id": 1, "bbox": box, "score": score})
    truths.createIndex()
    evaluation = evaluator.COCOeval(truths, truths.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    expected = evaluation.eval["precision"][0, :, 0, 0, 2].mean()  # IoU 0.5, all areas, 100 detections an image
    value = curves(pairs, SCORES).statistics()["ap_box_50"].point()
    assert 0.1 < value < 0.9 and value == pytest.approx(expected, abs=1e-9)


def test_intervals_by_the_plain_bootstrap():
    rng = np.random.default_rng(2)
    images = [(np.clip(rng.normal(0.3, 0.2, (12, 12)), 0, 1), rng.random((12, 12)) < 0.03) for _ in range(15)]
    counts = [count_image_at(*pair, THRESHOLDS) for pair in images]
    rng = np.random.default_rng(7)
    plain = [Curves([counts[k] for k in rng.integers(15, size=15)]) for _ in range(60)]
    budgets = {"fa_per_million_px": [40_000], "false_targets_per_megapixel": [20_000.0]}
    found = estimate(Curves(counts).statistics(budgets), num_resamples=60, seed=7)
    assert list(found) == [
        "roc_auc",
        "average_precision",
        "ap_centroid",
        "ap_box_50",
        "pd_at_40000_fa_per_million_px",
        "pd_at_20000_false_targets_per_megapixel",
    ]
    values = {
        "roc_auc": [one.statistics()["roc_auc"].point() for one in plain],
        "average_precision": [one.statistics()["average_precision"].point() for one in plain],
        "pd_at_40000_fa_per_million_px": [
            one.pd_at("fa_per_million_px", 40_000).pd for one in plain if one.pd_at("fa_per_million_px", 40_000)
        ],
        "pd_at_20000_false_targets_per_megapixel": [
            one.pd_at("false_targets_per_megapixel", 20_000).pd
            for one in plain
            if one.pd_at("false_targets_per_megapixel", 20_000)
        ],
    }
    for name, resampled in values.items():
        assert len(set(resampled)) > 3, name
        low, high = np.quantile(resampled, [0.025, 0.975])
        assert (found[name].low, found[name].high) == pytest.approx((low, high), rel=1e-9), name


def test_frames_without_targets():
    found = curves([image((1, 1, 0.9, False))])
    assert np.isnan(found.tpr).all() and np.isnan(found.pd).all()
    assert found.fpr.tolist() == [1 / 1000] * 4
    assert math.isnan(found.statistics()["roc_auc"].point()) and math.isnan(
        found.statistics()["average_precision"].point()
    )
    assert found.pd_at("fa_per_million_px", 1e6) is None


def test_to_dict_is_strict_json():
    found = curves([image((1, 1, 0.9, False)), image()]).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["tpr"] == [None] * 4 and found["roc_auc"] is None
    assert found["thresholds"] == THRESHOLDS.tolist()
    assert (found["num_images"], found["num_targets"], found["num_px"]) == (2, 0, 2000)


def test_refuses():
    with pytest.raises(ValueError, match="`counts` must hold at least one image"):
        Curves([])
    counts = [count_image_at(*IMAGES[0], THRESHOLDS), count_image_at(*IMAGES[1], THRESHOLDS / 2)]
    with pytest.raises(ValueError, match="`counts` must all be at the same thresholds"):
        Curves(counts)
    with pytest.raises(ValueError, match="`budget` must be at least 0 and finite, got -1"):
        curves().pd_at("fa_per_million_px", -1)
    with pytest.raises(ValueError, match="`budget` must be at least 0 and finite, got nan"):
        curves().pd_at("false_targets_per_megapixel", math.nan)

"""All thresholds in one pass against the plain loop. The speed on 214 images, in turns with the plain loop:

python -m pytest -m slow -s tests/evaluation/test_thresholds.py
"""

import time
from dataclasses import fields

import numpy as np
import pytest
from scipy import ndimage

from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.data.folder import IRSTDFolder
from irstd_ldm.evaluation.counts import ImageCounts, count_image
from irstd_ldm.evaluation.matching import MATCHINGS
from irstd_ldm.evaluation.thresholds import count_image_at, default_thresholds

FIELDS = [field.name for field in fields(ImageCounts)]


def plain_loop(probability, truth, thresholds, **settings):
    return [count_image(probability > threshold, truth, **settings) for threshold in thresholds.tolist()]


def check(probability, truth, thresholds, **settings):
    seen = count_image_at(probability, truth, thresholds, **settings)
    expected = plain_loop(probability, truth, thresholds, **settings)
    for name in FIELDS:
        assert getattr(seen, name).tolist() == [getattr(counts, name) for counts in expected], name
    assert [seen.at(index) for index in range(len(thresholds))] == expected


def scaled(values):
    return (values - values.min()) / (np.ptp(values) or 1)


def smoothed_noise(rng, shape, sigma=2.0):
    return scaled(ndimage.gaussian_filter(rng.random(shape), sigma))


def random_map(rng, shape, kind):
    if kind == "noise":
        return rng.random(shape)
    if kind == "smooth":
        return smoothed_noise(rng, shape, rng.uniform(0.5, 3))
    if kind == "plateaus":
        return np.round(smoothed_noise(rng, shape, 1.0) * 8) / 8
    return np.round(smoothed_noise(rng, shape, 1.0) * 255).astype(np.uint8) / np.float32(255)  # an 8-bit file


@pytest.mark.parametrize("kind", ["noise", "smooth", "plateaus", "8 bit"])
@pytest.mark.parametrize("matching", MATCHINGS)
def test_equals_the_plain_loop(kind, matching):
    rng = np.random.default_rng([MATCHINGS.index(matching), len(kind)])
    for _ in range(6):
        shape = rng.integers(1, 45, size=2)
        probability = random_map(rng, shape, kind).astype(rng.choice([np.float32, np.float64]))
        truth = rng.random(shape) < rng.choice([0, 0.01, 0.05, 0.4])
        thresholds = np.sort(rng.random(9)) if rng.random() < 0.5 else default_thresholds(6)
        tolerance = float(rng.choice([1.5, 3, 7]))
        check(probability, truth, thresholds, matching=matching, centroid_tolerance_px=tolerance)


@pytest.mark.parametrize("matching", MATCHINGS)
def test_equals_the_plain_loop_around_real_targets(nuaa_root, matching):
    rng = np.random.default_rng(0)
    for sample in list(IRSTDFolder(nuaa_root, "train"))[:20:8]:
        blurred = ndimage.gaussian_filter(np.roll(sample.mask, 1, axis=1).astype(float), 1.5)
        probability = np.clip(scaled(blurred) + 0.4 * smoothed_noise(rng, sample.mask.shape), 0, 1)
        check(probability, sample.mask, default_thresholds(6), matching=matching)


def test_equals_the_plain_loop_on_the_bundled_checkpoints_maps(nuaa_root):
    pipeline = IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())
    pipeline.set_progress_bar_config(disable=True)
    for sample in list(IRSTDFolder(nuaa_root, "train"))[:2]:
        check(pipeline(sample.image).probability[0, 0], sample.mask, default_thresholds(11))


def test_default_thresholds():
    thresholds = default_thresholds()
    assert len(thresholds) == 133 and np.all(np.diff(thresholds) > 0)
    assert set(np.linspace(0, 1, 101)) <= set(thresholds)
    assert thresholds[:2] == pytest.approx([0, 1e-6]) and 1 - thresholds[-2] == pytest.approx(1e-6)
    assert np.all(np.diff(thresholds.astype(np.float32)) > 0)


def test_by_hand():
    # A target of 2 px at 0.9 and 0.6; one false pixel at 0.7, another at 0.3.
    probability, truth = np.zeros((5, 20)), np.zeros((5, 20), dtype=bool)
    truth[2, 2:4] = True
    probability[2, 2:4] = 0.9, 0.6
    probability[2, 12], probability[2, 18] = 0.7, 0.3
    seen = count_image_at(probability, truth, np.array([0.0, 0.3, 0.6, 0.7, 0.9]))
    assert seen.tp_px.tolist() == [2, 2, 1, 1, 0]
    assert seen.fp_px.tolist() == [2, 1, 1, 0, 0]
    assert seen.hits.tolist() == [1, 1, 1, 1, 0]
    assert seen.predicted.tolist() == [3, 2, 2, 1, 0]
    assert seen.false_alarm_px.tolist() == [2, 1, 1, 0, 0]
    assert seen.legacy_false_alarm_px.tolist() == [2, 1, 0, 0, 0]  # at 0.6 the hit is 1 px like the false alarm
    assert (seen.targets.tolist(), seen.area_px.tolist(), seen.truth_px) == ([1] * 5, [100] * 5, 2)


def test_thresholds_are_compared_in_the_type_of_the_map():
    probability = np.full((1, 1), 51 / 255, dtype=np.float32)  # the float32 nearest 0.2 is above 0.2
    truth = np.ones((1, 1), dtype=bool)
    assert count_image_at(probability, truth, np.array([0.2])).predicted.tolist() == [0]
    assert count_image_at(probability.astype(np.float64), truth, np.array([0.2])).predicted.tolist() == [1]


def test_union_truth_counts_only_in_the_false_negatives():
    truth, union = np.zeros((2, 4, 4), dtype=bool)
    truth[1, 1], union[1, :3] = True, True
    probability = np.where(union, 0.5, 0.0)
    check(probability, truth, np.linspace(0, 1, 5), union_truth=union)
    assert count_image_at(probability, truth, np.array([0.0]), union_truth=union).truth_px == 1


def test_is_several_times_faster_than_the_plain_loop():
    probability = smoothed_noise(np.random.default_rng(0), (256, 256))
    truth = np.zeros((256, 256), dtype=bool)
    truth[100:104, 100:104] = True
    thresholds = np.linspace(0, 1, 51)
    ours, plain = [], []
    for _ in range(2):
        start = time.process_time()
        count_image_at(probability, truth, thresholds)
        middle = time.process_time()
        plain_loop(probability, truth, thresholds)
        ours.append(middle - start)
        plain.append(time.process_time() - middle)
    assert min(ours) < min(plain) / 1.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bundled checkpoint", "smoothed noise"])
def test_214_images_at_101_thresholds_take_less_than_20_s(nuaa_root, kind, capsys):
    samples = list(IRSTDFolder(nuaa_root, "test"))
    if kind == "smoothed noise":
        rng = np.random.default_rng(0)
        maps = [smoothed_noise(rng, sample.mask.shape) for sample in samples]
    else:
        pipeline = IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())
        pipeline.set_progress_bar_config(disable=True)
        maps = [pipeline(sample.image).probability[0, 0] for sample in samples]
    thresholds = np.linspace(0, 1, 101)
    ours = plain = 0.0
    for probability, sample in zip(maps, samples, strict=True):
        start = time.process_time()  # of one thread: the time on a free machine, also on a busy one
        seen = count_image_at(probability, sample.mask, thresholds)
        middle = time.process_time()
        expected = plain_loop(probability, sample.mask, thresholds)
        plain += time.process_time() - middle
        ours += middle - start
        assert [seen.at(index) for index in range(len(thresholds))] == expected
    with capsys.disabled():
        print(f"\n{kind}: {len(samples)} images, {ours:.1f} s in one pass, {plain:.1f} s in the plain loop")
    assert ours < 20


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

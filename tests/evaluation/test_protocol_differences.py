"""What the field's codes give and what ours gives, one hand-made case per difference.

`field_*` functions are re-implementations of what the named codes compute, as few lines as show it.
"""

import numpy as np
import pytest
from scipy import ndimage

from irstd_ldm.evaluation.counts import ImageCounts, count_image
from irstd_ldm.evaluation.metrics import METRICS, fa_per_million_px, iou, pd
from irstd_ldm.evaluation.result import evaluate_probabilities
from irstd_ldm.targets import label_components


def boxes(*corners_and_sizes, shape=(100, 100), value=1.0):
    probability = np.zeros(shape, dtype=np.float32)
    for top, left, height, width in corners_and_sizes:
        probability[top : top + height, left : left + width] = value
    return probability


def evaluated(probability, mask, **settings):
    return evaluate_probabilities([("x", probability, mask)], curves=False, num_resamples=1, **settings)


def field_false_alarm_px(prediction, truth):
    """DNANet, MSHNet, SCTransNet, IRSTD-Diff: components whose AREA is not among the matched areas."""
    components, targets = label_components(prediction)[1], label_components(truth)[1]
    free, matched_areas = list(components), []
    for target in targets:
        for component in free:
            if np.hypot(component.x - target.x, component.y - target.y) < 3:
                matched_areas.append(component.area_px)
                free.remove(component)
                break
    return sum(area for area in (c.area_px for c in components) if area not in matched_areas)


def test_equal_area_false_alarms():
    truth = boxes((10, 10, 3, 3)) > 0
    probability = boxes((10, 10, 3, 3), (40, 40, 3, 3), (70, 70, 3, 3))
    assert field_false_alarm_px(probability > 0.5, truth) == 0
    assert fa_per_million_px(evaluated(probability, truth).counts) == 1800
    legacy = evaluated(probability, truth, legacy_false_alarms=True).summary()
    assert (legacy["fa_per_million_px"], legacy["false_alarm_count"]) == (0, "legacy equal-area")


@pytest.mark.parametrize("seed", range(5))
def test_the_legacy_count_is_the_field_s_on_noise(seed):
    rng = np.random.default_rng(seed)
    prediction, truth = rng.random((60, 60)) < 0.05, rng.random((60, 60)) < 0.01
    seen = count_image(prediction, truth)
    assert seen.legacy_false_alarm_px == field_false_alarm_px(prediction, truth) < seen.false_alarm_px


def test_the_threshold_of_irstd_diff_is_the_data_set_s_mean():
    # Its val.py normalises the saved prediction with the mean and deviation of the images, then tests > 0.
    mean, deviation = 0.2845, 0.2  # the mean is that of IRSTD-1k and NUAA; any deviation
    truth = boxes((10, 10, 3, 3), (30, 30, 3, 3)) > 0
    probability = (
        boxes((10, 10, 3, 3), value=0.9) + boxes((30, 30, 3, 3), value=0.4) + boxes((60, 60, 4, 4), value=0.3)
    )
    field = count_image((probability - mean) / deviation > 0, truth)
    ours = evaluated(probability, truth).counts
    assert (pd(field), fa_per_million_px(field), iou(field)) == (1, 1600, pytest.approx(18 / 34))
    assert (pd(ours), fa_per_million_px(ours), iou(ours)) == (0.5, 0, 0.5)
    assert evaluated(probability, truth, mask_threshold=mean).counts == field


def field_soft_truth_iou(prediction, mask):
    """BasicIRSTD, SCTransNet, MSHNet, DNANet: mask / 255 is never binarised; histograms over [0.5, 1.5]."""
    truth = mask / 255
    count = [np.histogram(a, bins=1, range=(0.5, 1.5))[0][0] for a in (prediction, truth)]
    intersection = np.histogram(prediction * (prediction == truth), bins=1, range=(0.5, 1.5))[0][0]
    return intersection / (sum(count) - intersection)


def grey_rimmed_target():
    """A 5x5 target whose rim of 16 px has the value 128."""
    return (boxes((10, 10, 5, 5), value=128) + boxes((11, 11, 3, 3), value=127)).astype(np.uint8)


def test_soft_truth():
    mask = grey_rimmed_target()
    perfect = (mask > 0).astype(np.float32)
    assert field_soft_truth_iou(perfect, mask) == 9 / 41
    assert iou(evaluated(perfect, mask, protocol="basicirstd").counts) == 9 / 41
    # IRSTD-Diff casts mask / 255 to integers: the truth is what is 255.
    assert iou(count_image(perfect > 0.5, (mask / 255).astype(np.int64) > 0)) == 9 / 25
    assert iou(evaluated(perfect, mask).counts) == 1


def test_a_stray_grey_pixel_is_no_target():
    mask = boxes((10, 10, 3, 3), value=255).astype(np.uint8)
    mask[50, 50] = 64
    assert len(label_components(mask > 0)[1]) == 2
    assert evaluated(np.zeros((100, 100), np.float32), mask).counts.targets == 1


def test_a_resize_to_256_deletes_targets():
    # Of 512 pixels, 256 look at the odd ones. IRSTD-1k: 297 targets at its size, 294 at 256x256.
    mask = np.zeros((512, 512), dtype=np.uint8)
    mask[101, 201] = mask[300, 300] = 255
    nothing = np.zeros((512, 512), dtype=np.float32)
    assert evaluated(nothing, mask).counts.targets == 2
    assert evaluated(nothing, mask, protocol="resize256").counts.targets == 1


def test_a_resize_to_256_forgives_twice_the_distance():
    mask = boxes((200, 200, 4, 4), shape=(512, 512)) > 0
    moved = boxes((200, 204, 4, 4), shape=(512, 512))
    assert pd(evaluated(moved, mask).counts) == 0
    assert pd(evaluated(moved, mask, protocol="resize256").counts) == 1


def test_a_resize_to_256_changes_what_a_false_alarm_weighs():
    mask = np.zeros((512, 384), dtype=bool)
    false_alarm = boxes((100, 100, 6, 6), shape=(512, 384))
    assert fa_per_million_px(evaluated(false_alarm, mask).counts) == pytest.approx(36e6 / (512 * 384))
    # Rows shrink by 2, columns by 1.5: 3 x 4 px are above a half after the bilinear resize.
    resized = evaluated(false_alarm, mask, protocol="resize256").counts
    assert fa_per_million_px(resized) == pytest.approx(12e6 / 256**2)


def field_batch_targets(masks):
    """IRSTD-Diff: components of the whole (B, H, W) array, neighbours across images included."""
    return ndimage.label(masks, structure=np.ones((3, 3, 3)))[1]


def test_batches_are_not_labelled_together():
    # Two images of a batch, a target at the same place in each; the second is missed.
    masks = np.stack([boxes((10, 10, 3, 3)), boxes((10, 10, 3, 3))]) > 0  # (B, H, W)
    predictions = masks.copy()
    predictions[1] = False
    assert field_batch_targets(masks) == 1
    pairs = [(str(k), predictions[k].astype(np.float32), masks[k]) for k in range(2)]
    ours = evaluate_probabilities(pairs, curves=False, num_resamples=1).counts
    assert (ours.targets, ours.hits) == (2, 1)


def test_a_second_evaluation_does_not_remember_the_first():
    # MSHNet and DNANet reset the hits of an epoch, not its targets: Pd falls to 1/2, 1/3, ...
    truth = boxes((10, 10, 3, 3)) > 0
    counts = [evaluated(boxes((10, 10, 3, 3)), truth).counts for _ in range(3)]
    field = [epoch.hits / sum(c.targets for c in counts[: number + 1]) for number, epoch in enumerate(counts)]
    assert field == [1, 1 / 2, 1 / 3]
    assert [pd(epoch) for epoch in counts] == [1, 1, 1]


def test_an_image_empty_in_both():
    # LGLDNet and PyIRSTDMetrics give it an IoU of 0.
    found, empty = boxes((10, 10, 3, 3)), boxes()
    result = evaluate_probabilities([("a", found, found > 0), ("b", empty, empty > 0)], curves=False, num_resamples=1)
    per_image = [image.counts for image in result.per_image]
    field = np.mean([c.tp_px / max(c.tp_px + c.fp_px + c.fn_px, 1) for c in per_image])
    assert (field, METRICS["niou"].value(per_image)) == (0.5, 1)
    assert result.summary()["num_images_empty_in_both"] == 1


def test_fa_is_per_pixel_of_the_real_image():
    # LGLDNet divides by W * W per image; DNANet, MSHNet and IRSTD-Diff by 256 * 256.
    shape = (50, 100)
    false_alarm = boxes((20, 20, 3, 3), shape=shape)
    assert 9e6 / 100**2 == 900
    assert fa_per_million_px(evaluated(false_alarm, np.zeros(shape, dtype=bool)).counts) == 1800


def test_the_distance_of_centroids_alone_makes_a_hit():
    # 400 px centred on 4 px: Pd 1 and Fa 0 in every code, ours too. IoU and hIoU tell.
    truth = boxes((19, 19, 2, 2)) > 0
    seen = evaluated(boxes((10, 10, 20, 20)), truth).summary()
    assert (seen["pd"], seen["fa_per_million_px"], seen["iou"], seen["hiou"]) == (1, 0, 0.01, 0.01)


def test_the_first_component_in_label_order_takes_the_target():
    # Every code is greedy: two of 1 px, the first 2.8 px away, the second on the target.
    truth = boxes((11, 10, 1, 1)) > 0
    probability = boxes((9, 8, 1, 1)) + boxes((11, 10, 1, 1)) + boxes((12, 10, 1, 1))
    assert evaluated(probability, truth).counts.false_alarm_px == 2
    assert evaluated(probability, truth, matching="optimal").counts.false_alarm_px == 1


def test_pixel_f1_is_a_function_of_iou():
    counts = ImageCounts(
        tp_px=30,
        fp_px=10,
        fn_px=5,
        targets=1,
        hits=1,
        predicted=1,
        false_alarm_px=0,
        legacy_false_alarm_px=0,
        area_px=1000,
    )
    precision, recall = METRICS["precision_px"].value([counts]), METRICS["recall_px"].value([counts])
    assert 2 * precision * recall / (precision + recall) == pytest.approx(2 * iou(counts) / (1 + iou(counts)))


def test_a_mask_of_another_size_is_refused():
    # BasicIRSTD and SCTransNet crop it (Misc_111 of NUAA-SIRST: image 325x220, mask 592x400 in common copies).
    with pytest.raises(ValueError, match=r"`probability` of x must have shape \(400, 592\), got \(220, 325\)"):
        evaluated(np.zeros((220, 325), np.float32), np.zeros((400, 592), dtype=bool))

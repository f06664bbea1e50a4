import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

from irstd_ldm.data.crops import (
    VARIATIONS,
    CropSettings,
    TrainingCrops,
    add_defects,
    compress_jpeg,
    hide_borders,
    interlace,
)
from irstd_ldm.data.folder import Sample
from irstd_ldm.data.images import normalize_image

EIGHT = np.ones((3, 3))
crops_of = partial(TrainingCrops, size=64)
robust_crops_of = partial(crops_of, normalization="robust")
PLAIN = CropSettings(  # target crops without any change but flips
    target_probability=1,
    image_probability=0,
    background_probability=0,
    implant_probability=0,
    inversion_probability=0,
    rescale_probability=0,
    gamma_probability=0,
    gain_probability=0,
    range_probability=0,
    blur_probability=0,
    noise_probability=0,
    column_noise_probability=0,
)

PLAIN_OF_ANY_RANGE = replace(PLAIN, **{f"{name}_probability": 0.0 for name in VARIATIONS})


def frame(seed=0, shape=(150, 130)):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return (90 + 20 * noise / noise.std()).clip(0, 255).astype(np.uint8)


def sample(seed=0, centers=((40, 50),), shape=(150, 130), dtype=np.uint8):
    image, mask = frame(seed, shape), np.zeros(shape, bool)
    for row, column in centers:
        mask[row - 1 : row + 2, column - 1 : column + 2] = True
    image = np.where(mask, 230, image).astype(dtype)
    return Sample(f"s_{seed}", image if dtype == np.uint8 else image * dtype(50), mask)


@pytest.fixture(scope="module")
def crops():
    samples = [sample(0), sample(1, [(100, 20), (60, 90)]), sample(2, shape=(40, 70), centers=[(20, 20)])]
    return crops_of([samples], [frame(7, (200, 180))], CropSettings(), seed=5)


def test_items_have_the_stated_shape_type_and_range(crops):
    for k in range(60):
        item = crops[k]
        assert item["image"].shape == item["mask"].shape == (1, 64, 64)
        assert item["image"].dtype == item["mask"].dtype == torch.float32
        assert torch.isfinite(item["image"]).all() and item["image"].abs().max() < 4
        assert set(item["mask"].unique().tolist()) <= {0.0, 1.0}


def test_item_k_depends_on_seed_and_k_alone(crops):
    forward = [crops[k] for k in range(20)]
    again = {k: crops[k] for k in reversed(range(20))}
    for k, item in enumerate(forward):
        assert torch.equal(item["image"], again[k]["image"]) and torch.equal(item["mask"], again[k]["mask"])
    assert not torch.equal(crops[3]["image"], crops[4]["image"])
    assert torch.equal(crops[10**12]["image"], crops[10**12]["image"])
    samples, settings = [sample(0), sample(1)], CropSettings()
    first, second, other = (crops_of([samples], [], settings, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0]["image"], second[0]["image"])
    assert not torch.equal(first[0]["image"], other[0]["image"])


def test_a_target_crop_holds_its_target_whole_and_unchanged():
    source = sample(0)
    crops = crops_of([[source]], [], PLAIN, seed=0)
    places = set()
    for k in range(40):
        item = crops[k]
        mask, image = item["mask"][0].numpy() > 0, item["image"][0].numpy()
        assert mask.sum() == 9
        np.testing.assert_allclose(image[mask], 230 / 127.5 - 1, atol=1e-6)
        assert (image[~mask] < 230 / 127.5 - 1).all()
        places.add(tuple(np.argwhere(mask)[0]))
    assert len(places) > 25


@pytest.mark.parametrize("factory", [crops_of, robust_crops_of])
def test_each_data_set_is_varied_at_its_own_will(factory):
    always = replace(PLAIN, **{f"{name}_probability": 1.0 for name in VARIATIONS})
    sets, second = [[sample(0)], [sample(0)]], (0, 1)  # all crops are of the second
    plain, varied = (factory(sets, [], settings, 0, second) for settings in (PLAIN_OF_ANY_RANGE, always))
    unvaried = factory(sets, [], always, 0, second, None, (1.0, 0.0))
    as_set = factory(sets, [], always, 0, second, None, (0.0, 1.0))
    for k in range(20):
        assert torch.equal(unvaried[k]["image"], plain[k]["image"]), k
        assert torch.equal(as_set[k]["image"], varied[k]["image"]), k
        assert not torch.equal(plain[k]["image"], varied[k]["image"]), k
    with pytest.raises(ValueError, match="`variation_factors` must be one per data set \\(2\\), got"):
        factory(sets, [], always, 0, second, None, (0.0,))


@pytest.mark.parametrize(("probability", "orientations"), [(0.0, 1), (0.5, 8)])
def test_crops_with_targets_are_mirrored_at_will_and_empty_ones_always(probability, orientations):
    source, slope = sample(0), np.add.outer(2 * np.arange(80), np.arange(80)).astype(np.uint8)
    source.mask[40:42, 50:52] = False  # no longer symmetric
    source.mask[41, 50] = True
    settings = replace(PLAIN, flip_probability=probability)
    around = crops_of([[source]], [], settings, seed=0)
    masks = [around[k]["mask"][0].numpy().astype(np.uint8) for k in range(80)]
    shapes = {mask[ndimage.find_objects(mask)[0]].tobytes() for mask in masks}
    settings = replace(settings, target_probability=0, background_probability=1)
    empty = crops_of([[source]], [slope], settings, seed=0)
    corners = [empty[k]["image"][0, :2, :2].numpy() for k in range(80)]
    slopes = {tuple(np.rint(127.5 * (corner[[0, 1], [1, 0]] - corner[0, 0]))) for corner in corners}
    assert (len(shapes), len(slopes)) == (orientations, 8)


def test_outlines_of_crops_that_are_flipped_without_them_have_no_weight():
    source = sample(0)
    source.mask[40:42, 50:52] = False  # no longer symmetric
    source.mask[41, 50] = True
    settings = replace(PLAIN, flip_probability=0, outline_free_flip_probability=0.5)
    crops, shapes = crops_of([[source]], [], settings, seed=0), {True: set(), False: set()}
    for item in (crops[k] for k in range(80)):
        mask, weight = item["mask"][0].numpy() > 0, item["weight"][0].numpy()
        outlines = ndimage.binary_dilation(mask, EIGHT) & ndimage.binary_dilation(~mask, EIGHT)
        is_free = bool((weight == 0).any())
        np.testing.assert_array_equal(weight == 0, outlines & is_free)
        shapes[is_free].add(mask[ndimage.find_objects(mask.astype(np.uint8))[0]].tobytes())
    assert len(shapes[False]) == 1 and len(shapes[True]) == 8


def test_each_data_set_is_flipped_at_its_own_will():
    wide, high = sample(0), sample(0)
    for one in (wide, high):
        one.mask[39:42, 49:52] = False
    wide.mask[40, 45:55], high.mask[38:43, 50] = True, True
    crops, boxes = crops_of([[wide], [high]], [], PLAIN, 0, None, (0.0, 0.5)), set()
    for k in range(60):
        ((rows, columns),) = ndimage.find_objects(crops[k]["mask"][0].numpy().astype(np.uint8))
        boxes.add((rows.stop - rows.start, columns.stop - columns.start))
    assert boxes == {(1, 10), (5, 1), (1, 5)}
    elsewhere = pickle.loads(pickle.dumps(crops))  # in a worker that is spawned
    for k in range(20):
        assert torch.equal(crops[k]["mask"], elsewhere[k]["mask"]), k
    with pytest.raises(ValueError, match="`flip_probabilities` must be one per data set \\(2\\), got"):
        crops_of([[wide], [high]], [], PLAIN, 0, None, (0.0,))


@pytest.mark.parametrize(("probability", "orientations"), [(0.0, {(1, 10), (10, 1)}), (1.0, {(1, 10)})])
def test_implanted_targets_of_the_same_data_set_lie_as_they_lay(probability, orientations):
    wide, bare = sample(0), Sample("bare", frame(4), np.zeros((150, 130), bool))
    wide.mask[39:42, 49:52] = False
    wide.mask[40, 45:55] = True
    wide.image[:] = np.where(wide.mask, 230, frame(3))
    settings = replace(PLAIN, target_probability=0, implant_probability=1, flip_probability=0)
    settings = replace(settings, own_implant_probability=probability)
    crops, boxes = crops_of([[wide, bare]], [], settings, seed=0, size=128), set()
    for k in range(60):
        labels, _ = ndimage.label(crops[k]["mask"][0].numpy(), EIGHT)
        boxes |= {tuple(side.stop - side.start for side in box) for box in ndimage.find_objects(labels)}
    assert {box for box in boxes if 1 in box and 10 in box} == orientations


def test_small_images_are_continued_by_reflection():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    plain = replace(PLAIN, target_probability=0, image_probability=1)
    crops = crops_of([[Sample("a", image, mask)]], [], plain, seed=0)
    for k in range(10):
        pixels = np.rint((crops[k]["image"][0].numpy() + 1) * 127.5).astype(int)
        period_rows = np.array_equal(pixels[:-4], pixels[4:]) or np.array_equal(pixels[:-6], pixels[6:])
        assert period_rows and set(np.unique(pixels)) == set((np.arange(12) * 20).tolist())
        np.testing.assert_array_equal(crops[k]["mask"][0].numpy() > 0, pixels == 6 * 20)


def test_a_one_pixel_image_is_continued():
    crops = crops_of([[Sample("a", np.full((1, 1), 51, np.uint8), np.ones((1, 1), bool))]], [], PLAIN, seed=0)
    np.testing.assert_allclose(crops[0]["image"], -0.6, atol=1e-6)
    assert crops[0]["mask"].all()


def test_background_crops_are_empty_and_from_the_backgrounds():
    settings = replace(PLAIN, target_probability=0, background_probability=1)
    crops = crops_of([[sample(0)]], [np.full((100, 90), 51, np.uint8)], settings, seed=0)
    for k in range(5):
        assert not crops[k]["mask"].any()
        np.testing.assert_allclose(crops[k]["image"], -0.6, atol=1e-6)
    without = crops_of([[sample(0)]], [], settings, seed=0)
    assert without[0]["image"].std() > 0.01


def test_background_crops_lie_around_hard_negatives():
    settings = replace(PLAIN, target_probability=0, background_probability=1, hard_negative_probability=1)
    frames = [np.full((300, 280), level, np.uint8) for level in (40, 80)]
    frames[1][200, 50] = 250
    crops = crops_of([[sample(0)]], frames, settings, seed=0)
    assert not any((crops[k]["image"] > 0.9).any() for k in range(3))  # none are known yet
    crops.hard_negatives.append((1, np.array([200, 50])))
    places = set()
    for k in range(20):
        bright = np.argwhere(crops[k]["image"][0].numpy() > 0.9)
        assert len(bright) == 1 and not crops[k]["mask"].any()
        places.add(tuple(bright[0]))
    assert len(places) > 15
    half = crops_of([[sample(0)]], frames, replace(settings, hard_negative_probability=0.5), seed=0)
    half.hard_negatives.append((1, np.array([200, 50])))
    assert 10 < sum(bool((half[k]["image"] > 0.9).any()) for k in range(60)) < 50


def test_crops_of_images_lie_around_hard_ones():
    settings = replace(PLAIN, target_probability=0, image_probability=1, hard_image_probability=1)
    crops = crops_of([[sample(0)], [sample(0), sample(200)]], [], settings, seed=0)
    assert {crops[k]["mask"].sum().item() for k in range(30)} > {0.0}
    crops.hard_images.append((1, 1, crops._sets[1][1].target_centers[0]))
    assert all(crops[k]["mask"].any() for k in range(30))


def test_background_crops_are_blended_with_other_empty_ones_alone():
    settings = replace(PLAIN, target_probability=0, background_probability=1, blend_probability=1)
    crops = crops_of([[sample(0)]], [np.full((90, 90), level, np.uint8) for level in (51, 204)], settings, seed=0)
    values = np.array([crops[k]["image"].unique().item() for k in range(60)])
    between = values[(values > -0.6 + 1e-5) & (values < 0.6 - 1e-5)]
    assert len(between) > 15 and np.ptp(between) > 0.5  # the others are two crops of one frame
    assert np.abs(values).max() < 0.6 + 1e-5
    labelled = np.full((64, 64), 100, np.uint8), np.ones((64, 64), bool)
    crops = crops_of([[Sample("a", *labelled), sample(0, shape=(64, 64))]], [], settings, seed=0)
    for k in range(20):
        if crops[k]["mask"].all():
            np.testing.assert_allclose(crops[k]["image"], 100 / 127.5 - 1, atol=1e-6)


def test_background_crops_are_negatives_of_training_images():
    settings = replace(PLAIN, target_probability=0, background_probability=1, negative_image_probability=1)
    crops = crops_of([[sample(0, shape=(64, 64))]], [np.full((90, 90), 51, np.uint8)], settings, seed=0)
    flips = [np.sort(crops[k]["image"].ravel()) for k in range(4)]
    for k, pixels in enumerate(flips):
        assert not crops[k]["mask"].any()
        np.testing.assert_allclose(pixels, np.sort(1 - sample(0, shape=(64, 64)).image.ravel() / 127.5), atol=1e-6)


def test_frames_without_targets_are_synthetic_scenes_at_a_share():
    flat = np.full((90, 90), 51, np.uint8)
    settings = replace(PLAIN, target_probability=0, background_probability=1, synthetic_probability=0.5)
    crops = crops_of([[sample(0)]], [flat], settings, seed=0)
    scenes = [crops[k]["image"] for k in range(60) if crops[k]["image"].std() > 1e-3]
    assert 20 < len(scenes) < 40
    assert len({float(scene.mean()) for scene in scenes}) == len(scenes)
    assert not any(crops[k]["mask"].any() for k in range(60))
    implanted = replace(settings, background_probability=0, implant_probability=1, synthetic_probability=1)
    crops = crops_of([[sample(0)]], [flat], implanted, seed=0)
    assert sum(bool(crops[k]["mask"].any()) for k in range(20)) > 15
    assert torch.equal(crops[7]["image"], crops_of([[sample(0)]], [flat], implanted, seed=0)[7]["image"])


def test_stuck_pixels_are_single_and_spare_targets():
    settings = replace(PLAIN, stuck_pixel_probability=1)
    plain, stuck = (
        crops_of([[sample(0, shape=(64, 64), centers=[(30, 30)])]], [], one, seed=3) for one in (PLAIN, settings)
    )
    levels = []
    for k in range(40):
        changed = (stuck[k]["image"] != plain[k]["image"]).numpy()
        assert 1 <= changed.sum() <= 10
        assert not changed[stuck[k]["mask"].numpy() > 0].any()
        levels += stuck[k]["image"].numpy()[changed].tolist()
    assert {-1.0, 1.0} < set(levels) and min(levels) == -1 and max(levels) == 1


def test_frames_without_targets_have_a_range_of_scales_of_their_own():
    settings = replace(
        PLAIN,
        target_probability=0,
        background_probability=1,
        rescale_probability=1,
        background_rescale_min=2,
        background_rescale_max=2,
    )
    ramp = np.repeat(np.arange(128, dtype=np.uint8)[None], 128, axis=0)  # one gray level per pixel
    crops = crops_of([[sample(0)]], [ramp], settings, seed=0)
    for k in range(8):
        steps = np.abs(np.gradient((crops[k]["image"][0].numpy() + 1) * 127.5))
        assert np.median(np.maximum(*steps)) == pytest.approx(0.5, abs=0.02)
    settings = replace(settings, target_probability=1, background_probability=0, rescale_min=1, rescale_max=1)
    image = crops_of([[sample(0)]], [], settings, seed=0)[0]
    assert image["mask"].sum() == 9


@pytest.mark.parametrize("bounds", [(0, 1), (2, 1)])
def test_a_range_of_scales_is_positive_and_in_order(bounds):
    with pytest.raises(ValueError, match="`background_rescale_min` and `background_rescale_max` must be"):
        CropSettings(background_rescale_min=bounds[0], background_rescale_max=bounds[1])


def test_only_frames_without_targets_are_inverted():
    settings = replace(PLAIN, target_probability=0.5, background_probability=0.5, inversion_probability=1)
    crops = crops_of([[sample(0)]], [np.full((100, 90), 51, np.uint8)], settings, seed=0)
    items = [crops[k] for k in range(20)]
    backgrounds = [item["image"] for item in items if not item["mask"].any()]
    around_targets = [item for item in items if item["mask"].any()]
    assert backgrounds and around_targets
    for image in backgrounds:
        np.testing.assert_allclose(image, 0.6, atol=1e-6)
    for item in around_targets:
        np.testing.assert_allclose(item["image"][item["mask"] > 0], 230 / 127.5 - 1, atol=1e-6)


def test_implanted_crops_show_every_target_they_label():
    settings = replace(PLAIN, target_probability=0, implant_probability=1)
    flat = np.full((100, 90), 80, np.uint8)
    crops = crops_of([[sample(0)]], [flat], settings, seed=0)
    counts = []
    for k in range(80):
        mask, image = crops[k]["mask"][0].numpy() > 0, crops[k]["image"][0].numpy()
        if abs(np.median(image) - (80 / 127.5 - 1)) > 1e-5:  # from the labelled image
            continue
        labels, num_targets = ndimage.label(mask, EIGHT)
        counts.append(num_targets)
        means = ndimage.mean(image, labels, range(1, num_targets + 1))
        assert np.all((np.array(means) + 1) * 127.5 > 83)
    assert set(counts) == {1, 2, 3}


def test_rescaling_keeps_every_target():
    settings = replace(PLAIN, rescale_probability=1)
    source = sample(0)
    source.mask[:] = False
    source.mask[40, 50] = True  # one pixel: halved, it would vanish
    crops = crops_of([[source]], [], settings, seed=0)
    areas = [int(crops[k]["mask"].sum()) for k in range(60)]
    assert min(areas) >= 1 and max(areas) > 1


def test_rescaling_enlarges_and_shrinks():
    areas = [
        int(crops_of([[sample(0)]], [], replace(PLAIN, rescale_probability=1), seed=0)[k]["mask"].sum())
        for k in range(40)
    ]
    assert min(areas) < 9 < max(areas)


def test_brightness_changes_do_not_clip_targets_away():
    bright = sample(0)
    bright.image[:] = np.where(bright.mask, 255, 245)
    settings = replace(PLAIN, gain_probability=1, offset_min=0.2, offset_max=0.3)
    dark = sample(0)
    dark.image[:] = np.where(dark.mask, 12, 4)
    for source, chosen in ((bright, settings), (dark, replace(settings, offset_min=-0.3, offset_max=-0.2))):
        crops = crops_of([[source]], [], chosen, seed=0)
        for k in range(10):
            image, mask = crops[k]["image"], crops[k]["mask"] > 0
            assert image.min() >= -1 and image.max() <= 1
            assert image[mask].min() > image[~mask].max() + 0.02


def test_16_bit_frames_are_normalised_by_their_percentiles():
    crops = crops_of([[sample(0, dtype=np.uint16)]], [], PLAIN, seed=0)
    image, mask = crops[0]["image"], crops[0]["mask"] > 0
    assert image.max() > 1 and image[mask].min() == image.max()
    assert -1.2 < image.min() < 0


def test_range_normalisation_stretches_a_weak_crop():
    weak = sample(0)
    weak.image[:] = 100 + weak.image // 8
    crops = crops_of([[weak]], [], replace(PLAIN, range_probability=1), seed=0)
    assert all(crops[k]["image"].max() - crops[k]["image"].min() > 1.5 for k in range(10))
    assert all(item["image"].std() < 0.1 for item in (crops_of([[weak]], [], PLAIN, seed=0)[k] for k in range(10)))


def test_settings_and_samples_are_checked():
    with pytest.raises(ValueError, match="sum to 1"):
        replace(PLAIN, image_probability=0.5)
    with pytest.raises(ValueError, match="`size`"):
        crops_of([[sample(0)]], [], PLAIN, seed=0, size=32)
    with pytest.raises(ValueError, match="`samples`"):
        crops_of([[Sample("a", frame(), np.zeros((150, 130), bool))]], [], PLAIN, seed=0)


def test_squeezed_crops_have_few_levels_and_keep_visible_targets():
    plain = crops_of([[sample(0)]], [], PLAIN, seed=3)
    squeezed = crops_of([[sample(0)]], [], replace(PLAIN, squeeze_probability=1.0), seed=3)
    for k in range(10):
        before, after = plain[k], squeezed[k]
        assert len(before["image"].unique()) > 27 >= len(after["image"].unique())
        assert torch.equal(before["mask"], after["mask"])  # a target of 110 gray levels of contrast never merges


def test_a_negative_is_stretched_by_its_own_range():
    ramp = np.tile(np.linspace(20, 60, 64), (64, 1)).astype(np.uint8)
    settings = replace(PLAIN, target_probability=0, background_probability=1, range_probability=1)
    negatives = replace(settings, negative_image_probability=1)
    inverted = replace(settings, inversion_probability=1)
    frames = {
        "as it is": crops_of([[sample(0)]], [ramp], settings, seed=0),
        "negative": crops_of([[Sample("ramp", ramp, np.eye(64) > 2), sample(0)]], [ramp], negatives, seed=0),
        "inverted": crops_of([[sample(0)]], [ramp], inverted, seed=0),
    }
    for name, crops in frames.items():
        images = torch.stack([crops[k]["image"] for k in range(40)])
        assert all(abs(float(image.median())) < 1 and float(image.max() - image.min()) > 0.5 for image in images), name


STILL = replace(  # target crops, nothing varied on the robust scale either
    PLAIN,
    own_range_probability=0,
    quantise_probability=0,
    defect_probability=0,
    border_probability=0,
    interlace_probability=0,
    compress_probability=0,
    gain_min=1,
    gain_max=1,
    offset_min=0,
    offset_max=0,
)


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16, np.float32))
def test_a_robust_crop_has_its_frames_range(dtype):
    one = sample(0, dtype=dtype)
    item = robust_crops_of([[one]], [], STILL, seed=0)[0]
    whole = normalize_image(one.image, normalization="robust")
    crop = item["image"][0].numpy()
    found = {np.round(value, 3) for value in crop[item["mask"][0].numpy() > 0].ravel()}
    assert found == {np.round(value, 3) for value in whole[one.mask]}
    assert abs(np.median(crop) - np.median(whole)) < 0.2


def test_a_crop_with_its_own_range_is_centred_as_a_detector_would_centre_it():
    """Also where its frame's range is much wider: half of this one is flat sky, half is ground."""
    one = sample(0, centers=((40, 50),), shape=(300, 130))
    rows = np.arange(300)[:, None]
    image = np.where(rows < 150, one.image // 8, one.image).astype(np.uint8)
    settings = replace(STILL, own_range_probability=1, offset_min=-0.15, offset_max=0.15)
    crops = robust_crops_of([[Sample("a", image, one.mask)]], [], settings, seed=0)
    assert max(abs(np.median(crops[k]["image"])) for k in range(20)) < 0.8


def test_a_16_bit_frame_with_hot_pixels_keeps_its_contrast():
    one = sample(0, dtype=np.uint16)
    rng = np.random.default_rng(0)
    hot = one.image.copy()
    hot.flat[rng.integers(hot.size, size=hot.size // 300)] = 65535
    settings = replace(STILL, gamma_probability=1, quantise_probability=1, compress_probability=1)
    for image in (one.image, hot):
        crops = robust_crops_of([[Sample("a", image, one.mask)]], [], settings, seed=0)
        for k in range(10):
            crop, mask = crops[k]["image"][0].numpy(), crops[k]["mask"][0].numpy() > 0
            assert np.median(crop[mask]) - np.median(crop[~mask]) > 0.5


def test_a_negatives_range_is_mirrored():
    settings = replace(STILL, target_probability=0, background_probability=1, inversion_probability=1)
    frames = [frame(3)]
    positive = robust_crops_of([[sample(0)]], frames, replace(settings, inversion_probability=0), seed=1)
    negative = robust_crops_of([[sample(0)]], frames, settings, seed=1)
    values = [
        np.sort(np.concatenate([crops[k]["image"].numpy().ravel() for k in range(20)]))
        for crops in (positive, negative)
    ]
    np.testing.assert_allclose(np.quantile(values[1], (0.1, 0.9)), -np.quantile(values[0], (0.9, 0.1)), atol=0.25)


def test_every_sensor_variation_keeps_crops_finite_and_on_scale():
    always = replace(
        CropSettings(),
        **{
            f"{name}_probability": 1.0
            for name in (
                "gamma",
                "blur",
                "noise",
                "column_noise",
                "quantise",
                "defect",
                "border",
                "interlace",
                "compress",
            )
        },
    )
    crops = robust_crops_of([[sample(0), sample(1)]], [frame(7, (200, 180))], always, seed=2)
    for k in range(60):
        item = crops[k]
        assert torch.isfinite(item["image"]).all() and item["image"].abs().max() < 6
        assert item["image"].dtype == torch.float32
        assert torch.equal(item["image"], crops[k]["image"])


def test_what_a_border_hides_is_no_target():
    settings = replace(STILL, border_probability=1)
    crops = robust_crops_of([[sample(0, [(40, 50), (60, 60), (20, 20)])]], [], settings, seed=0)
    plain = robust_crops_of([[sample(0, [(40, 50), (60, 60), (20, 20)])]], [], STILL, seed=0)
    counts = [(int(plain[k]["mask"].sum()), int(crops[k]["mask"].sum())) for k in range(40)]
    assert all(after <= before for before, after in counts) and any(after < before for before, after in counts)


def test_data_sets_have_their_shares_of_the_crops():
    dark, bright = (
        Sample(name, np.full((64, 64), level, np.uint8), np.eye(64, dtype=bool))
        for name, level in (("a", 10), ("b", 200))
    )
    crops = crops_of([[dark] * 5, [bright]], [], PLAIN, 0, shares=(1, 3))
    share = np.mean([crops[k]["image"].mean() > 0 for k in range(200)])
    assert 0.65 < share < 0.85
    for shares in ((1,), (1, -1), (0, 0)):
        with pytest.raises(ValueError, match="`shares` must be one number >= 0 per data set"):
            crops_of([[dark], [bright]], [], PLAIN, 0, shares=shares)


def smooth(seed: int = 0, size: int = 96) -> np.ndarray:
    rows, columns = np.indices((size, size)) / size
    noise = np.random.default_rng(seed).normal(0, 0.01, (size, size))
    return (0.4 + 0.2 * rows * columns + noise).astype(np.float32)


def test_defects_are_few_pixels_far_from_the_scene():
    image, mask, shares, distances = smooth(), np.ones((96, 96), bool), [], []
    for seed in range(40):
        with_defects, left = add_defects(image, mask, 0.2, np.random.default_rng(seed))
        changed = with_defects != image
        assert np.array_equal(left, ~changed)  # what a defect covers is no target
        shares.append(changed.mean())
        distances.append(np.abs(with_defects - image).max() / 0.2)
    assert 0 < min(shares) and max(shares) < 0.15
    assert max(distances) > 20 and min(distances) > 0.2
    assert image.tobytes() == smooth().tobytes()  # not changed in place


def test_borders_are_of_one_value_and_hide_targets():
    image, mask = smooth(), np.ones((96, 96), bool)
    shares = []
    for seed in range(40):
        shown, visible = hide_borders(image, mask, np.random.default_rng(seed))
        assert shown.dtype == np.float32
        assert len(np.unique(shown[~visible])) <= 1
        assert np.array_equal(shown[visible], image[visible])
        shares.append(1 - visible.mean())
    assert max(shares) > 0.2 and sum(share > 0 for share in shares) > 30


def test_interlacing_moves_every_other_row_of_image_and_mask():
    image, mask = smooth(), np.zeros((96, 96), bool)
    mask[40:44, 50:53] = True
    image[mask] = 1
    for seed in range(8):
        moved, moved_mask = interlace(image, mask, np.random.default_rng(seed))
        assert np.array_equal(moved[::2], image[::2]) and np.array_equal(moved_mask[::2], mask[::2])
        assert np.array_equal(moved == 1, moved_mask) and moved_mask.sum() == mask.sum()
        assert not np.array_equal(moved[1], image[1])


def test_interlacing_brings_nothing_from_the_other_side():
    image, mask = smooth(), np.zeros((96, 96), bool)
    image[:, :3], mask[:, :3] = 1, True
    for seed in range(8):
        moved, moved_mask = interlace(image, mask, np.random.default_rng(seed))
        assert not moved_mask[:, 48:].any() and np.array_equal(moved == 1, moved_mask)


def test_compression_is_mild():
    image = smooth()
    compressed = compress_jpeg(image, np.random.default_rng(0))
    assert compressed.shape == image.shape and compressed.dtype == np.float32
    assert 0 < np.abs(compressed - image).mean() < 0.01


@pytest.mark.parametrize(
    "function",
    [
        lambda image, rng: add_defects(image, np.ones(image.shape, bool), 0.2, rng)[0],
        lambda image, rng: interlace(image, np.ones(image.shape, bool), rng)[0],
        compress_jpeg,
    ],
)
def test_the_generator_decides(function):
    first, again, other = (function(smooth(), np.random.default_rng(seed)) for seed in (1, 1, 3))
    assert first.tobytes() == again.tobytes() and first.tobytes() != other.tobytes()

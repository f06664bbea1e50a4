import numpy as np
import pytest
from scipy import ndimage

from irstd_ldm.data.synthetic import SCENE_KINDS, power_law_noise, synthetic_scene
from irstd_ldm.targets import label_components, signal_to_clutter_ratios


def measure_scr(image, labels, label):
    """The definition written out anew."""
    rows, columns = np.nonzero(labels == label)
    ring = np.zeros(labels.shape, bool)
    ring[max(rows.min() - 10, 0) : rows.max() + 11, max(columns.min() - 10, 0) : columns.max() + 11] = True
    clutter = image[ring & (labels == 0)].astype(float)
    return (image[labels == label].mean() - clutter.mean()) / clutter.std()


@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize("scr", [2.0, 4.0, 12.0])
@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_targets_have_the_requested_scr(kind, scr, bit_depth):
    scene = synthetic_scene(160, 144, kind=kind, num_targets=3, scr=scr, seed=11, bit_depth=bit_depth)
    labels, num_targets = ndimage.label(scene.mask, np.ones((3, 3)))
    assert num_targets == len(scene.targets) == 3
    for target in scene.targets:
        label = labels[round(target.y), round(target.x)]
        assert label > 0
        achieved = measure_scr(scene.image, labels, label)
        assert achieved == pytest.approx(scr, rel=0.15)
        assert achieved == pytest.approx(target.scr, abs=1e-6)


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_masks_are_the_targets_listed(kind):
    for seed in range(4):
        scene = synthetic_scene(128, 128, kind=kind, num_targets=3, seed=seed)
        rows, columns = np.indices(scene.mask.shape)
        expected = np.zeros(scene.mask.shape, bool)
        for target in scene.targets:
            distance = np.hypot(rows - target.y, columns - target.x)
            near = distance < 4 * target.sigma_px
            assert (scene.mask & near).sum() == target.area_px >= 4
            # an unintegrated Gaussian falls to 0.2 of its centre at 1.79 sigma; pixels and the peak's offset blur that
            assert scene.mask[distance < 1.79 * target.sigma_px - 0.5].all()
            assert not scene.mask[near & (distance > 1.79 * target.sigma_px + 0.8)].any()
            expected |= near
        assert not scene.mask[~expected].any()
        assert scene.mask[[0, -1]].sum() == scene.mask[:, [0, -1]].sum() == 0


def test_targets_keep_apart():
    for seed in range(5):
        targets = synthetic_scene(192, 192, num_targets=8, seed=seed).targets
        for index, target in enumerate(targets):
            for other in targets[:index]:
                assert max(abs(target.x - other.x), abs(target.y - other.y)) > 10


def test_image_types_and_sizes():
    eight, sixteen = (synthetic_scene(64, 100, seed=1, bit_depth=depth).image for depth in (8, 16))
    assert eight.dtype == np.uint8 and sixteen.dtype == np.uint16
    assert eight.shape == sixteen.shape == (64, 100)
    assert 256 < sixteen.max() <= 16383


def test_equal_seeds_give_equal_scenes():
    first, second, other = (synthetic_scene(64, 64, num_targets=1, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert first.targets == second.targets
    assert (first.image != other.image).any()


def test_without_targets_the_mask_is_empty():
    scene = synthetic_scene(64, 64, num_targets=0)
    assert scene.targets == [] and not scene.mask.any()


def test_every_kind_is_drawn_and_differs():
    images = [synthetic_scene(64, 64, kind=kind, num_targets=0, seed=2).image for kind in SCENE_KINDS]
    drawn = [synthetic_scene(64, 64, num_targets=0, seed=seed).image for seed in range(3)]
    assert len({image.tobytes() for image in images + drawn}) == 7


def test_power_law_noise_has_the_requested_slope():
    noise = power_law_noise(256, 256, 3.0, np.random.default_rng(0))
    assert noise.shape == (256, 256) and abs(noise.mean()) < 1e-9 and noise.std() == pytest.approx(1)
    window = np.hanning(256)[:, None] * np.hanning(256)
    power = np.abs(np.fft.rfft2(noise * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256))
    bands = [(low, 2 * low) for low in (0.02, 0.04, 0.08, 0.16)]
    means = [np.log(power[(frequency >= low) & (frequency < high)]).mean() for low, high in bands]
    assert np.diff(means) == pytest.approx(-3 * np.log(2), abs=0.25)


def test_signal_to_clutter_ratio_by_hand():
    image = np.zeros((41, 41))
    image[:, ::2] = 2  # in a box of 21 columns 19 to 21 shifted by 10: 11 or 10 of them
    target = np.zeros((41, 41), bool)
    target[20, 20] = True
    image[20, 20] = 9
    image[0, 0] = 1000  # outside the ring
    # the ring's 440 pixels: columns 10, 12, ..., 30 are 2: 11 * 21 - 1 = 230 twos and 210 zeros
    share = 230 / 440
    expected = (9 - 2 * share) / (2 * np.sqrt(share * (1 - share)))
    assert signal_to_clutter_ratios(image, *label_components(target)) == pytest.approx([expected])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"height": 63}, "`height`"),
        ({"kind": "space"}, "`kind`"),
        ({"num_targets": -1}, "`num_targets`"),
        ({"scr": 0}, "`scr`"),
        ({"scr": float("nan")}, "`scr`"),
        ({"bit_depth": 12}, "`bit_depth`"),
        ({"height": 64, "width": 64, "num_targets": 50}, "`num_targets` 50"),
        ({"scr": 1000.0}, "`scr` 1000"),
    ],
)
def test_arguments_are_checked_by_name(arguments, name):
    with pytest.raises(ValueError, match=name):
        synthetic_scene(**arguments)

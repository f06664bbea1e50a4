"""Distances of synthetic images on cases that can be worked out by hand."""

import numpy as np
import pytest
from image_statistics import (
    FLOOR_POWER,
    compare_targets,
    frechet_distance,
    grid_correlation,
    high_frequency_difference,
    nearest_training_images,
    patch_features,
    radial_spectrum,
    random_crops,
    spectrum_distance,
    surroundings_profiles,
    target_contrasts,
    thumbnails,
)
from scipy import ndimage


def noise(count: int = 40, side: int = 64, sigma: float = 10.0, seed: int = 0) -> np.ndarray:
    return (100 + sigma * np.random.default_rng(seed).standard_normal((count, side, side))).astype(np.float32)


def test_white_noise_has_a_flat_spectrum_at_its_variance():
    frequency, spectrum = radial_spectrum(noise(200))
    assert frequency[[0, -1]].tolist() == [1 / 64, 0.5] and frequency.shape == spectrum.shape == (32,)
    assert spectrum[8:] == pytest.approx(
        20, abs=0.3
    )  # rings of many pixels: the mean of the log is the log of the mean
    _, doubled = radial_spectrum(noise(200, sigma=20.0))
    assert spectrum_distance(doubled, spectrum) == pytest.approx(20 * np.log10(2), abs=0.05)


def test_a_wave_is_at_its_frequency():
    wave = 10 * np.cos(2 * np.pi * np.arange(64) / 8) * np.ones((64, 1))
    frequency, spectrum = radial_spectrum(wave[None])
    assert frequency[np.argmax(spectrum)] == 1 / 8
    assert spectrum[frequency > 0.2] == pytest.approx(10 * np.log10(FLOOR_POWER), abs=0.1)


def test_a_flat_crop_is_at_the_floor_and_equal_sets_are_at_no_distance():
    _, spectrum = radial_spectrum(np.full((2, 32, 32), 77.0))
    assert spectrum == pytest.approx(10 * np.log10(FLOOR_POWER))
    crops = noise()
    assert spectrum_distance(*(radial_spectrum(crops)[1] for _ in range(2))) == 0
    assert frechet_distance(patch_features(crops), patch_features(crops)) == pytest.approx(0, abs=1e-5)


def test_blur_lowers_the_high_frequencies():
    crops = noise()
    blurred = ndimage.gaussian_filter(crops, (0, 1, 1))
    frequency, spectrum = radial_spectrum(crops)
    lower = radial_spectrum(blurred)[1]
    assert high_frequency_difference(frequency, lower, spectrum) < -10
    assert (spectrum - lower)[0] < 1 < 10 < (spectrum - lower)[-1]
    assert frechet_distance(patch_features(blurred), patch_features(crops)) > 1


def test_crops_of_one_name_are_at_the_same_places():
    image = np.arange(70.0 * 90).reshape(70, 90)
    crops = random_crops([image, image, image + 1], ["a", "b", "a"], 64, 2, seed=3)
    assert crops.shape == (6, 64, 64) and (np.diff(crops, axis=2) == 1).all()
    assert np.array_equal(crops[4:], crops[:2] + 1)
    assert not np.array_equal(crops[2:4], crops[:2]) and not np.array_equal(crops[0], crops[1])
    assert np.array_equal(random_crops([image], ["b"], 64, 2, seed=3), crops[2:4])
    assert not np.array_equal(random_crops([image], ["b"], 64, 2, seed=4), crops[2:4])
    with pytest.raises(ValueError, match="`side_px` must be no more .* 'small' is 90x64"):
        random_crops([image, image[:64]], ["a", "small"], 65, 1, 0)


def test_features_of_known_patches():
    flat = np.full((8, 8), 50.0)
    steps = np.tile([0.0, 1.0], (8, 4))  # mean 1/2, deviation 1/2, 1 across and 0 down
    peak = np.zeros((8, 8))
    peak[3, 3] = 64.0  # mean 1, of skewness (n - 2) / sqrt(n - 1)
    features = patch_features(np.stack([flat, steps, peak]))
    assert features[0] == pytest.approx([50, 0, 0, 0, 0])
    assert features[1, :4] == pytest.approx([0.5, np.log2(1.5), 0, np.log2(1.5)])
    assert features[2, 0] == 1 and features[2, 2] == pytest.approx(62 / np.sqrt(63))
    assert patch_features(1000 + noise(1, 8))[0, 1:] == pytest.approx(patch_features(noise(1, 8))[0, 1:], abs=1e-3)


def gaussian_pair(mean: float, deviation: float) -> np.ndarray:
    """Four points of uncorrelated features, of this mean and sample deviation in both."""
    corners = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    return mean + deviation * corners * np.sqrt(3 / 4)


def test_frechet_distance_of_known_gaussians():
    unit = gaussian_pair(0, 1) / np.sqrt(3 / 4)  # of population deviation 1: what the features are divided by is 1
    assert frechet_distance(unit + 3, unit) == pytest.approx(np.sqrt(2 * 3**2))
    assert frechet_distance(3 * unit, unit) == pytest.approx(np.sqrt(2 * (3 - 1) ** 2 * 4 / 3))
    assert frechet_distance(5 * (unit + 3), 5 * unit) == pytest.approx(np.sqrt(18))  # of any unit
    turned = unit @ (np.array([[1, 1], [-1, 1]]) / np.sqrt(2)).T
    assert frechet_distance(turned, unit) == pytest.approx(0, abs=1e-6)
    constant = np.column_stack([unit[:, 0], np.full(4, 7.0)])
    assert frechet_distance(constant + [0, 2], constant) == pytest.approx(2)


def scene(first: float, second: float) -> tuple[np.ndarray, np.ndarray]:
    """A level of 20 and two targets of 2x2 px above it, with their mask."""
    image, mask = np.full((64, 64), 20, np.float32), np.zeros((64, 64), bool)
    for top, contrast in ((10, first), (40, second)):
        image[top : top + 2, 30:32] += contrast
        mask[top : top + 2, 30:32] = True
    return image, mask


def test_contrasts_before_and_after():
    source, mask = scene(80, 40)
    assert target_contrasts(source, mask)[0] == 80
    made, _ = scene(40, -4)
    labelled = mask & (np.arange(64)[:, None] < 30)
    halved, lost = compare_targets(source, mask, made, labelled)
    assert (halved.before, halved.after, halved.ratio, halved.labelled) == (80, 40, 0.5, True)
    assert (lost.before, lost.after, lost.ratio, lost.labelled) == (40, -4, -0.1, False)
    (dark,) = compare_targets(*(scene(0, -10)[0], scene(0, -10)[1] & ~labelled), scene(0, -5)[0], mask)
    assert dark.ratio == 0.5  # a dark target that stays one
    assert np.isnan(compare_targets(*scene(0, 1), made, mask)[0].ratio)
    with pytest.raises(ValueError, match="`synthetic` must have the shape"):
        compare_targets(source, mask, made[:32], mask)


def test_a_target_without_a_ring_has_no_contrast():
    everything = np.ones((4, 4), bool)
    assert np.isnan(target_contrasts(np.ones((4, 4)), everything)).all()


def test_thumbnails_have_no_level_and_no_gain():
    image = ndimage.gaussian_filter(noise(1, 128)[0], 2)
    first, second, flat = thumbnails([image, 3 * image + 20, np.full((70, 90), 5, np.float32)])
    assert first @ first == pytest.approx(1) and first @ second == pytest.approx(1, abs=1e-6)
    assert not flat.any()


def test_a_copy_of_another_training_image_is_reported():
    training = thumbnails(ndimage.gaussian_filter(noise(4, 64), (0, 2, 2)))
    synthetic = training[[0, 1, 3]]  # the third was to be made of image 2
    found = nearest_training_images(synthetic, training, [0, 1, 2])
    assert found.nearest_other_share == pytest.approx(1 / 3)
    assert found.median_own == pytest.approx(1)
    assert found.highest_other == pytest.approx(1) and found.pair == (2, 3)
    assert found.highest_other_of_source == pytest.approx(training[2] @ training[3])
    faithful = nearest_training_images(training, training, range(4))
    assert faithful.nearest_other_share == 0 and faithful.highest_other < 0.5
    assert faithful.highest_other == pytest.approx(faithful.highest_other_of_source)


def test_a_ring_around_a_target_is_seen_in_level_and_texture():
    mask = np.zeros((64, 64), bool)
    mask[30:33, 30:34] = True
    distance = np.ceil(ndimage.distance_transform_edt(~mask))
    real = noise(1, 64)[0]
    level, texture = surroundings_profiles(real + 7, mask)
    assert level.shape == texture.shape == (1, 8)
    far = real[(distance >= 9) & (distance <= 12)].mean()
    assert level[0, 2] == pytest.approx(real[distance == 3].mean() - far, abs=1e-4)
    ringed = np.where((distance == 2) | (distance == 3), real + 5, real)
    assert surroundings_profiles(ringed, mask)[0] - level == pytest.approx(
        np.eye(8)[1:3].sum(axis=0)[None] * 5, abs=1e-4
    )
    smooth = np.where(distance <= 6, ndimage.gaussian_filter(real, 2), real)
    assert (surroundings_profiles(smooth, mask)[1][0, :5] < 0.4 * texture[0, :5]).all()
    assert surroundings_profiles(real, np.zeros_like(mask))[0].shape == (0, 8)


def test_what_repeats_every_four_pixels_is_a_grid():
    crops = noise()
    assert grid_correlation(crops, 4) == pytest.approx(0, abs=0.01)
    grid = 5 * (np.arange(64) % 4 == 0)
    # Differences of variance 200 and -5, 0, 0, 5 again and again, along one axis of two: (12.5 + 6.25) / 212.5 / 2.
    for crops_with_grid in (crops + grid, crops + grid[:, None]):
        assert grid_correlation(crops_with_grid, 4) == pytest.approx(0.044, abs=0.01)
    assert grid_correlation(np.full((2, 32, 32), 9.0), 4) == 0
    wave = 30 * np.cos(2 * np.pi * np.arange(64) / 4)  # each lag of 4 repeats it, those beside it are a quarter away
    assert grid_correlation(np.tile(wave, (1, 64, 1)), 4) == pytest.approx(0.5, abs=0.02)  # along one axis of two

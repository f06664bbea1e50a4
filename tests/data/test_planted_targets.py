"""Planted targets: their SCR, position, width and noise on real-like frames; implanted ones."""

import numpy as np
import pytest
from scipy import ndimage

from irstd_ldm.data.planted_targets import (
    TargetModel,
    cut_targets,
    gaussian_profile,
    implant,
    noise_sigma,
    plant_targets,
)
from irstd_ldm.targets import label_components, signal_to_clutter_ratios


def frame(dtype=np.uint8, sigma: float = 3.0, seed: int = 0, shape=(160, 200)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scene = ndimage.gaussian_filter(rng.standard_normal(shape), 12)
    levels = 80 + 20 * scene / scene.std() + sigma * rng.standard_normal(shape)
    return (levels * (1 if dtype == np.uint8 else 40)).clip(0).astype(dtype)


def squares(seed: int, center: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A frame with a bright target of 3x3 px, and its mask."""
    image, mask = frame(seed=seed), np.zeros((160, 200), bool)
    mask[center[0] - 1 : center[0] + 2, center[1] - 1 : center[1] + 2] = True
    return np.where(mask, np.uint8(230), image), mask


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_targets_have_the_scr_and_the_mask_that_are_stated(dtype):
    image = frame(dtype)
    planted = plant_targets(image, TargetModel(num_targets=(2, 2), scr_range=(5, 9)), np.random.default_rng(1))
    assert planted.image.dtype == dtype and planted.image.shape == image.shape
    labels, components = label_components(planted.mask)
    assert len(components) == len(planted.targets) == 2
    ratios = signal_to_clutter_ratios(planted.image, labels, components)
    for target in planted.targets:
        label = labels[round(target.y), round(target.x)]
        measured = ratios[label - 1]
        assert 5 * 0.95 <= measured <= 9 * 1.05
        assert measured == pytest.approx(target.scr, rel=1e-6)
        assert components[label - 1].area_px == target.area_px
        assert (components[label - 1].x, components[label - 1].y) == pytest.approx((target.x, target.y), abs=0.5)


def test_only_the_surroundings_of_targets_change():
    image = frame()
    planted = plant_targets(image, TargetModel(num_targets=(1, 1)), np.random.default_rng(3))
    (target,) = planted.targets
    rows, columns = np.nonzero(planted.image != image)
    assert len(rows) and np.hypot(rows - target.y, columns - target.x).max() < 8 * target.sigma_px + 2


def test_places_are_sub_pixel_and_scr_follows_the_range():
    targets = []
    model = TargetModel(num_targets=(1, 1), scr_range=(3, 12))
    for seed in range(60):
        targets += plant_targets(frame(seed=seed % 5), model, np.random.default_rng(seed)).targets
    assert len(targets) > 55
    fractions = np.array([target.x % 1 for target in targets])
    assert np.histogram(fractions, 4, (0, 1))[0].min() > 5
    logs = np.log([target.scr for target in targets])
    assert abs(logs.mean() - np.log([3, 12]).mean()) < 0.2 and logs.std() == pytest.approx(
        np.log(4) / 12**0.5, rel=0.3
    )


def test_noise_of_a_frame_is_measured():
    assert noise_sigma(frame(np.float32, sigma=3.0)) == pytest.approx(3.0 * 40, rel=0.1)
    assert noise_sigma(np.full((64, 64), 7, np.uint8)) == 0


def test_bright_targets_are_noisier_than_dim_ones():
    """Photon noise: the residual around the noiseless profile grows with the frame's noise."""
    smooth, noisy = (frame(np.float32, sigma, seed=2) for sigma in (0.0, 6.0))
    model = TargetModel(num_targets=(1, 1), scr_range=(8, 8), sigma_range_px=(1.9, 1.9))
    ratios = []
    for image in (smooth, noisy):
        planted = plant_targets(image, model, np.random.default_rng(4))
        added = planted.image[planted.mask] - image[planted.mask]
        signal = ndimage.gaussian_filter(np.where(planted.mask, planted.image - image, 0), 1.0)[planted.mask]
        ratios.append(np.corrcoef(added, signal)[0, 1])
    assert ratios[0] > ratios[1]


def test_frames_without_room_for_the_scr_stay_empty():
    saturated = np.full((80, 80), 255, np.uint8)
    saturated[::2] = 235
    planted = plant_targets(saturated, TargetModel(scr_range=(10, 12)), np.random.default_rng(0))
    assert planted.targets == [] and not planted.mask.any()
    assert np.array_equal(planted.image, saturated)


def test_same_seed_same_frame():
    first, second = (plant_targets(frame(), TargetModel(), np.random.default_rng(6)) for _ in range(2))
    assert np.array_equal(first.image, second.image) and first.targets == second.targets


@pytest.mark.parametrize("field", ["num_targets", "scr_range", "sigma_range_px"])
def test_wrong_ranges(field):
    with pytest.raises(ValueError, match=f"`{field}` must be"):
        TargetModel(**{field: (3, 2)})


def test_small_frames_are_refused():
    with pytest.raises(ValueError, match="`frame` must be at least 64"):
        plant_targets(np.zeros((63, 80), np.uint8), TargetModel(), np.random.default_rng(0))


def test_a_banked_target_is_its_excess_over_the_background_plane():
    rows, columns = np.indices((60, 60))
    mask = np.zeros((60, 60), bool)
    mask[30:32, 20:23] = True
    image = (40 + 0.5 * rows + columns).astype(np.float32)
    image[mask] += 25
    bank = cut_targets([(image, mask)])
    assert len(bank) == 1 and bank[0].contrast == pytest.approx(25, abs=1e-3)
    np.testing.assert_allclose(bank[0].residual, 25 * bank[0].mask, atol=1e-3)
    assert bank[0].mask.shape == (8, 9) and bank[0].mask.sum() == 6


def test_the_bank_leaves_out_what_it_cannot_cut_cleanly():
    image, mask = np.full((60, 60), 50, np.float32), np.zeros((60, 60), bool)
    mask[3, 3] = mask[30, 30] = mask[30, 35] = mask[50, 10] = True  # at the border; two neighbours; one no brighter
    image[3, 3] = image[30, 30] = image[30, 35] = 200
    assert cut_targets([(image, mask)]) == []


def test_implanting_adds_only_light_and_keeps_the_old_mask():
    old = squares(3, (30, 30))
    image, mask = old[0].astype(np.float32), old[1]
    other = squares(0, (40, 50))
    bank = cut_targets([(other[0].astype(np.float32), other[1])])
    rng = np.random.default_rng(0)
    for _ in range(20):
        new_image, new_mask = implant(image, mask, bank, rng)
        assert new_mask[mask].all() and new_image.max() <= 255 and new_mask.dtype == bool
        np.testing.assert_allclose(new_image[mask], image[mask])
        added = new_mask & ~mask
        assert not added.any() or (new_image - image)[added].max() >= 5
    np.testing.assert_array_equal(mask, squares(3, (30, 30))[1])


def test_gaussian_targets_stand_out_of_their_noise():
    noise = np.random.default_rng(0).normal(100, 4, (120, 120)).astype(np.float32)
    rng, found = np.random.default_rng(1), 0
    for _ in range(20):
        image, mask = implant(noise, np.zeros(noise.shape, bool), [], rng)
        labels, num_targets = ndimage.label(mask, np.ones((3, 3)))
        added = ndimage.mean(image - noise, labels, range(1, num_targets + 1))
        assert np.all(np.array(added) > 0.6 * 5 * 4)  # SCR 5 of noise 4, whose local estimate varies
        found += num_targets
    assert found > 20


def test_a_saturated_frame_takes_no_target():
    image, mask = np.full((80, 80), 255, np.float32), np.zeros((80, 80), bool)
    new_image, new_mask = implant(image, mask, [], np.random.default_rng(0))
    assert not new_mask.any() and (new_image == 255).all()


def test_the_gaussian_profile_is_centred_integrated_and_of_unit_peak():
    profile = gaussian_profile((21, 25), 12.3, 9.6, 1.5, 1.5)
    rows, columns = np.indices(profile.shape)
    assert profile.max() == 1
    assert (columns * profile).sum() / profile.sum() == pytest.approx(12.3, abs=1e-3)
    assert (rows * profile).sum() / profile.sum() == pytest.approx(9.6, abs=1e-3)
    variance = ((columns - 12.3) ** 2 * profile).sum() / profile.sum()
    assert variance == pytest.approx(1.5**2 + 1 / 12, abs=0.01)  # integration over a pixel adds 1/12
    tilted = gaussian_profile((41, 41), 20, 20, 4, 1.5, np.pi / 2)
    assert tilted[26, 20] > 0.3 > 0.01 > tilted[20, 26]

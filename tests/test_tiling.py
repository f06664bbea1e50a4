"""Tiles: where they lie, how they blend, and how the members of an ensemble become one."""

import dataclasses

import numpy as np
import pytest

from irstd_ldm import tiling
from irstd_ldm.tiling import (
    FUSIONS,
    SamplingSettings,
    TileBlender,
    blend_weight,
    iterate_tiles,
    pad_image,
    staple,
    tile_spans,
    tile_windows,
)


@pytest.mark.parametrize(
    ("extent", "spans"),
    (
        (1, [(0, 1)]),
        (256, [(0, 256)]),
        (257, [(0, 160), (128, 257)]),  # 288 when padded: two tiles of 160 that share 32
        (480, [(0, 256), (224, 480)]),
        (512, [(0, 192), (160, 352), (320, 512)]),
        (700, [(0, 256), (224, 480), (448, 700)]),  # 704 when padded
    ),
)
def test_spans_by_hand(extent, spans):
    assert [(span.start, span.stop) for span in tile_spans(extent, 256, 32)] == spans


def test_windows_are_in_raster_order():
    assert tile_windows((100, 200), 128, 32) == [np.s_[0:100, 0:128], np.s_[0:100, 96:200]]
    assert tile_windows((300, 260), 256, 0) == [
        np.s_[0:160, 0:160],
        np.s_[0:160, 128:260],
        np.s_[160:300, 0:160],
        np.s_[160:300, 128:260],
    ]


@pytest.mark.parametrize("extent", (1, 127, 128, 129, 255, 256, 257, 1000, 8191))
@pytest.mark.parametrize(("tile_size", "overlap"), ((128, 0), (128, 1), (128, 127), (200, 64), (640, 32)))
def test_tiles_cover_every_pixel_and_overlap_enough(extent, tile_size, overlap):
    spans = tile_spans(extent, tile_size, overlap)
    assert spans[0].start == 0 and spans[-1].stop == extent
    assert all(0 < span.stop - span.start <= tile_size for span in spans)
    for left, right in zip(spans, spans[1:], strict=False):
        assert left.start < right.start and min(right.start + overlap, extent) <= left.stop
    assert len(spans) == 1 or (len(spans) - 1) * (tile_size - overlap) + overlap < -(-extent // 32) * 32


@pytest.mark.parametrize("shape", ((512, 640), (480, 640), (1024, 1280), (1080, 1920), (4320, 7680), (8192, 8192)))
@pytest.mark.parametrize("tile_size", (1024, 1280))
def test_few_pixels_are_computed_twice(shape, tile_size):
    windows = tile_windows(shape, tile_size, 32)
    computed = sum(pad_image(np.empty(shape, bool)[window]).size for window in windows)
    assert computed <= 1.15 * shape[0] * shape[1]


def test_tiles_lie_on_the_grid_of_the_padded_image():
    """Networks that halve the map five times see the pixels of a tile as they see those of the whole."""
    image = np.random.default_rng(0).random((300, 500))
    whole = pad_image(image)
    windows = tile_windows(image.shape, 256, 32)
    assert len(windows) == 2 * 3
    for rows, columns in windows:
        tile = pad_image(image[rows, columns])
        assert rows.start % 32 == columns.start % 32 == 0
        np.testing.assert_array_equal(
            tile, whole[rows.start : rows.start + len(tile), columns.start : columns.start + tile.shape[1]]
        )


def test_blend_weight_by_hand():
    expected = np.outer([1 / 3, 2 / 3, 2 / 3, 1 / 3], [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    np.testing.assert_allclose(blend_weight(4, 5, 2), expected, rtol=1e-6)
    assert blend_weight(4, 5, 2).dtype == np.float32
    np.testing.assert_array_equal(blend_weight(3, 4, 0), np.ones((3, 4)))
    np.testing.assert_array_equal(blend_weight(3, 3, 1), np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]))


def test_the_middle_of_the_overlap_goes_linearly_from_one_tile_to_the_next():
    """Tiles of 16 that share 8 pixels: the second one's share is 0 in two, 1/5, 2/5, 3/5, 4/5, then 1 in two."""
    weight = blend_weight(16, 16, 8)[8]
    second, first = weight[:8], weight[8:]
    np.testing.assert_allclose(second / (first + second), [0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1], atol=1e-4)
    assert (weight > 0).all()


def settings_of(tile_size: int, tile_overlap: int, ensemble_size: int = 1) -> SamplingSettings:
    return SamplingSettings(
        num_inference_steps=1,
        ensemble_size=ensemble_size,
        tile_size=tile_size,
        tile_overlap=tile_overlap,
        batch_size=1,
        ensemble_fusion="mean",
    )


@pytest.mark.parametrize("batch_size", (1, 2, 5))
def test_tiles_come_in_batches_of_one_padded_size(batch_size):
    rng = np.random.default_rng(0)
    images = [rng.random(shape) for shape in ((100, 300), (60, 40), (300, 100))]
    settings = dataclasses.replace(settings_of(128, 20), batch_size=batch_size)
    tiles = []
    for batch in iterate_tiles(images, settings):
        assert 1 <= len(batch) <= batch_size and len({tile.pixels.shape for tile in batch}) == 1
        tiles += batch
    for index, image in enumerate(images):
        of_image = [tile for tile in tiles if tile.index == index]
        assert [tile.window for tile in of_image] == settings.windows(image.shape)
        for tile in of_image:
            np.testing.assert_array_equal(tile.pixels, pad_image(image[tile.window]))


@pytest.mark.parametrize(("shape", "overlap"), (((100, 60), 32), ((129, 400), 0), ((500, 300), 32), ((400, 200), 100)))
def test_strips_of_the_blender_make_the_image(shape, overlap):
    """Tiles cut from two members blend back into them, whose mean and deviation are the results."""
    members = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
    blender = TileBlender(shape, settings_of(128, overlap, ensemble_size=2))
    for window in tile_windows(shape, 128, overlap):
        blender.add(window, members[:, *window])
    np.testing.assert_allclose(blender.probability, members.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(blender.uncertainty, members.std(axis=0), atol=1e-6)


def test_tiles_that_differ_are_weighed_in_the_overlap():
    """Three tiles of constant 0, 1, 0 in a row, 32 pixels shared: of them the middle 16 rise by 1/17, ..., 16/17."""
    blender = TileBlender((128, 320), settings_of(128, 32))
    for value, window in zip((0, 1, 0), tile_windows((128, 320), 128, 32), strict=True):
        blender.add(window, np.full((1, 128, 128), value, np.float32))
    ramp = np.concatenate([np.zeros(8), np.arange(1, 17) / 17, np.ones(8)])
    expected = np.concatenate([np.zeros(96), ramp, np.ones(64), ramp[::-1], np.zeros(96)])
    np.testing.assert_allclose(blender.probability, np.broadcast_to(expected, (128, 320)), atol=1e-4)


@pytest.mark.parametrize("overlap", (20, 40, 100))
def test_certain_members_stay_within_one(overlap):
    shape = (300, 420)
    blender = TileBlender(shape, settings_of(128, overlap))
    for window in tile_windows(shape, 128, overlap):
        blender.add(window, np.ones((1, 128, 128), np.float32))
    assert blender.probability.max() == 1 and blender.probability.min() > 1 - 1e-6


# Fusion: by hand, and STAPLE against its own equations


def test_mean_and_median_of_three_members():
    members = np.array([0.1, 0.9, 0.8], np.float32).reshape(3, 1, 1)
    assert FUSIONS["mean"](members) == pytest.approx(0.6)
    assert FUSIONS["median"](members) == pytest.approx(0.8)


def test_staple_takes_decisions_above_a_half():
    members = np.array([[[0.5, 0.51, 0.9, 0.0]]] * 3)
    np.testing.assert_allclose(FUSIONS["staple"](members), [[0, 1, 1, 0]], atol=1e-3)


@pytest.mark.parametrize("num_members", (1, 2, 5))
def test_members_that_agree_are_believed(num_members):
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:6] = True
    np.testing.assert_allclose(staple(np.repeat(mask[None], num_members, axis=0)), mask, atol=1e-4)


@pytest.mark.parametrize("value", (False, True))
def test_all_of_one_class_stays_so(value):
    np.testing.assert_array_equal(staple(np.full((3, 4, 5), value)), np.full((4, 5), float(value)))


def test_two_iterations_by_hand(monkeypatch):
    """Two members, ten pixels: both mark pixel 0, the first alone marks pixel 1.

    The prior is 3/20. From performances of 1 - 1e-5 pixel 1 has odds 3/17: p(1-q) and (1-p)q cancel. Hence W is
    (1, 3/20, 0, ...), the sensitivities 1 and 1 / (23/20) = 20/23, the specificities 8 / (177/20) = 160/177 and 1.
    With these: member 2, never wrong about background, misses a target with 3/23; member 1 invents one with 17/177.
    The odds of pixel 1 are 3/17 * (1 * 3/23) / (17/177 * 1) = 0.2397, its probability 0.1933 after two E-steps.
    """
    decisions = np.zeros((2, 1, 10), bool)
    decisions[:, 0, 0] = True
    decisions[0, 0, 1] = True
    for iterations, probability in ((1, 3 / 20), (2, 0.1933)):
        monkeypatch.setattr(tiling, "MAX_ITERATIONS", iterations)
        np.testing.assert_allclose(staple(decisions)[0, :3], [1, probability, 0], atol=1e-4)


def test_the_result_satisfies_the_equations():
    """W = prior-weighted likelihood of the decisions; performances = W-weighted agreement, written out per pixel."""
    rng = np.random.default_rng(0)
    truth = rng.random((20, 30)) < 0.3
    sensitivity, specificity = np.array([0.9, 0.8, 0.6, 0.7]), np.array([0.95, 0.9, 0.7, 0.8])
    hit, passed = (rng.random((4, 20, 30)) < rate[:, None, None] for rate in (sensitivity, specificity))
    decisions = np.where(truth, hit, ~passed)
    fused = staple(decisions)
    assert ((fused > 0.05) & (fused < 0.95)).sum() > 10  # not a trivial case
    p = (decisions * fused).sum(axis=(1, 2)) / fused.sum()
    q = (~decisions * (1 - fused)).sum(axis=(1, 2)) / (1 - fused).sum()
    expected = np.empty_like(fused)
    for row, column in np.ndindex(fused.shape):
        marks = decisions[:, row, column]
        for_foreground = decisions.mean() * np.prod(np.where(marks, p, 1 - p))
        for_background = (1 - decisions.mean()) * np.prod(np.where(marks, 1 - q, q))
        expected[row, column] = for_foreground / (for_foreground + for_background)
    np.testing.assert_allclose(fused, expected, atol=1e-4)
    np.testing.assert_allclose(p, sensitivity, atol=0.15)
    np.testing.assert_allclose(q, specificity, atol=0.1)


def test_a_member_that_guesses_is_overruled():
    rng = np.random.default_rng(0)
    mask = np.zeros((24, 24), bool)
    mask[5:9, 5:9] = mask[15:18, 3:6] = True
    guess = rng.random((24, 24)) < 0.5
    np.testing.assert_array_equal(staple(np.stack([mask, guess, mask])) > 0.5, mask)

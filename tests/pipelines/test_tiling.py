"""Tiles: where they lie and how they blend."""

import numpy as np
import pytest

from irstd_ldm.pipelines.tiling import TileBlender, blend_weight, tile_starts, tile_windows


@pytest.mark.parametrize(
    ("extent", "starts"),
    (
        (1, [0]),
        (128, [0]),
        (129, [0, 1]),
        (200, [0, 72]),
        (224, [0, 96]),  # 96 + 128: the second tile ends at the border as it is
        (320, [0, 96, 192]),
        (321, [0, 96, 192, 193]),
    ),
)
def test_starts_by_hand(extent, starts):
    assert tile_starts(extent, 128, 32) == starts


def test_windows_are_in_raster_order():
    assert tile_windows((100, 200), 128, 32) == [np.s_[0:100, 0:128], np.s_[0:100, 72:200]]
    assert tile_windows((200, 130), 128, 0) == [
        np.s_[0:128, 0:128],
        np.s_[0:128, 2:130],
        np.s_[72:200, 0:128],
        np.s_[72:200, 2:130],
    ]


@pytest.mark.parametrize("extent", (1, 127, 128, 129, 255, 256, 257, 1000))
@pytest.mark.parametrize("overlap", (0, 1, 64, 127))
def test_tiles_cover_every_pixel_and_overlap_enough(extent, overlap):
    starts = tile_starts(extent, 128, overlap)
    assert starts[0] == 0 and starts[-1] == max(extent - 128, 0)
    assert all(0 < right - left <= 128 - overlap for left, right in zip(starts, starts[1:], strict=False))


def test_blend_weight_by_hand():
    expected = np.outer([0.5, 1, 1, 0.5], [0.5, 1, 1, 1, 0.5])
    np.testing.assert_array_equal(blend_weight(4, 5, 2), expected)
    assert blend_weight(4, 5, 2).dtype == np.float32
    for overlap in (0, 1):
        np.testing.assert_array_equal(blend_weight(3, 4, overlap), np.ones((3, 4)))


def test_the_overlap_goes_linearly_from_one_tile_to_the_next():
    """Tiles of 8 that share 4 pixels: the second one's share there is 1/5, 2/5, 3/5, 4/5."""
    weight = blend_weight(8, 8, 4)[4]
    second, first = weight[:4], weight[4:]
    np.testing.assert_allclose(second / (first + second), [0.2, 0.4, 0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize(("shape", "overlap"), (((100, 60), 32), ((129, 400), 0), ((500, 300), 32), ((400, 200), 100)))
def test_strips_of_the_blender_make_the_image(shape, overlap):
    """Tiles cut from two members blend back into them; strips come from top to bottom, each row once."""
    members = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
    windows, strips, ends = tile_windows(shape, 128, overlap), [], [0]

    def finish(rows, strip):
        assert rows.start == ends[-1] and strip.shape == (2, rows.stop - rows.start, shape[1])
        assert strip.shape[1] <= 128
        strips.append(strip.copy())
        ends.append(rows.stop)

    blender = TileBlender(shape, windows, overlap, 2, finish)
    for window in windows:
        blender.add(window, members[:, *window])
    np.testing.assert_allclose(np.concatenate(strips, axis=1), members, rtol=1e-5)


def test_tiles_that_differ_are_weighed_in_the_overlap():
    """Three tiles of constant 0, 1, 0 in a row, ramps of 4: between the first two 1/5, 2/5, 3/5, 4/5."""
    windows, strips = tile_windows((8, 16), 8, 4), []
    blender = TileBlender((8, 16), windows, 4, 1, lambda rows, strip: strips.append(strip.copy()))
    for value, window in zip((0, 1, 0), windows, strict=True):
        blender.add(window, np.full((1, 8, 8), value, np.float32))
    (strip,) = strips
    expected = [0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0]
    np.testing.assert_allclose(strip, np.broadcast_to(expected, (1, 8, 16)), atol=1e-6)


@pytest.mark.parametrize("overlap", (20, 40, 100))
def test_certain_members_stay_within_one(overlap):
    shape, strips = (300, 420), []
    windows = tile_windows(shape, 128, overlap)
    blender = TileBlender(shape, windows, overlap, 1, lambda rows, strip: strips.append(strip.copy()))
    for window in windows:
        blender.add(window, np.ones((1, 128, 128), np.float32))
    blended = np.concatenate(strips, axis=1)
    assert blended.max() == 1 and blended.min() > 1 - 1e-6

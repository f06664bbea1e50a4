import numpy as np
import pytest
import torch
from PIL import Image

from irstd_ldm.data.images import (
    gray_range,
    invert_polarity,
    measured_pixels,
    network_input,
    normalize_image,
    percentile_range,
    robust_range,
    robust_range_of_values,
    scale_gray,
    soft_compress,
    to_gray,
    without_dead_pixels,
)
from irstd_ldm.data.readers import ImageReadError
from irstd_ldm.data.synthetic import synthetic_scene

COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]], np.uint8)  # (1, 4, 3)
GRAY = [[76, 150, 29, 18]]  # 0.299 R + 0.587 G + 0.114 B, rounded


def test_colours_become_gray_by_the_itu_601_weights():
    assert to_gray(COLOURS).tolist() == GRAY
    assert to_gray(Image.fromarray(COLOURS)).tolist() == GRAY
    assert to_gray(torch.from_numpy(COLOURS).permute(2, 0, 1)).tolist() == GRAY
    assert to_gray(COLOURS.astype(np.uint16) * 100).tolist() == [[7624, 14968, 2907, 1815]]
    floating = to_gray(COLOURS.astype(np.float64))
    assert floating.dtype == np.float32
    np.testing.assert_allclose(floating, [[76.245, 149.685, 29.07, 18.15]], rtol=1e-6)


def test_uint8_colours_equal_pillow_bit_for_bit(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    for source in (colours, tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(to_gray(source), expected)


@pytest.mark.parametrize(
    ("mode", "values", "dtype", "expected"),
    [
        ("1", [[0, 1]], np.uint8, [[0, 255]]),
        ("L", [[3, 250]], np.uint8, [[3, 250]]),
        ("I", [[-5, 70000]], np.int32, [[-5, 70000]]),
        ("F", [[-0.5, 1e6]], np.float32, [[-0.5, 1e6]]),
        ("I;16", [[0, 65535]], np.uint16, [[0, 65535]]),
    ],
)
def test_single_channel_modes(mode, values, dtype, expected):
    array = np.array(values, bool if mode == "1" else dtype)
    image = Image.fromarray(array)
    assert image.mode == mode
    gray = to_gray(image)
    assert gray.dtype == dtype and gray.tolist() == expected


def test_alpha_is_ignored_and_a_palette_is_looked_up():
    assert to_gray(Image.new("RGBA", (2, 1), (10, 20, 30, 0))).tolist() == [[18, 18]]
    assert to_gray(Image.new("LA", (2, 1), (99, 0))).tolist() == [[99, 99]]
    assert to_gray(Image.new("CMYK", (1, 1), (0, 0, 0, 255))).tolist() == [[0]]
    assert to_gray(Image.new("CMYK", (1, 1), (0, 0, 0, 0))).tolist() == [[255]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([7, 7, 7, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    assert to_gray(palette).tolist() == [[7, 18]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_files_keep_their_values(tmp_path, suffix):
    frame = np.array([[0, 300, 65535]], np.uint16)
    Image.fromarray(frame).save(tmp_path / f"a{suffix}")
    gray = to_gray(tmp_path / f"a{suffix}")
    assert gray.dtype in (np.uint16, np.int32)
    assert gray.tolist() == [[0, 300, 65535]]


def test_arrays_and_tensors():
    assert to_gray(np.array([[-3, 4]], np.int16)).dtype == np.int32
    assert to_gray(np.array([[1, 2]], ">u2")).dtype == np.uint16
    assert to_gray(np.full((2, 3, 1), 5, np.uint8)).shape == (2, 3)
    assert to_gray(torch.full((1, 2, 3), 0.5, dtype=torch.bfloat16)).tolist() == [[0.5] * 3] * 2
    assert to_gray(np.array([[1.5]], np.float16)).dtype == np.float32
    assert to_gray(np.zeros((1, 1), np.uint8)).tolist() == [[0]]


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((2, 2), bool), TypeError),
        (np.zeros((2, 2), np.int64), TypeError),
        (np.zeros((2, 2), np.int8), TypeError),
        (torch.zeros(2, 2, dtype=torch.bool), TypeError),
        ([[1, 2]], TypeError),
        (None, TypeError),
        (np.zeros((2,), np.uint8), ValueError),
        (np.zeros((2, 2, 4), np.uint8), ValueError),
        (np.zeros((3, 2, 2), np.uint8), ValueError),
        (torch.zeros(2, 2, 3), ValueError),
        (np.zeros((0, 4), np.uint8), ValueError),
        (np.zeros((0, 4, 3), np.uint8), ValueError),
        (np.array([[0.0, np.nan]]), ValueError),
        (np.array([[0.0, -np.inf]], np.float32), ValueError),
    ],
)
def test_what_is_no_image_is_refused_by_name(image, error):
    with pytest.raises(error, match="`image`"):
        to_gray(image)


def test_files_that_cannot_be_decoded(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    for name in ("text.png", "empty.png", "truncated.png"):
        with pytest.raises(ImageReadError, match=f"cannot read image '.*{name}': not an image or truncated") as caught:
            to_gray(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        to_gray(tmp_path / "missing.png")
    with pytest.raises(IsADirectoryError):
        to_gray(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageReadError, match=r"whole\.png.*exceeds limit"):
        to_gray(tmp_path / "whole.png")


def test_masked_pixels_get_the_median_of_the_others():
    frame = np.array([[1.0, np.nan, 5.0], [2.0, 9.0, np.inf]])
    assert to_gray(np.ma.masked_invalid(frame)).tolist() == [[1, 3.5, 5], [2, 9, 3.5]]
    counts = to_gray(np.ma.masked_equal(np.array([[7, 0], [8, 9]], np.uint16), 0))
    assert counts.dtype == np.uint16 and counts.tolist() == [[7, 8], [8, 9]]
    with pytest.raises(ValueError, match="`image` must have pixels that are not masked"):
        to_gray(np.ma.masked_all((2, 2)))


def test_a_file_of_pixels_that_are_refused_is_named_with_the_reason(tmp_path):
    Image.fromarray(np.full((2, 3), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ImageReadError, match=r"cannot read image '.*nan\.tif': `image` must be finite"):
        to_gray(tmp_path / "nan.tif")


def test_uint8_maps_by_a_fixed_rule():
    assert normalize_image(np.array([[0, 255]], np.uint8)).tolist() == [[-1, 1]]
    assert normalize_image(np.array([[51]], np.uint8))[0, 0] == pytest.approx(-0.6)
    assert normalize_image(np.full((2, 2), 255, np.uint8)).tolist() == [[1, 1], [1, 1]]
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = every.astype(np.float32) / np.float32(127.5) - np.float32(1)
    assert normalize_image(every).tobytes() == expected.tobytes()


def test_other_types_map_by_the_frames_percentiles():
    ramp = np.arange(1001, dtype=np.uint16).reshape(7, 143)  # percentiles 0.1 and 99.9: 1 and 999
    normalized = normalize_image(ramp).ravel()
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized[[1, 500, 999]], [-1, 0, 1], atol=1e-6)
    beyond = 1 + 0.5 * np.log1p(2 * (2 * 1 / 998))
    np.testing.assert_allclose(normalized[[0, 1000]], [-beyond, beyond], atol=1e-6)
    for other in (ramp.astype(np.int32) - 5000, ramp.astype(np.float32) * 3e30):
        np.testing.assert_allclose(normalize_image(other).ravel(), normalized, atol=1e-5)


def test_constant_and_almost_constant_frames():
    for dtype in (np.uint16, np.int32, np.float32):
        assert normalize_image(np.full((3, 4), 7, dtype)).tolist() == [[0] * 4] * 3
    assert normalize_image(np.zeros((1, 1), np.float32)).tolist() == [[0]]
    hot = np.full((200, 200), 5, np.uint16)
    hot[3, 4] = 9
    assert normalize_image(hot)[3, 4] == 1 and normalize_image(hot)[0, 0] == -1


@pytest.mark.parametrize("no_data", [-3.4028235e38, 3.4028235e38])
def test_a_pixel_at_the_end_of_float32_stays_finite(no_data):
    frame = np.random.default_rng(0).random((64, 64), np.float32)
    frame[5, 6] = no_data
    normalized = normalize_image(frame)
    assert normalized.dtype == np.float32 and np.isfinite(normalized).all()
    assert np.abs(np.delete(normalized, 5 * 64 + 6)).max() < 2
    assert normalized[5, 6] == pytest.approx(np.sign(no_data) * (1 + 0.5 * np.log(4 * 3.4028235e38)), rel=1e-3)


def test_input_range_overrides_both_rules():
    for dtype in (np.uint8, np.uint16, np.float32):
        normalized = normalize_image(np.array([[50, 100, 150, 200]], dtype), input_range=(50, 150))
        np.testing.assert_allclose(normalized, [[-1, 0, 1, 1 + 0.5 * np.log(3)]], rtol=1e-6)


@pytest.mark.parametrize("input_range", [(1, 1), (2, 1), (0, np.inf), (np.nan, 1), (0, 1, 2)])
def test_a_wrong_input_range_is_refused_by_name(input_range):
    with pytest.raises(ValueError, match="`input_range`"):
        normalize_image(np.zeros((2, 2), np.uint8), input_range=input_range)


def test_soft_compression_is_odd_monotone_and_of_continuous_slope():
    assert soft_compress(np.array([-0.3, 1.0, 2.0])).tolist() == pytest.approx([-0.3, 1, 1 + 0.5 * np.log(3)])
    values = np.linspace(-50, 50, 20001)
    compressed = soft_compress(values)
    assert np.all(np.diff(compressed) > 0)
    np.testing.assert_allclose(compressed, -compressed[::-1], atol=1e-9)
    slope = np.diff(soft_compress(np.array([1 - 1e-4, 1, 1 + 1e-4]))) / 1e-4
    np.testing.assert_allclose(slope, 1, atol=1e-3)


@pytest.mark.parametrize("size", (1, 2, 999, 1001, 3 * 2**20 + 5))
def test_percentiles_of_uint16_are_those_of_numpy(size):
    gray = np.random.default_rng(size).integers(0, 2**16, (1, size), np.uint16, endpoint=False)
    lo, hi = np.percentile(gray, (0.1, 99.9))
    assert percentile_range(gray) == (pytest.approx(lo, rel=1e-12), pytest.approx(hi, rel=1e-12))


def test_a_part_is_scaled_by_the_range_of_its_frame():
    gray = np.random.default_rng(0).integers(0, 2**14, (40, 50), np.uint16)
    part = scale_gray(gray[10:20, 5:9], gray_range(gray))
    np.testing.assert_array_equal(part, normalize_image(gray)[10:20, 5:9])
    assert gray_range(gray.astype(np.uint8)) is None
    assert gray_range(gray, (3, 7)) == (3, 7)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("input_range", [None, (20, 180)])
@pytest.mark.parametrize("normalization", ["range", "robust"])
def test_an_inverted_polarity_changes_the_sign_of_what_the_networks_see(dtype, input_range, normalization):
    gray = np.random.default_rng(0).gamma(2, 40, (30, 40)).clip(0, 255).astype(dtype)
    gray[:4] = 3
    inverted = invert_polarity(gray, input_range)
    assert inverted.dtype == (np.float32 if input_range else dtype)
    normalized = normalize_image(gray, input_range, normalization)
    np.testing.assert_allclose(normalize_image(inverted, input_range, normalization), -normalized, atol=1e-5)
    assert normalized.std() > 0.1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_the_sign_changes_exactly_where_a_quantile_lies_in_a_gap(dtype):
    """One of 20 pixels is 5 %: the lower quantile lies between 10 and 50."""
    gray = np.array([[10, *range(50, 69)]], dtype)
    normalized = normalize_image(gray, normalization="robust")
    assert normalize_image(invert_polarity(gray), normalization="robust").tolist() == (-normalized).tolist()


@pytest.mark.parametrize("normalization", ["range", "robust"])
def test_the_polarity_of_a_frame_with_a_no_data_value_is_inverted(normalization):
    gray = np.random.default_rng(0).normal(300, 1, (64, 64)).astype(np.float32)
    gray[:1, :2] = -3.4028235e38
    normalized = normalize_image(gray, None, normalization)
    inverted = normalize_image(invert_polarity(gray), None, normalization)
    assert inverted.tolist() == (-normalized).tolist() and normalized[1:].std() > 0.3


def test_an_inverted_polarity_by_hand():
    assert invert_polarity(np.array([[0, 55, 255]], np.uint8)).tolist() == [[255, 200, 0]]
    assert invert_polarity(np.array([[8000, 8001, 65535]], np.uint16)).tolist() == [[65535, 65534, 8000]]
    assert invert_polarity(np.array([[0, 100, 65535]], np.uint16), (100, 200)).tolist() == [[300, 200, -65235]]
    assert invert_polarity(np.full((1, 2), 65535, np.uint16)).tolist() == [[65535, 65535]]
    with pytest.raises(ValueError, match="`input_range`"):
        invert_polarity(np.zeros((1, 1), np.uint16), (2, 1))


# The robust range


def test_the_robust_quantiles_by_hand():
    """Of 20 values in a row 0.05 * 20 = 1 step lies below the lower quantile, and 1 above the upper one."""
    for dtype in (np.uint8, np.uint16, np.int32):
        assert robust_range(np.arange(7, 27, dtype=dtype)[None]) == (7.5, 25.5)
        assert robust_range_of_values(np.repeat(np.array([0, 4], dtype), 10)) == pytest.approx((-1.6, 5.6))
        assert robust_range(np.array([[10, *range(50, 69)]], dtype)) == pytest.approx((30, 67.5))  # middle of the gap
    assert robust_range(np.arange(21, dtype=np.float32)[None]) == pytest.approx((1, 19))
    assert robust_range(np.arange(21, dtype=np.int32)[None] * 10000 - 70000) == pytest.approx((-64500, 124500))
    assert robust_range(np.arange(-10, 10, dtype=np.int32)[None]) == (-9.5, 8.5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (40, 30)])
def test_constant_frames_of_every_type_are_zero(dtype, shape):
    frame = np.full(shape, 7, dtype)
    assert gray_range(frame, None, "robust") == (7, 7)
    assert not normalize_image(frame, None, "robust").any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_frames_of_two_values_keep_them_apart(dtype):
    halves, stripes, spot, pixel = np.full((4, 40, 60), 5, dtype)
    halves[:, 30:] = stripes[::2] = spot[10:15, 10:15] = pixel[20, 20] = 9
    for frame in (halves, stripes, spot, pixel):
        low, high = np.unique(normalize_image(frame, None, "robust"))
        assert -1.2 < low < 0.2 and low + 0.9 < high < 3


def test_frames_of_one_row():
    row = np.arange(100, dtype=np.uint16)[None]
    assert robust_range(row) == robust_range(row.T) == (4.5, 94.5)
    assert robust_range(np.array([[3, 4]], np.uint8)) == pytest.approx((2.6, 4.4))


def test_a_value_of_most_pixels_beside_noise_has_the_nearest_wider_quantiles():
    values = np.zeros(1000, np.float32)
    values[:20], values[20:40] = -3, 3
    assert robust_range_of_values(values) == (-3, 3)
    values[3:37] = 0  # 0.3 % on either side, of which a third lies beyond 0.1 %
    assert robust_range_of_values(values) == pytest.approx((-3.5, 3.5))


def test_measured_pixels_by_hand():
    scene = np.random.default_rng(0).integers(50, 200, (40, 60), np.uint8)
    framed = scene.copy()
    framed[:10] = 0
    assert measured_pixels(framed).tolist() == scene[10:].ravel().tolist()
    framed[:, 50:] = 255
    assert measured_pixels(framed).tolist() == scene[10:, :50].ravel().tolist()
    framed = scene.copy()
    framed[:10] = 120  # which pixels of the scene have, too
    assert measured_pixels(framed).tolist() == scene[10:].ravel().tolist()
    for odd in (scene, np.where(scene < 60, 0, scene), np.where(np.arange(40)[:, None] % 4 == 0, 0, scene)):
        assert measured_pixels(odd).tolist() == odd.ravel().tolist()  # noise, dark pixels, dead rows
    target = np.zeros((40, 60), np.uint8)
    target[20:23, 30:33] = scene[:3, :3]
    assert measured_pixels(target).size == target.size  # an even background


def odd_frames(scene: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Versions of a scene (H, W) of 14 bits with odd pixels, and where (H, W) it is still seen."""
    height, width = scene.shape
    rows, columns = np.indices(scene.shape)
    draw, low, high = np.random.default_rng(0).random(scene.shape), scene.min(), scene.max()
    dark = {
        "dead row": rows == 100,
        "dead rows": np.isin(rows, (20, 90, 91, 200)),
        "dead pixels": draw < 0.015,
        "no-data corner": rows + 2 * columns < 150,
        "round field of view": np.hypot(rows - height / 2, columns - width / 2) > height / 2,
    }
    hot = {"hot column": columns == 70, "hot pixels": draw < 0.002}
    frames = {name: (np.where(where, 0, scene), where) for name, where in dark.items()}
    frames |= {name: (np.where(where, 16383, scene), where) for name, where in hot.items()}
    frames["telemetry"] = np.where(rows < 4, np.where(draw < 0.3, 16383, 0), scene), rows < 4
    bars = {"letterbox": np.abs(rows - height / 2) > height / 3, "pillarbox": np.abs(columns - width / 2) > width / 3}
    for name, where in bars.items():
        for value in (0, low, *np.quantile(scene, (0.02, 0.3, 0.98)).astype(int), high, 16383):
            frames[f"{name} of {value}"] = np.where(where, value, scene), where
    return {name: (frame.astype(np.uint16), ~where) for name, (frame, where) in frames.items()}


@pytest.mark.parametrize("kind", ["sky", "ground", "horizon"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_odd_pixels_hardly_move_the_robust_range(kind, dtype):
    scene = synthetic_scene(256, 320, kind=kind, num_targets=1, seed=1, bit_depth=16).image
    scale = 64 if dtype == np.uint8 else 1  # counts per gray level
    for name, (frame, seen) in odd_frames(scene).items():
        lo, hi = robust_range((frame // scale).astype(dtype))
        expected_lo, expected_hi = robust_range_of_values((scene // scale)[seen].astype(dtype))
        moved = max(abs(lo - expected_lo), abs(hi - expected_hi)) / (expected_hi - expected_lo)
        assert moved < 0.04, name


@pytest.mark.parametrize("kind", ["sky", "sea", "ground", "horizon"])
def test_a_scene_of_8_bits_is_normalised_as_that_of_16(kind):
    coarse, fine = (
        synthetic_scene(128, 160, kind=kind, num_targets=0, seed=3, bit_depth=bits).image for bits in (8, 16)
    )
    lo, hi = robust_range(coarse)
    difference = normalize_image(coarse, None, "robust") - normalize_image(fine, None, "robust")
    assert np.abs(difference).max() < 2 / (hi - lo)  # a step


@pytest.mark.parametrize(
    ("dtype", "gap"), [(np.uint16, 64), (np.uint16, 257), (np.int32, 10**5), (np.float32, 64), (np.float32, 1 / 255)]
)
def test_gaps_between_the_levels_of_a_scene_change_nothing(dtype, gap):
    scene = synthetic_scene(64, 64, num_targets=0, seed=2).image.astype(float)
    lo, hi = robust_range((scene * gap).astype(dtype))
    assert (lo / gap, hi / gap) == pytest.approx(robust_range(scene), abs=1e-4)


def test_a_level_far_from_all_others_draws_nothing_towards_itself():
    scene = np.repeat(np.array([30, 31], np.uint8), [600, 388])
    expected = robust_range_of_values(scene)
    with_hot = robust_range_of_values(np.append(scene, np.full(12, 255, np.uint8)))
    assert with_hot == pytest.approx(expected, abs=0.05)


def test_equal_integers_have_equal_robust_ranges_in_every_type():
    scene = synthetic_scene(64, 64, num_targets=0, seed=2).image
    expected = robust_range(scene)
    assert robust_range(scene.astype(np.uint16)) == robust_range(scene.astype(np.int32)) == expected
    lo, hi = robust_range(scene.astype(np.int32) - 1000)
    assert (lo + 1000, hi + 1000) == pytest.approx(expected)
    assert robust_range(scene.astype(np.float32)) == pytest.approx(expected)


def test_the_robust_normalisation_is_that_of_its_range():
    for dtype in (np.uint8, np.uint16, np.float32):
        frame = np.random.default_rng(0).integers(10, 60, (70, 50)).astype(dtype)
        lo, hi = robust_range(frame)
        expected = soft_compress((frame.astype(float) - lo) / (hi - lo) * 2 - 1)
        np.testing.assert_allclose(normalize_image(frame, None, "robust"), expected, atol=1e-6)
        assert gray_range(frame, (3, 7), "robust") == (3, 7)
    with pytest.raises(ValueError, match="`normalization` must be one of range, robust, got 'other'"):
        normalize_image(frame, normalization="other")


def test_dead_pixels_are_replaced_by_hand():
    live = np.arange(49, dtype=np.float32).reshape(7, 7) / 100
    alone, row, pair, corner = (live.copy() for _ in range(4))
    alone[3, 3] = -4
    row[3] = -4
    pair[3, 3:5] = -4, -3
    corner[0, 0] = -4
    assert without_dead_pixels(live) is live
    mended = without_dead_pixels(alone)
    assert mended[3, 3] == pytest.approx(np.median([0.16, 0.17, 0.18, 0.23, 0.25, 0.3, 0.31, 0.32]))
    assert (mended == live).sum() == 48
    np.testing.assert_allclose(without_dead_pixels(row)[3], live[3], atol=0.006)  # of three above and three below
    np.testing.assert_allclose(without_dead_pixels(pair)[3, 3:5], [0.23, 0.26], atol=0.011)
    assert without_dead_pixels(corner)[0, 0] == pytest.approx(0.08, abs=0.011)


def test_dark_regions_and_what_is_not_far_below_stay():
    region, shallow = np.zeros((2, 9, 9), np.float32)
    region[3:6, 3:6] = -4  # a corner of it has three dark neighbours, an edge five
    shallow[4, 4] = -2
    assert (without_dead_pixels(region) < -2).sum() == 5
    assert without_dead_pixels(shallow) is shallow
    assert without_dead_pixels(np.full((4, 5), -3, np.float32)).max() == -3


def test_only_the_robust_normalisation_knows_dead_pixels():
    frame = np.random.default_rng(0).integers(1000, 1100, (32, 32), np.uint16)
    frame[10, 10] = 0
    plain = network_input(frame, (1000.0, 1100.0))
    robust = network_input(frame, (1000.0, 1100.0), "robust")
    assert plain[10, 10] < -2.1 and -1 <= robust[10, 10] <= 1
    plain[10, 10] = robust[10, 10]
    np.testing.assert_array_equal(plain, robust)

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.evaluation.counts import count_image
from irstd_ldm.evaluation.metrics import iou
from irstd_ldm.evaluation.protocols import PROTOCOLS, get_protocol
from irstd_ldm.targets import label_components

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

NATIVE, BASICIRSTD, RESIZE256 = (PROTOCOLS[name] for name in ("native", "basicirstd", "resize256"))


def grey_rimmed_mask():
    """A 5x5 target whose rim of 16 px has value 128, a stray pixel of 64, and a lone one of 200."""
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[5:10, 5:10] = 128
    mask[6:9, 6:9] = 255
    mask[15, 3] = 64
    mask[15, 25] = 200
    return mask


@pytest.mark.parametrize(("level", "foreground"), [(0, False), (127, False), (128, True), (255, True)])
def test_native_truth_starts_at_128(level, foreground):
    truth = NATIVE.prepare_truth(np.full((2, 3), level, dtype=np.uint8))
    assert truth.mask.all() == truth.mask.any() == foreground
    assert np.array_equal(truth.union_mask, truth.mask)


def test_basicirstd_truth_has_two_levels():
    truth = BASICIRSTD.prepare_truth(grey_rimmed_mask())
    assert truth.mask.sum() == 9
    assert truth.union_mask.sum() == 25 + 1


@pytest.mark.parametrize(
    ("protocol", "expected_iou", "targets"),
    [(NATIVE, 1.0, 2), (BASICIRSTD, 9 / (26 + 26 - 9), 1)],
    ids=["native", "basicirstd"],
)
def test_a_perfect_prediction_of_grey_truth(protocol, expected_iou, targets):
    mask = grey_rimmed_mask()
    truth = protocol.prepare_truth(mask)
    counts = count_image(mask >= 128, truth.mask, union_truth=truth.union_mask)
    assert iou(counts) == pytest.approx(expected_iou)
    assert counts.targets == targets


@pytest.mark.parametrize("protocol", [NATIVE, RESIZE256], ids=lambda p: p.name)
def test_bool_truth_equals_the_binary_mask(protocol):
    mask = np.zeros((300, 200), dtype=bool)
    mask[100:104, 50:53] = True
    from_bool = protocol.prepare_truth(mask)
    from_uint8 = protocol.prepare_truth(mask.astype(np.uint8) * 255)
    assert from_bool.mask.any()
    assert np.array_equal(from_bool.mask, from_uint8.mask)


def test_basicirstd_refuses_truth_that_lost_its_grey_levels():
    with pytest.raises(TypeError, match="`mask` must be the uint8 mask as stored under protocol 'basicirstd'"):
        BASICIRSTD.prepare_truth(np.zeros((4, 4), dtype=bool))


def test_native_leaves_image_and_probability_alone():
    gray = np.arange(12, dtype=np.uint16).reshape(3, 4)
    probability = np.full((3, 4), 0.3)
    assert NATIVE.prepare_image(gray) is gray
    assert NATIVE.prepare_probability(probability) is probability


def test_resize256_picks_the_nearest_truth_pixel():
    # Pixel i of 256 looks at i + 0.5 of 256, that is 2 i + 1 of 512: of two one-pixel targets one vanishes.
    mask = np.zeros((512, 512), dtype=np.uint8)
    mask[101, 201] = 255
    mask[300, 300] = 255
    truth = RESIZE256.prepare_truth(mask)
    assert truth.mask.shape == (256, 256)
    assert np.argwhere(truth.mask).tolist() == [[50, 100]]


def test_resize256_gives_up_the_aspect_ratio():
    mask = np.zeros((128, 512), dtype=np.uint8)
    mask[10, 20:24] = 255
    assert np.argwhere(RESIZE256.prepare_truth(mask).mask).tolist() == [[20, 10], [20, 11], [21, 10], [21, 11]]


@pytest.mark.parametrize(
    ("dtype", "expected_dtype"),
    [(np.uint8, np.uint8), (np.uint16, np.float32), (np.int32, np.float32), (np.float32, np.float32)],
)
def test_resize256_image_is_bilinear(dtype, expected_dtype):
    # Halving with a triangle of radius 2 input pixels weighs four pixels 1/8, 3/8, 3/8, 1/8.
    gray = np.zeros((512, 512), dtype=dtype)
    gray[:, 100] = 80
    image = RESIZE256.prepare_image(gray)
    assert image.dtype == expected_dtype
    assert image.shape == (256, 256)
    assert image[7, 48:53].tolist() == [0, 10, 30, 0, 0]


def test_resize256_keeps_the_range_of_16_bit_images():
    gray = np.full((300, 400), 60000, dtype=np.uint16)
    assert np.allclose(RESIZE256.prepare_image(gray), 60000)


def test_resize256_probability():
    at_size = np.random.default_rng(0).random((256, 256))
    assert RESIZE256.prepare_probability(at_size) is at_size
    native = np.zeros((512, 512), dtype=np.float64)
    native[:, 100] = 0.8
    resized = RESIZE256.prepare_probability(native)
    assert resized.shape == (256, 256)
    assert resized[7, 48:53] == pytest.approx([0, 0.1, 0.3, 0, 0], abs=1e-7)


def test_resize256_probability_stays_in_range():
    resized = RESIZE256.prepare_probability(np.ones((391, 457), dtype=np.float32))
    assert resized.min() > 0.9999 and resized.max() <= 1.0


def test_get_protocol():
    assert [get_protocol(name).name for name in PROTOCOLS] == ["native", "basicirstd", "resize256"]
    with pytest.raises(ValueError, match="`protocol` must be one of native, basicirstd, resize256, got 'dnanet'"):
        get_protocol("dnanet")


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.zeros((4, 4), dtype=np.float32), TypeError, "`mask` must be uint8 or bool, got float32"),
        (np.zeros((4, 4, 3), dtype=np.uint8), ValueError, r"`mask` must have shape \(H, W\), got \(4, 4, 3\)"),
    ],
)
def test_refuses(mask, error, message):
    with pytest.raises(error, match=message):
        NATIVE.prepare_truth(mask)


def test_stray_grey_pixel_of_irstd_1k():
    path = SHARED_DATA / "samples" / "IRSTD-1K" / "masks" / "XDU0.png"
    if not path.exists():
        pytest.skip(f"needs {path}")
    mask = np.asarray(Image.open(path))
    assert 64 in mask
    for protocol in (NATIVE, BASICIRSTD):
        _, targets = label_components(protocol.prepare_truth(mask).mask)
        assert [target.area_px for target in targets] == [32]
    assert RESIZE256.prepare_truth(mask).mask.sum() == 9

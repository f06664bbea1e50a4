import numpy as np
import pytest
from PIL import Image

from irstd_ldm.evaluation.protocols import find_predictions, read_prediction


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("8bit.png", np.array([[0, 51], [128, 255]], dtype=np.uint8), [[0, 0.2], [128 / 255, 1]]),
        ("8bit.bmp", np.array([[0, 51], [128, 255]], dtype=np.uint8), [[0, 0.2], [128 / 255, 1]]),
        ("16bit.png", np.array([[0, 13107], [32768, 65535]], dtype=np.uint16), [[0, 0.2], [32768 / 65535, 1]]),
        ("16bit.tif", np.array([[0, 13107], [32768, 65535]], dtype=np.uint16), [[0, 0.2], [32768 / 65535, 1]]),
        ("1bit.png", np.array([[False, True], [True, False]]), [[0, 1], [1, 0]]),
        ("rgb.png", np.array([[[0] * 3, [51] * 3], [[9] * 3, [255] * 3]], dtype=np.uint8), [[0, 0.2], [9 / 255, 1]]),
    ],
)
def test_read_prediction(tmp_path, name, values, expected):
    Image.fromarray(values).save(tmp_path / name)
    probability = read_prediction(tmp_path / name)
    assert probability.dtype == np.float32
    assert probability == pytest.approx(np.array(expected), abs=1e-7)
    assert probability.max() == 1.0


@pytest.mark.parametrize("kind", ["ones", "gray", "colours", "palette", "255 of 16 bit", "16 bit"])
def test_a_mask_of_two_values_is_a_prediction_whatever_these_are(tmp_path, kind):
    mask = np.eye(3, dtype=np.uint8)
    colours = mask[..., None] * np.array([255, 0, 0], np.uint8)
    stored = {
        "ones": Image.fromarray(mask),
        "gray": Image.fromarray(mask * np.uint8(100)),
        "colours": Image.fromarray(colours),
        "palette": Image.fromarray(colours).convert("P"),
        "255 of 16 bit": Image.fromarray(mask * np.uint16(255)),
        "16 bit": Image.fromarray(mask * np.uint16(65535)),
    }
    stored[kind].save(tmp_path / "mask.png")
    assert (read_prediction(tmp_path / "mask.png") == mask).all()


def test_a_faint_map_of_16_bits_stays_one(tmp_path):
    Image.fromarray(np.array([[0, 1, 2, 3]], np.uint16)).save(tmp_path / "faint.png")
    assert read_prediction(tmp_path / "faint.png").max() == np.float32(3) / np.float32(65535)


def numbered_targets(path):
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) // 5).save(path)


def faint_or_mask(path):
    Image.fromarray(np.eye(4, dtype=np.uint16)).save(path)


def inverted_mask(path):
    Image.fromarray(np.uint8(255) - np.eye(4, dtype=np.uint8) * np.uint8(255)).save(path)


def three_colours(path):
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)).save(path)


def text_file(path):
    path.write_text("not an image")


def empty_file(path):
    path.write_bytes(b"")


def truncated_image(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (numbered_targets, "has 4 values of at most 3, which may be numbers of targets"),
        (faint_or_mask, "may be a mask, or a map of nearly nothing"),
        (inverted_mask, "has its brighter value on 75% of its pixels"),
        (three_colours, "has 4 values"),
        (text_file, "cannot be read as an image"),
        (empty_file, "cannot be read as an image"),
        (truncated_image, "cannot be read as an image"),
    ],
)
def test_read_prediction_refuses(tmp_path, write, message):
    write(tmp_path / "bad.png")
    with pytest.raises(ValueError, match=rf"bad\.png'? {message}"):
        read_prediction(tmp_path / "bad.png")


def test_read_prediction_without_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.png"):
        read_prediction(tmp_path / "absent.png")


def test_find_predictions(tmp_path):
    for name in ("b_1.png", "a.TIF", "unused.png", "a.txt"):
        (tmp_path / name).touch()
    assert find_predictions(tmp_path, ["b_1", "a"]) == {"b_1": tmp_path / "b_1.png", "a": tmp_path / "a.TIF"}
    with pytest.raises(ValueError, match="has no prediction for 2 of 3 images: c, d"):
        find_predictions(tmp_path, ["a", "c", "d"])
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="several predictions of one image: a.TIF, a.png"):
        find_predictions(tmp_path, ["a"])
    with pytest.raises(ValueError, match="`root` must be a folder of predictions, got .*nowhere"):
        find_predictions(tmp_path / "nowhere", ["a"])

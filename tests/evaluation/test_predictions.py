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
        ("gray_100.png", np.array([[0, 0], [100, 0]], dtype=np.uint8), [[0, 0], [1, 0]]),
        ("255_of_16bit.png", np.array([[0, 0], [255, 0]], dtype=np.uint16), [[0, 0], [1, 0]]),
        ("red.png", np.array([[[0] * 3, [0] * 3], [[9, 0, 0], [0] * 3]], dtype=np.uint8), [[0, 0], [1, 0]]),
        ("rgb.png", np.array([[[0] * 3, [51] * 3], [[9] * 3, [255] * 3]], dtype=np.uint8), [[0, 0.2], [9 / 255, 1]]),
    ],
)
def test_read_prediction(tmp_path, name, values, expected):
    Image.fromarray(values).save(tmp_path / name)
    probability = read_prediction(tmp_path / name)
    assert probability.dtype == np.float32
    assert probability == pytest.approx(np.array(expected), abs=1e-7)
    assert probability.max() == 1.0


def test_floating_point_is_a_probability(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 0.25], [0, 0.25]]))
    assert read_prediction(tmp_path / "a.npy").tolist() == [[0, 0.25], [0, 0.25]]


def zeros_and_ones(path):
    Image.fromarray(np.eye(3, dtype=np.uint8)).save(path)


def colours(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)


def inverted(path):
    Image.fromarray(255 - np.eye(3, dtype=np.uint8) * 255).save(path)


def graded_with_alpha(path):
    Image.fromarray(np.array([[[0, 9], [9, 9]], [[0, 9], [255, 9]]], np.uint8), "LA").save(path)


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
        (zeros_and_ones, r"bad\.png holds 0 and 1, a mask or probabilities up to 1/255: a mask has 0 and"),
        (colours, r"bad\.png' has 64 values"),
        (inverted, r"bad\.png' has its brighter value on 67%"),
        (graded_with_alpha, r"bad\.png holds probabilities beside a palette or transparency"),
        (text_file, r"cannot read image '.*bad\.png'"),
        (empty_file, r"cannot read image '.*bad\.png'"),
        (truncated_image, r"cannot read image '.*bad\.png'"),
    ],
)
def test_read_prediction_refuses(tmp_path, write, message):
    write(tmp_path / "bad.png")
    with pytest.raises(ValueError, match=message):
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
    with pytest.raises(ValueError, match="a.TIF' and '.*a.png' share one stem"):
        find_predictions(tmp_path, ["a"])
    with pytest.raises(ValueError, match="no folder '.*nowhere'"):
        find_predictions(tmp_path / "nowhere", ["a"])

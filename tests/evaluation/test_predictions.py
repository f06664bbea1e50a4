import logging

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


def test_read_prediction_warns_of_a_mask_of_zeros_and_ones(tmp_path, caplog):
    Image.fromarray(np.eye(3, dtype=np.uint8)).save(tmp_path / "ones.png")
    with caplog.at_level(logging.WARNING):
        assert read_prediction(tmp_path / "ones.png").max() == np.float32(1 / 255)
    assert "ones.png: highest value 1 of 255" in caplog.text


def colour_image(path):
    Image.new("RGB", (4, 4), (255, 0, 0)).save(path)


def palette_image(path):
    Image.new("P", (4, 4)).save(path)


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
        (colour_image, "is a colour image"),
        (palette_image, "has Pillow mode P"),
        (text_file, "cannot be read as an image"),
        (empty_file, "cannot be read as an image"),
        (truncated_image, "cannot be read as an image"),
    ],
)
def test_read_prediction_refuses(tmp_path, write, message):
    write(tmp_path / "bad.png")
    with pytest.raises(ValueError, match=rf"bad\.png {message}"):
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

"""The one rule for masks: every branch, and every reader of them."""

import io

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from irstd_ldm.data.folder import IRSTDFolder
from irstd_ldm.data.masks import mask_levels, read_mask

TARGET = np.zeros((6, 8), bool)
TARGET[2:4, 3:5] = True
BLACK, RED = (0, 0, 0), (255, 0, 0)


def gray(background: int, target: int, dtype: type = np.uint8) -> np.ndarray:
    return np.where(TARGET, target, background).astype(dtype)


def coloured(background: tuple, target: tuple) -> np.ndarray:
    return np.where(TARGET[..., None], target, background).astype(np.uint8)


def palette(*colours: tuple, indices: np.ndarray | None = None) -> Image.Image:
    image = Image.fromarray(gray(0, 1) if indices is None else indices.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


TWO_VALUED = {
    "0 and 255": gray(0, 255),
    "zeros and ones": gray(0, 1),
    "class 2": gray(0, 2),
    "gray 100": gray(0, 100),
    "gray on gray": gray(20, 90),
    "16 bits of 1": gray(0, 1, np.uint16),
    "16 bits of 255": gray(0, 255, np.uint16),
    "16 bits": gray(0, 65535, np.uint16),
    "floats": gray(0, 1, np.float32),
    "bits": Image.fromarray(TARGET),
    "white on black": coloured(BLACK, (255, 255, 255)),
    "red on black": coloured(BLACK, RED),
    "class palette": palette(BLACK, (128, 0, 0)),
    "opaque": Image.fromarray(np.dstack([coloured(BLACK, RED), gray(0, 255)]), "RGBA"),
}


@pytest.mark.parametrize("name", TWO_VALUED)
def test_of_two_values_the_brighter_is_the_targets(name):
    levels = mask_levels(TWO_VALUED[name], "'a'")
    assert levels.dtype == np.uint8
    np.testing.assert_array_equal(levels, gray(0, 255))


def test_gray_with_0_and_255_keeps_its_levels():
    stored = gray(0, 255)
    stored[0, :3] = 64, 127, 128
    np.testing.assert_array_equal(mask_levels(stored, "'a'"), stored)
    np.testing.assert_array_equal(mask_levels(np.dstack([stored] * 3), "'a'"), stored)


@pytest.mark.parametrize("empty", [np.zeros((6, 8), np.uint8), Image.new("1", (8, 6)), Image.new("RGB", (8, 6))])
def test_a_black_mask_holds_no_target(empty):
    assert not mask_levels(empty, "'a'").any()


def test_half_of_the_pixels_may_be_a_targets():
    assert mask_levels(np.array([[0, 1]], np.uint8), "'a'").tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (gray(255, 0), "its brighter value on 92% of its pixels"),
        (np.full((6, 8), 255, np.uint8), "its brighter value on 100%"),
        (np.full((6, 8), 7, np.uint8), "its brighter value on 100%"),
        (gray(0, 1) + np.eye(6, 8, dtype=np.uint8) * 2, "4 values"),
        (gray(0, 200) + np.eye(6, 8, dtype=np.uint8), "4 values"),
        (palette(BLACK, (128, 0, 0), (0, 128, 0), indices=gray(0, 1) + np.eye(6, 8)), "3 values"),
        (coloured(BLACK, RED) + np.uint8(255) * np.eye(6, 8, dtype=np.uint8)[..., None], "values"),
        (coloured((0, 0, 255), (97, 0, 0)), "2 values"),  # of one gray level, 29
        (Image.fromarray(np.dstack([np.zeros((6, 8, 3), np.uint8), gray(0, 255)]), "RGBA"), "transparency"),
    ],
)
def test_what_cannot_be_told_is_an_error_with_what_is_allowed(stored, reason):
    with pytest.raises(ValueError, match=rf"mask 'a' .*{reason}.*gray with 0 and 255, cut at 128, or has two values"):
        mask_levels(stored, "'a'")


def test_masks_are_read_from_files_of_every_format_by_a_folder(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number, stored in enumerate(TWO_VALUED.values()):
        picture = stored if isinstance(stored, Image.Image) else None
        suffix = "png" if picture or stored.dtype == np.uint8 else ("npy", "tif")[number % 2]
        path = tmp_path / "masks" / f"{number:02}.{suffix}"
        if suffix == "npy":
            np.save(path, stored)
        else:
            (picture or Image.fromarray(stored)).save(path)
        Image.new("L", (8, 6)).save(tmp_path / "images" / f"{number:02}.png")
        np.testing.assert_array_equal(read_mask(path), gray(0, 255))
    folder = IRSTDFolder(tmp_path)
    assert len(folder) == len(TWO_VALUED)
    for index, sample in enumerate(folder):
        np.testing.assert_array_equal(sample.mask, TARGET)
        np.testing.assert_array_equal(folder.stored_mask(index), gray(0, 255))


def test_a_mask_of_several_pages_is_an_error(tmp_path):
    pages = [Image.fromarray(gray(0, 255))] * 2
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"a\.tif': 2 frames, where one image is due"):
        read_mask(tmp_path / "a.tif")


def test_a_rotated_mask_is_that_of_the_stored_pixels(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 6
    file = io.BytesIO()
    Image.fromarray(gray(0, 255)).save(file, "TIFF", tiffinfo=tags)
    (tmp_path / "a.tif").write_bytes(file.getvalue())
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), gray(0, 255))

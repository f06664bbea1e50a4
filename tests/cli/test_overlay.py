"""Boxes and confidences on an image."""

import numpy as np
import pytest

from irstd_ldm.data.images import displayable
from irstd_ldm.results import BOX_COLOUR, draw_overlay
from irstd_ldm.targets import Target


def target_at(left: int, top: int, width: int = 3, height: int = 3, confidence: float = 0.87) -> Target:
    x, y = left + (width - 1) / 2, top + (height - 1) / 2
    return Target(x, y, left, top, width, height, width * height, confidence, confidence, confidence, 5.0)


def boxes(picture) -> np.ndarray:
    return (np.asarray(picture) == BOX_COLOUR).all(axis=2)


def num_text_px(picture) -> int:
    """Yellow pixels, the smoothed ones at the letters' edges included."""
    _, green, blue = np.moveaxis(np.asarray(picture).astype(int), 2, 0)
    return int(((green > 120) & (green - blue > 60)).sum())


@pytest.mark.parametrize(("width", "factor"), [(1, 640), (128, 5), (256, 3), (639, 2), (640, 1), (1000, 1)])
def test_small_images_are_enlarged_by_a_whole_factor(width, factor):
    gray = np.full((1, width), 7, np.uint8)
    assert draw_overlay(gray, []).size == (width * factor, factor)


def test_box_lies_two_pixels_around_the_target_and_leaves_it_uncovered():
    gray = np.zeros((128, 128), np.uint8)
    gray[60:63, 40:43] = 255
    picture = draw_overlay(gray, [target_at(40, 60)])  # 5 times enlarged
    red = np.argwhere(boxes(picture))
    assert red.min(axis=0).tolist() == [58 * 5, 38 * 5]
    assert red.max(axis=0).tolist() == [65 * 5 - 1, 45 * 5 - 1]
    assert (np.asarray(picture)[300:315, 200:215] == 255).all()


@pytest.mark.parametrize("width", [128, 1000])
@pytest.mark.parametrize("corner", [(0, 0), (1, 1)])
def test_confidence_stands_whole_inside_the_image_even_at_its_corners(width, corner):
    middle = draw_overlay(np.zeros((width, width), np.uint8), [target_at(width // 2, width // 2)])
    x, y = corner[0] * (width - 3), corner[1] * (width - 3)
    picture = draw_overlay(np.zeros((width, width), np.uint8), [target_at(x, y)])
    text_px = num_text_px(picture)
    assert text_px == num_text_px(middle)
    assert text_px > 60


def test_neighbouring_confidences_do_not_cover_each_other():
    gray = np.zeros((256, 256), np.uint8)
    alone = [num_text_px(draw_overlay(gray, [target_at(x, 100)])) for x in (100, 108)]
    both = num_text_px(draw_overlay(gray, [target_at(100, 100), target_at(108, 100)]))
    assert both == sum(alone)


def test_display_of_other_types_is_stretched_and_of_a_constant_frame_black():
    ramp = np.arange(30000, 31000, dtype=np.uint16).reshape(20, 50)
    shown = displayable(ramp)
    assert (shown.min(), shown.max()) == (0, 255)
    assert (np.diff(shown.ravel().astype(int)) >= 0).all()
    assert (displayable(np.full((4, 4), 9.5, np.float32)) == 0).all()
    gray = np.array([[3, 200]], np.uint8)
    assert displayable(gray) is gray

"""What cameras, files and displays add to a scene."""

import numpy as np
import pytest

from irstd_ldm.data.crops import add_defects, compress_jpeg, hide_borders, interlace


def smooth(seed: int = 0, size: int = 96) -> np.ndarray:
    rows, columns = np.indices((size, size)) / size
    noise = np.random.default_rng(seed).normal(0, 0.01, (size, size))
    return (0.4 + 0.2 * rows * columns + noise).astype(np.float32)


def test_defects_are_few_pixels_far_from_the_scene():
    image, mask, shares, distances = smooth(), np.ones((96, 96), bool), [], []
    for seed in range(40):
        with_defects, left = add_defects(image, mask, 0.2, np.random.default_rng(seed))
        changed = with_defects != image
        assert np.array_equal(left, ~changed)  # what a defect covers is no target
        shares.append(changed.mean())
        distances.append(np.abs(with_defects - image).max() / 0.2)
    assert 0 < min(shares) and max(shares) < 0.15
    assert max(distances) > 20 and min(distances) > 0.2
    assert image.tobytes() == smooth().tobytes()  # not changed in place


def test_borders_are_of_one_value_and_hide_targets():
    image, mask = smooth(), np.ones((96, 96), bool)
    shares = []
    for seed in range(40):
        shown, visible = hide_borders(image, mask, np.random.default_rng(seed))
        assert shown.dtype == np.float32
        assert len(np.unique(shown[~visible])) <= 1
        assert np.array_equal(shown[visible], image[visible])
        shares.append(1 - visible.mean())
    assert max(shares) > 0.2 and sum(share > 0 for share in shares) > 30


def test_interlacing_moves_every_other_row_of_image_and_mask():
    image, mask = smooth(), np.zeros((96, 96), bool)
    mask[40:44, 50:53] = True
    image[mask] = 1
    for seed in range(8):
        moved, moved_mask = interlace(image, mask, np.random.default_rng(seed))
        assert np.array_equal(moved[::2], image[::2]) and np.array_equal(moved_mask[::2], mask[::2])
        assert np.array_equal(moved == 1, moved_mask) and moved_mask.sum() == mask.sum()
        assert not np.array_equal(moved[1], image[1])


def test_interlacing_brings_nothing_from_the_other_side():
    image, mask = smooth(), np.zeros((96, 96), bool)
    image[:, :3], mask[:, :3] = 1, True
    for seed in range(8):
        moved, moved_mask = interlace(image, mask, np.random.default_rng(seed))
        assert not moved_mask[:, 48:].any() and np.array_equal(moved == 1, moved_mask)


def test_compression_is_mild():
    image = smooth()
    compressed = compress_jpeg(image, np.random.default_rng(0))
    assert compressed.shape == image.shape and compressed.dtype == np.float32
    assert 0 < np.abs(compressed - image).mean() < 0.01


@pytest.mark.parametrize(
    "function",
    [
        lambda image, rng: add_defects(image, np.ones(image.shape, bool), 0.2, rng)[0],
        lambda image, rng: interlace(image, np.ones(image.shape, bool), rng)[0],
        compress_jpeg,
    ],
)
def test_the_generator_decides(function):
    first, again, other = (function(smooth(), np.random.default_rng(seed)) for seed in (1, 1, 3))
    assert first.tobytes() == again.tobytes() and first.tobytes() != other.tobytes()

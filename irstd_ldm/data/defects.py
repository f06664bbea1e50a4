"""What a camera, a file or a window of a display adds to a scene: defects, borders, interlacing, compression."""

import io

import numpy as np
from PIL import Image


def add_defects(
    image: np.ndarray, mask: np.ndarray, scale: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The image with one or two kinds of dead or hot pixels, rows or columns, or a strip of telemetry.

    A defect lies up to hundreds of times the scene's contrast away from it, as a dead pixel of a 14-bit frame does.
    What it covers is no target any more.

    Args:
        image: (H, W) float32.
        mask: (H, W) bool.
        scale: Width of the scene's range, in the image's units.
        rng: Source of the choice.
    """
    shown = image.copy()
    for kind in rng.choice(4, rng.integers(1, 3), replace=False):
        level = image.mean() + rng.choice((-1, 1)) * scale * np.exp(rng.uniform(0, np.log(200)))
        if kind == 0:
            count = int(image.size * np.exp(rng.uniform(np.log(2e-5), np.log(1.5e-2)))) + 1
            pixels = rng.integers(image.size, size=count)
            shown.flat[pixels] = level if rng.random() < 0.7 else rng.uniform(image.min(), image.max(), count)
        elif kind == 1:
            shown[rng.integers(image.shape[0], size=rng.integers(1, 4))] = level
        elif kind == 2:
            shown[:, rng.integers(image.shape[1], size=rng.integers(1, 4))] = level
        else:
            rows, length = rng.integers(1, 5), rng.integers(image.shape[1] // 8, image.shape[1] + 1)
            strip = rng.choice((image.min(), level), (rows, length))
            shown[slice(rows) if rng.random() < 0.5 else slice(-rows, None), :length] = strip
    return shown, mask & (shown == image)


def hide_borders(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image with a letterbox, a round field of view or a corner without data, of one value and without targets.

    Args:
        image: (H, W) float32.
        mask: (H, W) bool.
        rng: Source of the choice.
    """
    height, width = image.shape
    rows, columns = np.ogrid[:height, :width]
    kind = rng.integers(3)
    if kind == 0:
        rows, extent = (rows, height) if rng.random() < 0.5 else (columns, width)
        first, last = rng.uniform(0, 0.25, 2) * extent
        hidden = np.broadcast_to((rows < first) | (rows >= extent - last), image.shape)
    elif kind == 1:
        radius = rng.uniform(0.4, 0.7) * min(height, width)
        y, x = rng.uniform(0.4, 0.6, 2) * image.shape
        hidden = (rows - y) ** 2 + (columns - x) ** 2 > radius**2
    else:
        y, x = rng.uniform(0.05, 0.4, 2) * image.shape
        rows = rows if rng.random() < 0.5 else height - 1 - rows
        columns = columns if rng.random() < 0.5 else width - 1 - columns
        hidden = rows / y + columns / x < 1
    low, high = image.min(), image.max()
    level = rng.choice((low, low - rng.uniform(0, 20) * (high - low), rng.uniform(low, high)), p=(0.5, 0.25, 0.25))
    return np.where(hidden, np.float32(level), image), mask & ~hidden


def interlace(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask (H, W) with every other row moved by a pixel or two, as fields of a moving camera are."""
    width = image.shape[1]
    columns = np.arange(width) + rng.choice((-2, -1, 1, 2))
    columns = np.minimum(np.abs(columns), 2 * (width - 1) - np.abs(columns))  # reflected at the borders
    image, mask = image.copy(), mask.copy()
    image[1::2], mask[1::2] = image[1::2, columns], mask[1::2, columns]
    return image, mask


def compress_jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image (H, W) on [0, 1] after 8-bit JPEG of a quality of 70 to 95."""
    file = io.BytesIO()
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(70, 96)))
    return np.asarray(Image.open(file), np.float32) / 255

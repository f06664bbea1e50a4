"""A validation split that keeps images of one scene on one side."""

import re

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from .images import normalize_image

THUMBNAIL_PX = 16
MIN_CORRELATION = 0.85  # least correlation of similar thumbnails, each without its fitted plane
NEIGHBOUR_NUMBERS = 2  # stems this many numbers apart are compared more closely: sequences are numbered in order
DETAIL_PX = 256  # side of the half-size detail image, zero-padded or cut
MIN_NEIGHBOUR_CORRELATION = 0.35  # least one of detail images at their best shift; 98.5 % of NUAA's pairs have less


def split_by_scene(
    stems: list[str], images: list[np.ndarray], fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """Draws validation stems from a training list, whole scenes at a time (`scene_groups`).

    Scenes are taken in random order, each that still fits, until `fraction` of the images (H, W) is reached.

    Returns:
        The stems for training and for validation, each in the given order.

    Raises:
        ValueError: `fraction` is outside (0, 1) or leaves a side empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction` must be between 0 and 1, got {fraction}")
    wanted = round(fraction * len(stems))
    groups = scene_groups(stems, images)  # (N,)
    num_groups = int(groups.max()) + 1
    chosen: set[int] = set()
    for group in np.random.default_rng(seed).permutation(num_groups):
        members = np.flatnonzero(groups == group).tolist()
        if len(chosen) + len(members) <= wanted:
            chosen.update(members)
    if not 0 < len(chosen) < len(stems):
        raise ValueError(f"`fraction` {fraction} of {len(stems)} images in {num_groups} scenes leaves a side empty")
    train = [stem for index, stem in enumerate(stems) if index not in chosen]
    return train, [stem for index, stem in enumerate(stems) if index in chosen]


def scene_groups(stems: list[str], images: list[np.ndarray]) -> np.ndarray:
    """The number of each image's scene: connected groups of pairs that look alike.

    Two images look alike where their thumbnails correlate, or, for stems of one prefix whose last numbers differ by
    at most 2, where their detail correlates at some shift. Scenes seen from elsewhere or at other scales are missed.
    The numbers are (N,) int, from 0, for N stems and images.
    """
    thumbnails = np.stack([_thumbnail(image) for image in images])  # (N, THUMBNAIL_PX**2)
    similar = thumbnails @ thumbnails.T >= MIN_CORRELATION  # (N, N)
    details = [_detail_spectrum(image) for image in images]
    numbers = [_prefix_and_number(stem) for stem in stems]
    for i, (prefix, number) in enumerate(numbers):
        for j, (other_prefix, other_number) in enumerate(numbers[:i]):
            if prefix == other_prefix and abs(number - other_number) <= NEIGHBOUR_NUMBERS:
                correlation = np.fft.irfft2(details[i] * details[j].conj()).max()
                similar[i, j] |= correlation >= MIN_NEIGHBOUR_CORRELATION
    return connected_components(similar)[1]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """The image's coarse pattern: no mean, no gradient, unit norm; (THUMBNAIL_PX**2,)."""
    scaled = Image.fromarray(normalize_image(image)).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    values = np.asarray(scaled, np.float64).ravel()
    rows, columns = np.indices((THUMBNAIL_PX, THUMBNAIL_PX)).reshape(2, -1)
    plane = np.stack([np.ones_like(values), rows, columns], axis=1)
    residual = values - plane @ np.linalg.lstsq(plane, values, rcond=None)[0]
    norm = np.linalg.norm(residual)
    return residual / norm if norm > 1e-6 else residual


def _detail_spectrum(image: np.ndarray) -> np.ndarray:
    """Spectrum of the half-size, band-passed image of unit norm; (DETAIL_PX, DETAIL_PX // 2 + 1) complex."""
    height, width = image.shape
    size = (max(width // 2, 1), max(height // 2, 1))
    values = np.asarray(Image.fromarray(normalize_image(image)).resize(size, Image.Resampling.BOX), np.float64)
    detail = ndimage.gaussian_filter(values, 0.7) - ndimage.gaussian_filter(values, 4)
    spread = detail.std() + 1e-6
    detail = np.clip(detail, -3 * spread, 3 * spread)[:DETAIL_PX, :DETAIL_PX]  # bright targets must not decide
    norm = np.linalg.norm(detail)
    return np.fft.rfft2(detail / max(norm, 1e-6), s=(DETAIL_PX, DETAIL_PX))


def _prefix_and_number(stem: str) -> tuple[str, int]:
    """The stem without its last number, and that number (-1 without one)."""
    match = re.fullmatch(r"(.*?)(\d+)(\D*)", stem)
    return (f"{match[1]}|{match[3]}", int(match[2])) if match else (stem, -1)

"""Implanted targets: real ones cut from labelled images, and Gaussian point-spread targets."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..targets import EIGHT_CONNECTIVITY

FEATHER_PX = 3  # a residual fades to zero at this distance from its mask
RING_PX = 8  # width of the neighbourhood that gives the local background
MIN_CONTRAST = 5.0  # gray levels: fainter ones drown in quantisation and noise
SCR_RANGE = (5.0, 15.0)  # of Gaussian targets: fainter ones teach a detector to fire on the speckle of sea and grass
SIGMA_RANGE_PX = (0.7, 2.2)  # of Gaussian targets
MASK_FRACTION = 0.35  # of the profile's peak; a Gaussian of sigma s gives a disc of radius 1.45 s
MAX_PATCH_PX = 48  # longest side of a banked patch
PLACING_ATTEMPTS = 10


@dataclass(frozen=True)
class TargetPatch:
    """A real target without its background."""

    residual: np.ndarray  # (h, w) float32, gray levels above the local background, feathered to 0 at the rim
    mask: np.ndarray  # (h, w) bool
    contrast: float  # the largest residual inside the mask, gray levels


class TargetBank:
    """The targets of labelled images, to be implanted elsewhere.

    A target is left out where its neighbourhood leaves the image or holds another target, or where it is not brighter
    than its background. The background under a target is the plane fitted to the ring around it.

    Args:
        frames: pairs of an image (H, W) in gray levels [0, 255] and its mask (H, W) bool.
    """

    def __init__(self, frames: Iterable[tuple[np.ndarray, np.ndarray]]):
        self.patches: list[TargetPatch] = []
        for image, mask in frames:
            labels, num_targets = ndimage.label(mask, structure=EIGHT_CONNECTIVITY)
            for label, box in enumerate(ndimage.find_objects(labels), start=1):
                patch = _cut_patch(image, labels, label, box)
                if patch is not None:
                    self.patches.append(patch)

    def __len__(self) -> int:
        return len(self.patches)


def implant(
    image: np.ndarray, mask: np.ndarray, bank: TargetBank, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Adds 1 to 3 targets, each a banked one or (half of them, all for an empty bank) a Gaussian point-spread one.

    A banked target is flipped and turned at random and scaled to a peak contrast between 4 local standard deviations
    and its own; a Gaussian one reaches an SCR of 5 to 15. Targets keep clear of those in `mask` and of one another;
    one that finds no place in 10 attempts is left out.

    Args:
        image: (H, W) in gray levels [0, 255], at least 64x64.
        mask: (H, W) bool.

    Returns:
        The new image (H, W) float32, clipped at 255, and the new mask (H, W) bool.
    """
    image, mask = image.astype(np.float32), mask.copy()
    for _ in range(rng.integers(1, 4)):
        if len(bank) and rng.random() < 0.5:
            residual, patch_mask, contrast = _banked_target(bank, rng)
        else:
            residual, patch_mask, contrast = _gaussian_target(rng), None, None
        _place(image, mask, residual, patch_mask, contrast, rng)
    return np.minimum(image, 255), mask


def gaussian_profile(
    shape: tuple[int, int], x: float, y: float, sigma_x: float, sigma_y: float, angle: float = 0.0
) -> np.ndarray:
    """A Gaussian point-spread profile, integrated over each pixel by 5x5 samples, its largest pixel scaled to 1.

    Args:
        shape: (h, w).
        x, y: centre in pixels (pixel centres at integers).
        sigma_x, sigma_y: standard deviations in pixels along the profile's axes.
        angle: of the first axis against the x axis, in radians.

    Returns:
        (h, w) float64.
    """
    offsets = (np.arange(5) - 2) / 5
    columns = (np.arange(shape[1])[:, None] + offsets).ravel() - x  # (5w,)
    rows = ((np.arange(shape[0])[:, None] + offsets).ravel() - y)[:, None]  # (5h, 1)
    along = (np.cos(angle) * columns + np.sin(angle) * rows) / sigma_x
    across = (np.cos(angle) * rows - np.sin(angle) * columns) / sigma_y
    samples = np.exp(-0.5 * (along**2 + across**2))  # (5h, 5w)
    profile = samples.reshape(shape[0], 5, shape[1], 5).mean(axis=(1, 3))
    return profile / profile.max()


def _cut_patch(image: np.ndarray, labels: np.ndarray, label: int, box: tuple[slice, slice]) -> TargetPatch | None:
    top, bottom = box[0].start - RING_PX, box[0].stop + RING_PX
    left, right = box[1].start - RING_PX, box[1].stop + RING_PX
    if top < 0 or left < 0 or bottom > image.shape[0] or right > image.shape[1]:
        return None
    if max(bottom - top, right - left) > MAX_PATCH_PX:
        return None
    window, window_labels = image[top:bottom, left:right].astype(np.float64), labels[top:bottom, left:right]
    if np.any((window_labels != 0) & (window_labels != label)):
        return None
    mask = window_labels == label
    distance = ndimage.distance_transform_edt(~mask)
    rows, columns = np.indices(mask.shape)
    plane = np.stack([np.ones(mask.size), rows.ravel(), columns.ravel()], axis=1)  # (h*w, 3)
    ring = (distance > FEATHER_PX).ravel()
    coefficients = np.linalg.lstsq(plane[ring], window.ravel()[ring], rcond=None)[0]
    residual = window - (plane @ coefficients).reshape(mask.shape)
    contrast = float(residual[mask].max())
    if contrast < MIN_CONTRAST or residual[mask].mean() <= 0:
        return None
    residual *= np.clip(1 - distance / FEATHER_PX, 0, 1)
    inner = slice(RING_PX - FEATHER_PX, FEATHER_PX - RING_PX)
    return TargetPatch(residual[inner, inner].astype(np.float32), mask[inner, inner], contrast)


def _banked_target(bank: TargetBank, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    patch = bank.patches[rng.integers(len(bank))]
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    residual, mask = np.rot90(patch.residual, turns), np.rot90(patch.mask, turns)
    return (residual[:, ::-1], mask[:, ::-1], patch.contrast) if flip else (residual, mask, patch.contrast)


def _gaussian_target(rng: np.random.Generator) -> np.ndarray:
    sigma = np.exp(rng.uniform(*np.log(SIGMA_RANGE_PX)))
    ratio, angle = (rng.uniform(1, 1.6), rng.uniform(0, np.pi)) if rng.random() < 0.3 else (1.0, 0.0)
    radius = int(np.ceil(3 * sigma * ratio)) + 1
    x, y = radius + rng.uniform(-0.5, 0.5, 2)
    return gaussian_profile((2 * radius + 1, 2 * radius + 1), x, y, sigma * ratio, sigma, angle)


def _place(
    image: np.ndarray,
    mask: np.ndarray,
    residual: np.ndarray,
    patch_mask: np.ndarray | None,
    contrast: float | None,
    rng: np.random.Generator,
) -> None:
    """Adds one residual to `image` and its mask to `mask`, in place, at a random place that suits it."""
    height, width = residual.shape
    scr = np.exp(rng.uniform(*np.log(SCR_RANGE)))
    uniform = rng.random()
    for _ in range(PLACING_ATTEMPTS):
        top, left = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
        around = (
            slice(max(top - RING_PX, 0), top + height + RING_PX),
            slice(max(left - RING_PX, 0), left + width + RING_PX),
        )
        if mask[around].any():
            continue
        local_std, local_mean = image[around].std(), image[around].mean()
        if contrast is None:
            patch_mask = residual > MASK_FRACTION
            amplitude = max(scr * local_std, MIN_CONTRAST) / residual[patch_mask].mean()
        else:
            lowest = max(4 * local_std, MIN_CONTRAST)
            amplitude = (lowest + uniform * max(contrast - lowest, 0)) / contrast
        if local_mean + amplitude * residual.max() > 255:
            scr, uniform = 0.7 * scr, 0.7 * uniform
            continue
        window = slice(top, top + height), slice(left, left + width)
        image[window] += amplitude * residual
        mask[window] |= patch_mask
        return

"""How near synthetic images are to real ones: spectra, patches, targets before and after, nearest training image.

Images are (H, W) float32 in gray levels, 0 to 255, whatever the depth they are stored in. FID and KID describe
images by a network whose weights are a download, trained on colour photographs: what stands here needs neither.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import fft, ndimage, signal

from irstd_ldm.data.ggs import target_contrasts
from irstd_ldm.targets import label_components

FLOOR_POWER = 1 / 12  # noise of rounding in gray levels squared; it keeps the logarithm of a flat crop finite
HIGH_FREQUENCY = 0.25  # cycles per px; half of what the grid can hold
PATCH_PX = 8
THUMBNAIL_PX = 64
PROFILE_PX = 8  # distance from a target as far as which the profile around it goes
FAR_PX = 12  # and as far as which the surroundings go that it is counted from


class TargetContrast(NamedTuple):
    """One target of a source image: its mean less that of its ring, in gray levels, NaN without a ring."""

    before: float  # contrast in the source
    after: float  # contrast in the synthetic image
    labelled: bool  # whether the synthetic image's mask still holds a pixel of it

    @property
    def ratio(self) -> float:
        """after / before: 1 as it was, 0 or less lost or turned from bright to dark; NaN where before is 0."""
        return self.after / self.before if self.before else float("nan")


class Neighbours(NamedTuple):
    """Synthetic images among the training images, by correlation of thumbnails in [-1, 1]."""

    nearest_other_share: float  # share of those that resemble another training image more than their own source
    median_own: float  # median correlation with the own source
    highest_other: float  # highest correlation of a synthetic image with a training image that is not its source
    pair: tuple[int, int]  # indices of that synthetic and of that training image
    highest_other_of_source: float  # correlation of that synthetic image's source with the same training image


def random_crops(
    images: Sequence[np.ndarray], names: Sequence[str], side_px: int, per_image: int, seed: int
) -> np.ndarray:
    """Square crops (N * per_image, side_px, side_px) at uniform random positions, the same ones in images of one name.

    Images (H, W) to be compared bear the name of their source; those of one name have one size.
    """
    crops = []
    for image, name in zip(images, names, strict=True):
        if min(image.shape) < side_px:
            raise ValueError(
                f"`side_px` must be no more than a side of every image, got {side_px}, '{name}' is "
                f"{image.shape[1]}x{image.shape[0]} (width x height)"
            )
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        for _ in range(per_image):
            top, left = (int(rng.integers(size - side_px + 1)) for size in image.shape)
            crops.append(image[top : top + side_px, left : left + side_px])
    return np.stack(crops)


def radial_spectrum(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spatial frequencies (S // 2,), 1 / S to 1/2 cycle per px, and mean power spectrum (S // 2,) of crops (N, S, S).

    It is averaged radially, under a Hann window and without a crop's mean, in decibels over one gray level squared:
    white noise of standard deviation s is flat at 20 log10(s), up to FLOOR_POWER.
    """
    side = crops.shape[-1]
    window = np.outer(*2 * [signal.windows.hann(side, sym=False)])  # (S, S)
    weighted_mean = (crops * window).sum(axis=(1, 2), keepdims=True) / window.sum()
    power = np.abs(np.fft.fft2((crops - weighted_mean) * window)) ** 2 / (window**2).sum()  # (N, S, S)
    frequency = np.fft.fftfreq(side)
    ring = np.rint(np.hypot(frequency[:, None], frequency) * side).astype(int).ravel()  # (S * S,)
    rings = np.arange(1, side // 2 + 1)
    counts = np.bincount(ring)[rings]
    radial = np.stack([np.bincount(ring, one.ravel())[rings] / counts for one in power])  # (N, S // 2)
    return rings / side, (10 * np.log10(radial + FLOOR_POWER)).mean(axis=0)


def spectrum_distance(spectrum: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square difference of two `radial_spectrum`s (F,), in dB; every ring counts the same."""
    return float(np.sqrt(np.mean((spectrum - reference) ** 2)))


def high_frequency_difference(frequency: np.ndarray, spectrum: np.ndarray, reference: np.ndarray) -> float:
    """Mean of spectrum - reference from HIGH_FREQUENCY on, in dB: below 0 too smooth, above 0 too rough."""
    return float((spectrum - reference)[frequency >= HIGH_FREQUENCY].mean())


def patch_features(patches: np.ndarray) -> np.ndarray:
    """Mean, log2(1 + std), skewness, log2(1 + gradient) and log2(1 + fine DCT) of patches (N, S, S); (N, 5).

    The skewness of a flat patch is 0; the gradient is the mean absolute difference of neighbours across and down; of
    the orthonormal DCT coefficients the root mean square of the finer half (u + v >= S) is taken.
    """
    side = patches.shape[-1]
    flat = patches.reshape(len(patches), -1).astype(np.float64)
    mean, std = flat.mean(axis=1), flat.std(axis=1)
    third = ((flat - mean[:, None]) ** 3).mean(axis=1)
    skewness = np.divide(third, std**3, out=np.zeros_like(std), where=std > 1e-6)
    gradient = sum(np.abs(np.diff(patches, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)) / 2
    coefficients = fft.dctn(patches, axes=(1, 2), norm="ortho")
    fine = np.add.outer(np.arange(side), np.arange(side)) >= side
    high = np.sqrt((coefficients[:, fine] ** 2).mean(axis=1))
    return np.stack([mean, np.log2(1 + std), skewness, np.log2(1 + gradient), np.log2(1 + high)], axis=1)


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """2-Wasserstein distance of the Gaussians fitted to features (N, D) and (M, D), in deviations of the reference.

    Each feature is divided by its standard deviation in `reference` first (one that is constant there, by 1). FID is
    the square of such a distance. It rises a little as samples get fewer.
    """
    spread = reference.std(axis=0)
    scale = np.where(spread > 0, spread, 1)
    a, b = features / scale, reference / scale
    covariance_a, covariance_b = (np.atleast_2d(np.cov(values, rowvar=False)) for values in (a, b))
    # the trace of sqrt(AB) is the sum of the roots of its eigenvalues, real and >= 0 for covariances
    roots = np.sqrt(np.clip(np.linalg.eigvals(covariance_a @ covariance_b).real, 0, None))
    squared = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    squared += np.trace(covariance_a) + np.trace(covariance_b) - 2 * roots.sum()
    return float(np.sqrt(max(squared, 0)))


def compare_targets(
    source: np.ndarray, mask: np.ndarray, synthetic: np.ndarray, synthetic_mask: np.ndarray
) -> list[TargetContrast]:
    """Every target of a source image, before and after, its pixels and its ring those of the source's mask."""
    if not source.shape == mask.shape == synthetic.shape == synthetic_mask.shape:
        raise ValueError(f"`synthetic` must have the shape of `source`, {source.shape}, got {synthetic.shape}")
    labels, components = label_components(mask)
    labelled = [bool(synthetic_mask[labels == component.label].any()) for component in components]
    before, after = (target_contrasts(image.astype(np.float64), mask).tolist() for image in (source, synthetic))
    return [TargetContrast(*one) for one in zip(before, after, labelled, strict=True)]


def surroundings_profiles(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Level and texture at 1 to 8 px from each target, against those at 9 to 12 px; (targets, 8) each.

    The level is the mean, in gray levels; the texture the mean absolute difference to the mean of the four
    neighbours, as a ratio. A pixel belongs to the nearest target; NaN where a border or another target leaves none.
    """
    labels, components = label_components(mask)
    if not components:
        return np.empty((0, PROFILE_PX)), np.empty((0, PROFILE_PX))
    distance, nearest = ndimage.distance_transform_edt(~mask, return_indices=True)
    owner, away = labels[tuple(nearest)], np.ceil(distance).astype(int)
    kernel = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4
    texture = np.abs(image - ndimage.convolve(image.astype(np.float64), kernel, mode="nearest"))
    groups = np.where((away > 0) & (away <= FAR_PX), owner * (FAR_PX + 1) + np.minimum(away, PROFILE_PX + 1), 0)
    size = (len(components) + 1) * (FAR_PX + 1)
    counts = np.bincount(groups.ravel(), minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        level, fine = (
            (np.bincount(groups.ravel(), one.ravel(), size) / counts).reshape(-1, FAR_PX + 1)[1:, 1 : PROFILE_PX + 2]
            for one in (image, texture)
        )  # (targets, 9), the last of what is far
        return level[:, :-1] - level[:, -1:], fine[:, :-1] / fine[:, -1:]


def grid_correlation(crops: np.ndarray, stride: int) -> float:
    """Autocorrelation of neighbours' differences at a lag of `stride` px less the mean of those beside it.

    It is the mean over crops (N, S, S) and both axes, and about 0 where nothing repeats every `stride` px.
    """

    def at_lag(differences: np.ndarray, lag: int) -> np.ndarray:
        products = differences[:, :, lag:] * differences[:, :, :-lag]
        return products.mean(axis=(1, 2)) / np.maximum((differences**2).mean(axis=(1, 2)), FLOOR_POWER)

    excess = []
    for turned in (crops, crops.swapaxes(1, 2)):
        differences = np.diff(turned.astype(np.float64), axis=2)
        near = (at_lag(differences, stride - 1) + at_lag(differences, stride + 1)) / 2
        excess.append(at_lag(differences, stride) - near)
    return float(np.mean(excess))


def thumbnails(images: Sequence[np.ndarray]) -> np.ndarray:
    """N images (H, W), each scaled to THUMBNAIL_PX a side, of zero mean and unit norm (flat: all 0); (N, D)."""
    side = (THUMBNAIL_PX, THUMBNAIL_PX)
    scaled = [Image.fromarray(image.astype(np.float32)).resize(side, Image.Resampling.BOX) for image in images]
    values = np.stack([np.asarray(one, np.float64).ravel() for one in scaled])
    values -= values.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, norms, out=np.zeros_like(values), where=norms > 1e-6)


def nearest_training_images(synthetic: np.ndarray, training: np.ndarray, sources: Sequence[int]) -> Neighbours:
    """Finds the `thumbnails` (M, D) that synthetic ones (N, D) resemble; their own have the indices `sources`."""
    rows, own = np.arange(len(synthetic)), np.asarray(sources)
    others = synthetic @ training.T  # (N, M) normalised cross-correlation
    of_own = others[rows, own]
    others[rows, own] = -np.inf
    row, column = (int(index) for index in np.unravel_index(np.argmax(others), others.shape))
    return Neighbours(
        nearest_other_share=float((others.max(axis=1) > of_own).mean()),
        median_own=float(np.median(of_own)),
        highest_other=float(others[row, column]),
        pair=(row, column),
        highest_other_of_source=float(training[own[row]] @ training[column]),
    )

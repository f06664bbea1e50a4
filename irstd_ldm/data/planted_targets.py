"""Targets on images that had none there: real ones cut out elsewhere, and modelled ones of a chosen brightness."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from ..targets import EIGHT_CONNECTIVITY, RING_PX, Component, label_components, ring_window, signal_to_clutter_ratios

MASK_FRACTION = 0.2  # a pixel is a target's where its integrated profile exceeds this fraction of the peak pixel
SCR_TOLERANCE = 0.05  # relative; quantisation keeps a ratio from being exact
BISECTIONS = 30
PLANTING_ATTEMPTS = 200
MAD_TO_SIGMA = 0.6745  # median absolute deviation of a unit normal: Donoho and Johnstone, Biometrika 81 (1994)
NOISE_DRAWS = 4  # draws of the extra noise, until the SCR is reached

FEATHER_PX = 3  # a residual fades to zero at this distance from its mask
AROUND_PX = 8  # width of the neighbourhood that gives the local background of an implanted target
MIN_CONTRAST = 5.0  # gray levels: fainter targets drown in quantisation and noise
IMPLANT_SCR = (5.0, 15.0)  # fainter Gaussian targets teach a detector to fire on the speckle of sea and grass
IMPLANT_SIGMA_PX = (0.7, 2.2)
IMPLANT_MASK_FRACTION = 0.35  # a Gaussian of sigma s gives a disc of radius 1.45 s
MAX_PATCH_PX = 48  # longest side of a banked patch
IMPLANTING_ATTEMPTS = 10


@dataclass(frozen=True)
class SyntheticTarget:
    """One target; x, y in pixels (pixel centres at integers), of sub-pixel position."""

    x: float
    y: float
    sigma_px: float
    scr: float  # measured on the finished image
    area_px: int


@dataclass(frozen=True)
class SyntheticScene:
    """An image with the exact mask of its synthetic targets."""

    image: np.ndarray  # (H, W)
    mask: np.ndarray  # (H, W) bool
    targets: list[SyntheticTarget]


@dataclass(frozen=True)
class PointSpread:
    """A round Gaussian target at its position in an image, before it has a brightness."""

    x: float  # centre in pixels of the image
    y: float
    sigma_px: float
    window: tuple[slice, slice]  # rows and columns of the target with its ring
    profile: np.ndarray  # (h, w) in (0, 1], the brightest pixel 1
    pixels: np.ndarray  # (h, w) bool, where the profile exceeds 0.2

    @cached_property
    def _labelled(self) -> tuple[np.ndarray, list[Component]]:
        return label_components(self.pixels)

    def scr(self, finished: np.ndarray) -> float:
        """Signal-to-clutter ratio in a finished window (h, w)."""
        return float(signal_to_clutter_ratios(finished, *self._labelled)[0])

    def solve_amplitude(self, finished: Callable[[float], np.ndarray], scr: float, highest: float) -> float | None:
        """The amplitude up to `highest` at which the SCR is right within 5 %, by bisection; None where there is none.

        `finished` maps an amplitude to the finished, quantised window (h, w).
        """
        lowest = 0.0
        for _ in range(BISECTIONS):
            amplitude = (lowest + highest) / 2
            achieved = self.scr(finished(amplitude))
            if abs(achieved / scr - 1) < SCR_TOLERANCE:
                return amplitude
            lowest, highest = (amplitude, highest) if achieved < scr else (lowest, amplitude)
        return None

    def measured(self, finished: np.ndarray) -> SyntheticTarget:
        """The target as it is in the finished window (h, w)."""
        return SyntheticTarget(self.x, self.y, self.sigma_px, self.scr(finished), int(self.pixels.sum()))


def draw_point_spreads(
    occupied: np.ndarray, sigma_range_px: tuple[float, float], rng: np.random.Generator
) -> Iterator[PointSpread]:
    """Up to 200 targets at uniform random positions; none has a pixel `occupied` (H, W) in it or its ring."""
    height, width = occupied.shape
    for _ in range(PLANTING_ATTEMPTS):
        sigma_px = rng.uniform(*sigma_range_px)
        radius = int(np.ceil(4 * sigma_px)) + 1
        x, y = rng.uniform(radius, width - 1 - radius), rng.uniform(radius, height - 1 - radius)
        reach = radius + RING_PX
        rows, columns = (slice(max(round(center) - reach, 0), round(center) + reach + 1) for center in (y, x))
        taken = occupied[rows, columns]
        if not taken.any():
            profile = gaussian_profile(taken.shape, x - columns.start, y - rows.start, sigma_px, sigma_px)
            yield PointSpread(float(x), float(y), float(sigma_px), (rows, columns), profile, profile > MASK_FRACTION)


def gaussian_profile(
    shape: tuple[int, ...], x: float, y: float, sigma_x: float, sigma_y: float, angle: float = 0.0
) -> np.ndarray:
    """A Gaussian point-spread profile (h, w), integrated over each pixel by 5x5 samples, its largest pixel being 1.

    The centre and the deviations along its axes are in pixels, the angle of the first axis against x in radians.
    """
    offsets = (np.arange(5) - 2) / 5
    columns = (np.arange(shape[1])[:, None] + offsets).ravel() - x  # (5w,)
    rows = ((np.arange(shape[0])[:, None] + offsets).ravel() - y)[:, None]  # (5h, 1)
    along = (np.cos(angle) * columns + np.sin(angle) * rows) / sigma_x
    across = (np.cos(angle) * rows - np.sin(angle) * columns) / sigma_y
    samples = np.exp(-0.5 * (along**2 + across**2))  # (5h, 5w)
    profile = samples.reshape(shape[0], 5, shape[1], 5).mean(axis=(1, 3))
    return profile / profile.max()


@dataclass(frozen=True)
class TargetModel:
    """The look of planted targets; ranges are (low, high).

    Raises:
        ValueError: A range is not positive or not in order.
    """

    num_targets: tuple[int, int] = (1, 3)  # per frame, uniform
    scr_range: tuple[float, float] = (3.0, 12.0)  # signal-to-clutter ratio, log-uniform
    sigma_range_px: tuple[float, float] = (0.6, 2.0)  # standard deviation of the round Gaussian, uniform

    def __post_init__(self):
        for name in ("num_targets", "scr_range", "sigma_range_px"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"`{name}` must be (low, high) with 0 < low <= high, got {(low, high)}")


def noise_sigma(frame: np.ndarray) -> float:
    """Standard deviation of a frame's pixel noise, from its finest diagonal Haar details; (H, W) in raw values."""
    import pywt  # absent where torch is: synthetic scenes are made there too

    _, (_, _, diagonal) = pywt.dwt2(frame.astype(np.float64), "haar")
    return float(np.median(np.abs(diagonal)) / MAD_TO_SIGMA)


def plant_targets(frame: np.ndarray, model: TargetModel, rng: np.random.Generator) -> SyntheticScene:
    """Plant targets on a frame without any.

    A target is a round Gaussian at a sub-pixel position, integrated over each pixel, added to the frame: the frame's
    own noise stays on it. The photons that it adds bring noise of their own, of variance sigma**2 * signal / level,
    sigma being the frame's noise and level its local mean above its darkest value. The amplitude is solved for on the
    finished, quantised frame, so that its SCR is the one drawn within 5 %. A target that finds no position where it
    reaches its SCR without saturation is left out. Its mask is where the profile exceeds 0.2 of its peak pixel.

    Args:
        frame: (H, W) uint8, uint16 or floating point, raw values, at least 64 px on each side.
        model: How many targets, how bright and how wide.
        rng: Source of everything random.

    Returns:
        The frame in its own type, its mask and its targets.

    Raises:
        ValueError: The frame is smaller.
    """
    if min(frame.shape) < 64:
        raise ValueError(f"`frame` must be at least 64 px on each side, got {frame.shape}")
    levels = frame.astype(np.float64)
    mask = np.zeros(frame.shape, bool)
    sigma, darkest = noise_sigma(frame), float(np.percentile(levels, 0.1))
    targets = []
    for _ in range(rng.integers(model.num_targets[0], model.num_targets[1] + 1)):
        scr = float(np.exp(rng.uniform(*np.log(model.scr_range))))
        for spread in draw_point_spreads(mask, model.sigma_range_px, rng):
            target = _plant(levels, mask, spread, frame.dtype, scr, sigma, darkest, rng)
            if target is not None:
                targets.append(target)
                break
    return SyntheticScene(_quantised(levels, frame.dtype), mask, targets)


def _plant(
    levels: np.ndarray,
    mask: np.ndarray,
    spread: PointSpread,
    dtype: np.dtype,
    scr: float,
    sigma: float,
    darkest: float,
    rng: np.random.Generator,
) -> SyntheticTarget | None:
    """Adds a target to `levels` and `mask`, in place; None where it cannot have this SCR there."""
    clean = levels[spread.window]
    local_level = max(clean.mean() - darkest, 1e-6)
    highest_value = np.iinfo(dtype).max if dtype.kind == "u" else np.inf
    contrast = 4 * scr * max(clean[~spread.pixels].std(), 1.0) + np.ptp(clean)  # enough, where nothing saturates
    highest = min(highest_value - clean[spread.pixels].max(), contrast)

    for _ in range(NOISE_DRAWS):
        photon_noise = sigma * np.sqrt(spread.profile / local_level) * rng.standard_normal(clean.shape)

        def planted(amplitude: float, photon_noise: np.ndarray = photon_noise) -> np.ndarray:
            return clean + amplitude * spread.profile + np.sqrt(amplitude) * photon_noise

        amplitude = spread.solve_amplitude(lambda amplitude: _quantised(planted(amplitude), dtype), scr, highest)
        if amplitude is not None and planted(amplitude).max() <= highest_value:
            levels[spread.window] = planted(amplitude)
            mask[spread.window] |= spread.pixels
            return spread.measured(_quantised(levels[spread.window], dtype))
    return None


def _quantised(levels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind != "u":
        return levels.astype(dtype)
    return np.clip(np.rint(levels), 0, np.iinfo(dtype).max).astype(dtype)


@dataclass(frozen=True)
class TargetPatch:
    """A target without its background: a real one, or a Gaussian whose brightness is drawn as an SCR."""

    residual: np.ndarray  # (h, w), a real one's gray levels above the local background, feathered to 0 at the rim
    mask: np.ndarray  # (h, w) bool
    contrast: float | None  # a real one's largest residual inside the mask, gray levels


def cut_targets(frames: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[TargetPatch]:
    """The targets of labelled images, to be implanted elsewhere.

    A target is left out where its neighbourhood leaves the image or holds another target, or where it is not brighter
    than its background. The background under a target is the plane fitted to the ring around it.

    Args:
        frames: Pairs of an image (H, W) in gray levels [0, 255] and its mask (H, W) bool.
    """
    patches: list[TargetPatch | None] = []
    for image, mask in frames:
        labels, _ = ndimage.label(mask, structure=EIGHT_CONNECTIVITY)
        boxes = enumerate(ndimage.find_objects(labels), start=1)
        patches += [_cut_patch(image, labels, label, box) for label, box in boxes]
    return [patch for patch in patches if patch is not None]


def _cut_patch(image: np.ndarray, labels: np.ndarray, label: int, box: tuple[slice, slice]) -> TargetPatch | None:
    around = tuple(slice(side.start - AROUND_PX, side.stop + AROUND_PX) for side in box)
    if any(side.start < 0 or side.stop > extent for side, extent in zip(around, image.shape, strict=True)):
        return None
    window, mask = image[around].astype(np.float64), labels[around] == label
    if max(mask.shape) > MAX_PATCH_PX or np.any(labels[around][~mask]):
        return None
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
    inner = slice(AROUND_PX - FEATHER_PX, FEATHER_PX - AROUND_PX)
    return TargetPatch(residual[inner, inner].astype(np.float32), mask[inner, inner], contrast)


def implant(
    image: np.ndarray,
    mask: np.ndarray,
    bank: Sequence[TargetPatch],
    rng: np.random.Generator,
    own_bank: Sequence[TargetPatch] = (),
    own_probability: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Adds 1 to 3 targets: of `own_bank` as they lie there, of `bank`, or (half of the latter) Gaussian point spreads.

    A target of `bank` is flipped and turned at random. Banked ones are scaled to a peak contrast between 4 local
    standard deviations and their own; a Gaussian one reaches an SCR of 5 to 15. Targets keep clear of those in `mask`
    and of one another; one that finds no position in 10 attempts is left out. Speed counts here, in every training
    crop: no amplitude is solved for.

    Args:
        image: (H, W) in gray levels [0, 255], at least 64x64.
        mask: (H, W) bool.
        bank, own_bank: As `cut_targets` gives them; either may be empty.
        own_probability: Share of the targets that are of `own_bank`; at 0 nothing is drawn for it.

    Returns:
        The new image (H, W) float32, clipped at 255, and the new mask (H, W) bool.
    """
    image, mask = image.astype(np.float32), mask.copy()
    for _ in range(rng.integers(1, 4)):
        if len(own_bank) and own_probability and rng.random() < own_probability:
            _implant_one(image, mask, own_bank[int(rng.integers(len(own_bank)))], rng)
        elif len(bank) and rng.random() < 0.5:
            patch = bank[int(rng.integers(len(bank)))]
            turns, flip = int(rng.integers(4)), slice(None, None, -1 if rng.integers(2) else 1)
            residual, patch_mask = (np.rot90(array, turns)[:, flip] for array in (patch.residual, patch.mask))
            _implant_one(image, mask, TargetPatch(residual, patch_mask, patch.contrast), rng)
        else:
            _implant_one(image, mask, _gaussian_target(rng), rng)
    return np.minimum(image, 255), mask


def _gaussian_target(rng: np.random.Generator) -> TargetPatch:
    sigma = np.exp(rng.uniform(*np.log(IMPLANT_SIGMA_PX)))
    ratio, angle = (rng.uniform(1, 1.6), rng.uniform(0, np.pi)) if rng.random() < 0.3 else (1.0, 0.0)
    radius = int(np.ceil(3 * sigma * ratio)) + 1
    x, y = radius + rng.uniform(-0.5, 0.5, 2)
    profile = gaussian_profile((2 * radius + 1, 2 * radius + 1), x, y, sigma * ratio, sigma, angle)
    return TargetPatch(profile, profile > IMPLANT_MASK_FRACTION, None)


def _implant_one(image: np.ndarray, mask: np.ndarray, patch: TargetPatch, rng: np.random.Generator) -> None:
    """Adds a patch to `image` and its mask to `mask`, in place, at a random position that suits it."""
    residual, contrast = patch.residual, patch.contrast
    height, width = residual.shape
    scr = np.exp(rng.uniform(*np.log(IMPLANT_SCR)))
    uniform = rng.random()
    for _ in range(IMPLANTING_ATTEMPTS):
        top, left = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
        around = ring_window(left, top, width, height, AROUND_PX)
        if mask[around].any():
            continue
        local_std, local_mean = image[around].std(), image[around].mean()
        if contrast is None:
            amplitude = max(scr * local_std, MIN_CONTRAST) / residual[patch.mask].mean()
        else:
            lowest = max(4 * local_std, MIN_CONTRAST)
            amplitude = (lowest + uniform * max(contrast - lowest, 0)) / contrast
        if local_mean + amplitude * residual.max() > 255:
            scr, uniform = 0.7 * scr, 0.7 * uniform
            continue
        window = slice(top, top + height), slice(left, left + width)
        image[window] += amplitude * residual
        mask[window] |= patch.mask
        return

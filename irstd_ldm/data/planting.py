"""Modelled targets on real frames: a point spread, a sub-pixel place, a chosen SCR and the sensor's noise."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pywt

from ..targets import signal_to_clutter_ratio
from .implant import gaussian_profile
from .point_target import MASK_FRACTION, SyntheticTarget, draw_place, solve_amplitude

PLACING_ATTEMPTS = 200
MAD_TO_SIGMA = 0.6745  # median absolute deviation of a unit normal: Donoho and Johnstone, Biometrika 81 (1994)
NOISE_DRAWS = 4  # of the extra noise, until the SCR is reached


@dataclass(frozen=True)
class TargetModel:
    """What planted targets look like; ranges are (low, high).

    Raises:
        ValueError: a range that is not positive or not in order.
    """

    num_targets: tuple[int, int] = (1, 3)  # per frame, uniform
    scr_range: tuple[float, float] = (3.0, 12.0)  # signal-to-clutter ratio, log-uniform
    sigma_range_px: tuple[float, float] = (0.6, 2.0)  # of the round Gaussian point spread, uniform

    def __post_init__(self):
        for name in ("num_targets", "scr_range", "sigma_range_px"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"`{name}` must be (low, high) with 0 < low <= high, got {(low, high)}")


@dataclass(frozen=True)
class PlantedFrame:
    """A frame with its planted targets."""

    image: np.ndarray  # (H, W), of the frame's type
    mask: np.ndarray  # (H, W) bool
    targets: list[SyntheticTarget]


def noise_sigma(frame: np.ndarray) -> float:
    """Standard deviation of a frame's pixel noise, from its finest diagonal Haar details; (H, W) in raw values."""
    _, (_, _, diagonal) = pywt.dwt2(frame.astype(np.float64), "haar")
    return float(np.median(np.abs(diagonal)) / MAD_TO_SIGMA)


def plant_targets(frame: np.ndarray, model: TargetModel, rng: np.random.Generator) -> PlantedFrame:
    """Plant targets on a frame without any.

    A target is a round Gaussian at a sub-pixel place, integrated over each pixel, added to the frame: the frame's own
    noise stays on it. The photons that it adds bring noise of their own, of variance sigma**2 * signal / level, sigma
    being the frame's noise and level its local mean above its darkest value. The amplitude is solved for on the
    finished, quantised frame, so that its SCR is the one drawn within 5 %. A target that finds no place where it
    reaches its SCR without saturation is left out. Its mask is where the profile exceeds 0.2 of its peak pixel.

    Args:
        frame: (H, W) uint8, uint16 or floating point, raw values, at least 64 px on each side.
        model: how many targets, how bright and how wide.
        rng: of everything random.

    Raises:
        ValueError: a frame that is smaller.
    """
    if min(frame.shape) < 64:
        raise ValueError(f"`frame` must be at least 64 px on each side, got {frame.shape}")
    levels = frame.astype(np.float64)
    mask = np.zeros(frame.shape, bool)
    sigma, darkest = noise_sigma(frame), float(np.percentile(levels, 0.1))
    targets = []
    for _ in range(rng.integers(model.num_targets[0], model.num_targets[1] + 1)):
        scr = float(np.exp(rng.uniform(*np.log(model.scr_range))))
        for _ in range(PLACING_ATTEMPTS):
            target = _plant(levels, mask, frame.dtype, scr, rng.uniform(*model.sigma_range_px), sigma, darkest, rng)
            if target is not None:
                targets.append(target)
                break
    return PlantedFrame(_quantised(levels, frame.dtype), mask, targets)


def _plant(
    levels: np.ndarray,
    mask: np.ndarray,
    dtype: np.dtype,
    scr: float,
    spread_px: float,
    sigma: float,
    darkest: float,
    rng: np.random.Generator,
) -> SyntheticTarget | None:
    """Plants one target on `levels` and `mask`, in place; None where this place does not suit it."""
    x, y, window = draw_place(levels.shape, spread_px, rng)
    if mask[window].any():
        return None
    clean = levels[window]
    profile = gaussian_profile(clean.shape, x - window[1].start, y - window[0].start, spread_px, spread_px)
    target = profile > MASK_FRACTION
    local_level = max(clean.mean() - darkest, 1e-6)
    highest_value = np.iinfo(dtype).max if dtype.kind == "u" else np.inf
    contrast = 4 * scr * max(clean[~target].std(), 1.0) + np.ptp(clean)  # enough, where nothing saturates

    def planted(photon_noise: np.ndarray, amplitude: float) -> np.ndarray:
        return clean + amplitude * profile + np.sqrt(amplitude) * photon_noise

    def finished(photon_noise: np.ndarray, amplitude: float) -> np.ndarray:
        return _quantised(planted(photon_noise, amplitude), dtype)

    for _ in range(NOISE_DRAWS):
        photon_noise = sigma * np.sqrt(profile / local_level) * rng.standard_normal(clean.shape)
        amplitude = solve_amplitude(
            partial(finished, photon_noise), target, scr, min(highest_value - clean[target].max(), contrast)
        )
        if amplitude is None or planted(photon_noise, amplitude).max() > highest_value:
            continue
        levels[window] = planted(photon_noise, amplitude)
        mask[window] |= target
        achieved = signal_to_clutter_ratio(_quantised(levels[window], dtype), target, target)
        return SyntheticTarget(x, y, spread_px, achieved, int(target.sum()))
    return None


def _quantised(levels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind != "u":
        return levels.astype(dtype)
    return np.clip(np.rint(levels), 0, np.iinfo(dtype).max).astype(dtype)

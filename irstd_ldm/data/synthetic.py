"""Synthetic infrared scenes with point-spread targets of a chosen signal-to-clutter ratio and exact masks."""

import numpy as np
from scipy import ndimage

from .planted_targets import SyntheticScene, SyntheticTarget, draw_point_spreads

SIGMA_RANGE_PX = (0.6, 2.0)  # deviation of the point spread, from sharp optics to a small extended body
MIN_SIDE_PX = 64
COUNTS_PER_LEVEL, BASE_COUNTS, SATURATION_COUNTS = 40, 3000, 16383  # a 14-bit sensor's raw counts in uint16


def synthetic_scene(
    height: int = 256,
    width: int = 256,
    *,
    kind: str | None = None,
    num_targets: int = 2,
    scr: float = 4.0,
    seed: int = 0,
    bit_depth: int = 8,
) -> SyntheticScene:
    """One infrared scene: power-law radiance, optics, vignetting, targets, fixed-pattern and other noise, dead pixels.

    A target is a round Gaussian integrated over each pixel; its mask is where that exceeds 0.2 of the peak pixel. Its
    amplitude is solved for on the finished image, so that (mean of target - mean of ring) / std of ring is `scr`
    within 5 %. Targets lie inside the image, apart by at least their rings of 10 px, and away from dead pixels.

    Args:
        height, width: Size in pixels, each at least 64.
        kind: "sky", "sea", "ground" or "horizon" (sky over one of the others); None draws one.
        num_targets: Number of targets, 0 or more.
        scr: Signal-to-clutter ratio of every target.
        seed: Source of everything random; equal arguments give equal scenes.
        bit_depth: Either 8 for uint8, 16 for the counts of a 14-bit sensor in uint16.

    Raises:
        ValueError: An argument is outside these ranges, or no position left where a target reaches `scr` unsaturated.
    """
    if min(height, width) < MIN_SIDE_PX:
        raise ValueError(f"`height` and `width` must be at least {MIN_SIDE_PX}, got {height} and {width}")
    if kind is not None and kind not in SCENE_KINDS:
        raise ValueError(f"`kind` must be one of {SCENE_KINDS} or None, got {kind!r}")
    if num_targets < 0:
        raise ValueError(f"`num_targets` must be at least 0, got {num_targets}")
    if not 0 < scr < np.inf:
        raise ValueError(f"`scr` must be positive and finite, got {scr}")
    if bit_depth not in (8, 16):
        raise ValueError(f"`bit_depth` must be 8 or 16, got {bit_depth}")
    rng = np.random.default_rng(seed)
    if kind is None:
        kind = SCENE_KINDS[rng.integers(len(SCENE_KINDS))]
    radiance = ndimage.gaussian_filter(_RADIANCE[kind](height, width, rng), 0.7)  # (H, W) gray levels 0 to 255; optics
    gain = _vignetting(height, width, rng) * (1 + 0.002 * rng.standard_normal((height, width)))
    levels = radiance * gain + _additive_noise(height, width, rng)  # (H, W)
    dead = rng.random((height, width)) < rng.uniform(0, 5e-5)
    levels[dead] = rng.choice([0.0, 255.0], int(dead.sum()))

    mask = np.zeros((height, width), bool)
    targets: list[SyntheticTarget] = []
    for _ in range(num_targets):
        target = _add_target(levels, gain, mask, dead, scr, bit_depth, rng)
        if target is None:
            raise ValueError(
                f"no position found for target {len(targets) + 1} of `num_targets` {num_targets} at `scr` {scr} in a "
                f"{kind} scene of {width}x{height}; lower either or enlarge the scene"
            )
        targets.append(target)
    return SyntheticScene(_quantise(levels, bit_depth), mask, targets)


def power_law_noise(height: int, width: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise whose power spectrum falls as frequency ** -exponent; (H, W), zero mean, unit deviation.

    An exponent near 3 looks like cloud, near 2 like vegetation and soil.
    """
    rows, columns = height + height // 2, width + width // 2  # opposite borders of a periodic field match
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((rows, columns))) * frequency ** (-exponent / 2)
    noise = np.fft.irfft2(spectrum, s=(rows, columns))[:height, :width]
    return (noise - noise.mean()) / noise.std()


def _sky(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Colder towards the zenith; clouds where the noise passes a cover level."""
    elevation = np.linspace(1, 0, height)[:, None]
    levels = rng.uniform(60, 110) - rng.uniform(10, 45) * elevation**0.7
    cloud = power_law_noise(height, width, rng.uniform(2.8, 3.4), rng)
    thickness = np.logaddexp(0, 4 * (cloud - rng.uniform(-0.5, 1.5))) / 4
    return levels + rng.uniform(10, 40) * np.tanh(thickness) + rng.uniform(0, 3) * cloud


def _sea(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Waves that grow towards the viewer, and now and then a column of glint."""
    depth = np.linspace(0.08, 1, height)[:, None]  # it is 1 nearest the viewer
    waves = power_law_noise(2 * height, width, rng.uniform(1.6, 2.2), rng)
    rows = np.broadcast_to(0.45 * height / depth**0.6, (height, width)) % (2 * height - 1)
    columns = width / 2 + (np.arange(width) - width / 2) * 0.35 / depth**0.3
    waves = ndimage.map_coordinates(waves, [rows, np.broadcast_to(columns, (height, width))], order=1, mode="nearest")
    levels = rng.uniform(50, 110) + rng.uniform(-20, 20) * depth + rng.uniform(3, 9) * depth**0.5 * waves
    if rng.random() < 0.4:
        column, spread = rng.uniform(0, width), rng.uniform(0.05, 0.2) * width
        lane = np.exp(-0.5 * ((np.arange(width) - column) / spread) ** 2)
        levels = levels + rng.uniform(15, 40) * lane * np.maximum(waves, 0) ** 2
    return levels


def _ground(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Patches of fields and wood, soil texture, warm and cold structures, sometimes a road."""
    patches = np.argmax([power_law_noise(height, width, 3.6, rng) for _ in range(4)], axis=0)  # (H, W) in 0 to 3
    levels = rng.uniform(55, 140, 4)[patches] * 0.5 + rng.uniform(30, 60)
    texture = power_law_noise(height, width, rng.uniform(1.6, 2.3), rng)
    levels = levels + rng.uniform(2, 7, 4)[patches] * texture
    for _ in range(rng.integers(0, 6)):
        rows, columns = rng.integers(4, max(height // 8, 6)), rng.integers(4, max(width // 6, 6))
        top, left = rng.integers(0, height - rows), rng.integers(0, width - columns)
        levels[top : top + rows, left : left + columns] = rng.uniform(40, 170)
    if rng.random() < 0.5:
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3) * width
        from_left, from_top = np.arange(width) - width / 2, (np.arange(height) - height / 2)[:, None]
        across = from_left * np.cos(angle) + from_top * np.sin(angle) - offset  # (H, W)
        levels = np.where(np.abs(across) < rng.uniform(1, 5), rng.uniform(60, 150), levels)
    return levels


def _horizon(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Sky above sea (a straight, slightly tilted line) or ground (a ragged one)."""
    sky = _sky(height, width, rng)
    over_sea = rng.random() < 0.5
    line = rng.uniform(0.35, 0.7) * height + rng.uniform(-0.05, 0.05) * (np.arange(width) - width / 2)
    if not over_sea:
        line = line + rng.uniform(0.01, 0.05) * height * power_law_noise(2, width, 2.5, rng)[0]
    below = (_sea if over_sea else _ground)(height, width, rng)
    share = np.clip((np.arange(height)[:, None] - line) / rng.uniform(1, 4) + 0.5, 0, 1)  # (H, W), 1 below the line
    return sky * (1 - share) + below * share


_RADIANCE = {"sky": _sky, "sea": _sea, "ground": _ground, "horizon": _horizon}
SCENE_KINDS = tuple(_RADIANCE)


def _vignetting(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.indices((height, width))
    radius = np.hypot((rows - height / 2) / height, (columns - width / 2) / width) * np.sqrt(2)  # 1 in the corners
    return 1 - rng.uniform(0, 0.2) * radius**2


def _additive_noise(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Temporal noise, column and (weaker) row offsets of the read-out; gray levels."""
    temporal = rng.uniform(0.6, 2.0) * rng.standard_normal((height, width))
    column_offsets = rng.uniform(0, 1.0) * rng.standard_normal(width)
    row_offsets = rng.uniform(0, 0.4) * rng.standard_normal((height, 1))
    return temporal + column_offsets + row_offsets


def _quantise(levels: np.ndarray, bit_depth: int) -> np.ndarray:
    if bit_depth == 8:
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    counts = np.rint(BASE_COUNTS + COUNTS_PER_LEVEL * levels)
    return np.clip(counts, 0, SATURATION_COUNTS).astype(np.uint16)


def _add_target(
    levels: np.ndarray,
    gain: np.ndarray,
    mask: np.ndarray,
    occupied: np.ndarray,
    scr: float,
    bit_depth: int,
    rng: np.random.Generator,
) -> SyntheticTarget | None:
    """Adds one target to `levels`, `mask` and `occupied`, in place; None where no position suits it."""
    for spread in draw_point_spreads(occupied, SIGMA_RANGE_PX, rng):
        clean, added = levels[spread.window], gain[spread.window] * spread.profile

        def finished(amplitude: float, clean: np.ndarray = clean, added: np.ndarray = added) -> np.ndarray:
            return _quantise(clean + amplitude * added, bit_depth)

        amplitude = spread.solve_amplitude(finished, scr, 255.0 - clean[spread.pixels].max())
        if amplitude is not None:
            levels[spread.window] += amplitude * added
            mask[spread.window] |= spread.pixels
            occupied[spread.window] = True
            return spread.measured(_quantise(levels[spread.window], bit_depth))
    return None

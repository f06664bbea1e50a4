"""Track before detect: weak targets that persist, at equal false alarms.

python -m pytest -m slow -s tests/test_evidence.py
"""

import numpy as np
import pytest
from scipy.ndimage import maximum_filter
from scipy.special import expit, logit

from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.data import synthetic_scene
from irstd_ldm.tracking import EvidenceFilter

NUM_FRAMES, HIT_PX, CLEAR_PX, PEAK_PX = 14, 3, 5, 7


def log_odds(num_frames: int = NUM_FRAMES, side: int = 64, seed: int = 0):
    """Noise, one spot of clutter that stays, one weak target that moves by (0.7, 0.4) px a frame; (N, H, W)."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(-10, 0.5, (num_frames, side, side))
    path = np.array([(15 + 0.7 * time, 20 + 0.4 * time) for time in range(num_frames)])
    for odds, (x, y) in zip(maps, path, strict=True):
        for column, row, level in ((45, 45, -2.0), (round(x), round(y), rng.normal(-3.5, 1))):
            odds[row - 1 : row + 2, column - 1 : column + 2] = level + rng.normal(0, 0.3, (3, 3))
    return expit(maps).astype(np.float32), path


def test_a_weak_target_that_persists_is_found_and_clutter_that_stays_is_not():
    maps, path = log_odds()
    evidence = EvidenceFilter()
    fused = [evidence.update(probability) for probability in maps]
    assert not (maps > 0.5).any()
    for probability, (x, y) in list(zip(fused, path, strict=True))[9:]:
        rows, columns = np.nonzero(probability > 0.5)
        assert 1 <= len(rows) <= 9 and np.hypot(columns.mean() - x, rows.mean() - y) < 1.5


def test_what_one_frame_shows_stays_as_it_is():
    maps, _ = log_odds()
    maps[:, 30:33, 10:14] = 0.99
    maps[5, 55:57, 55:57] = 0.9
    evidence = EvidenceFilter()
    for probability in maps:
        fused = evidence.update(probability)
        assert ((fused > 0.5) >= (probability > 0.5)).all() and (fused >= probability).all()
        assert (fused > 0.5)[27:36, 7:17].sum() == 12
    assert not (fused > 0.5)[50:, 50:].any()


def test_dropped_frames_are_bridged():
    maps, path = log_odds(20)
    evidence = EvidenceFilter()
    for index in (*range(12), 15, 16):
        fused = evidence.update(maps[index], index)
    assert fused[round(path[16, 1]), round(path[16, 0])] > 0.5


@pytest.mark.parametrize(("name", "value"), (("memory_frames", 0.5), ("max_speed_px", -1)))
def test_arguments_are_checked(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        EvidenceFilter(**{name: value})


def sequence(seed: int, scr: float = 3.0, num_targets: int = 3, side: int = 256):
    """Frames (N, H, W) uint8 of a still scene with noise of its own in each, and positions (N, targets, 2).

    In every frame every target has this SCR, as `synthetic_scene` defines it; they move by 0.2 to 1 px a frame.
    """
    rng = np.random.default_rng(seed)
    scene = synthetic_scene(side, side, num_targets=0, seed=seed).image.astype(float)
    start, angle = rng.uniform(50, side - 50, (num_targets, 2)), rng.uniform(0, 2 * np.pi, num_targets)
    speed = rng.uniform(0.2, 1, num_targets)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    sigma_px, noise = rng.uniform(0.7, 1.5, num_targets), rng.uniform(0.6, 2)
    path = start + speed * np.arange(NUM_FRAMES)[:, None, None]
    rows, columns = np.mgrid[:side, :side]
    frames = []
    for positions in path:
        clean = scene + noise * rng.standard_normal(scene.shape)
        levels = clean.copy()
        for (x, y), sigma in zip(positions, sigma_px, strict=True):
            profile = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
            pixels = profile > 0.2 * profile.max()
            box = [np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0)]
            ring = np.zeros_like(pixels)
            ring[box[0][0] - 10 : box[0][-1] + 11, box[1][0] - 10 : box[1][-1] + 11] = True
            clutter = clean[ring & ~pixels]
            needed = clutter.mean() + scr * clutter.std() - clean[pixels].mean()
            levels += max(needed, 0) / profile[pixels].mean() * profile
        frames.append(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    return frames, path


def peaks(probability: np.ndarray, positions: np.ndarray) -> tuple[list[float], list[float]]:
    """Log odds of each target's highest peak (-20: none), and of the peaks that are no target's."""
    odds = logit(np.clip(probability, 1e-6, 1 - 1e-6))
    rows, columns = np.nonzero((odds == maximum_filter(odds, PEAK_PX)) & (odds > -13))
    distance = np.hypot(columns[:, None] - positions[:, 0], rows[:, None] - positions[:, 1])  # (peaks, targets)
    heights = odds[rows, columns]
    hits = [max(heights[near], default=-20.0) for near in distance.T < HIT_PX]
    return hits, list(heights[(distance >= CLEAR_PX).all(axis=1)])


@pytest.mark.slow
def test_targets_of_scr_3_after_ten_frames_against_single_frames():
    """Pd of single frames and of fused ones at thresholds of equal numbers of false alarms."""
    pipe = IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    hits: dict[str, list[float]] = {"single": [], "fused": []}
    false: dict[str, list[float]] = {"single": [], "fused": []}
    num_judged = 0
    for seed in range(100, 124):
        frames, path = sequence(seed)
        evidence = EvidenceFilter()
        for index, (frame, positions) in enumerate(zip(frames, path, strict=True)):
            single = pipe(frame).probability[0, 0]
            fused = evidence.update(single, index)
            if index >= 9:
                num_judged += 1
                for name, probability in (("single", single), ("fused", fused)):
                    found, others = peaks(probability, positions)
                    hits[name] += found
                    false[name] += others
    print(f"{num_judged} frames, {len(hits['single'])} targets; Pd single, fused")
    for per_frame in (0.02, 0.1, 0.5):
        pd = []
        for name in hits:
            threshold = sorted(false[name], reverse=True)[int(per_frame * num_judged)]
            pd.append(np.mean(np.array(hits[name]) > threshold))
        print(f"{per_frame:g} false alarms a frame of 256x256: {pd[0]:.3f} {pd[1]:.3f}")
        assert pd[1] > pd[0] + 0.05
    at_half = [(np.mean(np.array(hits[n]) > 0), sum(odds > 0 for odds in false[n])) for n in hits]
    print("threshold 0.5, Pd and false alarms:", *(f"{pd:.3f} {number}" for pd, number in at_half))

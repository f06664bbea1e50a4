"""The Gaussian Group Squeezer: distribution of the group counts, the quantiser, and targets that merge."""

import time

import numpy as np
import pytest
import torch
from scipy import stats

from irstd_ldm.data.ggs import draw_num_groups, kept_contrasts, squeeze, squeeze_with_targets
from irstd_ldm.data.synthetic import synthetic_scene


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(seed: int, scr: float = 4.0) -> tuple[torch.Tensor, torch.Tensor]:
    made = synthetic_scene(seed=seed, scr=scr)
    return torch.from_numpy(made.image / np.float32(255))[None], torch.from_numpy(made.mask)


def interval_probability(low: float, high: float) -> float:
    """Of low <= round(N(17, 4)) <= high."""
    return stats.norm.cdf((high + 0.5 - 17) / 4) - stats.norm.cdf((low - 0.5 - 17) / 4)


@pytest.mark.parametrize("generation", [False, True])
def test_group_counts_follow_the_published_distribution(generation):
    """Odd in training (even draws raised by 1), even in generation (odd draws lowered by 1, 7 raised to 8)."""
    source = generator()
    draws = [draw_num_groups(source, generation) for _ in range(20_000)]
    if generation:
        pairs = [(-1000, 9), *((n, n + 1) for n in range(10, 26, 2)), (26, 1000)]  # 8 <- 7, 8, 9
        values = range(8, 27, 2)
    else:
        pairs = [(-1000, 7), *((n - 1, n) for n in range(9, 27, 2)), (26, 1000)]
        values = range(7, 28, 2)
    expected = [20_000 * interval_probability(*pair) for pair in pairs]
    counts = [draws.count(value) for value in values]
    assert sum(counts) == 20_000
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_training_counts_agree_with_the_published_table():
    source = generator(1)
    draws = [draw_num_groups(source) for _ in range(20_000)]
    assert np.mean(draws) == pytest.approx(17.49, abs=0.1)
    assert draws.count(17) / 20_000 == pytest.approx(0.196, abs=0.01)


@pytest.mark.parametrize("num_groups", [1, 7, 8, 17, 27])
def test_levels_are_few_and_keep_their_order(num_groups):
    image = torch.rand(1, 64, 48, generator=generator(3))
    squeezed = squeeze(image, num_groups, generator(4))
    assert squeezed.shape == image.shape and squeezed.dtype == image.dtype
    assert len(squeezed.unique()) <= num_groups
    in_order = squeezed.flatten()[image.flatten().argsort()]
    assert (in_order.diff() >= 0).all()
    assert squeezed.min() >= image.min() and squeezed.max() <= image.max()


def test_two_groups_by_hand():
    """One boundary, one level on either side of it."""
    image = torch.tensor([[[0.0, 0.25, 0.5, 1.0]]])
    source = generator(7)
    boundary = torch.rand(1, generator=source).item()
    position = torch.rand(2, generator=source)
    low, high = boundary * position[0].item(), boundary + (1 - boundary) * position[1].item()
    expected = [low if value < boundary else high for value in (0.0, 0.25, 0.5, 1.0)]
    assert squeeze(image, 2, generator(7)).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("num_groups", [7, 17, 27])
def test_error_on_a_uniform_ramp_is_the_analytic_one(num_groups):
    """For values uniform on the range the mean squared error is range**2 / ((n + 1) (n + 2))."""
    ramp = torch.linspace(0, 1, 2000)[None, None]
    source = generator(5)
    errors = [(squeeze(ramp, num_groups, source) - ramp).square().mean().item() for _ in range(800)]
    assert np.mean(errors) == pytest.approx(1 / ((num_groups + 1) * (num_groups + 2)), rel=0.1)


def test_same_seed_same_image():
    image, mask = scene(0)
    first, second = (squeeze_with_targets(image, mask, generator(9)) for _ in range(2))
    assert torch.equal(first.image, second.image) and first.num_groups == second.num_groups
    assert not torch.equal(first.image, squeeze_with_targets(image, mask, generator(10)).image)


def test_channels_share_a_quantiser():
    image = torch.rand(1, 32, 32, generator=generator(1)).repeat(3, 1, 1)
    shared = squeeze(image, 9, generator(2))
    assert torch.equal(shared[0], shared[1]) and torch.equal(shared[0], shared[2])


def test_constant_image_stays():
    image = torch.full((1, 8, 8), 0.3)
    assert torch.equal(squeeze(image, 7, generator()), image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_element_type_stays(dtype):
    assert squeeze(torch.rand(1, 8, 8).to(dtype), 7, generator()).dtype == dtype


@pytest.mark.parametrize(
    ("image", "num_groups", "message"),
    [
        (torch.zeros(8, 8), 7, "`image` must be"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), 7, "`image` must be"),
        (torch.zeros(1, 8, 8), 0, "`num_groups` must be"),
    ],
)
def test_wrong_arguments(image, num_groups, message):
    with pytest.raises(ValueError, match=message):
        squeeze(image, num_groups, generator())


def test_kept_contrast_by_hand():
    before = torch.zeros(1, 40, 40)
    before[:, 20:22, 20:22] = 1.0
    mask = before[0] > 0
    assert kept_contrasts(before, before * 0.5 + 0.1, mask) == pytest.approx([0.5])
    assert kept_contrasts(before, torch.full_like(before, 0.7), mask) == pytest.approx([0.0], abs=1e-6)


def test_merged_targets_are_redrawn_or_leave_the_mask():
    """Dim targets merge in many single draws; after the guard no label stands on a vanished target."""
    unguarded = guarded = dropped = labelled = 0
    for seed in range(40):
        image, mask = scene(seed, scr=3.0)
        source = generator(seed)
        plain = squeeze(image, draw_num_groups(source), source)
        unguarded += sum(share < 0.25 for share in kept_contrasts(image, plain, mask))
        result = squeeze_with_targets(image, mask, generator(seed))
        guarded += sum(share < 0.25 for share in kept_contrasts(image, result.image, result.mask))
        labelled += len(kept_contrasts(image, image, mask))
        dropped += labelled_targets(mask) - labelled_targets(result.mask)
    assert unguarded > 0.05 * labelled
    assert guarded == 0
    assert dropped < unguarded


def labelled_targets(mask: torch.Tensor) -> int:
    return len(kept_contrasts(mask[None].float(), mask[None].float(), mask))


def test_speed():
    image = torch.rand(1, 256, 256)
    source = generator()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        squeeze(image, draw_num_groups(source), source)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005

"""The Gaussian Group Squeezer: non-uniform quantisation of gray levels into a random number of groups.

Source: *Gaussian-agnostic representation learning* (arXiv 2507.18260); the quantiser is random_quantize's, with the
number of groups drawn from a Gaussian. It changes gray levels only, so that masks stay aligned.
"""

from typing import NamedTuple

import numpy as np
import torch

from ..targets import label_components, ring_window

MEAN_GROUPS, STD_GROUPS = 17.0, 4.0
MIN_GROUPS, MAX_GROUPS = 7, 27
MIN_KEPT_CONTRAST = 0.25  # share of a target's contrast below which it counts as merged into its background
MAX_DRAWS = 8  # draws of the quantiser, until no target merges


class Squeezed(NamedTuple):
    """A squeezed image and what became of its mask."""

    image: torch.Tensor  # (C, H, W), on the scale of the input
    mask: torch.Tensor  # (H, W) bool, without the targets that merged into their background in every draw
    num_groups: int


def draw_num_groups(generator: torch.Generator, generation: bool = False) -> int:
    """The number of groups: round(N(17, 4)) clipped to [7, 27], odd in training, even (8 to 26) in generation.

    In training an even draw is raised by 1; in generation an odd one is lowered by 1, and 7 becomes 8, so that a
    generator never sees the number of groups that it was trained on.
    """
    draw = round(MEAN_GROUPS + STD_GROUPS * torch.randn((), generator=generator, dtype=torch.float64).item())
    clipped = min(max(draw, MIN_GROUPS), MAX_GROUPS)
    if generation:
        return max(clipped - clipped % 2, MIN_GROUPS + 1)
    return clipped + 1 - clipped % 2


def squeeze(image: torch.Tensor, num_groups: int, generator: torch.Generator) -> torch.Tensor:
    """Replace every gray level by its group's: random boundaries, a random level inside each group.

    The image's range is cut at `num_groups` - 1 uniform random levels; each group's level is uniform inside it. Levels
    keep their order (some become equal) and at most `num_groups` of them remain.

    Args:
        image: (C, H, W), floating point, any scale.
        num_groups: Number of groups, 1 or more.
        generator: Source of the boundaries and levels, on the CPU.

    Returns:
        (C, H, W) in the input's type.

    Raises:
        ValueError: `image` has another shape or element type, or `num_groups` is less than 1.
    """
    if image.ndim != 3 or not image.is_floating_point():
        raise ValueError(f"`image` must be (C, H, W) floating point, got {tuple(image.shape)} {image.dtype}")
    if num_groups < 1:
        raise ValueError(f"`num_groups` must be at least 1, got {num_groups}")
    low, high = image.min(), image.max()
    cuts = torch.rand(num_groups - 1, generator=generator).sort().values.to(image, non_blocking=True)
    boundaries = low + (high - low) * cuts  # (num_groups - 1,)
    edges = torch.cat([low[None], boundaries, high[None]])
    position = torch.rand(num_groups, generator=generator).to(image, non_blocking=True)
    levels = edges[:-1] + (edges[1:] - edges[:-1]) * position  # (num_groups,)
    return levels[torch.bucketize(image, boundaries, right=True)]


def target_contrasts(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Each target's mean less that of the ring of 10 px around its box without target pixels; NaN without a ring.

    The image is (H, W) floating point, the mask (H, W) bool; the contrasts are (number of targets,) in the image's
    units, in the order of `label_components`.
    """
    labels, components = label_components(mask)
    contrasts = np.full(len(components), np.nan, image.dtype)
    for index, component in enumerate(components):
        window = ring_window(component.left, component.top, component.width, component.height)
        pixels, label = image[window], labels[window]
        if not label.all():
            contrasts[index] = pixels[label == component.label].mean() - pixels[label == 0].mean()
    return contrasts


def kept_contrasts(before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """The share of its contrast that each target of a mask (H, W) bool keeps between two images (C, H, W).

    It is 1 where the target has no contrast before, or no ring.
    """
    contrast, kept = (target_contrasts(image.mean(dim=0).numpy(), mask.numpy()) for image in (before, after))
    return np.divide(kept, contrast, out=np.ones_like(kept), where=np.nan_to_num(contrast) != 0).tolist()


def squeeze_with_targets(
    image: torch.Tensor,
    mask: torch.Tensor,
    generator: torch.Generator,
    generation: bool = False,
) -> Squeezed:
    """Squeeze a labelled image so that no label stands where its target is gone.

    A dim target can fall into one group with its background. The quantiser is then drawn again, up to 8 times; of the
    draw that keeps most targets, those that keep less than a quarter of their contrast leave the mask.

    Args:
        image: (C, H, W), floating point.
        mask: (H, W) bool.
        generator: Source of everything random, on the CPU.
        generation: Parity of the number of groups, see `draw_num_groups`.

    Raises:
        ValueError: See `squeeze`.
    """
    num_groups = draw_num_groups(generator, generation)
    draws = []
    for _ in range(MAX_DRAWS):
        candidate = squeeze(image, num_groups, generator)
        shares = kept_contrasts(image, candidate, mask)
        merged = [label for label, share in enumerate(shares, start=1) if share < MIN_KEPT_CONTRAST]
        draws.append((merged, candidate))
        if not merged:
            break
    merged, best = min(draws, key=lambda draw: len(draw[0]))
    labels, _ = label_components(mask.numpy())
    return Squeezed(best, mask & ~torch.from_numpy(np.isin(labels, merged)), num_groups)

"""The threshold that keeps false alarms within a budget, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from .metrics import bootstrap_interval, pd
from .thresholds import ThresholdCounts

# Even in the logit, where probabilities spread, as far as float32 tells them apart; at 1 all is background.
_LOGITS = np.arange(-4.6, 16.01, 0.05)
BUDGET_THRESHOLDS = np.unique(np.append(1 / (1 + np.exp(-_LOGITS)), 1).astype(np.float32)).astype(np.float64)  # (T,)


@dataclass(frozen=True)
class BudgetThreshold:
    """A threshold with what it does on one set of images.

    Attributes:
        max_fa_per_million_px: the budget.
        threshold: foreground is probability > threshold.
        fa_per_million_px: the worst set's false alarms at the threshold.
        fa_upper_bound: upper end of the worst set's one-sided 95 % interval: by the bootstrap over images, and at
            least what the rule of three leaves open, 3 false targets of mean size in the N images.
        pd: hits / targets of all sets together.
        smallest_measurable_fa: one false target of the true ones' mean size on the smallest set, in pixels per
            million. A budget below it is kept by having no false alarm at all, which says little about other images.
    """

    max_fa_per_million_px: float
    threshold: float
    fa_per_million_px: float
    fa_upper_bound: float
    pd: float
    smallest_measurable_fa: float

    @property
    def is_resolved(self) -> bool:
        """Whether the images are many enough to measure the budget."""
        return self.smallest_measurable_fa <= self.max_fa_per_million_px


def threshold_for_budget(
    sets: Mapping[str, Sequence[ThresholdCounts]],
    thresholds: np.ndarray,
    max_fa_per_million_px: float,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> BudgetThreshold:
    """The lowest threshold from which on every set keeps the budget.

    False alarms need not fall with the threshold (a component that shrinks can lose its target), hence "from which
    on". Sets are held to the budget one by one, so that many easy frames do not pay for a few hard ones.

    Args:
        sets: name -> counts at all thresholds, one entry per image; at least one set has targets.
        thresholds: (T,), increasing, those of the counts.
        max_fa_per_million_px: the budget, positive.
        num_resamples, seed: of the bootstrap.

    Raises:
        ValueError: `sets` is empty or has an empty set, the budget is not positive, no threshold keeps it, or no set
            has a target.
    """
    if not sets or not all(sets.values()):
        raise ValueError("`sets` must hold at least one set, each of at least one image")
    if not max_fa_per_million_px > 0:
        raise ValueError(f"`max_fa_per_million_px` must be positive, got {max_fa_per_million_px}")
    fa = np.array([_fa_per_million_px(counts) for counts in sets.values()])  # (sets, T)
    exceeded = np.flatnonzero((fa > max_fa_per_million_px).any(axis=0))  # indices of thresholds
    index = int(exceeded[-1]) + 1 if exceeded.size else 0
    if index == len(thresholds):
        raise ValueError(
            f"`max_fa_per_million_px` {max_fa_per_million_px:g} cannot be kept: false alarms at the highest "
            f"threshold, {thresholds[-1]:g}, are {fa[:, -1].max():.3g} per million px"
        )
    at_threshold = {name: [counts.at(index) for counts in of_set] for name, of_set in sets.items()}
    total = reduce(add, (counts for of_set in at_threshold.values() for counts in of_set))
    if not total.targets:
        raise ValueError("`sets` must hold at least one target: a budget is spent on finding targets")
    one_target = {  # pixels per million
        name: 1e6 * (total.tp_px + total.fn_px) / total.targets / sum(counts.area_px for counts in of_set)
        for name, of_set in at_threshold.items()
    }
    upper_bounds = [
        max(
            bootstrap_interval(of_set, "fa_per_million_px", num_resamples=num_resamples, seed=seed, level=0.9)[1],
            3 * one_target[name],
        )
        for name, of_set in at_threshold.items()
    ]
    return BudgetThreshold(
        max_fa_per_million_px=max_fa_per_million_px,
        threshold=float(thresholds[index]),
        fa_per_million_px=float(fa[:, index].max()),
        fa_upper_bound=max(upper_bounds),
        pd=pd(total),
        smallest_measurable_fa=max(one_target.values()),
    )


def _fa_per_million_px(counts: Sequence[ThresholdCounts]) -> np.ndarray:
    """(T,) of a set of images."""
    false_alarm_px = np.sum([image.false_alarm_px for image in counts], axis=0)  # (T,)
    return 1e6 * false_alarm_px / np.sum([image.area_px for image in counts], axis=0)

"""Curves over thresholds, the areas under them, and the operating points that a false-alarm budget allows.

All numbers are ratios of sums over the images. Foreground is probability > threshold; T thresholds ascend.

- ROC, in pixels: tpr = tp / target pixels, fpr = fp / other pixels. `roc_auc` is the area under the straight lines
  through its T points, (0, 0) (nothing is foreground) and (1, 1) (everything is).
- Precision-recall, in pixels: `average_precision` is the sum over falling thresholds of the gain in recall times the
  precision there, everything foreground being the last point. No interpolation.
- Pd against Fa (false-alarm pixels per million) and against false targets per image, in targets.
- Pd at a budget: the highest Pd among the thresholds whose false alarms are at most the budget; of equal Pd the one
  with fewer false alarms, then the higher threshold. None without targets, or where no threshold keeps the budget.
- A threshold for a budget (`threshold_for_budget`) is chosen beforehand, to be used on other images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from operator import add
from typing import Any

import numpy as np

from .bootstrap import Statistic, divide, json_number
from .metrics import METRICS, bootstrap_interval, pd
from .thresholds import ThresholdCounts

# Budgets of an evaluation, by the rate that they limit.
BUDGETS = {"fa_per_million_px": (1.0, 10.0, 100.0), "false_targets_per_image": (0.1, 1.0)}

# Even in the logit, where probabilities spread, as far as float32 tells them apart; at 1 all is background.
_LOGITS = np.arange(-4.6, 16.01, 0.05)
BUDGET_THRESHOLDS = np.unique(np.append(1 / (1 + np.exp(-_LOGITS)), 1).astype(np.float32)).astype(np.float64)  # (T,)


@dataclass(frozen=True)
class OperatingPoint:
    """The threshold that a budget allows, and its numbers."""

    threshold: float
    pd: float
    fa_per_million_px: float
    false_targets_per_image: float


class Curves:
    """The curves of a set of images.

    Args:
        counts: One entry per image, at least one, all at the same thresholds.
        legacy_false_alarms: Fa is the equal-area count of older code.

    Attributes:
        thresholds: (T,) ascending.
        num_images, num_targets, num_px, truth_px: Numbers of the set.
        tpr, fpr, precision_px, pd, fa_per_million_px, false_targets_per_image, precision_targets: (T,) float64, NaN
            where undefined. The recall of pixels is `tpr`, that of targets `pd`.

    Raises:
        ValueError: There is no image, or thresholds differ.
    """

    def __init__(self, counts: Sequence[ThresholdCounts], *, legacy_false_alarms: bool = False):
        if not counts:
            raise ValueError("`counts` must hold at least one image, got none")
        self.thresholds = counts[0].thresholds
        if any(not np.array_equal(one.thresholds, self.thresholds) for one in counts):
            raise ValueError("`counts` must all be at the same thresholds")

        def stack(field: str) -> np.ndarray:
            return np.array([getattr(one, field) for one in counts])  # (N, T), truth_px (N,)

        hits, false_alarm_px = stack("hits"), "legacy_false_alarm_px" if legacy_false_alarms else "false_alarm_px"
        by_threshold = [stack("tp_px"), stack("fp_px"), hits, stack("predicted") - hits, stack(false_alarm_px)]
        of_image = [stack("truth_px"), *(stack(field)[:, 0] for field in ("targets", "area_px", "images"))]  # (N,)
        self._terms = np.column_stack(by_threshold + of_image).astype(np.float64)  # (N, 5 T + 4), see `_rates`
        self.truth_px, self.num_targets, self.num_px, self.num_images = (int(terms.sum()) for terms in of_image)
        rates = {name: rate[0] for name, rate in _rates(self._terms.sum(axis=0, keepdims=True)).items()}  # (T,) each
        self.tpr, self.fpr, self.precision_px = rates["tpr"], rates["fpr"], rates["precision_px"]
        self.pd, self.precision_targets = rates["pd"], rates["precision_targets"]
        self.fa_per_million_px = rates["fa_per_million_px"]
        self.false_targets_per_image = rates["false_targets_per_image"]

    def pd_at(self, rate: str, budget: float) -> OperatingPoint | None:
        """The operating point of highest Pd within a budget; see the module.

        Args:
            rate: The false alarms that are limited, a key of `BUDGETS`.
            budget: Highest `rate` that is allowed, itself included.

        Raises:
            ValueError: The budget is negative or not finite.
        """
        if not 0 <= budget < np.inf:
            raise ValueError(f"`budget` must be at least 0 and finite, got {budget}")
        false_alarms = getattr(self, rate)
        (allowed,) = np.nonzero((false_alarms <= budget) & ~np.isnan(self.pd))
        if not allowed.size:
            return None
        order = np.lexsort([self.thresholds[allowed], -false_alarms[allowed], self.pd[allowed]])
        best = allowed[order[-1]]
        return OperatingPoint(
            threshold=float(self.thresholds[best]),
            pd=float(self.pd[best]),
            fa_per_million_px=float(self.fa_per_million_px[best]),
            false_targets_per_image=float(self.false_targets_per_image[best]),
        )

    def statistics(self, budgets: Mapping[str, Sequence[float]] = BUDGETS) -> dict[str, Statistic]:
        """`roc_auc`, `average_precision` and Pd at each budget (`budget_key`), for `bootstrap.estimate`.

        Every resampled set chooses its own threshold for a budget: the interval holds the uncertainty of the choice.
        """
        found = {
            "roc_auc": Statistic(self._terms, _roc_auc),
            "average_precision": Statistic(self._terms, _average_precision),
        }
        for rate, limits in budgets.items():
            found |= {budget_key(rate, limit): self._pd_within(rate, limit) for limit in limits}
        return found

    def to_dict(self) -> dict[str, Any]:
        """Curves, areas and N, ready for `json.dumps`; None stands for an undefined value."""
        scalars = ("num_images", "num_targets", "num_px", "truth_px")
        arrays = ("thresholds", "tpr", "fpr", "precision_px", "pd", *BUDGETS, "precision_targets")
        return {
            **{name: getattr(self, name) for name in scalars},
            **{name: json_number(area.point()) for name, area in self.statistics({}).items()},
            **{name: [json_number(value) for value in getattr(self, name).tolist()] for name in arrays},
        }

    def _pd_within(self, rate: str, budget: float) -> Statistic:
        def value(sums: np.ndarray) -> np.ndarray:
            rates = _rates(sums)
            allowed = np.where(rates[rate] <= budget, rates["pd"], -np.inf).max(axis=1)  # (R,)
            return np.where(np.isneginf(allowed), np.nan, allowed)

        return Statistic(self._terms, value)


def budget_key(rate: str, budget: float) -> str:
    """Name of Pd at a budget, such as "pd_at_10_fa_per_million_px"."""
    return f"pd_at_{budget:g}_{rate}"


def budget_label(rate: str) -> str:
    """Name of a kind of budget in tables, such as "Fa (1e-6)" or "false targets/image"."""
    return METRICS[rate].heading.replace(" per ", "/")


def _rates(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The rates (R, T) from sums (R, 5 T + 4) over images of what `Curves` counts."""
    tp_px, fp_px, hits, false_targets, false_alarm_px = np.split(sums[:, :-4], 5, axis=1)  # (R, T)
    truth_px, targets, area_px, images = np.split(sums[:, -4:], 4, axis=1)  # (R, 1)
    return {
        "tpr": divide(tp_px, truth_px),
        "fpr": divide(fp_px, area_px - truth_px),
        "precision_px": divide(tp_px, tp_px + fp_px),
        "base_rate": divide(truth_px, area_px),  # (R, 1), the precision where all is foreground
        "pd": divide(hits, targets),
        "fa_per_million_px": divide(1e6 * false_alarm_px, area_px),
        "false_targets_per_image": divide(false_targets, images),
        "precision_targets": divide(hits, hits + false_targets),
    }


def _roc_auc(sums: np.ndarray) -> np.ndarray:
    """Trapezoidal area (R,) from sums; NaN where there is no target pixel or no other one."""
    rates = _rates(sums)
    tpr, fpr = (_from_0_to_1(rates[name]) for name in ("tpr", "fpr"))
    return (np.diff(fpr, axis=1) * (tpr[:, 1:] + tpr[:, :-1])).sum(axis=1) / 2


def _average_precision(sums: np.ndarray) -> np.ndarray:
    """Average precision (R,) from sums; NaN without target pixels."""
    rates = _rates(sums)
    precision = np.concatenate([rates["precision_px"][:, ::-1], rates["base_rate"]], axis=1)  # (R, T + 1)
    gain = np.diff(_from_0_to_1(rates["tpr"]), axis=1)
    return np.where(gain == 0, 0.0, gain * precision).sum(axis=1)  # no foreground: no gain, no precision


def _from_0_to_1(rate: np.ndarray) -> np.ndarray:
    """The rate (R, T) by falling thresholds, between 0 and 1 (R, T + 2)."""
    return np.pad(rate[:, ::-1], ((0, 0), (1, 1)), constant_values=(0, 1))


@dataclass(frozen=True)
class BudgetThreshold:
    """A threshold that keeps a false-alarm budget on some sets of images, and how sure that is.

    Attributes:
        max_fa_per_million_px: The budget.
        threshold: Foreground is probability > threshold.
        fa_per_million_px: The worst set's false alarms at the threshold.
        fa_upper_bound: Upper end of the worst set's one-sided 95 % interval: by the bootstrap over images, and at
            least the share that the rule of three leaves open, 3 false targets of mean size in the N images.
        pd: hits / targets of all sets together.
        smallest_measurable_fa: One false target of the true ones' mean size on the smallest set, in pixels per
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
        sets: Counts at all thresholds by the set's name, one entry per image; at least one set has targets.
        thresholds: (T,), increasing, those of the counts.
        max_fa_per_million_px: The budget, positive.
        num_resamples, seed: Number of resampled sets and seed of the bootstrap.

    Raises:
        ValueError: `sets` is empty or has an empty set, the budget is not positive, no threshold keeps it, or no set
            has a target.
    """
    if not sets or not all(sets.values()):
        raise ValueError("`sets` must hold at least one set, each of at least one image")
    if not max_fa_per_million_px > 0:
        raise ValueError(f"`max_fa_per_million_px` must be positive, got {max_fa_per_million_px}")
    curves = {name: Curves(counts) for name, counts in sets.items()}
    fa = np.array([curve.fa_per_million_px for curve in curves.values()])  # (sets, T)
    exceeded = np.flatnonzero((fa > max_fa_per_million_px).any(axis=0))  # indices of thresholds
    index = int(exceeded[-1]) + 1 if exceeded.size else 0
    if index == len(thresholds):
        raise ValueError(
            f"`max_fa_per_million_px` {max_fa_per_million_px:g} cannot be kept: false alarms at the highest "
            f"threshold, {thresholds[-1]:g}, are {fa[:, -1].max():.3g} per million px"
        )
    num_targets = sum(curve.num_targets for curve in curves.values())
    if not num_targets:
        raise ValueError("`sets` must hold at least one target: a budget is spent on finding targets")
    target_px = sum(curve.truth_px for curve in curves.values()) / num_targets
    one_target = {name: 1e6 * target_px / curve.num_px for name, curve in curves.items()}  # pixels per million
    at_threshold = {name: [counts.at(index) for counts in of_set] for name, of_set in sets.items()}
    settings: dict[str, Any] = {"num_resamples": num_resamples, "seed": seed, "level": 0.9}
    upper_bounds = [
        max(bootstrap_interval(of_set, "fa_per_million_px", **settings)[1], 3 * one_target[name])
        for name, of_set in at_threshold.items()
    ]
    return BudgetThreshold(
        max_fa_per_million_px=max_fa_per_million_px,
        threshold=float(thresholds[index]),
        fa_per_million_px=float(fa[:, index].max()),
        fa_upper_bound=max(upper_bounds),
        pd=pd(reduce(add, chain(*at_threshold.values()))),
        smallest_measurable_fa=max(one_target.values()),
    )

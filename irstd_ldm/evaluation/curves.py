"""Curves over thresholds, the areas under them, and the operating points that a false-alarm budget allows.

All numbers are ratios of sums over the images; T thresholds ascend. Of pixels, those of a higher probability are
foreground. Of targets, the components of the mask, which one mask threshold delineates, whose score is higher.

- ROC, in pixels: tpr = tp / target pixels, fpr = fp / other pixels. `roc_auc` is the area under the straight lines
  through its T points, (0, 0) (nothing is foreground) and (1, 1) (everything is).
- Precision-recall, in pixels: `average_precision` is the sum over falling thresholds of the gain in recall times the
  precision there, everything foreground being the last point. No interpolation.
- Pd against Fa (false-alarm pixels per million), and against false targets per megapixel (FROC): no false alarm is
  added by a higher threshold.
- Average precision of targets as COCO defines it: the mean over the recalls 0, 0.01, ..., 1 of the highest precision
  at that recall or a higher one. Only components of the mask are there to be found.
- Pd at a budget: the highest Pd among the thresholds whose false alarms are at most the budget; of equal Pd the one
  with fewer false alarms, then the higher threshold. None without targets, or where no threshold keeps the budget.
- A score threshold for a budget (`threshold_for_budget`) is chosen beforehand, to be used on other images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np
from scipy.stats import chi2

from .bootstrap import Statistic, divide, json_number
from .metrics import METRICS, bootstrap_interval, pd
from .thresholds import ThresholdCounts

# Budgets of an evaluation, by the rate that they limit.
BUDGETS = {"fa_per_million_px": (1.0, 10.0, 100.0), "false_targets_per_megapixel": (0.1, 1.0, 10.0)}
ARGUMENTS = {rate: f"max_{rate}" for rate in BUDGETS}  # rate -> the argument of a call that limits it
RECALLS = np.arange(101) / 100
CERTAINTY = 0.95  # Upper bounds of false alarms hold with this probability.


@dataclass(frozen=True)
class OperatingPoint:
    """The score threshold that a budget allows, and its numbers."""

    threshold: float
    pd: float
    fa_per_million_px: float
    false_targets_per_megapixel: float


class Curves:
    """The curves of a set of images.

    Args:
        counts: One entry per image, at least one, all at the same thresholds.
        legacy_false_alarms: Fa is the equal-area count of older code.

    Attributes:
        thresholds: (T,) ascending.
        num_images, num_targets, num_px, truth_px: Numbers of the set.
        tpr, fpr, precision_px, pd, fa_per_million_px, false_targets_per_megapixel, precision_targets: (T,) float64,
            NaN where undefined. The recall of pixels is `tpr`, that of targets `pd`.

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
        by_threshold += [stack("centroid_hits"), stack("box_hits")]
        of_image = [stack("truth_px"), *(stack(field)[:, 0] for field in ("targets", "area_px"))]  # (N,)
        self._terms = np.column_stack(by_threshold + of_image).astype(np.float64)  # (N, 7 T + 3), see `_rates`
        self.truth_px, self.num_targets, self.num_px = (int(terms.sum()) for terms in of_image)
        self.num_images = len(counts)
        rates = {name: rate[0] for name, rate in _rates(self._terms.sum(axis=0, keepdims=True)).items()}  # (T,) each
        self.tpr, self.fpr, self.precision_px = rates["tpr"], rates["fpr"], rates["precision_px"]
        self.pd, self.precision_targets = rates["pd"], rates["precision_targets"]
        self.fa_per_million_px = rates["fa_per_million_px"]
        self.false_targets_per_megapixel = rates["false_targets_per_megapixel"]

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
            false_targets_per_megapixel=float(self.false_targets_per_megapixel[best]),
        )

    def statistics(self, budgets: Mapping[str, Sequence[float]] = BUDGETS) -> dict[str, Statistic]:
        """The areas under curves and Pd at each budget (`budget_key`), for `bootstrap.estimate`.

        Every resampled set chooses its own threshold for a budget: the interval holds the uncertainty of the choice.
        """
        found = {
            "roc_auc": Statistic(self._terms, _roc_auc),
            "average_precision": Statistic(self._terms, _average_precision),
            "ap_centroid": Statistic(self._terms, partial(_coco_average_precision, hits="centroid_hits")),
            "ap_box_50": Statistic(self._terms, partial(_coco_average_precision, hits="box_hits")),
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
    """Name of a kind of budget in tables, such as "Fa (1e-6)" or "false targets/Mpx"."""
    return METRICS[rate].heading.replace(" per ", "/")


def _rates(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The rates (R, T) from sums (R, 7 T + 3) over images of what `Curves` counts."""
    tp_px, fp_px, hits, false_targets, false_alarm_px, centroid_hits, box_hits = np.split(sums[:, :-3], 7, axis=1)
    truth_px, targets, area_px = np.split(sums[:, -3:], 3, axis=1)  # (R, 1)
    return {
        "tpr": divide(tp_px, truth_px),
        "fpr": divide(fp_px, area_px - truth_px),
        "precision_px": divide(tp_px, tp_px + fp_px),
        "base_rate": divide(truth_px, area_px),  # (R, 1), the precision where all is foreground
        "pd": divide(hits, targets),
        "fa_per_million_px": divide(1e6 * false_alarm_px, area_px),
        "false_targets_per_megapixel": divide(1e6 * false_targets, area_px),
        "precision_targets": divide(hits, hits + false_targets),
        "predicted": hits + false_targets,
        "centroid_hits": centroid_hits,
        "box_hits": box_hits,
        "targets": targets,  # (R, 1)
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


def _coco_average_precision(sums: np.ndarray, hits: str) -> np.ndarray:
    """Average precision of targets (R,) from sums; NaN without targets."""
    rates = _rates(sums)
    recall = divide(rates[hits], rates["targets"])[:, ::-1]  # (R, T), rising
    precision = divide(rates[hits], rates["predicted"], 0.0)
    best = np.maximum.accumulate(precision, axis=1)[:, ::-1]  # at this recall or a higher one
    found = np.full(len(sums), np.nan)
    for row in np.flatnonzero(rates["targets"][:, 0]):
        index = np.searchsorted(recall[row], RECALLS)
        found[row] = np.append(best[row], 0.0)[index].mean()
    return found


def _from_0_to_1(rate: np.ndarray) -> np.ndarray:
    """The rate (R, T) by falling thresholds, between 0 and 1 (R, T + 2)."""
    return np.pad(rate[:, ::-1], ((0, 0), (1, 1)), constant_values=(0, 1))


@dataclass(frozen=True)
class BudgetThreshold:
    """A score threshold that keeps a false-alarm budget on some images, and how sure that is.

    Attributes:
        rate: The false alarms that are limited, a key of `BUDGETS`.
        budget: Highest rate that is allowed.
        score_threshold: Components of a higher score are targets.
        found: The rate at the threshold on these images.
        upper_bound: Upper end of the rate's one-sided 95 % interval: Poisson's of the number of false targets, and of
            pixels the bootstrap's over images, at least 3 false targets of the true ones' mean size.
        pd: hits / targets, NaN without targets.
        smallest_resolved: The lowest budget that these images can show to be kept: without any false target, the
            upper bound.
    """

    rate: str
    budget: float
    score_threshold: float
    found: float
    upper_bound: float
    pd: float
    smallest_resolved: float

    @property
    def is_resolved(self) -> bool:
        """Whether the images are many enough to show that the budget is kept."""
        return self.smallest_resolved <= self.budget


def threshold_for_budget(counts: Sequence[ThresholdCounts], rate: str, budget: float) -> BudgetThreshold:
    """The lowest score threshold that keeps a budget of false alarms, so that a tighter budget has no more of them.

    Args:
        counts: One entry per image, those without targets and without labels too, whose every detection is false.
        rate: A key of `BUDGETS`.
        budget: Highest rate that is allowed, positive.

    Raises:
        ValueError: There is no image, `rate` is unknown, or the budget is not positive.
    """
    if rate not in BUDGETS:
        raise ValueError(f"`rate` must be one of {', '.join(BUDGETS)}, got {rate!r}")
    if not 0 < budget < np.inf:
        raise ValueError(f"`budget` must be positive and finite, got {budget}")
    curves = Curves(counts)
    false_alarms = getattr(curves, rate)  # (T,), falling to 0 at threshold 1
    index = int(np.argmax(false_alarms <= budget))
    at_threshold = [one.at(index) for one in counts]
    total = reduce(add, at_threshold)
    megapixels = curves.num_px / 1e6
    upper_bound = poisson_upper_bound(total.predicted - total.hits) / megapixels
    smallest = poisson_upper_bound(0) / megapixels
    if rate == "fa_per_million_px":
        smallest *= curves.truth_px / curves.num_targets if curves.num_targets else 1.0
        _, bootstrapped = bootstrap_interval(at_threshold, rate, level=2 * CERTAINTY - 1)
        upper_bound = max(bootstrapped, smallest)
    return BudgetThreshold(
        rate=rate,
        budget=budget,
        score_threshold=float(curves.thresholds[index]),
        found=float(false_alarms[index]),
        upper_bound=float(upper_bound),
        pd=pd(total),
        smallest_resolved=float(smallest),
    )


def poisson_upper_bound(number: int) -> float:
    """The mean up to which a Poisson count as low as `number` is not too rare, at 95 % certainty (Garwood, 1936)."""
    return float(chi2.ppf(CERTAINTY, 2 * (number + 1)) / 2)

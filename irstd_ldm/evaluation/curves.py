"""Curves over thresholds, the areas under them, and the operating points that a false-alarm budget allows.

All numbers are ratios of sums over the images. Foreground is probability > threshold; T thresholds ascend.

- ROC, in pixels: tpr = tp / target pixels, fpr = fp / other pixels. `roc_auc` is the area under the straight lines
  through its T points, (0, 0) (nothing is foreground) and (1, 1) (everything is).
- Precision-recall, in pixels: `average_precision` is the sum over falling thresholds of the gain in recall times the
  precision there, everything foreground being the last point. No interpolation.
- Pd against Fa (false-alarm pixels per million) and against false targets per image, in targets.
- Pd at a budget: the highest Pd among the thresholds whose false alarms are at most the budget; of equal Pd the one
  with fewer false alarms, then the higher threshold. None without targets, or where no threshold keeps the budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bootstrap import Statistic, divide
from .thresholds import ThresholdCounts

FA_BUDGETS_PER_MILLION_PX = (1.0, 10.0, 100.0)
FALSE_TARGET_BUDGETS_PER_IMAGE = (0.1, 1.0)


@dataclass(frozen=True)
class OperatingPoint:
    """The threshold that a budget allows, and what it gives."""

    threshold: float
    pd: float
    fa_per_million_px: float
    false_targets_per_image: float


class Curves:
    """The curves of a set of images.

    Args:
        counts: one entry per image, at least one, all at the same thresholds.
        legacy_false_alarms: Fa is the equal-area count of older code.

    Attributes:
        thresholds: (T,) ascending.
        num_images, num_targets, num_px, truth_px: of the set.
        tpr, fpr, precision_px, pd, fa_per_million_px, false_targets_per_image, precision_targets: (T,) float64, NaN
            where undefined. The recall of pixels is `tpr`, that of targets `pd`.

    Raises:
        ValueError: there is no image, or thresholds differ.
    """

    def __init__(self, counts: Sequence[ThresholdCounts], *, legacy_false_alarms: bool = False):
        if not counts:
            raise ValueError("`counts` must hold at least one image, got none")
        self.thresholds = counts[0].thresholds
        if any(not np.array_equal(one.thresholds, self.thresholds) for one in counts):
            raise ValueError("`counts` must all be at the same thresholds")

        def stack(field: str) -> np.ndarray:
            return np.array([getattr(one, field) for one in counts])  # (N, T), truth_px (N,)

        truth_px, area_px, targets = stack("truth_px"), stack("area_px")[:, 0], stack("targets")[:, 0]  # (N,)
        hits, predicted = stack("hits"), stack("predicted")  # (N, T)
        false_alarm_px = stack("legacy_false_alarm_px" if legacy_false_alarms else "false_alarm_px")  # (N, T)
        # The first T columns, the next T, ..., then single ones; see `_pixel_rates` and `_target_rates`.
        self._pixel_terms = np.column_stack([stack("tp_px"), stack("fp_px"), truth_px, area_px]).astype(np.float64)
        self._target_terms = np.column_stack(
            [hits, predicted - hits, false_alarm_px, targets, area_px, np.ones(len(counts))]
        ).astype(np.float64)

        self.num_images, self.num_targets = len(counts), int(targets.sum())
        self.num_px, self.truth_px = int(area_px.sum()), int(truth_px.sum())
        rates = _pixel_rates(self._pixel_terms.sum(axis=0, keepdims=True))  # (1, T) each
        self.tpr, self.fpr, self.precision_px = (rate[0] for rate in rates)
        rates = _target_rates(self._target_terms.sum(axis=0, keepdims=True))  # (1, T) each
        self.pd, self.fa_per_million_px, self.false_targets_per_image = (rate[0] for rate in rates)
        self.precision_targets = divide(hits.sum(axis=0), predicted.sum(axis=0))

    def roc_auc(self) -> float:
        """Area under the ROC curve of pixels; NaN where there is no target pixel or no other one."""
        return self._roc_auc().point()

    def average_precision(self) -> float:
        """Average precision of pixels; NaN without target pixels."""
        return self._average_precision().point()

    def pd_at_fa(self, budget_per_million_px: float) -> OperatingPoint | None:
        """The operating point of highest Pd with at most so many false-alarm pixels per million; see the module.

        Raises:
            ValueError: the budget is negative or not finite.
        """
        return self._operating_point(self.fa_per_million_px, budget_per_million_px, "budget_per_million_px")

    def pd_at_false_targets_per_image(self, budget_per_image: float) -> OperatingPoint | None:
        """The operating point of highest Pd with at most so many false targets per image; see the module.

        Raises:
            ValueError: the budget is negative or not finite.
        """
        return self._operating_point(self.false_targets_per_image, budget_per_image, "budget_per_image")

    def statistics(
        self,
        fa_budgets_per_million_px: Sequence[float] = FA_BUDGETS_PER_MILLION_PX,
        false_target_budgets_per_image: Sequence[float] = FALSE_TARGET_BUDGETS_PER_IMAGE,
    ) -> dict[str, Statistic]:
        """`roc_auc`, `average_precision` and Pd at each budget, for `bootstrap.estimate`.

        Every resampled set chooses its own threshold for a budget: the interval holds the uncertainty of the choice.
        Names of budgets: "pd_at_10_fa_per_million_px", "pd_at_0.1_false_targets_per_image".
        """
        statistics = {"roc_auc": self._roc_auc(), "average_precision": self._average_precision()}
        for budget in fa_budgets_per_million_px:
            statistics[f"pd_at_{budget:g}_fa_per_million_px"] = self._pd_within(budget, 1)
        for budget in false_target_budgets_per_image:
            statistics[f"pd_at_{budget:g}_false_targets_per_image"] = self._pd_within(budget, 2)
        return statistics

    def to_dict(self) -> dict[str, Any]:
        """Curves, areas and N, ready for `json.dumps`; None stands for an undefined value."""
        arrays = {
            "thresholds": self.thresholds,
            "tpr": self.tpr,
            "fpr": self.fpr,
            "precision_px": self.precision_px,
            "pd": self.pd,
            "fa_per_million_px": self.fa_per_million_px,
            "false_targets_per_image": self.false_targets_per_image,
            "precision_targets": self.precision_targets,
        }
        areas = {"roc_auc": self.roc_auc(), "average_precision": self.average_precision()}
        return {
            "num_images": self.num_images,
            "num_targets": self.num_targets,
            "num_px": self.num_px,
            "truth_px": self.truth_px,
            **{name: json_number(area) for name, area in areas.items()},
            **{name: [json_number(value) for value in array.tolist()] for name, array in arrays.items()},
        }

    def _roc_auc(self) -> Statistic:
        def value(sums: np.ndarray) -> np.ndarray:
            tpr, fpr, _ = _pixel_rates(sums)
            return _roc_auc(tpr, fpr)

        return Statistic(self._pixel_terms, value)

    def _average_precision(self) -> Statistic:
        def value(sums: np.ndarray) -> np.ndarray:
            recall, _, precision = _pixel_rates(sums)
            return _average_precision(recall, precision, base_rate=divide(sums[:, -2], sums[:, -1]))

        return Statistic(self._pixel_terms, value)

    def _pd_within(self, budget: float, kind: int) -> Statistic:
        def value(sums: np.ndarray) -> np.ndarray:
            rates = _target_rates(sums)
            allowed = np.where(rates[kind] <= budget, rates[0], -np.inf).max(axis=1)  # (R,)
            return np.where(np.isneginf(allowed), np.nan, allowed)

        return Statistic(self._target_terms, value)

    def _operating_point(self, false_alarms: np.ndarray, budget: float, name: str) -> OperatingPoint | None:
        if not 0 <= budget < np.inf:
            raise ValueError(f"`{name}` must be at least 0 and finite, got {budget}")
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


def json_number(value: float) -> float | None:
    """None for NaN, which JSON does not know."""
    return None if np.isnan(value) else float(value)


def _pixel_rates(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tpr, fpr and precision (R, T) from sums (R, 2 T + 2): tp_px (T), fp_px (T), truth_px, area_px."""
    tp_px, fp_px = np.split(sums[:, :-2], 2, axis=1)  # (R, T)
    truth_px, area_px = sums[:, -2:-1], sums[:, -1:]  # (R, 1)
    return divide(tp_px, truth_px), divide(fp_px, area_px - truth_px), divide(tp_px, tp_px + fp_px)


def _target_rates(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pd, Fa per million and false targets per image (R, T).

    From sums (R, 3 T + 3): hits (T), false targets (T), false_alarm_px (T), targets, area_px, images.
    """
    hits, false_targets, false_alarm_px = np.split(sums[:, :-3], 3, axis=1)  # (R, T)
    targets, area_px, images = sums[:, -3:-2], sums[:, -2:-1], sums[:, -1:]  # (R, 1)
    return divide(hits, targets), divide(1e6 * false_alarm_px, area_px), divide(false_targets, images)


def _roc_auc(tpr: np.ndarray, fpr: np.ndarray) -> np.ndarray:
    """Trapezoidal area (R,) under tpr and fpr (R, T) at ascending thresholds, (0, 0) and (1, 1) added."""
    ends = np.zeros((len(tpr), 1)), np.ones((len(tpr), 1))
    tpr = np.concatenate([ends[0], tpr[:, ::-1], ends[1]], axis=1)  # (R, T + 2), falling thresholds
    fpr = np.concatenate([ends[0], fpr[:, ::-1], ends[1]], axis=1)
    return (np.diff(fpr, axis=1) * (tpr[:, 1:] + tpr[:, :-1])).sum(axis=1) / 2


def _average_precision(recall: np.ndarray, precision: np.ndarray, base_rate: np.ndarray) -> np.ndarray:
    """(R,) from recall and precision (R, T) at ascending thresholds; all foreground: recall 1, `base_rate` (R,)."""
    num = len(recall)
    recall = np.concatenate([np.zeros((num, 1)), recall[:, ::-1], np.ones((num, 1))], axis=1)  # (R, T + 2)
    precision = np.concatenate([precision[:, ::-1], base_rate[:, None]], axis=1)  # (R, T + 1)
    gain = np.diff(recall, axis=1)
    return np.where(gain == 0, 0.0, gain * precision).sum(axis=1)  # no foreground: no gain, no precision

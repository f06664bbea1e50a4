"""Two detectors on the same images: every metric's paired difference, in numbers and in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..bootstrap import PairedDifference
from ..curves import BUDGETS, budget_key, budget_label
from ..metrics import METRICS, Metric, metrics_of, number_text
from ..result import compare_results
from .outcomes import NamedEvaluation


@dataclass(frozen=True)
class Comparison:
    """One metric of two detectors A and B on the same images.

    Attributes:
        metric: The metric, or Pd at a budget.
        paired: The difference B - A with its 95 % interval.
    """

    metric: Metric
    paired: PairedDifference

    @property
    def share_b_better(self) -> float:
        """Share of the resampled sets on which B is better, ties counting half; NaN where undefined."""
        above = self.paired.probability_b_above_a
        return 1 - above if self.metric.lower_is_better else above

    def sentence(self, name_a: str, name_b: str) -> str:
        """The verdict of the images on this metric, in words; told apart where the interval leaves out 0."""
        paired, label, decimals = self.paired, self.metric.title, self.metric.decimals
        images = f"these {paired.num_images} images" if paired.num_images > 1 else "this one image"
        if math.isnan(paired.difference):
            return f"{label}: undefined for one of the two, by {images}."
        if paired.low <= 0 <= paired.high:
            return f"{label}: not told apart by {images}."
        winner = name_b if (paired.low > 0) != self.metric.lower_is_better else name_a
        ends = sorted((abs(paired.low), abs(paired.high)))
        return (
            f"{label}: {winner} is better by {number(abs(paired.difference), decimals)} "
            f"(95 % interval {interval(ends, decimals)})."
        )


def compare(a: NamedEvaluation, b: NamedEvaluation) -> list[Comparison]:
    """Every metric of the printed table and Pd at every budget that both have.

    Raises:
        ValueError: The images or the protocols differ.
    """
    shown = metrics_of("printed")
    for rate, budgets in BUDGETS.items():
        for budget in budgets:
            label = f"Pd at {budget_label(rate)} ≤ {budget:g}"
            shown.append(replace(METRICS["pd"], key=budget_key(rate, budget), label=label, aside="", tables=()))
    found = compare_results(a.result, b.result)
    return [Comparison(metric, found[metric.key]) for metric in shown if metric.key in found]


def comparable_pairs(evaluations: Sequence[NamedEvaluation]) -> list[tuple[NamedEvaluation, NamedEvaluation]]:
    """Every evaluation of a data set with the first one on its images and protocol, where that is another one."""
    first: dict[Any, NamedEvaluation] = {}
    pairs = []
    for evaluation in evaluations:
        same = first.setdefault((tuple(evaluation.stems), evaluation.result.protocol), evaluation)
        if same is not evaluation:
            pairs.append((same, evaluation))
    return pairs


def number(value: float | None, decimals: int = 4) -> str:
    """The number with a minus sign where negative; "-" where undefined."""
    text = number_text(value, decimals)
    return text if text == "-" else text.replace("-", "−")


def interval(ends: Sequence[float | None], decimals: int = 4) -> str:
    """LOW to HIGH."""
    return f"{number(ends[0], decimals)} to {number(ends[1], decimals)}"

"""Is B really better than A? Differences on the same images, bootstrapped in pairs."""

import math
from dataclasses import dataclass

from ..bootstrap import PairedDifference
from ..report import compare_results
from .named import NamedEvaluation
from .numbers import DECIMALS, LABELS, LOWER_IS_BETTER, interval, number

_BUDGET_SUFFIXES = {"_fa_per_million_px": "Fa (1e-6)", "_false_targets_per_image": "false targets/image"}


@dataclass(frozen=True)
class Comparison:
    """One metric of two detectors.

    Attributes:
        metric: its name in `EvaluationResult.statistics`.
        label: in tables.
        decimals: to show.
        a, b: values, NaN where undefined.
        paired: the difference B - A with its 95 % interval.
        lower_is_better: of the metric.
    """

    metric: str
    label: str
    decimals: int
    a: float
    b: float
    paired: PairedDifference
    lower_is_better: bool

    @property
    def share_b_better(self) -> float:
        """Share of the resampled sets on which B is better, ties counting half; NaN where undefined."""
        above = self.paired.probability_b_above_a
        return 1 - above if self.lower_is_better else above

    @property
    def better(self) -> str | None:
        """The name a or b where the 95 % interval of the difference leaves out 0, else None."""
        if math.isnan(self.paired.difference) or self.paired.low <= 0 <= self.paired.high:
            return None
        return "b" if (self.paired.low > 0) != self.lower_is_better else "a"

    def sentence(self, name_a: str, name_b: str) -> str:
        """What the images say about this metric, in words."""
        images = f"these {self.paired.num_images} images" if self.paired.num_images > 1 else "this one image"
        if math.isnan(self.paired.difference):
            return f"{self.label}: undefined for one of the two, by {images}."
        if self.better is None:
            return f"{self.label}: not told apart by {images}."
        winner = name_b if self.better == "b" else name_a
        ends = sorted((abs(self.paired.low), abs(self.paired.high)))
        return (
            f"{self.label}: {winner} is better by {number(abs(self.paired.difference), self.decimals)} "
            f"(95 % interval {interval(ends, self.decimals)})."
        )


def is_comparable(a: NamedEvaluation, b: NamedEvaluation) -> bool:
    """Whether both are of the same images of one data set under one protocol."""
    return a.data == b.data and a.stems == b.stems and a.result.protocol == b.result.protocol


def compare(a: NamedEvaluation, b: NamedEvaluation) -> list[Comparison]:
    """Every metric of the tables and of the budgets that both have.

    Raises:
        ValueError: the images or the protocols differ.
    """
    found = compare_results(a.result, b.result)
    comparisons = []
    for metric, paired in found.items():
        label = LABELS.get(metric) or _budget_label(metric)
        if label is None:
            continue
        comparisons.append(
            Comparison(
                metric=metric,
                label=label,
                decimals=DECIMALS.get(metric, 4),
                a=a.result.statistics[metric].point(),
                b=b.result.statistics[metric].point(),
                paired=paired,
                lower_is_better=metric in LOWER_IS_BETTER,
            )
        )
    return comparisons


def _budget_label(metric: str) -> str | None:
    """The label of Pd at a budget, such as "pd_at_10_fa_per_million_px"; None for other metrics."""
    for suffix, unit in _BUDGET_SUFFIXES.items():
        if metric.startswith("pd_at_") and metric.endswith(suffix):
            return f"Pd at {unit} ≤ {metric.removeprefix('pd_at_').removesuffix(suffix)}"
    return None

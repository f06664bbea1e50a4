"""What an evaluation found: counts per image, and the numbers made of them."""

from dataclasses import asdict, dataclass
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np

from .bootstrap import Estimate, Statistic, estimate
from .counts import ImageCounts
from .curves import FA_BUDGETS_PER_MILLION_PX, FALSE_TARGET_BUDGETS_PER_IMAGE, Curves, OperatingPoint, json_number
from .hierarchical import HIERARCHICAL_METRICS, HierarchicalCounts, hierarchical_statistics
from .metrics import ratio_statistic, union_px
from .protocols import Protocol
from .strata import AREA_STRATA, SCR_STRATA, Stratum, TargetRecord, stratum_statistic
from .table import format_table
from .thresholds import ThresholdCounts

COUNT_METRICS = (
    "iou",
    "niou",
    "pd",
    "fa_per_million_px",
    "precision_px",
    "recall_px",
    "precision_targets",
    "recall_targets",
    "false_targets_per_image",
)


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What one image adds to every metric.

    Attributes:
        stem: its name.
        counts: at the threshold, with the matching of the evaluation.
        hierarchical: at the threshold, for hIoU.
        targets: its targets in label order, and which were hit.
        at_thresholds: the counts at all thresholds, None where curves were not asked for.
    """

    stem: str
    counts: ImageCounts
    hierarchical: HierarchicalCounts
    targets: list[TargetRecord]
    at_thresholds: ThresholdCounts | None


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Counts per image with the settings they were made with.

    Attributes:
        per_image: one entry per image, in the order given.
        threshold: a pixel is foreground if its probability is greater, strictly.
        protocol: how images and truth were prepared.
        matching: "greedy", "optimal" or "opdc".
        centroid_tolerance_px: a hit is nearer than this, strictly.
        legacy_false_alarms: Fa is the equal-area count of older code.
        num_resamples, seed: of the bootstrap intervals.
    """

    per_image: list[ImageResult]
    threshold: float
    protocol: Protocol
    matching: str
    centroid_tolerance_px: float
    legacy_false_alarms: bool
    num_resamples: int
    seed: int

    @property
    def counts(self) -> ImageCounts:
        """The sum over the images."""
        return reduce(add, (image.counts for image in self.per_image), ImageCounts.zero())

    @cached_property
    def curves(self) -> Curves | None:
        """The curves over thresholds, None where they were not asked for."""
        counts = [image.at_thresholds for image in self.per_image if image.at_thresholds is not None]
        return Curves(counts, legacy_false_alarms=self.legacy_false_alarms) if counts else None

    @cached_property
    def strata(self) -> tuple[Stratum, ...]:
        """The strata of Pd: by area, and by SCR where the images were given."""
        has_scr = all(target.scr is not None for image in self.per_image for target in image.targets)
        return AREA_STRATA + SCR_STRATA if has_scr else AREA_STRATA

    @cached_property
    def statistics(self) -> dict[str, Statistic]:
        """Every metric by its name in `summary`; that of a stratum is "pd: " and the stratum's name."""
        counts = [image.counts for image in self.per_image]
        legacy = {"fa_per_million_px": "legacy_fa_per_million_px"} if self.legacy_false_alarms else {}
        found = {name: ratio_statistic(counts, legacy.get(name, name)) for name in COUNT_METRICS}
        found |= hierarchical_statistics([image.hierarchical for image in self.per_image])
        if self.curves is not None:
            found |= self.curves.statistics()
        targets = [image.targets for image in self.per_image]
        return found | {f"pd: {stratum.name}": stratum_statistic(targets, stratum) for stratum in self.strata}

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Value and 95 % interval of every statistic, all from the same resampled sets."""
        return estimate(self.statistics, num_resamples=self.num_resamples, seed=self.seed)

    def summary(self) -> dict[str, Any]:
        """Every number and setting, ready for `json.dumps`; `docs/evaluation.md` defines each.

        Ratios are in [0, 1]; None stands for an undefined value. `intervals_95` maps each metric to [low, high].
        """
        total = self.counts
        scalars = [*COUNT_METRICS, *HIERARCHICAL_METRICS]
        if self.curves is not None:
            scalars += ["roc_auc", "average_precision"]
        return {
            **{name: json_number(self.estimates[name].value) for name in scalars},
            "intervals_95": {name: self._interval(name) for name in scalars},
            "pd_at_fa_per_million_px": self._pd_at_fa(),
            "pd_at_false_targets_per_image": self._pd_at_false_targets(),
            "pd_by_area_px": self._pd_by("area_px"),
            "pd_by_scr": self._pd_by("scr"),
            "num_images": total.images,
            "num_images_empty_in_both": sum(union_px(image.counts) == 0 for image in self.per_image),
            "num_targets": total.targets,
            "num_hits": total.hits,
            "num_predicted": total.predicted,
            "num_px": total.area_px,
            "tp_px": total.tp_px,
            "fp_px": total.fp_px,
            "fn_px": total.fn_px,
            "false_alarm_px": total.legacy_false_alarm_px if self.legacy_false_alarms else total.false_alarm_px,
            "false_alarm_count": "legacy equal-area" if self.legacy_false_alarms else "exact",
            "threshold": self.threshold,
            "protocol": self.protocol.name,
            "protocol_description": self.protocol.description,
            "connectivity": 8,
            "matching": self.matching,
            "centroid_tolerance_px": float(self.centroid_tolerance_px),
            "num_resamples": self.num_resamples,
            "bootstrap_seed": self.seed,
            "curves": None if self.curves is None else self.curves.to_dict(),
        }

    def table(self) -> str:
        """The result as plain text, settings first."""
        return format_table(self.summary())

    def _interval(self, name: str) -> list[float | None]:
        return [json_number(self.estimates[name].low), json_number(self.estimates[name].high)]

    def _pd_at_fa(self) -> dict[str, Any] | None:
        if self.curves is None:
            return None
        return {
            f"{budget:g}": self._at_budget(self.curves.pd_at_fa(budget), f"pd_at_{budget:g}_fa_per_million_px")
            for budget in FA_BUDGETS_PER_MILLION_PX
        }

    def _pd_at_false_targets(self) -> dict[str, Any] | None:
        if self.curves is None:
            return None
        return {
            f"{budget:g}": self._at_budget(
                self.curves.pd_at_false_targets_per_image(budget), f"pd_at_{budget:g}_false_targets_per_image"
            )
            for budget in FALSE_TARGET_BUDGETS_PER_IMAGE
        }

    def _at_budget(self, point: OperatingPoint | None, name: str) -> dict[str, Any] | None:
        return None if point is None else {**asdict(point), "interval_95": self._interval(name)}

    def _pd_by(self, property: str) -> list[dict[str, Any]] | None:
        records = [target for image in self.per_image for target in image.targets]
        rows = []
        for stratum in self.strata:
            if stratum.property != property:
                continue
            inside = [record for record in records if stratum.holds(record)]
            name = f"pd: {stratum.name}"
            rows.append(
                {
                    "name": stratum.name,
                    "low": _bound(stratum.low),
                    "high": _bound(stratum.high),
                    "num_targets": len(inside),
                    "num_hits": sum(record.hit for record in inside),
                    "pd": json_number(self.estimates[name].value),
                    "interval_95": self._interval(name),
                }
            )
        return rows or None


def _bound(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

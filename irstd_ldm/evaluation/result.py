"""From pairs of probability and truth to counts per image, and the numbers and tables made of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np

from ..targets import Decision
from .bootstrap import Estimate, PairedDifference, Statistic, estimate, json_number, paired_differences, ratio
from .confidence import ScoredTarget, scored_targets
from .counts import (
    AREA_STRATA,
    SCR_STRATA,
    HierarchicalCounts,
    ImageCounts,
    Stratum,
    TargetRecord,
    count_components,
    count_hierarchical,
    target_records,
)
from .curves import BUDGETS, Curves, budget_key, budget_label
from .matching import ImageComponents, check_probability, label_image
from .metrics import METRICS, metrics_of, number_text, with_legacy_false_alarms
from .protocols import Protocol, get_protocol
from .thresholds import ThresholdCounts, count_image_at

Pair = tuple[str, np.ndarray, np.ndarray] | tuple[str, np.ndarray, np.ndarray, np.ndarray]
LABEL_WIDTH = 26


@dataclass(frozen=True, eq=False)
class ImageEvaluation:
    """Terms that one image adds to every metric.

    Attributes:
        stem: Its name.
        counts: Counts at the threshold, with the matching of the evaluation.
        hierarchical: Counts at the threshold, for hIoU.
        targets: Its targets in label order, and which were hit.
        scored: Its predicted targets in label order, with their confidence.
        at_thresholds: The counts at all thresholds, None where curves were not asked for.
    """

    stem: str
    counts: ImageCounts
    hierarchical: HierarchicalCounts
    targets: list[TargetRecord]
    scored: list[ScoredTarget]
    at_thresholds: ThresholdCounts | None


# Called with each image, its raw picture (H, W) at the protocol's size (black where none was given), its components,
# and the pairs (index in `targets`, index in `predicted`) that hit.
Observer = Callable[[ImageEvaluation, np.ndarray, ImageComponents, list[tuple[int, int]]], None]


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Counts per image with the settings they were made with.

    Attributes:
        per_image: One entry per image, in the order given.
        decision: What is foreground, and which of its components are predicted targets.
        protocol: How images and truth were prepared.
        matching: "greedy", "optimal" or "opdc".
        centroid_tolerance_px: A hit is nearer than this, strictly.
        legacy_false_alarms: Fa is the equal-area count of older code.
        num_resamples, seed: Number of resampled sets and seed of the bootstrap intervals.
    """

    per_image: list[ImageEvaluation]
    decision: Decision
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
        """Every metric of `METRICS`, Pd at every budget, and Pd of every stratum by "pd: " and the stratum's name."""
        counts: dict[str, list[Any]] = {
            name: [getattr(image, name) for image in self.per_image] for name in ("counts", "hierarchical")
        }
        if self.legacy_false_alarms:
            counts["counts"] = [with_legacy_false_alarms(one) for one in counts["counts"]]
        found = {m.key: m.statistic(counts[m.counted]) for m in METRICS.values() if m.numerator is not None}
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
        metrics = {key: self.estimates[key] for key in METRICS if key in self.estimates}
        return {
            **{key: json_number(found.value) for key, found in metrics.items()},
            "intervals_95": {key: found.interval() for key, found in metrics.items()},
            **{f"pd_at_{rate}": self._pd_at(rate) for rate in BUDGETS},
            "pd_by_area_px": self._pd_by("area_px"),
            "pd_by_scr": self._pd_by("scr"),
            "num_images": total.images,
            "num_images_empty_in_both": sum(image.counts.union_px == 0 for image in self.per_image),
            "num_targets": total.targets,
            "num_hits": total.hits,
            "num_predicted": total.predicted,
            "num_px": total.area_px,
            "tp_px": total.tp_px,
            "fp_px": total.fp_px,
            "fn_px": total.fn_px,
            "false_alarm_px": total.legacy_false_alarm_px if self.legacy_false_alarms else total.false_alarm_px,
            "false_alarm_count": "legacy equal-area" if self.legacy_false_alarms else "exact",
            **asdict(self.decision),
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
        """The result as plain text, settings first; "-" stands for an undefined value."""
        summary = self.summary()
        lines = [
            f"protocol {summary['protocol']}: {summary['protocol_description']}",
            f"foreground: probability > {self.decision.mask_threshold:g}, in components (8-connectivity) whose mean "
            f"probability > {self.decision.score_threshold:g}",
            f"hit: {summary['matching']} matching, centroid distance < {summary['centroid_tolerance_px']:g} px",
            f"false alarms: {summary['false_alarm_count']} pixel count",
            f"{summary['num_images']} images ({summary['num_images_empty_in_both']} empty in truth and prediction), "
            f"{summary['num_targets']} targets, {summary['num_px']} px",
            "",
            f"{'metric':<{LABEL_WIDTH}}{'value':>10}    95 % interval",
        ]
        for metric in metrics_of("printed"):
            if metric.key in summary:
                label = f"  {metric.label}" if metric.group else metric.title
                lines.append(_row(label, summary[metric.key], summary["intervals_95"][metric.key], metric.decimals))
        if summary["num_targets"] and summary["curves"] is not None:
            lines += ["", "Pd at a budget, by the score threshold that is the best on these very images"]
            for rate in BUDGETS:
                for budget, point in summary[f"pd_at_{rate}"].items():
                    label = f"{budget_label(rate)} <= {budget}"
                    if point is None:
                        lines.append(f"{label:<{LABEL_WIDTH}}{'-':>10}    no threshold keeps it")
                    else:
                        row = _row(label, point["pd"], point["interval_95"])
                        lines.append(f"{row}    score > {point['threshold']:g}")
        if summary["num_targets"]:
            lines += ["", "Pd by size and by SCR of the targets"]
            for found in [*summary["pd_by_area_px"], *(summary["pd_by_scr"] or ())]:
                if found["num_targets"]:
                    row = _row(found["name"], found["pd"], found["interval_95"])
                    lines.append(f"{row}    {found['num_targets']} targets")
        return "\n".join(lines)

    def _pd_at(self, rate: str) -> dict[str, Any] | None:
        if self.curves is None:
            return None
        found: dict[str, Any] = {}
        for budget in BUDGETS[rate]:
            point = self.curves.pd_at(rate, budget)
            interval = {"interval_95": self.estimates[budget_key(rate, budget)].interval()}
            found[f"{budget:g}"] = None if point is None else asdict(point) | interval
        return found

    def _pd_by(self, property: str) -> list[dict[str, Any]] | None:
        rows = []
        for stratum in (one for one in self.strata if one.property == property):
            name = f"pd: {stratum.name}"
            num_hits, num_targets = self.statistics[name].terms.sum(axis=0)
            rows.append(
                {
                    "name": stratum.name,
                    "low": float(stratum.low) if np.isfinite(stratum.low) else None,
                    "high": float(stratum.high) if np.isfinite(stratum.high) else None,
                    "num_targets": int(num_targets),
                    "num_hits": int(num_hits),
                    "pd": json_number(self.estimates[name].value),
                    "interval_95": self.estimates[name].interval(),
                }
            )
        return rows or None


def stratum_statistic(targets: Sequence[Sequence[TargetRecord]], stratum: Stratum) -> Statistic:
    """Pd of the targets of one stratum, from the records of every image; NaN without such targets."""
    inside = [[record for record in records if stratum.holds(record)] for records in targets]
    hits = np.array([sum(record.hit for record in records) for records in inside])  # (N,)
    return ratio(hits, np.array([len(records) for records in inside]))


def evaluate_probabilities(
    pairs: Iterable[Pair],
    *,
    mask_threshold: float = 0.5,
    score_threshold: float | None = None,
    protocol: str = "native",
    matching: str = "greedy",
    centroid_tolerance_px: float = 3.0,
    legacy_false_alarms: bool = False,
    curves: bool = True,
    num_resamples: int = 1000,
    seed: int = 0,
    observe: Observer | None = None,
) -> EvaluationResult:
    """Scores probability maps against masks, one pair at a time.

    Args:
        pairs: (stem, probability, mask) or (stem, probability, mask, image). probability (H, W) floating point in
            [0, 1], at the mask's size or at the protocol's. Under `resize256` a probability of the mask's size is
            resized bilinearly to 256x256; to reproduce the published protocol the pipeline has to run on
            `Protocol.prepare_image` instead. mask (H, W) uint8 as stored, or bool; `basicirstd` needs the former.
            image (H, W), raw, at the mask's size: with it Pd is reported by SCR too.
        mask_threshold, score_threshold: See `targets.Decision`, in [0, 1]; None = the mask's, which keeps all
            components.
        protocol: "native", "basicirstd" or "resize256".
        matching: "greedy", "optimal" or "opdc"; hIoU is always matched by OPDC.
        centroid_tolerance_px: A hit is nearer than this, strictly, in pixels of the protocol's size.
        legacy_false_alarms: Report the equal-area count of older code as Fa.
        curves: Whether to count at `THRESHOLDS` too, which takes most of the time.
        num_resamples, seed: Number of resampled sets and seed of the bootstrap intervals.
        observe: Called with each image while its arrays are at hand, such as `WorstImages.observe`.

    Raises:
        TypeError: An array has the wrong type.
        ValueError: An argument is not allowed, `pairs` is empty, or an array has the wrong shape or values.
    """
    chosen = get_protocol(protocol)
    score_threshold = mask_threshold if score_threshold is None else score_threshold
    for name, threshold in (("mask_threshold", mask_threshold), ("score_threshold", score_threshold)):
        if not 0 <= threshold <= 1:
            raise ValueError(f"`{name}` must be in [0, 1], got {threshold}")
    decision = Decision(float(mask_threshold), float(score_threshold))  # compared in the probability's type
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` must be at least 1, got {num_resamples}")
    matched_by: dict[str, Any] = {"centroid_tolerance_px": centroid_tolerance_px, "matching": matching}
    per_image = []
    for stem, probability, mask, *images in pairs:
        check_probability(probability, f" of {stem}")
        low, high = probability.min(), probability.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"`probability` of {stem} must be in [0, 1], got {low:g} to {high:g}")
        truth = chosen.prepare_truth(mask)
        if probability.shape not in (mask.shape, truth.mask.shape):
            allowed = " or ".join(str(shape) for shape in dict.fromkeys((mask.shape, truth.mask.shape)))
            raise ValueError(f"`probability` of {stem} must have shape {allowed}, got {probability.shape}")
        if images and images[0].shape != mask.shape:
            raise ValueError(f"`image` of {stem} must have shape {mask.shape}, got {images[0].shape}")
        probability = chosen.prepare_probability(probability)
        components = label_image(decision.mask(probability), truth.mask)
        matches = components.match(**matched_by)
        at_thresholds = None
        if curves:
            at_thresholds = count_image_at(
                probability,
                truth.mask,
                mask_threshold=decision.mask_threshold,
                union_truth=truth.union_mask,
                **matched_by,
            )
        image = chosen.prepare_image(images[0]) if images else None
        per_image.append(
            ImageEvaluation(
                stem=stem,
                counts=count_components(components, matches, union_truth=truth.union_mask),
                hierarchical=count_hierarchical(components, centroid_tolerance_px=centroid_tolerance_px),
                targets=target_records(components, matches, image),
                scored=scored_targets(components, matches, probability),
                at_thresholds=at_thresholds,
            )
        )
        if observe is not None:
            gray = np.zeros(truth.mask.shape, np.uint8) if image is None else image
            observe(per_image[-1], gray, components, matches)
    if not per_image:
        raise ValueError("`pairs` must hold at least one image, got none")
    return EvaluationResult(
        per_image, decision, chosen, matching, centroid_tolerance_px, legacy_false_alarms, num_resamples, seed
    )


def compare_results(a: EvaluationResult, b: EvaluationResult) -> dict[str, PairedDifference]:
    """B - A for every metric of two detectors on the same images, bootstrapped in pairs.

    Args:
        a, b: Results on the same stems in the same order, under one protocol.

    Raises:
        ValueError: The stems or the protocols differ.
    """
    if [image.stem for image in a.per_image] != [image.stem for image in b.per_image]:
        raise ValueError("`b` must be of the images of `a`, in the same order")
    if a.protocol != b.protocol:
        raise ValueError(f"`b` must be under the protocol of `a` {a.protocol.name!r}, got {b.protocol.name!r}")
    return paired_differences(a.statistics, b.statistics, num_resamples=a.num_resamples, seed=a.seed)


def _row(label: str, value: float | None, interval: list[float | None], decimals: int = 4) -> str:
    low, high = (number_text(end, decimals) for end in interval)
    return f"{label:<{LABEL_WIDTH}}{number_text(value, decimals):>10}    {low} to {high}"

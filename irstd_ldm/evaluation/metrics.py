"""The one table of metrics, and their values on a set of images with bootstrap intervals.

A metric is a sum over images of a numerator divided by a sum over images of a denominator. `metrics.json`, the printed
tables, the report, the cross-dataset table and model cards all read `METRICS`: a new metric is one entry there.

hIoU and its split (arXiv 2509.16888) keep the names and the placeholders of PyIRSTDMetrics, which counts one more
unmatched predicted component for every image without predicted components, and one more unmatched target for every
image without targets, so that published values can be compared.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .bootstrap import PairedDifference, Statistic, estimate, paired_differences, ratio
from .counts import ImageCounts

HEADLINE = ("printed", "overview", "cross", "card")


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        key: Name in `metrics.json`.
        label: Name in tables.
        meaning: Definition in words, for readers of the report and the docs.
        numerator, denominator: Terms that one image adds, from its `counted`; None for an area under a curve, which
            `Curves.statistics` has.
        undefined: Says where the denominator is 0 and the metric has no value (or has `empty`); "" where never.
        empty: Value where the denominator is 0.
        counted: "counts" (`ImageCounts`) or "hierarchical" (`HierarchicalCounts`).
        unit: "" for a ratio in [0, 1] or a number per image, "1e-6" for a share in millionths.
        decimals: Decimals in tables.
        lower_is_better: Whether a lower value is better; true of false alarms and errors.
        group: Metric that this one belongs to, in front of the label or in the line above it.
        aside: Remark in parentheses behind the label of long tables.
        made_of: Word between numerator and denominator and the noun of the latter, for the report; None shows the
            number of images.
        tables: Tables beside `metrics.json` that show it: "printed" (and the report's), "overview" of the report,
            "cross" (data sets and detectors; `detection_scores` too), "card".
    """

    key: str
    label: str
    meaning: str
    numerator: Callable[[Any], float] | None = None
    denominator: Callable[[Any], float] | None = None
    undefined: str = ""
    empty: float = math.nan
    counted: str = "counts"
    unit: str = ""
    decimals: int = 4
    lower_is_better: bool = False
    group: str = ""
    aside: str = ""
    made_of: tuple[str, str] | None = None
    tables: tuple[str, ...] = ("printed",)

    @property
    def heading(self) -> str:
        """Label and unit, such as "Fa (1e-6)"."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def title(self) -> str:
        """Label with group and aside or unit, such as "Pd (target recall)" or "hIoU, matched / all objects"."""
        label = f"{self.group}, {self.label}" if self.group else self.label
        return f"{label} ({self.aside or self.unit})" if self.aside or self.unit else label

    @property
    def scale(self) -> float:
        """Factor from the ratio to the value."""
        return 1e6 if self.unit == "1e-6" else 1.0

    def statistic(self, counts: Sequence[Any]) -> Statistic:
        """The metric on a set of images, from each one's `ImageCounts` or, as `counted` says, `HierarchicalCounts`."""
        assert self.numerator is not None and self.denominator is not None
        numerator = np.array([self.scale * self.numerator(c) for c in counts], dtype=np.float64)  # (N,)
        denominator = np.array([self.denominator(c) for c in counts], dtype=np.float64)  # (N,)
        return ratio(numerator, denominator, self.empty)

    def value(self, counts: Sequence[Any]) -> float:
        """The metric of a set of images; `counts` as in `statistic`, none give `empty`."""
        return self.statistic(counts).point()


def iou(counts: ImageCounts) -> float:
    """Foreground pixel IoU, tp / (tp + fp + fn); 1 where prediction and truth are both empty."""
    return METRICS["iou"].value([counts])


def pd(counts: ImageCounts) -> float:
    """Probability of detection, hits / targets. NaN without targets."""
    return METRICS["pd"].value([counts])


def fa_per_million_px(counts: ImageCounts, legacy: bool = False) -> float:
    """False-alarm pixels per million pixels, `legacy` by the equal-area count of older code; NaN without images."""
    return METRICS["fa_per_million_px"].value([with_legacy_false_alarms(counts) if legacy else counts])


def with_legacy_false_alarms(counts: ImageCounts) -> ImageCounts:
    """The counts with the equal-area count of older code as their `false_alarm_px`."""
    return replace(counts, false_alarm_px=counts.legacy_false_alarm_px)


def _hierarchical(
    key: str, label: str, meaning: str, numerator: str, denominator: str, group: str = "hIoU", **others: Any
) -> Metric:
    """An entry whose terms are fields of `HierarchicalCounts`, added up where the numerator names two."""
    terms = numerator.split(" + ")
    return Metric(
        key,
        label,
        meaning,
        lambda c: sum(getattr(c, term) for term in terms),
        lambda c: getattr(c, denominator),
        undefined=others.pop("undefined", "nothing matched" if denominator == "matched" else ""),
        counted="hierarchical",
        group=group,
        **others,
    )


def _error(key: str, label: str, meaning: str, numerator: str) -> Metric:
    """A share of hIoU's errors: of the matched pairs' pixels, or of all objects."""
    segmentation = key.startswith("seg_")
    per = "mean over the matched pairs of {} / pixels of the pair's union" if segmentation else "{} / all objects"
    denominator = "matched" if segmentation else "objects_and_placeholders"
    return _hierarchical(key, label, per.format(meaning), numerator, denominator, lower_is_better=True, tables=())


# fmt: off
_METRICS = (
    Metric("iou", "IoU", "intersection over union of target pixels, summed over all images: tp / (tp + fp + fn)",
           lambda c: c.tp_px, lambda c: c.union_px, "1 where truth and prediction are both empty", 1.0,
           made_of=("of", "px"), tables=HEADLINE),
    Metric("niou", "nIoU", "the mean over images of each image's IoU; an image empty in truth and prediction counts 1",
           iou, lambda c: c.images, tables=HEADLINE),
    _hierarchical("hiou", "hIoU", "localisation times segmentation (arXiv 2509.16888), matched by overlap first, then "
                  "by distance: the IoU of matched targets times matched / all objects",
                  "iou", "objects_and_placeholders", empty=1.0, group="", tables=("printed", "overview")),
    _hierarchical("hiou_without_placeholders", "without placeholders", "the same, images without predicted components "
                  "or without targets adding no object", "iou", "objects", undefined="1 on a set empty in both",
                  empty=1.0),
    _hierarchical("seg_iou", "IoU of matched targets", "mean over the matched pairs of tp / pixels of the "
                  "pair's union", "iou", "matched"),
    _hierarchical("loc_iou", "matched / all objects", "matched pairs / (matched pairs, unmatched predicted "
                  "components, unmatched targets, placeholders)", "matched", "objects_and_placeholders"),
    _error("seg_mrg_err", "merging", "predicted pixels on other targets", "merging"),
    _error("seg_itf_err", "interference in a pair", "predicted pixels on background", "interference"),
    _error("seg_pcp_err", "perception in a pair", "missed target pixels", "perception"),
    _error("loc_s2m_err", "one on several targets", "targets near a component that another target took",
           "lost_targets"),
    _error("loc_m2s_err", "several on one target", "predicted components near a target that another one took",
           "lost_predicted"),
    _error("loc_itf_err", "interference", "predicted components near no target", "far_predicted + without_predicted"),
    _error("loc_pcp_err", "perception", "targets near no predicted component", "far_targets + without_targets"),
    Metric("pd", "Pd", "probability of detection: targets hit / targets", lambda c: c.hits, lambda c: c.targets,
           "no target", aside="target recall", made_of=("of", "target"), tables=HEADLINE),
    Metric("fa_per_million_px", "Fa", "pixels of predicted targets that hit nothing, per million pixels",
           lambda c: c.false_alarm_px, lambda c: c.area_px, unit="1e-6", decimals=2, lower_is_better=True,
           made_of=("of", "px"), tables=HEADLINE),
    Metric("precision_targets", "target precision", "predicted targets that hit / predicted targets",
           lambda c: c.hits, lambda c: c.predicted, "nothing predicted", made_of=("of", "predicted"),
           tables=("printed", "overview")),
    Metric("recall_targets", "target recall", "the same as Pd", lambda c: c.hits, lambda c: c.targets, "no target",
           tables=()),
    Metric("f1_targets", "target F1", "harmonic mean of target precision and Pd: 2 hits / (targets + "
           "predicted targets)", lambda c: 2 * c.hits, lambda c: c.targets + c.predicted,
           "no target and nothing predicted", tables=("printed", "overview", "card")),
    Metric("false_targets_per_image", "false targets per image", "predicted targets that hit nothing / images",
           lambda c: c.predicted - c.hits, lambda c: c.images, lower_is_better=True, made_of=("in", "image")),
    Metric("false_targets_per_megapixel", "false targets per Mpx", "predicted targets that hit nothing / million "
           "pixels", lambda c: 1e6 * (c.predicted - c.hits), lambda c: c.area_px, lower_is_better=True),
    Metric("precision_px", "pixel precision", "tp / (tp + fp) of pixels",
           lambda c: c.tp_px, lambda c: c.tp_px + c.fp_px, "no predicted pixel", made_of=("of", "px")),
    Metric("recall_px", "pixel recall", "tp / (tp + fn) of pixels",
           lambda c: c.tp_px, lambda c: c.tp_px + c.fn_px, "no target pixel", made_of=("of", "px")),
    Metric("f1_px", "pixel F1", "harmonic mean of pixel precision and recall: 2 tp / (2 tp + fp + fn)",
           lambda c: 2 * c.tp_px, lambda c: c.tp_px + c.union_px, "1 where truth and prediction are both empty", 1.0,
           tables=("printed", "card")),
    Metric("roc_auc", "ROC AUC", "area under the true over the false positive rate of pixels, over all thresholds",
           undefined="no target pixel, or nothing else", aside="pixels"),
    Metric("average_precision", "average precision", "sum over falling thresholds of the gain in pixel recall times "
           "the precision there", undefined="no target pixel", aside="pixels"),
    Metric("ap_centroid", "AP, centroid", "average precision of targets as COCO defines it, a hit being a centroid "
           "within the tolerance", undefined="no target", aside="targets"),
    Metric("ap_box_50", "AP, box IoU 0.5", "the same, a hit being a box of an IoU of at least 0.5",
           undefined="no target", aside="targets"),
)
# fmt: on
METRICS = {metric.key: metric for metric in _METRICS}


def metrics_of(table: str) -> list[Metric]:
    """The metrics that a table shows, in its order; see `Metric.tables`."""
    return [metric for metric in _METRICS if table in metric.tables]


def number_text(value: float | None, decimals: int) -> str:
    """The number with so many decimals; "-" for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.{decimals}f}"


def metric_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each metric of a model card, such as ("IoU", "79.2 (70.1 to 85.3)").

    Ratios are in percent, Fa in false-alarm pixels per million, 95 % intervals in brackets; "-" stands for a value
    that is undefined or says nothing, as all but the false alarms do without targets.

    Args:
        metrics: Content of a `metrics.json`. Metrics that it lacks, having been written before there were these, are
            left out.
    """
    rows = []
    for metric in (one for one in metrics_of("card") if one.key in metrics):
        value, text, factor = metrics[metric.key], "-", 1 if metric.unit else 100
        if value is not None and (metrics["num_targets"] > 0 or metric.lower_is_better):
            ends = metrics["intervals_95"][metric.key]
            value, low, high = (number_text(one if one is None else factor * one, 1) for one in (value, *ends))
            text = f"{value} ({low} to {high})"
        rows.append((f"{metric.label}, {metric.unit}" if metric.unit else metric.label, text))
    return rows


def detection_scores(counts: Sequence[ImageCounts]) -> dict[str, float]:
    """IoU, nIoU, Pd and Fa of a set of images (one entry of `counts` each), by their keys in `METRICS`."""
    return {metric.key: metric.value(counts) for metric in metrics_of("cross")}


def bootstrap_interval(
    counts: Sequence[ImageCounts], metric: str, num_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of a metric over images, see `bootstrap.estimate`.

    Args:
        counts: One entry per image.
        metric: A key of `METRICS` that is made of `ImageCounts`.
        num_resamples, seed: Number of resampled sets and seed of the draws.
        level: Probability mass of the interval, in (0, 1).

    Raises:
        ValueError: `counts` is empty, or another argument is not allowed.
    """
    statistic = _statistic(counts, metric)
    found = estimate({metric: statistic}, num_resamples=num_resamples, seed=seed, level=level)[metric]
    return found.low, found.high


def paired_bootstrap(
    counts_a: Sequence[ImageCounts],
    counts_b: Sequence[ImageCounts],
    metric: str,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedDifference:
    """How much higher a metric is for detector B than for A on the same images.

    Args:
        counts_a, counts_b: One entry per image each, the same images in the same order.
        metric: A key of `METRICS` that is made of `ImageCounts`.
        num_resamples, seed, level: See `bootstrap_interval`.

    Raises:
        ValueError: The numbers of images differ or are 0, or another argument is not allowed.
    """
    if len(counts_a) != len(counts_b):
        raise ValueError(f"`counts_b` must be of the {len(counts_a)} images of `counts_a`, got {len(counts_b)}")
    a, b = ({metric: _statistic(counts, metric)} for counts in (counts_a, counts_b))
    return paired_differences(a, b, num_resamples=num_resamples, seed=seed, level=level)[metric]


def _statistic(counts: Sequence[ImageCounts], metric: str) -> Statistic:
    if not counts:
        raise ValueError("`counts` must hold at least one image, got none")
    allowed = [one.key for one in _METRICS if one.counted == "counts" and one.numerator is not None]
    if metric not in allowed:
        raise ValueError(f"`metric` must be one of {', '.join(allowed)}, got {metric!r}")
    return METRICS[metric].statistic(counts)

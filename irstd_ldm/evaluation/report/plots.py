"""The plots of a report as PNG files. Needs matplotlib; pyplot is not used, and its settings hold for a plot alone."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..confidence import Reliability
from ..curves import Curves
from .outcomes import NamedEvaluation, count, file_stem

LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "D", "^", "v", "P")
HIT, FALSE_ALARM = "#56B4E9", "#D55E00"


def _theme(paper: str, ink: str, grid: str) -> dict[Any, Any]:
    """Settings of matplotlib for a page of these colours."""
    inked = ("axes.labelcolor", "xtick.color", "ytick.color", "legend.labelcolor", "text.color")
    return {
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), paper),
        **dict.fromkeys(inked, ink),
        **dict.fromkeys(("axes.edgecolor", "grid.color", "legend.edgecolor"), grid),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 9),
        "axes.axisbelow": True,
        "axes.grid": True,
        "figure.constrained_layout.use": True,
        "figure.dpi": 144,
        "grid.linewidth": 0.7,
        "legend.fontsize": 8,
    }


# A theme and the colours of its lines: those of Okabe and Ito's palette that show on the paper.
LIGHT = _theme("#ffffff", "#1f2328", "#d8dee4"), ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
DARK = _theme("#161b22", "#e6edf3", "#363e48"), ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#FFFFFF")
Draw = Callable[[Sequence[str]], Figure]  # maps the colours of the lines to the drawing


@dataclass(frozen=True, eq=False)
class Plot:
    """One plot for readers of light and of dark pages.

    Attributes:
        file_name: Name of the light one in plots/.
        light, dark: PNG files.
        alt: The plot in words, for those who do not see it.
        caption: Its caption.
    """

    file_name: str
    light: bytes
    dark: bytes
    alt: str
    caption: str
    draw: Draw

    def save(self, path: Path) -> None:
        """Writes the light plot in the format of the path's suffix: .pdf and .svg are for papers."""
        with rc_context(LIGHT[0]):
            self.draw(LIGHT[1]).savefig(path)


@dataclass(frozen=True, eq=False)
class Line:
    """One detector's curve.

    Attributes:
        label: Name in the legend.
        x, y: (T,), by threshold; undefined points are left out.
        point: x and y of the operating point, not finite where undefined.
        steps: y holds from its x on to the next, and from the last one on.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    point: tuple[float, float]
    steps: bool = False


class Plots:
    """The plots of one report, in the order drawn, under file names that differ."""

    def __init__(self) -> None:
        self.drawn: list[Plot] = []

    def add_curves(self, data: str, evaluations: Sequence[tuple[NamedEvaluation, Curves]]) -> list[Plot]:
        """ROC, precision-recall, Pd-Fa and FROC on a data set, a line per detector; those without a point are out."""
        (first, curves), *_ = evaluations
        num = f"{count(first.result.counts.images, 'image')}, {count(first.result.counts.targets, 'target')}"
        points = "; ".join(f"{one.detector} at {one.result.decision}" for one, _ in evaluations)
        edge = "Points without any lie on the left edge."
        budget = f"The lines are the highest Pd with at most so many false alarms, of any score threshold. {edge}"
        false_px = "false positive rate of pixels"
        by_px, by_targets = (partial(_pd_by, rate) for rate in ("fa_per_million_px", "false_targets_per_megapixel"))
        found = []
        for name, title, x_label, y_label, line, note in (
            ("roc", "ROC of pixels", false_px, "true positive rate of pixels", _roc, edge),
            ("precision_recall", "Precision and recall of pixels", "recall", "precision", _precision_recall, ""),
            ("pd_fa", "Pd and Fa", "Fa: false-alarm pixels per million", "Pd", by_px, budget),
            ("froc", "Pd and false targets (FROC)", "false targets per megapixel", "Pd", by_targets, budget),
        ):
            lines = [line(*one) for one in evaluations]
            if not any((np.isfinite(one.x) & np.isfinite(one.y)).any() for one in lines):
                continue
            draw = partial(_draw_curves, lines, x_label, y_label, log_x=line is not _precision_recall)
            alt = f"{title} on {data}, over {len(curves.thresholds)} thresholds; marks at the operating points"
            found.append(self._add(name, data, alt, f"{title} ({num}). Marks: {points}. {note}", draw))
        return found

    def add_reliability(self, name: str, curves: Sequence[tuple[str, Reliability]]) -> Plot:
        """Hit rate by confidence of one evaluation, from (label, reliability) in bins of equal width."""
        found = curves[0][1]
        caption = (
            f"{found.num_predicted:,} predicted targets in bins of equal width; the bars are 95 % intervals by "
            f"Wilson. Missed targets, not shown: {found.num_missed:,}."
        )
        alt = f"Reliability of the confidences of {name}: hit rate by mean confidence, and their numbers"
        return self._add("reliability", name, alt, caption, partial(_draw_reliability, curves))

    def _add(self, name: str, of: str, alt: str, caption: str, draw: Draw) -> Plot:
        file_name, number = f"{file_stem(of)}-{name}.png", 1
        while file_name in {plot.file_name for plot in self.drawn}:
            number += 1
            file_name = f"{file_stem(of)}-{number}-{name}.png"
        self.drawn.append(Plot(file_name, _png(draw, *LIGHT), _png(draw, *DARK), alt, caption.strip(), draw))
        return self.drawn[-1]


def _roc(evaluation: NamedEvaluation, curves: Curves) -> Line:
    total = evaluation.result.counts
    point = _rate(total.fp_px, curves.num_px - curves.truth_px), _rate(total.tp_px, curves.truth_px)
    return Line(evaluation.detector, curves.fpr, curves.tpr, point)


def _precision_recall(evaluation: NamedEvaluation, curves: Curves) -> Line:
    total = evaluation.result.counts
    point = _rate(total.tp_px, curves.truth_px), _rate(total.tp_px, total.tp_px + total.fp_px)
    return Line(evaluation.detector, curves.tpr, curves.precision_px, point)


def _pd_by(rate: str, evaluation: NamedEvaluation, curves: Curves) -> Line:
    order = np.lexsort([-curves.pd, getattr(curves, rate)])
    false_alarms, best = getattr(curves, rate)[order], np.fmax.accumulate(curves.pd[order])
    gains = np.diff(best, prepend=-1) > 0
    estimates = evaluation.result.estimates
    point = estimates[rate].value, estimates["pd"].value
    return Line(evaluation.detector, false_alarms[gains], best[gains], point, steps=True)


def _rate(part: int, whole: int) -> float:
    return part / whole if whole else np.nan


def _draw_curves(lines: Sequence[Line], x_label: str, y_label: str, colours: Sequence[str], *, log_x: bool) -> Figure:
    """Curves with their operating points; on a logarithmic axis, points at 0 lie on the left edge."""
    figure = Figure(figsize=(5.6, 4.2))
    axes = figure.add_subplot()
    if log_x:
        left, right = _log_range(lines)
        lines = [
            replace(line, x=np.maximum(line.x, left), point=(max(line.point[0], left), line.point[1]))
            for line in lines
        ]
        axes.set_xscale("log")
        axes.set_xlim(left, right)
    else:
        axes.set_xlim(-0.02, 1.02)
    for k, line in enumerate(lines):
        colour, style = colours[k % len(colours)], LINE_STYLES[k % len(LINE_STYLES)]
        defined = np.isfinite(line.x) & np.isfinite(line.y)
        x, y = line.x[defined], line.y[defined]
        if line.steps:
            x, y = np.append(x, axes.get_xlim()[1]), np.append(y, y[-1:])
        drawn = "steps-post" if line.steps else "default"
        axes.plot(x, y, style, drawstyle=drawn, color=colour, linewidth=1.8, label=line.label, zorder=3)
        if np.isfinite(line.point).all():
            (mark,) = axes.plot(*line.point, MARKERS[k % len(MARKERS)], color=colour, markersize=8, zorder=4)
            mark.set(markeredgecolor=axes.xaxis.label.get_color(), clip_on=False)
    axes.set(ylim=(-0.02, 1.02), xlabel=x_label, ylabel=y_label)
    axes.legend().set_zorder(5)
    return figure


def _draw_reliability(curves: Sequence[tuple[str, Reliability]], colours: Sequence[str]) -> Figure:
    """Reliability curves above the numbers of hits and false alarms in the bins of the first."""
    figure = Figure(figsize=(5.6, 5.2))
    axes, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
    axes.plot([0, 1], [0, 1], ":", color=axes.xaxis.label.get_color(), linewidth=1, label="perfect")
    for k, (label, found) in enumerate(curves):
        bins = [one for one in found.bins if one.num_predicted]
        rate = np.array([one.hit_rate.value for one in bins])  # (bins,)
        below, above = rate - [one.hit_rate.low for one in bins], [one.hit_rate.high for one in bins] - rate
        axes.errorbar(
            [one.mean_confidence for one in bins],
            rate,
            yerr=np.maximum([below, above], 0),  # rounding may make them negative
            fmt=MARKERS[k] + LINE_STYLES[k],
            color=colours[k],
            linewidth=1.6,
            elinewidth=1,
            capsize=3,
            label=label,
        )
    axes.set(ylim=(-0.03, 1.05), ylabel="share that hits a target")
    axes.tick_params(labelbottom=False)
    axes.legend().set_zorder(5)
    first = curves[0][1].bins
    centres = [(one.low + one.high) / 2 for one in first]
    width = 0.9 * (first[0].high - first[0].low)
    hits = [one.num_hits for one in first]
    others = [one.num_predicted - one.num_hits for one in first]
    histogram.bar(centres, hits, width, color=HIT, label="hits")
    bars = histogram.bar(centres, others, width, bottom=hits, color=FALSE_ALARM, label="false alarms")
    numbers = [f"{one.num_predicted}" if one.num_predicted else "" for one in first]
    histogram.bar_label(bars, numbers, padding=2, fontsize=8)
    histogram.set(xlim=(-0.02, 1.02), ylim=(0, 1.25 * max(one.num_predicted for one in first)))
    histogram.set(xlabel="confidence of a predicted target", ylabel="predicted")
    histogram.legend().set_zorder(5)
    return figure


def _log_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Left and right edge around every positive x of the lines and of their points."""
    x = np.concatenate([np.append(line.x, line.point[0]) for line in lines])
    positive = x[(x > 0) & (x < np.inf)]
    return (float(positive.min()) / 2, float(positive.max()) * 1.3) if positive.size else (0.1, 1.0)


def _png(draw: Draw, theme: dict[Any, Any], colours: Sequence[str]) -> bytes:
    file = io.BytesIO()
    with rc_context(theme):
        draw(colours).savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()

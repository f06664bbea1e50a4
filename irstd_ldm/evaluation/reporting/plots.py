"""The plots of a report as PNG files. Needs matplotlib; the figures are objects, pyplot's state is not touched."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..reliability import Reliability

DPI = 144
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "D", "^", "v", "P")


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; those of the lines are of Okabe and Ito's palette, as far as they show on `paper`."""

    paper: str
    ink: str
    grid: str
    lines: tuple[str, ...]
    hit: str
    false_alarm: str


LIGHT = Theme(
    paper="#ffffff",
    ink="#1f2328",
    grid="#d8dee4",
    lines=("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000"),
    hit="#56B4E9",
    false_alarm="#D55E00",
)
DARK = Theme(
    paper="#161b22",
    ink="#e6edf3",
    grid="#363e48",
    lines=("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#FFFFFF"),
    hit="#56B4E9",
    false_alarm="#D55E00",
)


@dataclass(frozen=True, eq=False)
class Line:
    """One detector's curve.

    Attributes:
        label: in the legend.
        x, y: (T,), by threshold; undefined points are left out.
        point: x and y of the operating point, None where undefined.
        steps: y holds from its x on to the next, and from the last one on.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    point: tuple[float, float] | None
    steps: bool = False


def plot_curves(lines: Sequence[Line], theme: Theme, *, x_label: str, y_label: str, log_x: bool = False) -> bytes:
    """Curves with their operating points; on a logarithmic axis, points at 0 lie on the left edge.

    Args:
        lines: at least one.
        theme: the colours.
        x_label, y_label: of the axes; y is in [0, 1], and so is x unless `log_x`.
        log_x: logarithmic x.
    """
    figure = Figure(figsize=(5.6, 4.2), dpi=DPI, facecolor=theme.paper, layout="constrained")
    axes = figure.add_subplot()
    _style(axes, theme)
    if log_x:
        left, right = _log_range(lines)
        lines = [_lifted(line, left) for line in lines]
        axes.set_xscale("log")
        axes.set_xlim(left, right)
    else:
        axes.set_xlim(-0.02, 1.02)
    for k, line in enumerate(lines):
        colour, style = theme.lines[k % len(theme.lines)], LINE_STYLES[k % len(LINE_STYLES)]
        defined = np.isfinite(line.x) & np.isfinite(line.y)
        x, y = line.x[defined], line.y[defined]
        if line.steps:
            x, y = np.append(x, axes.get_xlim()[1]), np.append(y, y[-1:])
        drawn = "steps-post" if line.steps else "default"
        axes.plot(x, y, style, drawstyle=drawn, color=colour, linewidth=1.8, label=line.label, zorder=3)
        if line.point is not None:
            axes.plot(
                *line.point,
                MARKERS[k % len(MARKERS)],
                color=colour,
                markersize=8,
                markeredgecolor=theme.ink,
                clip_on=False,
                zorder=4,
            )
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    _legend(axes, theme)
    return _png(figure)


def plot_reliability(curves: Sequence[tuple[str, Reliability]], theme: Theme) -> bytes:
    """Reliability curves above the numbers of hits and false alarms in the bins of the first.

    Args:
        curves: (label, reliability), in bins of equal width.
        theme: the colours.
    """
    figure = Figure(figsize=(5.6, 5.2), dpi=DPI, facecolor=theme.paper, layout="constrained")
    axes, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
    for one_of_two in (axes, histogram):
        _style(one_of_two, theme)
    axes.plot([0, 1], [0, 1], ":", color=theme.ink, linewidth=1, label="perfect")
    for k, (label, found) in enumerate(curves):
        bins = [one for one in found.bins if one.num_predicted]
        rate = np.array([one.hit_rate.value for one in bins])  # (bins,)
        below, above = rate - [one.hit_rate.low for one in bins], [one.hit_rate.high for one in bins] - rate
        axes.errorbar(
            [one.mean_confidence for one in bins],
            rate,
            yerr=np.maximum([below, above], 0),  # rounding
            fmt=MARKERS[k] + LINE_STYLES[k],
            color=theme.lines[k],
            linewidth=1.6,
            elinewidth=1,
            capsize=3,
            label=label,
        )
    axes.set_ylim(-0.03, 1.05)
    axes.set_ylabel("share that hits a target")
    axes.tick_params(labelbottom=False)
    _legend(axes, theme)
    first = curves[0][1].bins
    centres = [(one.low + one.high) / 2 for one in first]
    width = 0.9 * (first[0].high - first[0].low)
    hits = [one.num_hits for one in first]
    others = [one.num_predicted - one.num_hits for one in first]
    histogram.bar(centres, hits, width, color=theme.hit, label="hits")
    bars = histogram.bar(centres, others, width, bottom=hits, color=theme.false_alarm, label="false alarms")
    numbers = [f"{one.num_predicted}" if one.num_predicted else "" for one in first]
    histogram.bar_label(bars, numbers, padding=2, fontsize=8, color=theme.ink)
    histogram.set_ylim(0, 1.25 * max(one.num_predicted for one in first))
    histogram.set_xlim(-0.02, 1.02)
    histogram.set_xlabel("confidence of a predicted target")
    histogram.set_ylabel("predicted")
    _legend(histogram, theme)
    return _png(figure)


def _style(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.grid(color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.ink, labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(theme.grid)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)


def _legend(axes: Axes, theme: Theme) -> None:
    legend = axes.legend(facecolor=theme.paper, edgecolor=theme.grid, labelcolor=theme.ink, fontsize=8)
    legend.set_zorder(5)


def _log_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Left and right edge around every positive x of the lines and of their points."""
    x = np.concatenate([np.append(line.x, line.point[0] if line.point else np.nan) for line in lines])
    positive = x[x > 0]
    return (float(positive.min()) / 2, float(positive.max()) * 1.3) if positive.size else (0.1, 1.0)


def _lifted(line: Line, left: float) -> Line:
    point = None if line.point is None else (max(line.point[0], left), line.point[1])
    return replace(line, x=np.maximum(line.x, left), point=point)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return file.getvalue()

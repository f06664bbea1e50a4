"""What a paper takes from an evaluation: plots that scale, and tables as LaTeX and Markdown with the paired test."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import write_text
from ..metrics import Metric, metrics_of, number_text
from .comparison import comparable_pairs, compare
from .outcomes import NamedEvaluation, TargetCrop, file_stem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .plots import Plot

FORMATS = ("pdf", "svg")
MAX_ROWS = 6  # targets in a grid


def write_paper(folder: Path, evaluations: Sequence[NamedEvaluation], plots: Sequence["Plot"]) -> Path:
    """Writes FOLDER/NAME.pdf and .svg of every plot, a grid per data set, comparison.tex and comparison.md.

    A table has a row per detector and data set, of each metric the value and its 95 % interval, and below it, of each
    pair on the same images, whether they can be told apart (paired bootstrap).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        for suffix in FORMATS:
            plot.save(folder / f"{Path(plot.file_name).stem}.{suffix}")
    for data in dict.fromkeys(one.data for one in evaluations):
        grid = draw_grid([one for one in evaluations if one.data == data])
        if grid is not None:
            for suffix in FORMATS:
                grid.savefig(folder / f"{file_stem(data)}-grid.{suffix}")
    metrics, verdicts = metrics_of("cross"), sentences(evaluations)
    head = ["detector", "data", "images", "targets", *(metric.heading for metric in metrics)]
    rows = [_row(one, metrics) for one in evaluations]
    markdown = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    write_text(folder / "comparison.md", "\n".join([*markdown, "", *(f"- {one}" for one in verdicts)]) + "\n")
    latex = [
        rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}",
        r"\toprule",
        _latex_row(head),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {one}" for one in verdicts),
    ]
    write_text(folder / "comparison.tex", "\n".join(latex) + "\n")
    return folder


def draw_grid(evaluations: Sequence[NamedEvaluation]) -> "Figure | None":
    """Image, truth and every detector's mask around the targets whose IoU differs most; None without any.

    An image stands for its first target. Of those that differ alike the lowest IoU comes first.
    """
    from matplotlib.figure import Figure

    stems = set.intersection(*(set(one.crops) for one in evaluations))
    if not stems:
        return None
    overlaps = {stem: [_overlap(one.crops[stem]) for one in evaluations] for stem in stems}
    ranked = sorted(stems, key=lambda stem: (min(overlaps[stem]) - max(overlaps[stem]), min(overlaps[stem]), stem))
    ranked = ranked[:MAX_ROWS]
    columns = ("image", "truth", *(one.detector for one in evaluations))
    figure = Figure(figsize=(1.5 * len(columns), 1.6 * len(ranked)), layout="constrained")
    axes = figure.subplots(len(ranked), len(columns), squeeze=False)
    for row, stem in zip(axes, ranked, strict=True):
        first = evaluations[0].crops[stem]
        shown = (first.gray, first.truth, *(one.crops[stem].predicted for one in evaluations))
        for axis, pixels in zip(row, shown, strict=True):
            axis.imshow(pixels, cmap="gray", interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(stem, fontsize=7)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def _overlap(crop: TargetCrop) -> float:
    """IoU of a crop's masks."""
    return float((crop.truth & crop.predicted).sum() / (crop.truth | crop.predicted).sum())


def sentences(evaluations: Sequence[NamedEvaluation]) -> list[str]:
    """The verdict of each metric on each pair of detectors that were scored on the same images."""
    return [
        f"{one.data}, {one.detector} and {other.detector}: {found.sentence(one.detector, other.detector)}"
        for one, other in comparable_pairs(evaluations)
        for found in compare(one, other)
    ]


def _row(evaluation: NamedEvaluation, metrics: Sequence[Metric]) -> list[str]:
    result = evaluation.result
    cells = [evaluation.detector, evaluation.data, f"{result.counts.images}", f"{result.counts.targets}"]
    for metric in metrics:
        found = result.estimates[metric.key]
        value, low, high = (number_text(one, metric.decimals) for one in (found.value, found.low, found.high))
        cells.append(value if "-" in (value, low, high) else f"{value} ({low} to {high})")
    return cells


def _latex_row(cells: Sequence[str]) -> str:
    """A row of a LaTeX table; signs that LaTeX reads as commands are escaped."""
    escaped = []
    for cell in cells:
        for sign in "&%$#_{}":
            cell = cell.replace(sign, f"\\{sign}")
        escaped.append(cell)
    return " & ".join(escaped) + r" \\"

"""The plots of a report: drawn, collected as files, and put on the page. Needs matplotlib."""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape

import numpy as np

from ..reliability import Reliability, ScoredTarget, confidences_and_hits, reliability
from . import markup, sections
from .named import NamedEvaluation, file_stem
from .numbers import count
from .plots import DARK, LIGHT, Line, Theme, plot_curves, plot_reliability


def curve_figures(data: str, evaluations: Sequence[NamedEvaluation], plots: dict[str, bytes]) -> str:
    """ROC, precision-recall and Pd-Fa, one line per detector.

    Args:
        data: name of the data set.
        evaluations: on it, all with curves.
        plots: file name -> PNG; the plots are added.
    """
    result = evaluations[0].result
    num = f"{count(result.counts.images, 'image')}, {count(result.counts.targets, 'target')}"
    assert result.curves is not None
    num_thresholds = len(result.curves.thresholds)
    edge = "Points without any lie on the left edge."
    budget = "The lines are the highest Pd with at most so much Fa, of any threshold."
    figures = ""
    for name, title, x_label, y_label, log_x, line, note in (
        ("roc", "ROC of pixels", "false positive rate of pixels", "true positive rate of pixels", True, _roc, edge),
        ("precision_recall", "Precision and recall of pixels", "recall", "precision", False, _precision_recall, ""),
        ("pd_fa", "Pd and Fa", "Fa: false-alarm pixels per million", "Pd", True, _pd_fa, f"{budget} {edge}"),
    ):
        lines = [line(evaluation) for evaluation in evaluations]
        if not any((np.isfinite(one.x) & np.isfinite(one.y)).any() for one in lines):
            continue
        draw = partial(plot_curves, lines, x_label=x_label, y_label=y_label, log_x=log_x)
        points = "; ".join(f"{one.detector} at threshold {one.result.threshold:g}" for one in evaluations)
        alt = f"{title} on {data}, over {num_thresholds} thresholds; marks at the operating points"
        caption = f"{title} ({num}). Marks: {points}. {note}"
        figures += _figure(name, data, alt, caption, draw, plots)
    return markup.tag("div", figures, class_="plots")


def reliability_figure(evaluation: NamedEvaluation, plots: dict[str, bytes]) -> str:
    """The reliability plot and its tables; a sentence where nothing was predicted.

    Args:
        evaluation: with a recording.
        plots: file name -> PNG; the plot is added.
    """
    confidence, hit = confidences_and_hits(evaluation.scored)
    missed = evaluation.result.counts.targets - evaluation.result.counts.hits
    if not confidence.size:
        return markup.paragraph(f"No target was predicted. Missed targets: {missed:,}.")
    given = [("as predicted", evaluation.scored)]
    if evaluation.calibration is not None:
        given.append((f"calibrated ({evaluation.calibration.to_dict()['kind']})", _calibrated(evaluation)))
    by_mass = [(label, _reliability(evaluation, scored, "mass")) for label, scored in given]
    by_width = [(label, _reliability(evaluation, scored, "width")) for label, scored in given]

    caption = (
        f"{len(hit):,} predicted targets in bins of equal width; the bars are 95 % intervals by Wilson. "
        f"Missed targets, not shown: {missed:,}."
    )
    alt = f"Reliability of the confidences of {evaluation.name}: hit rate by mean confidence, and their numbers"
    plot = _figure("reliability", evaluation.name, alt, caption, partial(plot_reliability, by_width), plots)
    return (
        markup.tag("div", plot, class_="plots")
        + sections.reliability_tables([*by_mass, *by_width])
        + markup.paragraph(sections.CONDITIONAL, "note")
    )


def _roc(evaluation: NamedEvaluation) -> Line:
    curves, total = evaluation.result.curves, evaluation.result.counts
    assert curves is not None
    other_px = curves.num_px - curves.truth_px
    point = (total.fp_px / other_px, total.tp_px / curves.truth_px) if curves.truth_px and other_px else None
    return Line(evaluation.detector, curves.fpr, curves.tpr, point)


def _precision_recall(evaluation: NamedEvaluation) -> Line:
    curves, total = evaluation.result.curves, evaluation.result.counts
    assert curves is not None
    predicted_px = total.tp_px + total.fp_px
    point = (total.tp_px / curves.truth_px, total.tp_px / predicted_px) if curves.truth_px and predicted_px else None
    return Line(evaluation.detector, curves.tpr, curves.precision_px, point)


def _pd_fa(evaluation: NamedEvaluation) -> Line:
    curves, estimates = evaluation.result.curves, evaluation.result.estimates
    assert curves is not None
    point = (estimates["fa_per_million_px"].value, estimates["pd"].value)
    order = np.lexsort([-curves.pd, curves.fa_per_million_px])
    fa, best = curves.fa_per_million_px[order], np.fmax.accumulate(curves.pd[order])
    gains = np.diff(best, prepend=-1) > 0
    return Line(evaluation.detector, fa[gains], best[gains], point if np.isfinite(point).all() else None, steps=True)


def _reliability(evaluation: NamedEvaluation, scored: Sequence[Sequence[ScoredTarget]], binning: str) -> Reliability:
    result = evaluation.result
    return reliability(
        scored,
        num_targets=result.counts.targets,
        binning=binning,
        num_resamples=result.num_resamples,
        seed=result.seed,
    )


def _calibrated(evaluation: NamedEvaluation) -> list[list[ScoredTarget]]:
    assert evaluation.calibration is not None
    return [
        [ScoredTarget(float(evaluation.calibration.apply(one.confidence)), one.hit) for one in targets]
        for targets in evaluation.scored
    ]


def _figure(
    name: str, of: str, alt: str, caption: str, draw: Callable[[Theme], bytes], plots: dict[str, bytes]
) -> str:
    file_name, number = f"{file_stem(of)}-{name}.png", 1
    while file_name in plots:
        number += 1
        file_name = f"{file_stem(of)}-{number}-{name}.png"
    light = draw(LIGHT)
    plots[file_name] = light
    address = f"plots/{file_name}"
    return markup.figure(
        markup.themed_image(light, draw(DARK), alt),
        f"{escape(caption.strip())} {markup.link('PNG', address)}",
    )

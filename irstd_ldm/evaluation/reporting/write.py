"""Writes a report into a folder."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ... import __version__
from . import markup, sections
from .comparison import compare, is_comparable
from .links import image_addresses
from .named import NamedEvaluation
from .page import page
from .per_image import per_image_csv


def check_matplotlib() -> None:
    """Raises ModuleNotFoundError, naming the extra, where `write_report` could not draw."""
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("a report needs matplotlib: pip install 'irstd-ldm[eval]'")


def write_report(folder: str | Path, evaluations: Sequence[NamedEvaluation]) -> Path:
    """Writes report.html, per_image.csv and plots/*.png.

    The page stands alone: tables with 95 % intervals, settings and N, the curves of every data set with one line per
    detector, and per evaluation Pd by size and SCR, reliability and the worst images. On each data set, every
    detector is compared with the first one that was evaluated on the same images under the same protocol.

    Args:
        folder: made where absent; files of these names are replaced.
        evaluations: at least one; their detectors and data sets are different pairs.

    Returns:
        The path of report.html.

    Raises:
        ModuleNotFoundError: matplotlib is absent.
        OSError: a file cannot be written.
        ValueError: there is no evaluation, or two have the same names.
    """
    check_matplotlib()
    from .figures import curve_figures, reliability_figure  # needs matplotlib, an extra

    if not evaluations:
        raise ValueError("`evaluations` must hold at least one, got none")
    names = [evaluation.name for evaluation in evaluations]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"`evaluations` must have different names, got twice: {', '.join(twice)}")
    folder = Path(folder)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    summaries = [evaluation.result.summary() for evaluation in evaluations]
    addresses = [image_addresses(evaluation, folder) for evaluation in evaluations]
    plots: dict[str, bytes] = {}
    body = markup.tag(
        "p",
        f"irstd-ldm {__version__}. Beside this page: {markup.link('per_image.csv', 'per_image.csv')}, a row per "
        "image, and the plots as PNG in plots/.",
        class_="note",
    )
    body += markup.heading(2, "Overview") + sections.overview(evaluations, summaries)
    for data in dict.fromkeys(evaluation.data for evaluation in evaluations):
        on_data = [evaluation for evaluation in evaluations if evaluation.data == data]
        for a, b in _comparable_pairs(on_data):
            body += markup.heading(2, f"Is {b.detector} better than {a.detector} on {data}?")
            body += sections.comparison(a, b, compare(a, b))
        with_curves = [evaluation for evaluation in on_data if evaluation.result.curves is not None]
        if with_curves:
            body += markup.heading(2, f"Curves on {data}") + curve_figures(data, with_curves, plots)
    for evaluation, summary, files in zip(evaluations, summaries, addresses, strict=True):
        body += markup.heading(2, evaluation.name)
        body += sections.settings(evaluation, summary) + sections.metrics(summary)
        if summary["num_targets"]:
            if summary["curves"] is not None:
                body += markup.heading(3, "At a budget of false alarms") + sections.budgets(summary)
            body += markup.heading(3, "By size and by SCR of the targets")
            body += sections.strata(summary, "pd_by_area_px", "Pd by the target's area in pixels")
            if summary["pd_by_scr"] is not None:
                body += sections.strata(summary, "pd_by_scr", "Pd by the target's signal-to-clutter ratio")
        if evaluation.recording is not None:
            body += markup.heading(3, "Confidence") + reliability_figure(evaluation, plots)
            if evaluation.recording.worst:
                body += markup.heading(3, "The worst images") + sections.legend()
                body += sections.worst_images(evaluation, files)
    title = f"Evaluation: {names[0]}" if len(names) == 1 else f"{len(names)} evaluations"
    for name, png in plots.items():
        _write(folder / "plots" / name, png)
    _write(folder / "per_image.csv", per_image_csv(evaluations, addresses).encode(errors="surrogateescape"))
    _write(folder / "report.html", page(title, body).encode(errors="xmlcharrefreplace"))
    return folder / "report.html"


def _comparable_pairs(evaluations: Sequence[NamedEvaluation]) -> list[tuple[NamedEvaluation, NamedEvaluation]]:
    """Every evaluation with the first one on its images, where that is another one."""
    pairs = []
    for k, evaluation in enumerate(evaluations):
        first = next(other for other in evaluations[: k + 1] if is_comparable(other, evaluation))
        if first is not evaluation:
            pairs.append((first, evaluation))
    return pairs


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise

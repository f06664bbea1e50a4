"""Writes a report into a folder: one page that stands alone, its plots, and a row per image."""

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ... import __version__, files
from ..confidence import BINNINGS, ScoredTarget, reliability
from ..counts import ImageCounts
from ..curves import BUDGETS, budget_label
from ..metrics import Metric, iou, metrics_of
from ..result import EvaluationResult
from .comparison import comparable_pairs, compare, interval, number
from .outcomes import DETAIL_PX, FALSE_ALARM_COLOUR, HIT_COLOUR, MISS_COLOUR, NamedEvaluation, count
from .paper import write_paper

COUNT_FIELDS = tuple(field.name for field in fields(ImageCounts) if field.name != "images")


def write_report(folder: str | Path, evaluations: Sequence[NamedEvaluation], paper: bool = False) -> Path:
    """Writes `report.html`, `per_image.csv` and `plots/*.png`.

    The page stands alone: tables with 95 % intervals, settings and N, the curves of every data set with one line per
    detector, and per evaluation Pd by size and SCR, reliability and the worst images. On each data set, every
    detector is compared with the first one that was evaluated on the same images under the same protocol.

    Args:
        folder: Made where absent; files of these names are replaced.
        evaluations: At least one; their detectors and data sets are different pairs.
        paper: Whether to write `paper/` too, see `write_paper`.

    Returns:
        The path of report.html.

    Raises:
        ModuleNotFoundError: matplotlib or jinja2 of the extra `eval` is absent.
        OSError: A file cannot be written.
        ValueError: There is no evaluation, or two have the same names.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from .plots import Plots

    if not evaluations:
        raise ValueError("`evaluations` must hold at least one, got none")
    names = [evaluation.name for evaluation in evaluations]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"`evaluations` must have different names, got twice: {', '.join(twice)}")
    folder = Path(folder)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    addresses = [_image_addresses(evaluation, folder) for evaluation in evaluations]
    plots = Plots()
    data_sets = []
    for data in dict.fromkeys(evaluation.data for evaluation in evaluations):
        on_data = [evaluation for evaluation in evaluations if evaluation.data == data]
        with_curves = [(one, one.result.curves) for one in on_data if one.result.curves is not None]
        comparisons = [(a, b, compare(a, b)) for a, b in comparable_pairs(on_data)]
        drawn = plots.add_curves(data, with_curves) if with_curves else None
        data_sets.append({"name": data, "comparisons": comparisons, "plots": drawn})
    parts = []
    for evaluation, files_of_images in zip(evaluations, addresses, strict=True):
        curves = _reliability(evaluation)
        by_width = [(label, found) for label, found in curves if found.binning == "width"]
        parts.append(
            {
                "evaluation": evaluation,
                "summary": evaluation.result.summary(),
                "settings": list(_flat(evaluation.settings)),
                "addresses": files_of_images,
                "reliability": curves,
                "plot": plots.add_reliability(evaluation.name, by_width) if curves else None,
            }
        )
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(Path(__file__).parent),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template("page.html.jinja").render(
        title=f"Evaluation: {names[0]}" if len(names) == 1 else f"{len(names)} evaluations",
        version=__version__,
        data_sets=data_sets,
        parts=parts,
        budgets=BUDGETS,
        overview=metrics_of("overview"),
        printed=metrics_of("printed"),
        colours={"hit": HIT_COLOUR, "miss": MISS_COLOUR, "false_alarm": FALSE_ALARM_COLOUR},
        detail_px=DETAIL_PX,
        budget_label=budget_label,
        count=count,
        data_uri=_data_uri,
        integer="{:,}".format,
        interval=interval,
        made_of=_made_of,
        number=number,
    )
    for plot in plots.drawn:
        files.write_bytes(folder / "plots" / plot.file_name, plot.light)
    rows = _per_image_csv(evaluations, addresses)
    files.write_bytes(folder / "per_image.csv", rows.encode(errors="surrogateescape"))
    files.write_bytes(folder / "report.html", page.encode(errors="xmlcharrefreplace"))
    if paper:
        write_paper(folder / "paper", evaluations, plots.drawn)
    return folder / "report.html"


def _made_of(metric: Metric, result: EvaluationResult) -> str:
    """The numbers that the metric was made of."""
    if metric.numerator is None:
        return count(result.counts.area_px, "px")
    if metric.made_of is None:
        return count(result.counts.images, "image")
    word, noun = metric.made_of
    numerator, denominator = result.statistics[metric.key].terms.sum(axis=0)
    return f"{numerator / metric.scale:,.0f} {word} {count(round(denominator), noun)}"


def _reliability(evaluation: NamedEvaluation) -> list[tuple[str, Any]]:
    """(label, reliability) of the confidences as predicted and as calibrated, by each binning; none without any."""
    result = evaluation.result
    scored = {"as predicted": [image.scored for image in result.per_image]}
    if not any(scored["as predicted"]):
        return []
    if evaluation.calibration is not None:
        apply = evaluation.calibration.apply
        scored[f"calibrated ({evaluation.calibration.to_dict()['kind']})"] = [
            [ScoredTarget(float(apply(one.confidence)), one.hit) for one in targets]
            for targets in scored["as predicted"]
        ]
    measure = partial(
        reliability, num_targets=result.counts.targets, num_resamples=result.num_resamples, seed=result.seed
    )
    return [(label, measure(of, binning=binning)) for binning in BINNINGS for label, of in scored.items()]


def _flat(settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        elif value is not None:
            yield key.replace("_", " "), str(value)


def _image_addresses(evaluation: NamedEvaluation, folder: Path) -> dict[str, str]:
    """The address of each image file, relative to `folder`, by stem; stems without a file are left out."""
    folder, found = folder.resolve(), {}
    for stem in evaluation.stems:
        path = evaluation.images.get(stem)
        if path is None or not path.is_file():
            continue
        path = path.resolve()
        if path.drive != folder.drive:  # Windows knows no relative path there
            found[stem] = path.as_uri()
        else:
            found[stem] = quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))
    return found


def _per_image_csv(evaluations: Sequence[NamedEvaluation], addresses: Sequence[Mapping[str, str]]) -> str:
    """The counts of every image as CSV; `image` is the file relative to the report, empty where there is none."""
    names = ("detector", "data", "stem", "image", "protocol", "matching", "mask_threshold", "score_threshold", "iou")
    lines = [files.csv_line((*names, *COUNT_FIELDS))]
    for one, files_of_images in zip(evaluations, addresses, strict=True):
        decision = one.result.decision
        settings = one.result.protocol.name, one.result.matching, decision.mask_threshold, decision.score_threshold
        for image in one.result.per_image:
            numbers = iou(image.counts), *(getattr(image.counts, name) for name in COUNT_FIELDS)
            address = files_of_images.get(image.stem, "")
            lines.append(files.csv_line((one.detector, one.data, image.stem, address, *settings, *numbers)))
    return "".join(lines)


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()

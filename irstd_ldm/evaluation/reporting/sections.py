"""The parts of the page, as markup."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..reliability import Reliability
from . import markup
from .comparison import Comparison
from .named import NamedEvaluation
from .numbers import DECIMALS, LABELS, count, interval, number
from .overlay import DETAIL_PX, FALSE_ALARM_COLOUR, HIT_COLOUR, MISS_COLOUR

Summary = Mapping[str, Any]

OVERVIEW_METRICS = ("iou", "niou", "hiou", "pd", "fa_per_million_px", "precision_targets")
MEANINGS = (
    ("IoU", "intersection over union of target pixels, summed over all images"),
    ("nIoU", "the mean over images of each image's IoU; an image empty in truth and prediction counts 1"),
    ("hIoU", "localisation times segmentation (arXiv 2509.16888), matched by overlap first, then by distance"),
    ("Pd", "probability of detection: targets hit / targets"),
    ("Fa", "pixels of predicted targets that hit nothing, per million pixels"),
    ("target precision", "predicted targets that hit / predicted targets"),
    ("ROC AUC, average precision", "of pixels, over all thresholds"),
    ("95 % interval", "percentile bootstrap: images are drawn with replacement, each as a whole"),
)
CONDITIONAL = (
    "Calibration is conditional on being detected: a missed target has no confidence and is on no curve. The error "
    "(ECE) of few predicted targets is biased upwards, on resampled sets more so: its interval can lie above it."
)


def overview(evaluations: Sequence[NamedEvaluation], summaries: Sequence[Summary]) -> str:
    """One row per evaluation."""
    header = ("evaluation", *(LABELS[key] for key in OVERVIEW_METRICS), "images", "targets", "threshold", "protocol")
    rows = [
        (
            evaluation.name,
            *(_with_interval(summary, key) for key in OVERVIEW_METRICS),
            f"{summary['num_images']:,}",
            f"{summary['num_targets']:,}",
            f"{summary['threshold']:g}",
            summary["protocol"],
        )
        for evaluation, summary in zip(evaluations, summaries, strict=True)
    ]
    return markup.table("Values, and below them 95 % intervals.", header, rows)


def settings(evaluation: NamedEvaluation, summary: Summary) -> str:
    """What the numbers are of and how they were made."""
    items = [(key.replace("_", " "), value) for key, value in _flat(evaluation.settings)]
    items += [
        ("protocol", f"{summary['protocol']}: {summary['protocol_description']}"),
        ("foreground", f"probability > {summary['threshold']:g}"),
        ("a target", f"a component of pixels, {summary['connectivity']}-connectivity"),
        ("a hit", f"{summary['matching']} matching, centroid distance < {summary['centroid_tolerance_px']:g} px"),
        ("false-alarm pixels", f"{summary['false_alarm_count']} count"),
        ("intervals", f"95 %, {summary['num_resamples']:,} resampled sets, seed {summary['bootstrap_seed']}"),
        (
            "number of images",
            f"{summary['num_images']:,}, {summary['num_images_empty_in_both']} empty in truth and prediction",
        ),
        ("number of targets", f"{summary['num_targets']:,}"),
        ("number of pixels", f"{summary['num_px']:,}"),
    ]
    return markup.terms(items)


def metrics(summary: Summary) -> str:
    """Every metric with its interval and what it is made of."""
    keys = [key for key in LABELS if key in summary]
    rows = [
        (
            LABELS[key],
            number(summary[key], DECIMALS[key]),
            interval(summary["intervals_95"][key], DECIMALS[key]),
            _made_of(summary).get(key, count(summary["num_images"], "image")),
        )
        for key in keys
    ]
    meanings = markup.details("What the numbers mean", markup.terms(MEANINGS))
    return markup.table(_of(summary), ("metric", "value", "95 % interval", "made of"), rows) + meanings


def budgets(summary: Summary) -> str:
    """Pd at the budgets of false alarms."""
    rows = []
    for key, unit in (
        ("pd_at_fa_per_million_px", "Fa (1e-6)"),
        ("pd_at_false_targets_per_image", "false targets/image"),
    ):
        for budget, point in summary[key].items():
            label = f"{unit} ≤ {budget}"
            if point is None:
                rows.append((label, "-", "no threshold keeps it", "-", "-", "-"))
                continue
            rows.append(
                (
                    label,
                    number(point["pd"]),
                    interval(point["interval_95"]),
                    f"{point['threshold']:g}",
                    number(point["fa_per_million_px"], 2),
                    number(point["false_targets_per_image"], 3),
                )
            )
    caption = (
        f"Pd at a budget of false alarms: the best of {len(summary['curves']['thresholds'])} thresholds, chosen on "
        f"these very images ({_numbers(summary)}); a threshold chosen on other images gives less."
    )
    header = ("budget", "Pd", "95 % interval", "threshold", "Fa (1e-6)", "false targets/image")
    return markup.table(caption, header, rows)


def strata(summary: Summary, key: str, title: str) -> str:
    """Pd by a property of the targets."""
    rows = [
        (
            row["name"],
            number(row["pd"]),
            interval(row["interval_95"]),
            f"{row['num_hits']:,}",
            f"{row['num_targets']:,}",
        )
        for row in summary[key]
        if row["num_targets"]
    ]
    header = ("targets", "Pd", "95 % interval", "hits", "of targets")
    return markup.table(f"{title}, at threshold {summary['threshold']:g} ({_numbers(summary)}).", header, rows)


def reliability_tables(curves: Sequence[tuple[str, Reliability]]) -> str:
    """Calibration error and Brier score of every curve, and the bins.

    Args:
        curves: (whose confidences, their reliability), one binning after another.
    """
    first = curves[0][1]
    counts = f"{first.num_predicted:,} predicted targets in {count(first.num_images, 'image')}"
    rows = [
        (
            f"{label}, {len(found.bins)} bins of equal {found.binning}",
            number(found.ece.value),
            interval((found.ece.low, found.ece.high)),
            number(found.brier.value),
            interval((found.brier.low, found.brier.high)),
            number(found.brier_of_hit_rate),
        )
        for label, found in curves
    ]
    header = ("confidences", "ECE", "95 % interval", "Brier score", "95 % interval", "Brier of the hit rate alone")
    caption = (
        f"Calibration of {counts}: {first.num_hits:,} hit, {first.num_predicted - first.num_hits:,} do not. "
        f"Missed targets, not in these numbers: {first.num_missed:,}."
    )
    bins = "".join(_bins(f"{label}, bins of equal {found.binning}", found) for label, found in curves)
    return markup.table(caption, header, rows) + markup.details("The bins", bins)


def legend() -> str:
    """What the marks of the overlays mean; the shapes tell them apart without colour."""
    marks = (
        ("hit", HIT_COLOUR, '<rect x="4" y="4" width="16" height="16"/>'),
        ("missed target", MISS_COLOUR, '<circle cx="12" cy="12" r="8.5"/>'),
        ("false alarm", FALSE_ALARM_COLOUR, '<path d="M12 2.5 21.5 12 12 21.5 2.5 12Z"/>'),
    )
    items = ""
    for name, colour, shape in marks:
        outline = f'<g fill="none" stroke="#000" stroke-width="5">{shape}</g>'
        line = f'<g fill="none" stroke="{_hex(colour)}" stroke-width="2.5">{shape}</g>'
        items += f'<li><svg viewBox="0 0 24 24" aria-hidden="true">{outline}{line}</svg>{name}</li>'
    note = (
        f"Below each image, cut-outs of {DETAIL_PX} x {DETAIL_PX} px around its errors, each with its own contrast: "
        "the truth is outlined in the colour of a miss, the prediction in that of a false alarm."
    )
    return markup.tag("ul", items, class_="legend") + markup.paragraph(note, "note")


def worst_images(evaluation: NamedEvaluation, addresses: Mapping[str, str]) -> str:
    """The overlays, each linked to its image file."""
    assert evaluation.recording is not None
    figures = ""
    for found in evaluation.recording.worst:
        outcome = (
            f"{found.misses} of {count(found.targets, 'target')} missed, "
            f"{count(found.false_targets, 'false alarm')}, IoU {number(found.iou, 3)}"
        )
        picture = markup.image(found.overlay.picture, f"{found.stem}: {outcome}", "frame")
        if found.stem in addresses:
            picture = markup.tag("a", picture, href=addresses[found.stem])
        details = "".join(
            markup.image(detail, f"{found.stem}: cut-out {number_of} around an error", "detail")
            for number_of, detail in enumerate(found.overlay.details, start=1)
        )
        strip = markup.tag("div", details, class_="details") if details else ""
        caption = markup.tag("strong", markup.link(found.stem, addresses.get(found.stem))) + f"<br>{outcome}"
        figures += markup.figure(picture + strip, caption)
    return markup.tag("div", figures, class_="gallery")


def comparison(a: NamedEvaluation, b: NamedEvaluation, comparisons: Sequence[Comparison]) -> str:
    """What the images say in words, and every difference of B from A."""
    rows = [
        (
            one.label + (" (lower is better)" if one.lower_is_better else ""),
            number(one.a, one.decimals),
            number(one.b, one.decimals),
            _signed(one.paired.difference, one.decimals),
            interval((one.paired.low, one.paired.high), one.decimals),
            _share(one.share_b_better),
        )
        for one in comparisons
    ]
    num_images = comparisons[0].paired.num_images
    header = ("metric", "A", "B", "B − A", "95 % interval", "B better in")
    caption = (
        f"A: {a.detector}, threshold {a.result.threshold:g}. B: {b.detector}, threshold {b.result.threshold:g}. The "
        f"same {count(num_images, 'image')}, drawn together. B better in: share of the resampled sets, ties half."
    )
    note = (
        "Told apart: the 95 % interval of the difference leaves out 0. Of twenty rows without any true difference, "
        "one is expected to be told apart by chance."
    )
    in_words = {one.metric: one.sentence(a.detector, b.detector) for one in comparisons}
    headline = [in_words.pop(metric) for metric in OVERVIEW_METRICS]
    return (
        markup.bullets(headline)
        + markup.details("The other metrics in words", markup.bullets(in_words.values()))
        + markup.table(caption, header, rows)
        + markup.paragraph(note, "note")
    )


def _flat(settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        elif value is not None:
            yield key, str(value)


def _made_of(summary: Summary) -> dict[str, str]:
    s = summary
    predicted_px, truth_px = s["tp_px"] + s["fp_px"], s["tp_px"] + s["fn_px"]
    curve = f"{s['num_px']:,} px"
    return {
        "iou": f"{s['tp_px']:,} of {truth_px + s['fp_px']:,} px",
        "pd": f"{s['num_hits']:,} of {count(s['num_targets'], 'target')}",
        "fa_per_million_px": f"{s['false_alarm_px']:,} of {s['num_px']:,} px",
        "precision_targets": f"{s['num_hits']:,} of {s['num_predicted']:,} predicted",
        "false_targets_per_image": f"{s['num_predicted'] - s['num_hits']:,} in {count(s['num_images'], 'image')}",
        "precision_px": f"{s['tp_px']:,} of {predicted_px:,} px",
        "recall_px": f"{s['tp_px']:,} of {truth_px:,} px",
        "roc_auc": curve,
        "average_precision": curve,
    }


def _of(summary: Summary) -> str:
    return (
        f"{_numbers(summary)}; protocol {summary['protocol']}, probability > {summary['threshold']:g}, "
        f"{summary['matching']} matching within {summary['centroid_tolerance_px']:g} px."
    )


def _numbers(summary: Summary) -> str:
    return f"{count(summary['num_images'], 'image')}, {count(summary['num_targets'], 'target')}"


def _with_interval(summary: Summary, key: str) -> str:
    decimals = min(DECIMALS[key], 3)
    return f"{number(summary[key], decimals)}\n{interval(summary['intervals_95'][key], decimals)}"


def _bins(caption: str, found: Reliability) -> str:
    rows = [
        (
            f"{one.low:.4f} to {one.high:.4f}",
            f"{one.num_predicted:,}",
            f"{one.num_hits:,}",
            number(one.mean_confidence),
            number(one.hit_rate.value),
            interval((one.hit_rate.low, one.hit_rate.high)),
        )
        for one in found.bins
    ]
    header = ("confidence", "predicted", "hits", "mean confidence", "hit rate", "95 % interval")
    return markup.table(caption, header, rows)


def _signed(value: float, decimals: int) -> str:
    return ("+" if value > 0 else "") + number(value, decimals)


def _share(value: float) -> str:
    return "-" if value != value else f"{100 * value:.1f} %"


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)

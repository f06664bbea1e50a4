"""An evaluation's summary as plain text."""

from collections.abc import Mapping
from typing import Any

LABEL_WIDTH = 26

# Key in the summary, label, decimals.
ROWS = (
    ("iou", "IoU", 4),
    ("niou", "nIoU", 4),
    ("hiou", "hIoU", 4),
    ("hiou_without_placeholders", "  without placeholders", 4),
    ("seg_iou", "  IoU of matched targets", 4),
    ("loc_iou", "  matched / all objects", 4),
    ("pd", "Pd (target recall)", 4),
    ("fa_per_million_px", "Fa (1e-6)", 2),
    ("precision_targets", "target precision", 4),
    ("false_targets_per_image", "false targets per image", 4),
    ("precision_px", "pixel precision", 4),
    ("recall_px", "pixel recall", 4),
    ("roc_auc", "ROC AUC (pixels)", 4),
    ("average_precision", "average precision (pixels)", 4),
)


def format_table(summary: Mapping[str, Any]) -> str:
    """The lines of an `EvaluationResult.summary`, settings first; "-" stands for an undefined value."""
    lines = [
        f"protocol {summary['protocol']}: {summary['protocol_description']}",
        f"foreground: probability > {summary['threshold']:g}; targets: {summary['connectivity']}-connectivity",
        f"hit: {summary['matching']} matching, centroid distance < {summary['centroid_tolerance_px']:g} px",
        f"false alarms: {summary['false_alarm_count']} pixel count",
        f"{summary['num_images']} images ({summary['num_images_empty_in_both']} empty in truth and prediction), "
        f"{summary['num_targets']} targets, {summary['num_px']} px",
        "",
        f"{'metric':<{LABEL_WIDTH}}{'value':>10}    95 % interval",
    ]
    for key, label, decimals in ROWS:
        if key in summary:
            lines.append(_row(label, summary[key], summary["intervals_95"][key], decimals))
    if summary["num_targets"] and summary["curves"] is not None:
        num_thresholds = len(summary["curves"]["thresholds"])
        lines += ["", f"Pd at a budget: best of {num_thresholds} thresholds on these very images"]
        for key, unit in (("pd_at_fa_per_million_px", "Fa (1e-6)"), ("pd_at_false_targets_per_image", "false/image")):
            for budget, point in summary[key].items():
                lines.append(_budget_row(f"{unit} <= {budget}", point))
    if summary["num_targets"]:
        lines += ["", "Pd by size and by SCR of the targets"]
        for row in [*summary["pd_by_area_px"], *(summary["pd_by_scr"] or ())]:
            if row["num_targets"]:
                text = _row(row["name"], row["pd"], row["interval_95"], 4)
                lines.append(f"{text}    {row['num_targets']} targets")
    return "\n".join(lines)


def _row(label: str, value: float | None, interval: list[float | None], decimals: int) -> str:
    low, high = (_number(end, decimals) for end in interval)
    return f"{label:<{LABEL_WIDTH}}{_number(value, decimals):>10}    {low} to {high}"


def _budget_row(label: str, point: Mapping[str, Any] | None) -> str:
    if point is None:
        return f"{label:<{LABEL_WIDTH}}{'-':>10}    no threshold keeps it"
    text = _row(label, point["pd"], point["interval_95"], 4)
    return f"{text}    threshold {point['threshold']:g}"


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"

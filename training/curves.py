"""A run's curves as one picture, for the eye."""

import json
from pathlib import Path

CURVES = "curves.png"


def draw_curves(losses: Path, validation: Path, headline: str, path: Path) -> None:
    """Draw the losses of a run, and the headline of its batches and of its validations, over the steps.

    Args:
        losses, validation: Logs, a JSON object with `step` a line; the second may be absent.
        headline: Name of the score in both.
        path: PNG, 1000 x 400 px. Without matplotlib nothing is drawn.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    rows = _rows(losses)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    marker = "." if len(rows) == 1 else None  # a line of one point is none
    for name in sorted(set(rows[-1]) - {"step", "learning_rate", headline}):
        left.plot([row["step"] for row in rows], [row[name] for row in rows], label=name, marker=marker)
    batches = [row[headline] for row in rows]
    right.plot([row["step"] for row in rows], batches, label=f"{headline} of batches", alpha=0.5, marker=marker)
    validated = _rows(validation) if validation.exists() else []
    if validated:
        steps = [row["step"] for row in validated]
        for name in (name for name in validated[-1] if name.partition("/")[0] == headline):
            right.plot(steps, [row[name] for row in validated], marker="o", label=f"validation, {name}")
    left.set_yscale("log")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(path)


def _rows(log: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]

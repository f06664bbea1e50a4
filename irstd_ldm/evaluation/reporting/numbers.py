"""Numbers as a report writes them; "-" stands for an undefined value."""

import math
from collections.abc import Sequence

from ..table import ROWS

LABELS = {key: f"hIoU, {label.strip()}" if label.startswith(" ") else label for key, label, _ in ROWS}
DECIMALS = {key: decimals for key, _, decimals in ROWS}
LOWER_IS_BETTER = {"fa_per_million_px", "false_targets_per_image"}


def number(value: float | None, decimals: int = 4) -> str:
    """With a minus sign for negative values."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{decimals}f}".replace("-", "−")


def interval(ends: Sequence[float | None], decimals: int = 4) -> str:
    """LOW to HIGH."""
    return f"{number(ends[0], decimals)} to {number(ends[1], decimals)}"


def count(value: int, noun: str) -> str:
    """With thousands apart, and the noun's plural by an s."""
    return f"{value:,} {noun}" + ("" if value == 1 else "s")

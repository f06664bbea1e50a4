"""Pd by the size of targets and by how far they stand out from their surroundings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..targets import signal_to_clutter_ratio
from .bootstrap import Statistic, ratio
from .matching import ImageComponents


@dataclass(frozen=True)
class TargetRecord:
    """One target of one image.

    Attributes:
        x, y: its centroid in pixels.
        area_px: its pixels.
        scr: signal-to-clutter ratio on the image the detector saw, None without an image, NaN where the ring around
            the target is empty or constant.
        hit: whether a predicted component was matched with it.
    """

    x: float
    y: float
    area_px: int
    scr: float | None
    hit: bool


@dataclass(frozen=True)
class Stratum:
    """The targets whose property lies in [low, high); bounds of NaN hold those whose property is NaN.

    Attributes:
        name: in tables, such as "area 9-24 px".
        property: "area_px" or "scr".
        low, high: bounds.
    """

    name: str
    property: str
    low: float
    high: float

    def holds(self, record: TargetRecord) -> bool:
        """Whether the target belongs here; never where its property is None."""
        value = getattr(record, self.property)
        if value is None:
            return False
        return math.isnan(self.low) if math.isnan(value) else self.low <= value < self.high


# Squares of 3, 5, 7 and 9 px; 80 px (0.12 % of 256x256) is the usual limit of a small target.
AREA_STRATA = (
    Stratum("area 1-8 px", "area_px", 1, 9),
    Stratum("area 9-24 px", "area_px", 9, 25),
    Stratum("area 25-48 px", "area_px", 25, 49),
    Stratum("area 49-80 px", "area_px", 49, 81),
    Stratum("area >= 81 px", "area_px", 81, math.inf),
)
SCR_STRATA = (
    Stratum("SCR < 2", "scr", -math.inf, 2),
    Stratum("SCR 2-4", "scr", 2, 4),
    Stratum("SCR 4-8", "scr", 4, 8),
    Stratum("SCR 8-16", "scr", 8, 16),
    Stratum("SCR >= 16", "scr", 16, math.inf),
    Stratum("SCR undefined", "scr", math.nan, math.nan),
)


def target_records(
    components: ImageComponents, pairs: list[tuple[int, int]], image: np.ndarray | None = None
) -> list[TargetRecord]:
    """A record per target of one image, in label order.

    Args:
        components: of the image.
        pairs: (index in `components.targets`, index in `components.predicted`).
        image: (H, W), the raw image, for the SCR (`irstd_ldm.targets`).
    """
    hit = {target for target, _ in pairs}
    mask = components.truth_labels > 0
    records = []
    for index, target in enumerate(components.targets):
        scr = None
        if image is not None:
            scr = signal_to_clutter_ratio(image, components.truth_labels == target.label, mask)
        records.append(TargetRecord(target.x, target.y, target.area_px, scr, index in hit))
    return records


def stratum_statistic(targets: Sequence[Sequence[TargetRecord]], stratum: Stratum) -> Statistic:
    """Pd of the targets of one stratum, for `bootstrap.estimate`; NaN without such targets.

    Args:
        targets: the records of every image, images without targets included.
        stratum: which targets count.
    """
    inside = [[record for record in records if stratum.holds(record)] for records in targets]
    hits = np.array([sum(record.hit for record in records) for records in inside])  # (N,)
    return ratio(hits, np.array([len(records) for records in inside]))

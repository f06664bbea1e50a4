"""An evaluation with what a report has to know about it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...targets import ConfidenceCalibration
from ..reliability import ScoredTarget
from ..result import EvaluationResult
from .recording import Recording


@dataclass(frozen=True, eq=False)
class NamedEvaluation:
    """A detector on a data set.

    Attributes:
        detector, data: names; evaluations of one `data` stand in one plot and are compared.
        settings: what the numbers are of (model, split, steps, ...), in the report's list of settings.
        result: the numbers.
        recording: of the same pairs, None for no reliability and no overlays.
        images: stem -> image file, for links; stems without a file are not linked.
        calibration: the detector's post-hoc calibration, shown beside its confidences.

    Raises:
        ValueError: `recording` is not of the images, the threshold or the matching of `result`.
    """

    detector: str
    data: str
    settings: Mapping[str, Any]
    result: EvaluationResult
    recording: Recording | None = None
    images: Mapping[str, Path] = field(default_factory=dict)
    calibration: ConfidenceCalibration | None = None

    def __post_init__(self) -> None:
        if self.recording is None:
            return
        found = {
            stem: (len(targets), sum(target.hit for target in targets))
            for stem, targets in self.recording.scored.items()
        }
        wanted = {image.stem: (image.counts.predicted, image.counts.hits) for image in self.result.per_image}
        if found != wanted:
            different = sorted(stem for stem in found.keys() | wanted.keys() if found.get(stem) != wanted.get(stem))
            raise ValueError(
                f"`recording` must be of the images, threshold and matching of `result`, {self.name}: "
                f"{len(different)} images differ, {different[0]} among them"
            )

    @property
    def name(self) -> str:
        """DETECTOR on DATA."""
        return f"{self.detector} on {self.data}"

    @property
    def stems(self) -> list[str]:
        return [image.stem for image in self.result.per_image]

    @property
    def scored(self) -> Sequence[Sequence[ScoredTarget]]:
        """The predicted targets of every image, in the order of the result; needs a recording."""
        assert self.recording is not None
        return [self.recording.scored[stem] for stem in self.stems]


def file_stem(name: str) -> str:
    """A name without blanks and separators, for a file."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "data"

"""What every writer of `detect` does, and what it is given."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..targets import Target
from .inputs import Failure, InputFile
from .outputs import finite


@dataclasses.dataclass(frozen=True)
class ImageResult:
    """One image and what was found in it."""

    item: InputFile
    image: np.ndarray  # (H, W), as `to_gray` returns it
    probability: np.ndarray  # (H, W) float32 in [0, 1]
    mask: np.ndarray  # (H, W) bool
    targets: Sequence[Target]  # in the order of the mask's components

    def target_rows(self) -> list[dict[str, Any]]:
        return [finite(dataclasses.asdict(target)) for target in self.targets]

    def record(self) -> dict[str, Any]:
        """The image's entry in the JSON outputs."""
        height, width = self.mask.shape
        return {
            "file": str(self.item.path),
            "name": self.item.name,
            "width": width,
            "height": height,
            "targets": self.target_rows(),
        }


@dataclasses.dataclass(frozen=True)
class Ending:
    """What is known when a run ends, complete or not."""

    failures: Sequence[Failure]
    sequences: Sequence[Mapping[str, Any]]  # per input of several frames: file, name and counts
    complete: bool


class Writer(Protocol):
    """One kind of output. Every method may raise OSError where the disk refuses."""

    def begin(self, header: Mapping[str, Any]) -> None:
        """Before the first image; `header` holds what is common to all (model, settings)."""

    def add(self, result: ImageResult) -> None:
        """Writes one image's part."""

    def take_back(self) -> None:
        """Removes what the last `add` wrote, all of it or half."""

    def finish(self, ending: Ending) -> None:
        """Completes the output and gives it its name."""

    def discard(self) -> None:
        """Removes a run's output that holds no image."""

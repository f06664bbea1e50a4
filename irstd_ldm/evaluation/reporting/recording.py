"""What a report needs beside the counts, gathered while the images stream past: confidences, and the worst images."""

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...data.images import displayable
from ..counts import count_components
from ..matching import check_matching, label_image
from ..metrics import iou
from ..protocols import get_protocol
from ..reliability import ScoredTarget, scored_targets
from ..report import Pair
from .overlay import Overlay, draw_outcomes

Rank = tuple[int, float, str]


@dataclass(frozen=True, eq=False)
class WorstImage:
    """An image with its overlay.

    Attributes:
        stem: its name.
        misses, false_targets: targets without a predicted component, predicted components without a target.
        targets: of the image.
        iou: of its pixels.
        overlay: drawn.
    """

    stem: str
    misses: int
    false_targets: int
    targets: int
    iou: float
    overlay: Overlay

    @property
    def rank(self) -> Rank:
        """Sorts the worst image first."""
        return _rank(self.misses + self.false_targets, self.iou, self.stem)


@dataclass(frozen=True, eq=False)
class Recording:
    """What a `Recorder` saw. It can be pickled.

    Attributes:
        scored: stem -> predicted targets, of every image.
        worst: the worst images, the worst first.
        num_worst: how many are kept at most.
    """

    scored: Mapping[str, list[ScoredTarget]]
    worst: tuple[WorstImage, ...]
    num_worst: int

    @classmethod
    def merged(cls, parts: Sequence["Recording"]) -> "Recording":
        """One recording of the shares that several processes saw, equal to one process's.

        Args:
            parts: at least one, of different images and equal `num_worst`.
        """
        num_worst = parts[0].num_worst
        scored = {stem: targets for part in parts for stem, targets in part.scored.items()}
        worst = sorted((image for part in parts for image in part.worst), key=lambda image: image.rank)
        return cls(scored, tuple(worst[:num_worst]), num_worst)


class Recorder:
    """Watches the pairs of one evaluation; memory holds two values per predicted target and the worst overlays.

    An image is worse with more errors (missed targets and false alarms), then with a lower IoU, then by its name.

    Args:
        threshold, protocol, matching, centroid_tolerance_px: those of the evaluation.
        num_worst: how many overlays to keep.

    Raises:
        ValueError: an argument is not allowed.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        protocol: str = "native",
        matching: str = "greedy",
        centroid_tolerance_px: float = 3.0,
        num_worst: int = 12,
    ):
        if num_worst < 0:
            raise ValueError(f"`num_worst` must be at least 0, got {num_worst}")
        check_matching(matching, centroid_tolerance_px)
        self._threshold = float(threshold)
        self._protocol = get_protocol(protocol)
        self._matching, self._centroid_tolerance_px = matching, centroid_tolerance_px
        self._num_worst = num_worst
        self._scored: dict[str, list[ScoredTarget]] = {}
        self._worst: list[WorstImage] = []  # the worst first

    def watch(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """Hands on the pairs of `evaluate_probabilities`; each is recorded when the next one is asked for."""
        for pair in pairs:
            yield pair
            self._record(*pair)

    def recording(self) -> Recording:
        """What was seen so far."""
        return Recording(dict(self._scored), tuple(self._worst), self._num_worst)

    def _record(self, stem: str, probability: np.ndarray, mask: np.ndarray, image: np.ndarray | None = None) -> None:
        truth = self._protocol.prepare_truth(mask)
        probability = self._protocol.prepare_probability(probability)
        components = label_image(probability > self._threshold, truth.mask)
        pairs = components.match(centroid_tolerance_px=self._centroid_tolerance_px, matching=self._matching)
        self._scored[stem] = scored_targets(components, pairs, probability)
        counts = count_components(components, pairs, union_truth=truth.union_mask)
        misses, false_targets = counts.targets - counts.hits, counts.predicted - counts.hits
        rank = _rank(misses + false_targets, iou(counts), stem)
        if sum(worst.rank < rank for worst in self._worst) == self._num_worst:
            return
        gray = np.zeros(mask.shape, np.uint8) if image is None else displayable(image)
        overlay = draw_outcomes(self._protocol.prepare_image(gray), components, pairs)
        found = WorstImage(stem, misses, false_targets, counts.targets, iou(counts), overlay)
        insort(self._worst, found, key=lambda worst: worst.rank)
        del self._worst[self._num_worst :]


def _rank(errors: int, iou: float, stem: str) -> Rank:
    return -errors, iou, stem

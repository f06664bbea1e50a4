"""From the members of an ensemble to one probability map."""

from collections.abc import Callable

import numpy as np

MAX_ITERATIONS = 100
CHANGE = 1e-6  # of any pixel's probability between two iterations, at which STAPLE has converged
CERTAINTY = 1e-5  # 1 - the performance that STAPLE starts from
SMALLEST = 1e-10  # performances stay this far from 0 and 1, so that no probability is 0/0


def staple(decisions: np.ndarray) -> np.ndarray:
    """Probability of the hidden true mask, by expectation-maximisation over what each member misses and invents.

    STAPLE: Warfield, Zou, Wells, "Simultaneous truth and performance level estimation", IEEE TMI 23(7), 2004; the
    prior is the members' mean foreground share, one for all pixels.

    Args:
        decisions: (E, H, W) bool.

    Returns:
        (H, W) float64 in [0, 1].
    """
    flat = decisions.reshape(len(decisions), -1)  # (E, H*W)
    prior = flat.mean()
    if prior in (0, 1):
        return np.full(decisions.shape[1:], prior)
    marked = flat.any(axis=0)  # (H*W,)
    patterns, inverse, counts = np.unique(flat[:, marked], axis=1, return_inverse=True, return_counts=True)
    patterns = np.column_stack([patterns, np.zeros(len(flat), bool)])  # (E, P), the last one of the unmarked pixels
    counts = np.append(counts, np.count_nonzero(~marked))  # (P,)
    sensitivity = specificity = np.full((len(flat), 1), 1 - CERTAINTY)  # (E, 1)
    truth = np.zeros(len(counts))  # (P,)
    for _ in range(MAX_ITERATIONS):
        for_foreground = np.log(np.where(patterns, sensitivity, 1 - sensitivity)).sum(axis=0)
        for_background = np.log(np.where(patterns, 1 - specificity, specificity)).sum(axis=0)
        log_odds = np.log(prior / (1 - prior)) + for_foreground - for_background  # (P,)
        before, truth = truth, 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))
        if np.abs(truth - before).max() < CHANGE:
            break
        foreground, background = counts * truth, counts * (1 - truth)
        sensitivity = ((patterns * foreground).sum(axis=1) / max(foreground.sum(), SMALLEST))[:, None]
        specificity = ((~patterns * background).sum(axis=1) / max(background.sum(), SMALLEST))[:, None]
        sensitivity, specificity = (np.clip(rate, SMALLEST, 1 - SMALLEST) for rate in (sensitivity, specificity))
    fused = np.full(flat.shape[1], truth[-1])
    fused[marked] = truth[inverse.ravel()]
    return fused.reshape(decisions.shape[1:])


# Members (E, H, W) in [0, 1] -> probability (H, W).
FUSIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda members: members.mean(axis=0, dtype=np.float32),
    "median": lambda members: np.median(members, axis=0),
    "staple": lambda members: staple(members > 0.5),
}


class MemberFusion:
    """The members of one image, added strip by strip, as a probability and an uncertainty.

    Args:
        shape: (H, W) of the image.
        ensemble_size: E.
        ensemble_fusion: One of `FUSIONS`.

    Attributes:
        probability: (H, W) float32 in [0, 1].
        uncertainty: (H, W) float32, standard deviation over the members; None for one member.
    """

    def __init__(self, shape: tuple[int, ...], ensemble_size: int, ensemble_fusion: str):
        self.probability = np.empty(shape, np.float32)
        self.uncertainty = np.empty(shape, np.float32) if ensemble_size > 1 else None
        self._fuse = FUSIONS[ensemble_fusion]
        # STAPLE weighs a member by all of its pixels.
        self._decisions = np.empty((ensemble_size, *shape), bool) if ensemble_fusion == "staple" else None

    def add(self, rows: slice, members: np.ndarray) -> None:
        """Adds the members (E, rows, W) of some rows."""
        if self._decisions is None:
            self.probability[rows] = self._fuse(members)
        else:
            self._decisions[:, rows] = members > 0.5
        if self.uncertainty is not None:
            self.uncertainty[rows] = members.std(axis=0, dtype=np.float32)

    def finish(self) -> None:
        """Fuses what needs all rows, when all are added."""
        if self._decisions is not None:
            self.probability[:] = staple(self._decisions)
            self._decisions = None

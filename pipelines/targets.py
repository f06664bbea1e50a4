"""From a probability map to targets."""

import numpy as np

from ..evaluation.components import label_components
from .output import Target

RING_PX = 10


def signal_to_clutter_ratio(
    gray: np.ndarray, labels: np.ndarray, label: int, box: tuple[int, int, int, int]
) -> float:
    """SCR of one target on the raw input.

    Args:
        gray: (H, W) raw gray values.
        labels: (H, W) int32, the targets' labels, 0 elsewhere.
        label: The target's label.
        box: left, top, width, height of the target.

    Returns:
        (mean of target - mean of ring) / standard deviation of ring; NaN where the ring is empty or constant.
    """
    left, top, width, height = box
    window = np.s_[max(top - RING_PX, 0) : top + height + RING_PX, max(left - RING_PX, 0) : left + width + RING_PX]
    values, around = gray[window].astype(np.float64), labels[window]
    ring = values[around == 0]
    spread = ring.std() if ring.size else 0.0
    return float((values[around == label].mean() - ring.mean()) / spread) if spread else float("nan")


def extract_targets(probability: np.ndarray, mask: np.ndarray, gray: np.ndarray) -> list[Target]:
    """The targets of one image.

    Args:
        probability: (H, W) float32 in [0, 1].
        mask: (H, W) bool, probability > threshold.
        gray: (H, W) raw gray values of the input.
    """
    labels, components = label_components(mask)
    targets = []
    for component in components:
        box = (component.left, component.top, component.width, component.height)
        window = np.s_[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
        inside = labels[window] == component.label
        rows, columns = np.nonzero(inside)
        weights = probability[window][inside].astype(np.float64)
        targets.append(
            Target(
                x=float(box[0] + np.average(columns, weights=weights)),
                y=float(box[1] + np.average(rows, weights=weights)),
                left=box[0],
                top=box[1],
                width=box[2],
                height=box[3],
                area_px=component.area_px,
                confidence=float(weights.mean()),
                peak=float(weights.max()),
                scr=signal_to_clutter_ratio(gray, labels, component.label, box),
            )
        )
    return targets

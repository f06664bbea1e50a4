"""From a probability map to targets."""

import numpy as np

from . irstd_ldm_data_clutter import ring_window, signal_to_clutter_ratio
from . irstd_ldm_evaluation_components import label_components
from . irstd_ldm_evaluation_confidence import ConfidenceCalibration
from . irstd_ldm_pipelines_target import Target


def extract_targets(
    probability: np.ndarray,
    mask: np.ndarray,
    gray: np.ndarray,
    calibration: ConfidenceCalibration | None = None,
) -> list[Target]:
    """The targets of one image.

    Args:
        probability: (H, W) float32 in [0, 1].
        mask: (H, W) bool, probability > threshold.
        gray: (H, W) raw gray values of the input.
        calibration: of the confidences; None leaves the mean probability.
    """
    labels, components = label_components(mask)
    targets = []
    for component in components:
        box = (component.left, component.top, component.width, component.height)
        window = np.s_[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
        around = ring_window(*box)
        inside = labels[window] == component.label
        rows, columns = np.nonzero(inside)
        weights = probability[window][inside].astype(np.float64)
        confidence = weights.mean() if calibration is None else calibration.apply(weights.mean())
        targets.append(
            Target(
                x=float(box[0] + np.average(columns, weights=weights)),
                y=float(box[1] + np.average(rows, weights=weights)),
                left=box[0],
                top=box[1],
                width=box[2],
                height=box[3],
                area_px=component.area_px,
                confidence=float(confidence),
                peak=float(weights.max()),
                scr=signal_to_clutter_ratio(gray[around], labels[around] == component.label, labels[around] > 0),
            )
        )
    return targets

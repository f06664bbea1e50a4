"""Validation of detection pipelines during training."""

import numpy as np

from ..data.images import normalize_image
from ..evaluation.counts import count_image
from ..evaluation.metrics import detection_scores
from ..pipelines.detection_pipeline import IRSTDDetectionPipeline
from .loop import Validation
from .training_data import TrainingData, side_by_side

SHOWN = 6  # images in the picture


def validate_detection(pipeline: IRSTDDetectionPipeline, data: TrainingData) -> Validation:
    """Score a pipeline, at its own defaults, on the held-out images and the held-out frames without targets."""
    counts, rows = [], []
    for sample in data.val_samples:
        output = pipeline(sample.image)
        counts.append(count_image(output.mask[0, 0], sample.mask))
        shown = (normalize_image(sample.image) + 1) / 2
        rows.append([shown, sample.mask.astype(np.float32), output.probability[0, 0]])
    scores = detection_scores(counts)
    if data.val_backgrounds:
        false_alarms_px = sum(int(pipeline(frame).mask.sum()) for frame in data.val_backgrounds)
        area_px = sum(frame.size for frame in data.val_backgrounds)
        scores["background_fa_per_million_px"] = 1e6 * false_alarms_px / area_px
    return Validation(scores, side_by_side(rows[:SHOWN]))

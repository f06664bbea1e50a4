"""Validation of detection pipelines during training."""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from ..data.images import normalize_image
from ..evaluation.counts import ImageCounts, count_image
from ..evaluation.metrics import detection_scores
from ..pipelines.detection import IRSTDDetectionPipeline
from .loop import Validation
from .training_data import TrainingData, side_by_side

SHOWN = 6  # images in the picture


def scores_of_data_sets(
    data: TrainingData, counts: Sequence[ImageCounts], score: Callable[[list[ImageCounts]], dict[str, float]]
) -> dict[str, float]:
    """The scores of all held-out images, and of each of several data sets as SCORE/NAME.

    Args:
        data: Whose images these are.
        counts: Of each of `data.val_samples`.
        score: Of some images.
    """
    scores = score([*counts])
    if len(data.data_sets) > 1:
        remaining = iter(counts)
        for data_set in data.data_sets:
            of_set = score(list(islice(remaining, len(data_set.val_samples))))
            scores |= {f"{name}/{data_set.name}": value for name, value in of_set.items()}
    return scores


def validate_detection(pipeline: IRSTDDetectionPipeline, data: TrainingData) -> Validation:
    """Score a pipeline, at its own defaults, on the held-out images and the held-out frames without targets."""
    counts, rows = [], []
    for data_set in data.data_sets:
        for number, sample in enumerate(data_set.val_samples):
            output = pipeline(sample.image)
            counts.append(count_image(output.mask[0, 0], sample.mask))
            if number < max(SHOWN // len(data.data_sets), 1):
                shown = (normalize_image(sample.image) + 1) / 2
                rows.append([shown, sample.mask.astype(np.float32), output.probability[0, 0]])
    scores = scores_of_data_sets(data, counts, detection_scores)
    if data.val_backgrounds:
        frames = data.val_backgrounds.values()
        false_alarms_px = sum(int(pipeline(frame).mask.sum()) for frame in frames)
        scores["background_fa_per_million_px"] = 1e6 * false_alarms_px / sum(frame.size for frame in frames)
    return Validation(scores, side_by_side(rows))

"""Places without a target that a trained detector takes for one, to be trained on more often than by chance."""

import logging

import numpy as np
from tqdm.auto import tqdm

from ..pipelines.detection import IRSTDDetectionPipeline
from ..targets import label_components
from .settings import DetectorSettings
from .training_data import TrainingData

logger = logging.getLogger(__name__)

MINING_THRESHOLD = 0.1  # of the probability: what nearly is a false alarm is worth a crop too


def mine_hard_negatives(pipeline: IRSTDDetectionPipeline, data: TrainingData, settings: DetectorSettings) -> None:
    """Point the crops at the false alarms of a pretrained detector on the frames without targets.

    They are found once, before the first step, so that a resumed run sees the same crops.

    Raises:
        ValueError: Hard negatives are asked for without a pretrained detector or without frames to find them on.
    """
    if not settings.hard_negative_probability:
        return
    for name in ("pretrained_model_name_or_path", "background_dir"):
        if getattr(settings, name) is None:
            raise ValueError(f"`hard_negative_probability` needs `{name}`, got null")
    for number, frame in enumerate(tqdm(data.train_backgrounds.values(), desc="hard negatives", leave=False)):
        for component in label_components(pipeline(frame, threshold=MINING_THRESHOLD).mask[0, 0])[1]:
            data.crops.hard_negatives.append((number, np.rint([component.y, component.x]).astype(int)))
    logger.info("%d hard negatives on %d frames", len(data.crops.hard_negatives), len(data.train_backgrounds))

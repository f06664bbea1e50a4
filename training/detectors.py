"""The common part of the detectors' trainers: data, validation, hard negatives, default tiles."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from scipy import ndimage
from tqdm.auto import tqdm

from ..data.folder import IRSTDFolder
from ..data.images import normalize_image
from ..evaluation.counts import ImageCounts, count_image
from ..evaluation.metrics import detection_scores
from ..pipelines.detection import IRSTDDetectionPipeline
from ..targets import label_components
from .loop import SHOWN, Task, Validation
from .settings import DetectorSettings
from .training_data import TrainingData, read_training_data

logger = logging.getLogger(__name__)

MINING_MARGIN_PX = 8  # A detection nearer to a target belongs to it.
MINING_THRESHOLD = 0.1  # probability from which a pixel nearly is a false alarm, and worth a crop


class DetectorTask(Task):
    """A detector, `pipeline`, of the class `pipeline_class`, around which a trainer builds its model.

    One from random weights is trained with the rule `normalization` of `gray_range`.
    """

    headline = "iou"
    pipeline_class: ClassVar[Any]
    normalization: ClassVar[str]

    def __init__(self, settings: Any, data: TrainingData, pipeline: Any):
        super().__init__(settings, data)
        self.pipeline = pipeline
        cover_crops(pipeline, settings.resolution)
        pipeline.set_progress_bar_config(disable=True)
        mine_hard_negatives(pipeline, data, settings)

    @classmethod
    def read_data(cls, settings: DetectorSettings) -> TrainingData:
        """Crops have the normalisation of the pipeline that the run starts from."""
        normalization = cls.normalization
        if settings.pretrained_model_name_or_path is not None:
            config = cls.pipeline_class.load_config(settings.pretrained_model_name_or_path)
            normalization = config.get("normalization", "range")
        return read_training_data(settings, settings, normalization)

    def validate(self) -> Validation:
        """Score the pipeline, at its own defaults, on the held-out images and the held-out frames without targets."""
        counts, rows = [], []
        for data_set in self.data.data_sets:
            samples = tqdm(data_set.val_samples, desc=f"validation, {data_set.name}", leave=False)
            for index, sample in enumerate(samples):
                output = self.pipeline(sample.image)
                counts.append(count_image(output.mask[0, 0], sample.mask))
                if index < max(SHOWN // len(self.data.data_sets), 1):
                    gray = (normalize_image(sample.image) + 1) / 2
                    rows.append([gray, sample.mask.astype(np.float32), output.probability[0, 0]])
        scores = scores_of_data_sets(self.data, counts)
        if self.data.val_backgrounds:
            frames = self.data.val_backgrounds.values()
            shown = tqdm(frames, desc="validation, frames without targets", leave=False)
            false_alarms_px = sum(int(self.pipeline(frame).mask.sum()) for frame in shown)
            scores["background_fa_per_million_px"] = 1e6 * false_alarms_px / sum(frame.size for frame in frames)
        return Validation(scores, rows)


def cover_crops(pipeline: IRSTDDetectionPipeline, resolution: int) -> None:
    """Make the default tiles at least as large as the crops of training; 0, no tiles, stays."""
    tile_size = pipeline.config.default_tile_size
    pipeline.register_to_config(default_tile_size=tile_size and max(tile_size, resolution))


def mine_hard_negatives(pipeline: IRSTDDetectionPipeline, data: TrainingData, settings: DetectorSettings) -> None:
    """Point the crops at the false alarms of a pretrained detector, on frames without targets and on training images.

    They are found once, before the first step, so that a resumed run sees the same crops.
    """
    if settings.hard_negative_probability:
        frames = list(data.train_backgrounds.values())
        found = _shared(frames, partial(false_alarms, pipeline), "hard negatives")
        data.crops.hard_negatives += [(index, pixel) for index, pixels in enumerate(found) for pixel in pixels]
        logger.info("%d hard negatives on %d frames", len(data.crops.hard_negatives), len(frames))
    if settings.hard_image_probability:
        for number, data_set in enumerate(data.data_sets):
            folder = IRSTDFolder(data_set.root)
            index_of = {stem: index for index, stem in enumerate(folder.stems)}
            indices = [index_of[stem] for stem in data_set.train_stems]
            found = _shared(indices, partial(_false_alarms_of, pipeline, folder), f"hard in {data_set.name}")
            data.crops.hard_images += [
                (number, index, pixel) for index, pixels in enumerate(found) for pixel in pixels
            ]
        logger.info("%d hard negatives on training images", len(data.crops.hard_images))


def _false_alarms_of(pipeline: IRSTDDetectionPipeline, folder: IRSTDFolder, index: int) -> list[np.ndarray]:
    sample = folder[index]
    return false_alarms(pipeline, sample.image, sample.mask)


def _shared(items: Sequence[Any], find: Callable[[Any], list[np.ndarray]], name: str) -> list[list[np.ndarray]]:
    """What `find` finds in each item; the processes of a training share them out."""
    state = PartialState(cpu=not torch.accelerator.is_available())  # as the trainer begins it
    own = tqdm(items[state.process_index :: state.num_processes], desc=name, leave=False)
    found = gather_object([find(item) for item in own])  # process by process
    order = [index for rank in range(state.num_processes) for index in range(rank, len(items), state.num_processes)]
    return [pixels for _, pixels in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def false_alarms(
    pipeline: IRSTDDetectionPipeline, image: np.ndarray, truth: np.ndarray | None = None
) -> list[np.ndarray]:
    """The pixels (row, column) at the centroids of what nearly is detected in an image, away from its targets."""
    mask = pipeline(image, threshold=MINING_THRESHOLD).mask[0, 0]
    found = [np.rint([one.y, one.x]).astype(int) for one in label_components(mask)[1]]
    if truth is None or not truth.any():
        return found
    distance_px = ndimage.distance_transform_edt(~truth)
    return [pixel for pixel in found if distance_px[tuple(pixel)] > MINING_MARGIN_PX]


def scores_of_data_sets(data: TrainingData, counts: Sequence[ImageCounts]) -> dict[str, float]:
    """The scores of all held-out images, whose counts these are, and of each of several data sets as SCORE/NAME."""
    scores = detection_scores(counts)
    if len(data.data_sets) > 1:
        remaining = iter(counts)
        for data_set in data.data_sets:
            of_set = detection_scores(list(islice(remaining, len(data_set.val_samples))))
            scores |= {f"{name}/{data_set.name}": value for name, value in of_set.items()}
    return scores

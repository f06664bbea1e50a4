"""What a session of the page holds: the frames of one input and what the detector says of them."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..data.images import invert_polarity
from ..data.readers.frame import BLACK_HOT
from ..pipelines.detection import IRSTDDetectionPipeline
from ..targets import Target, confidence_calibration, extract_targets
from .reading import Input

SEED = 0  # of a pipeline's call without a generator


@dataclass(frozen=True)
class Settings:
    """What the detector runs with; a threshold can change afterwards without another run."""

    num_inference_steps: int
    ensemble_size: int
    polarity: str


@dataclass(frozen=True, eq=False)
class DetectedFrame:
    """One frame and the detector's maps of it.

    Attributes:
        index: from 0.
        time_s: from the file's time stamps, None where there are none.
        gray: (H, W), as recorded.
        seen: (H, W), as the detector got it; mirrored gray values where the polarity is black-hot.
        probability: (H, W) float32 in [0, 1].
        uncertainty: (H, W) float32, None for an ensemble of one.
    """

    index: int
    time_s: float | None
    gray: np.ndarray
    seen: np.ndarray
    probability: np.ndarray
    uncertainty: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Detection:
    """One input, detected.

    Attributes:
        input: what was detected.
        settings: it was detected with.
        frames: those of the input, one for an image.
        seconds: that it took.
        folder: of the files to download; removed with this object.
    """

    input: Input
    settings: Settings
    frames: list[DetectedFrame]
    seconds: float
    folder: TemporaryDirectory

    @property
    def is_sequence(self) -> bool:
        return len(self.frames) > 1


def detect_frames(
    pipeline: IRSTDDetectionPipeline,
    read: Input,
    settings: Settings,
    progress: Callable[[int], Any],
) -> Iterator[DetectedFrame]:
    """Runs the pipeline on every frame, each in a call of its own and from the same seed.

    Args:
        progress: called with the number of frames done.
    """
    for done, frame in enumerate(read.frames, start=1):
        seen = invert_polarity(frame.image, read.input_range) if settings.polarity == BLACK_HOT else frame.image
        output = pipeline(
            seen,
            num_inference_steps=settings.num_inference_steps,
            ensemble_size=settings.ensemble_size,
            input_range=read.input_range,
        )
        uncertainty = None if output.uncertainty is None else output.uncertainty[0, 0]
        yield DetectedFrame(frame.index, frame.time_s, frame.image, seen, output.probability[0, 0], uncertainty)
        progress(done)


def targets_of(pipeline: IRSTDDetectionPipeline, frame: DetectedFrame, threshold: float) -> list[Target]:
    """The targets of one frame at a threshold, as the pipeline itself gives them."""
    mask = frame.probability > threshold  # (H, W)
    return extract_targets(frame.probability, mask, frame.seen, confidence_calibration(pipeline.config))


def record(
    detection: Detection, targets: list[list[Target]], model: str, version: str, threshold: float, budget: float | None
) -> dict[str, Any]:
    """What the JSON file holds, in the form of the command's detections.json."""
    settings = {**dataclasses.asdict(detection.settings), "threshold": threshold, "max_fa_per_million_px": budget}
    images = []
    for frame, of_frame in zip(detection.frames, targets, strict=True):
        height, width = frame.gray.shape
        place = {"frame": frame.index, "time_s": frame.time_s} if detection.is_sequence else {}
        rows = [dataclasses.asdict(target) for target in of_frame]
        images.append({"file": detection.input.name, **place, "width": width, "height": height, "targets": rows})
    return {"version": version, "model": model, "settings": {**settings, "seed": SEED}, "images": images}

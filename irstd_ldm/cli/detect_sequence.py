"""`irstd-ldm detect` for an input of several frames: one frame in memory at a time, results written as they come."""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.frames import FrameSource
from ..pipelines.target import Target
from ..tracking.parameters import TrackerParameters
from ..tracking.tracker import Tracker
from .annotated_video import AnnotatedVideo
from .frame_detector import FrameDetector, value_range
from .inputs import describe
from .sequence_files import FrameRecord, SequenceFiles


@dataclasses.dataclass(frozen=True)
class SequenceResult:
    """What a sequence came to; `num_tracks` is 0 without `--tracks`."""

    num_frames: int
    num_targets: int
    num_tracks: int


def detect_sequence(
    source: FrameSource,
    name: str,
    detector: FrameDetector,
    args: argparse.Namespace,
    folder: Path,
    header: Mapping[str, Any],
) -> SequenceResult:
    """Detects targets in every frame of a file and writes DIR/NAME.

    A frame's result is that of the frame as a single image with the same range of gray values. With `--resume` frames
    that an earlier run has written are not detected again; their tracks and pictures are made anew, so that the files
    are those of a run without interruption.

    Args:
        source: The file.
        name: Folder of its results in `folder`.
        detector: Of its frames.
        args: Of `detect`: `input_range`, `polarity`, `tracks`, `annotated_video`, `resume`.
        folder: DIR.
        header: Version, model and settings.

    Raises:
        CommandError: `--resume` of a run with other settings, or an extra is missing.
        ImageReadError: A frame cannot be read; what comes before it is written.
        OSError: The disk refuses; what is written stays.
        KeyboardInterrupt: As it came; what is written stays.
    """
    asked = args.input_range or "sequence"
    input_range = value_range(source, asked)
    tracker = Tracker() if args.tracks else None
    described = {
        **header,
        "file": str(source.path),
        "file_bytes": source.path.stat().st_size,
        "frames_per_second": source.frames_per_second,
        "input_range": asked,
        "value_range": input_range,
        "polarity": args.polarity,
        "tracker": dataclasses.asdict(TrackerParameters()) if args.tracks else None,
    }

    def detect(image: np.ndarray) -> list[Target]:
        return detector(image, input_range)[2]

    video = AnnotatedVideo(folder / name / "annotated.mp4", source.frames_per_second) if args.annotated_video else None
    files = SequenceFiles(folder / name, described, args.tracks, args.resume)
    complete, error = False, None
    with ExitStack() as at_end:
        if video is not None:
            at_end.callback(video.close)
        try:
            frames = _frames(source, files, detect, with_images=video is not None)
            for image, record in tqdm(frames, total=source.num_frames, unit="frame", disable=None):
                if tracker is not None:
                    positions = np.array([(target.x, target.y) for target in record.targets]).reshape(-1, 2)
                    record = dataclasses.replace(record, tracks=tracker.update(positions))
                files.add(record)
                if video is not None:
                    video.add(image, record.targets, record.tracks or (), input_range)
            complete = True
        except Exception as caught:
            error = describe(source.path, caught).error
            raise
        finally:
            files.finish(complete, error)
    return SequenceResult(files.num_frames, files.num_targets, files.num_tracks)


def _frames(
    source: FrameSource, files: SequenceFiles, detect: Callable[[np.ndarray], list[Target]], with_images: bool
) -> Iterator[tuple[np.ndarray | None, FrameRecord]]:
    """Every frame's record, and its image: those recorded earlier, then those detected now.

    The images of recorded frames are None without `with_images`.
    """
    frames = source.frames(0 if with_images else files.num_recorded)
    for record in files.recorded():
        yield (next(frames).image if with_images else None), record
    for frame in frames:
        yield frame.image, FrameRecord(frame.index, frame.time_s, detect(frame.image), None)

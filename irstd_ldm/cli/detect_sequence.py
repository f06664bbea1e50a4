"""`irstd-ldm detect` for an input of several frames: one frame in memory at a time, results written as they come."""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.readers import FrameSource
from ..data.readers.frame import Frame
from ..tracking import Tracker, TrackerParameters
from .annotated_video import AnnotatedVideo
from .frame_detector import FrameDetector
from .frame_pictures import FramePictures
from .inputs import describe
from .kinds import PICTURE_KINDS
from .sequence_files import ANNOTATED, FrameRecord, SequenceFiles


@dataclasses.dataclass(frozen=True)
class SequenceResult:
    """What a sequence came to.

    `num_tracks` is 0 without `--tracks`; a sequence that is not complete has an error or was interrupted.
    """

    num_frames: int
    num_targets: int
    num_tracks: int
    complete: bool
    error: str | None


def detect_sequence(
    source: FrameSource,
    name: str,
    detector: FrameDetector,
    args: argparse.Namespace,
    folder: Path,
    header: Mapping[str, Any],
    report: Callable[[SequenceResult], None],
) -> None:
    """Detects targets in every frame of a file and writes DIR/NAME.

    A frame's result is that of the frame as a single image with the same range of gray values. With `--resume` frames
    that an earlier run has written are not detected again; their tracks and pictures are made anew, so that the files
    are those of a run without interruption.

    Args:
        source: The file.
        name: Folder of its results in `folder`.
        detector: Of its frames.
        args: Of `detect`: `input_range`, `polarity`, `write`, `tracks`, `annotated_video`, `resume`.
        folder: DIR.
        header: Version, model and settings.
        report: Called with what is kept, whether all frames were done or not.

    Raises:
        CommandError: `--resume` of a run with other settings, pictures of other origin, or an extra is missing.
        ImageReadError: A frame cannot be read; what comes before it is written.
        OSError: The disk refuses; what is written stays.
        KeyboardInterrupt: As it came; what is written stays.
    """
    asked = args.input_range or "sequence"
    input_range = detector.value_range(source, asked)
    shown_range = detector.shown_range(input_range)
    tracker = Tracker() if args.tracks else None
    picture_kinds = [kind for kind in PICTURE_KINDS if kind in (args.write or ())]
    described = {
        **header,
        "file": str(source.path),
        "file_bytes": source.path.stat().st_size,
        "frames_per_second": source.frames_per_second,
        "input_range": asked,
        "value_range": input_range,
        "polarity": args.polarity,
        "tracker": dataclasses.asdict(TrackerParameters()) if args.tracks else None,
        "pictures": picture_kinds,
    }
    pictures = FramePictures(folder / name, picture_kinds, shown_range, args.resume)

    def detect(frame: Frame) -> FrameRecord:
        probability, mask, targets = detector(frame.image, input_range)
        pictures.add(frame, probability, mask, targets)  # before its line, so that `--resume` need not look for them
        return FrameRecord(frame.index, frame.time_s, targets, None)

    video = AnnotatedVideo(folder / name / ANNOTATED, source.frames_per_second) if args.annotated_video else None
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
                    video.add(image, record.targets, record.tracks or (), shown_range)
            complete = True
        except Exception as caught:
            error = describe(source.path, caught).error
            raise
        finally:
            report(SequenceResult(files.num_frames, files.num_targets, files.num_tracks, complete, error))
            files.finish(complete, error)


def _frames(
    source: FrameSource, files: SequenceFiles, detect: Callable[[Frame], FrameRecord], with_images: bool
) -> Iterator[tuple[np.ndarray | None, FrameRecord]]:
    """Every frame's record, and its image: those recorded earlier, then those detected now.

    The images of recorded frames are None without `with_images`.
    """
    frames = source.frames(0 if with_images else files.num_recorded)
    for record in files.recorded():
        yield (next(frames).image if with_images else None), record
    for frame in frames:
        yield frame.image, detect(frame)

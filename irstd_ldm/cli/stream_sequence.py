"""`irstd-ldm detect --output -` for an input of several frames: a line per frame, no files."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..data.frames import FrameSource
from .frame_detector import FrameDetector, value_range
from .inputs import InputFile


def stream_sequence(
    source: FrameSource,
    item: InputFile,
    detector: FrameDetector,
    args: argparse.Namespace,
    write: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Detects targets in every frame of a file, one in memory at a time.

    Args:
        detector: of its frames.
        args: of `detect`: `input_range`.
        write: called with each frame's record as soon as it is done.

    Returns:
        Counts of frames and targets.
    """
    input_range = value_range(source, args.input_range or "sequence")
    num_frames = num_targets = 0
    for frame in source.frames():
        _, _, targets = detector(frame.image, input_range)
        height, width = frame.image.shape
        write(
            {
                "file": str(item.path),
                "name": item.name,
                "frame": frame.index,
                "time_s": frame.time_s,
                "width": width,
                "height": height,
                "targets": [dataclasses.asdict(target) for target in targets],
            }
        )
        num_frames += 1
        num_targets += len(targets)
    return {"num_frames": num_frames, "num_targets": num_targets}

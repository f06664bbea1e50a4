"""`irstd-ldm detect --output -` for an input of several frames: a line per frame, no files."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from ..data.readers import FrameSource
from .frame_detector import FrameDetector
from .inputs import InputFile
from .sequence_files import FrameRecord


def stream_sequence(
    source: FrameSource,
    item: InputFile,
    detector: FrameDetector,
    args: argparse.Namespace,
    write: Callable[[Mapping[str, Any]], None],
) -> None:
    """Detects targets in every frame of a file, one in memory at a time.

    Args:
        detector: of its frames.
        args: of `detect`: `input_range`.
        write: called with each frame's record as soon as it is done.
    """
    input_range = detector.value_range(source, args.input_range or "sequence")
    for frame in source.frames():
        _, _, targets = detector(frame.image, input_range)
        height, width = frame.image.shape
        row = FrameRecord(frame.index, frame.time_s, targets, None).row()
        write({"file": str(item.path), "name": item.name, "width": width, "height": height, **row})

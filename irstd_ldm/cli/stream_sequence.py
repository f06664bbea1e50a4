"""`irstd-ldm detect --output -` for an input of several frames: a line per frame, no files."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..data.frames import FrameSource
from ..data.images import invert_polarity
from ..data.sequence_range import sequence_range
from .inputs import InputFile
from .model import predict


def stream_sequence(
    source: FrameSource,
    item: InputFile,
    pipeline: Any,
    args: argparse.Namespace,
    threshold: float,
    write: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Detects targets in every frame of a file, one in memory at a time.

    Args:
        args: of `detect`: `input_range`, `polarity`, and what `predict` takes.
        write: called with each frame's record as soon as it is done.

    Returns:
        Counts of frames and targets.
    """
    asked = args.input_range or "sequence"
    value_range = asked if isinstance(asked, tuple) else None
    if asked == "sequence":
        value_range = sequence_range(source)
    num_frames = num_targets = 0
    for frame in source.frames():
        seen = invert_polarity(frame.image, value_range) if args.polarity == "black-hot" else frame.image
        _, _, targets = predict(pipeline, seen, args, threshold, value_range)
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

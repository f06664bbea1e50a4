"""From an uploaded file, or a synthetic scene, to the frames that the detector gets."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..data.readers import is_sequence, open_frames
from ..data.readers.frame import Frame
from ..data.readers.sequence_range import sequence_range
from ..data.synthetic import SyntheticScene, synthetic_scene

EXAMPLES = {  # name: kind of scene, seed, bit depth
    "sky": ("sky", 2, 8),
    "sea": ("sea", 1, 8),
    "land": ("ground", 4, 8),
    "16-bit": ("horizon", 2, 16),
}


@dataclass(frozen=True)
class Limits:
    """What one input may hold, and what may be done with it; a longer video is read from its start up to them.

    Attributes:
        max_pixels: of all frames together.
        max_frames: of a video or of a stack.
        max_passes_px: pixels of all frames, times members, times steps: the work of one detection.
    """

    max_pixels: int = 2**24
    max_frames: int = 64
    max_passes_px: int = 2**27


@dataclass(frozen=True)
class Input:
    """The frames of one input.

    Attributes:
        left_out: why later frames of the file are missing; empty where none is.
        input_range: raw values that map to the networks' -1 and 1 in every frame; None = each frame's own.
    """

    name: str
    frames: list[Frame]
    left_out: str = ""
    input_range: tuple[float, float] | None = None


def read_input(path: Path, limits: Limits, normalization: str) -> Input:
    """The frames of an image, a stack or a video, from its start up to the limits.

    Args:
        normalization: of the detector, an entry of its config.

    Raises:
        ValueError, OSError: as `open_frames` and its frames do; a first frame beyond `limits.max_pixels`.
    """
    source = open_frames(path, max_pixels=limits.max_pixels)
    frames: list[Frame] = []
    num_pixels, left_out = 0, ""
    for frame in islice(source.frames(), limits.max_frames + 1):
        num_pixels += frame.image.size
        if len(frames) == limits.max_frames or num_pixels > limits.max_pixels:
            left_out = f"the first {len(frames)} frames; this page takes up to {limits.max_frames} frames"
            left_out += f" and {limits.max_pixels / 1e6:.0f} million pixels of a file"
            break
        frames.append(frame)
    if not frames:
        raise ValueError(f"{path} holds no frame")
    input_range = sequence_range(source, len(frames), normalization) if is_sequence(source) else None
    return Input(path.name, frames, left_out, input_range)


def example_scene(name: str) -> SyntheticScene:
    """One of `EXAMPLES`, 320x256 with three targets of SCR 6."""
    kind, seed, bit_depth = EXAMPLES[name]
    return synthetic_scene(256, 320, kind=kind, num_targets=3, scr=6.0, seed=seed, bit_depth=bit_depth)

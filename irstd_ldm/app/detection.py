"""The state of a session of the page: the frames of one input and the detector's answers."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..data.readers import is_sequence, open_frames
from ..data.readers.frame import Frame
from ..data.readers.sequence_range import sequence_range
from ..data.synthetic import synthetic_scene

# Name of a synthetic scene -> its kind, its seed, its bit depth.
EXAMPLES = {"sky": ("sky", 2, 8), "sea": ("sea", 1, 8), "land": ("ground", 4, 8), "16-bit": ("horizon", 2, 16)}


@dataclass(frozen=True)
class Limits:
    """Upper limits of one input and of the work on it; a longer video is read from its start up to them."""

    max_pixels: int = 2**24  # pixels of all frames together
    max_frames: int = 64
    max_passes_px: int = 2**27  # the work of one detection: pixels of all frames, times members, times steps


@dataclass(frozen=True)
class Input:
    """The frames of one input."""

    name: str
    frames: list[Frame]
    left_out: str = ""  # why later frames of the file are missing
    input_range: tuple[float, float] | None = None  # raw values that map to -1 and 1; None = each frame's own
    planted: tuple[tuple[float, float], ...] = ()  # (x, y) of the targets of a synthetic scene


@dataclass(frozen=True)
class Settings:
    """Arguments of a run of the detector; a threshold can change afterwards without another run."""

    num_inference_steps: int
    ensemble_size: int
    polarity: str


@dataclass(frozen=True, eq=False)
class DetectedFrame:
    """One frame and the detector's answer, maps of (H, W)."""

    frame: Frame  # the frame as recorded
    seen: np.ndarray  # the detector's input: mirrored gray values where the polarity is black-hot
    probability: np.ndarray  # float32 in [0, 1]
    uncertainty: np.ndarray | None  # float32, None for an ensemble of one


@dataclass(frozen=True, eq=False)
class Detection:
    """One input, detected; the folder of the files to download is removed with this object."""

    input: Input
    settings: Settings
    frames: list[DetectedFrame]
    seconds: float
    folder: TemporaryDirectory

    @property
    def is_sequence(self) -> bool:
        return len(self.frames) > 1


def read_input(path: Path, limits: Limits, normalization: str) -> Input:
    """The frames of an image, a stack or a video, from its start up to the limits."""
    source = open_frames(path, max_pixels=limits.max_pixels)
    frames: list[Frame] = []
    num_pixels, left_out = 0, ""
    for frame in islice(source.frames(), limits.max_frames + 1):
        num_pixels += frame.image.size
        if len(frames) == limits.max_frames or num_pixels > limits.max_pixels:
            left_out = f"the first {len(frames)} frames; this page takes up to {limits.max_frames} frames"
            left_out += f" and {limits.max_pixels / 1e6:.0f} million pixels of a file"
            break
        if frames and frame.image.shape != frames[0].image.shape:
            raise source.error(f"frame {frame.index} is of another size than the first one")
        frames.append(frame)
    if not frames:
        raise ValueError(f"{path} holds no frame")
    input_range = sequence_range(source, len(frames), normalization) if is_sequence(source) else None
    return Input(path.name, frames, left_out, input_range)


def example_input(name: str) -> Input:
    """One of `EXAMPLES`, 320x256 with three targets of SCR 6."""
    kind, seed, bit_depth = EXAMPLES[name]
    scene = synthetic_scene(256, 320, kind=kind, num_targets=3, scr=6.0, seed=seed, bit_depth=bit_depth)
    planted = tuple((target.x, target.y) for target in scene.targets)
    return Input(f"synthetic-{name}.png", [Frame(0, scene.image, None)], planted=planted)

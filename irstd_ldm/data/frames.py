"""Files of cameras as gray frames, one in memory at a time: stills, stacks of frames, raw frames and video."""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from .images import ImageReadError, to_gray
from .raw_format import MAX_PIXELS, RawFormat

STILL_SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".pgm")
STACK_SUFFIXES = (".tif", ".tiff", ".npy")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
FRAME_SUFFIXES = (*STILL_SUFFIXES, *STACK_SUFFIXES, *VIDEO_SUFFIXES)
RAW_SUFFIXES = (".raw", ".bin")


@dataclass(frozen=True)
class Frame:
    """One frame of a file."""

    index: int  # from 0
    image: np.ndarray  # (H, W) uint8, uint16, int32 or float32, as `to_gray` returns it
    time_s: float | None  # from the file's time stamps, None where there are none


class FrameSource(Protocol):
    """The frames of one file; a class per format.

    Attributes:
        path: the file.
        num_frames: None where the file does not tell.
        frames_per_second: None where the file does not tell.
    """

    @property
    def path(self) -> Path: ...
    @property
    def num_frames(self) -> int | None: ...
    @property
    def frames_per_second(self) -> float | None: ...

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The frames from `start` on, decoded one by one in constant memory.

        Raises:
            ImageReadError: a frame that cannot be read, is larger than the limit, or holds NaN or infinite values.
        """
        ...


def open_frames(path: str | PathLike[str], raw: RawFormat | None = None, max_pixels: int = MAX_PIXELS) -> FrameSource:
    """The frames of a file, by its suffix: NumPy (.npy), TIFF, PGM, video, else what Pillow reads.

    Nothing is decoded yet: the head of the file is read and checked. Orientation tags (EXIF, TIFF) are ignored: a
    frame is the grid of pixels that the file stores, and positions are given in it.

    Args:
        path: the file.
        raw: how to read a file whose suffix is not among `FRAME_SUFFIXES`; None = Pillow tells by its content.
        max_pixels: refuse larger frames, before they are decoded. Pillow's own `MAX_IMAGE_PIXELS` holds beside it.

    Raises:
        ImageReadError: a file that is no image of its kind, is empty or truncated, or has larger frames.
        ImportError: a format whose reader is not installed; the message names the extra.
        OSError: a path that is missing (FileNotFoundError), a folder, or not readable.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        from .video import VideoFrames

        return VideoFrames(path, max_pixels)
    if suffix in (".tif", ".tiff"):
        from .formats_tiff import TiffFrames

        return TiffFrames(path, max_pixels)
    if suffix == ".npy":
        from .formats_numpy import NumpyFrames

        return NumpyFrames(path, max_pixels)
    if suffix == ".pgm":
        from .formats_pgm import PGMFrames

        return PGMFrames(path, max_pixels)
    if raw is not None and suffix not in FRAME_SUFFIXES:
        from .formats_raw import RawFrames

        return RawFrames(path, raw, max_pixels)
    from .formats_pillow import PillowFrames

    return PillowFrames(path, max_pixels)


def is_sequence(source: FrameSource) -> bool:
    """Whether a file holds several frames, or is a video (of any length)."""
    return source.num_frames != 1 or source.path.suffix.lower() in VIDEO_SUFFIXES


def check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Refuses frames without pixels and frames of more than `max_pixels`.

    Raises:
        ImageReadError: such a frame.
    """
    if width < 1 or height < 1:
        raise ImageReadError(f"cannot read image '{path}': its frames of {width}x{height} have no pixel")
    if width * height > max_pixels:
        raise ImageReadError(
            f"cannot read image '{path}': {width}x{height} is more than the limit of {max_pixels / 1e6:g} megapixels"
        )


def gray_frame(path: Path, index: int, image: np.ndarray | Image.Image) -> Frame:
    """A decoded frame of a file without time stamps.

    Raises:
        ImageReadError: what `to_gray` refuses.
    """
    try:
        return Frame(index, to_gray(image), None)
    except (TypeError, ValueError) as error:
        raise ImageReadError(f"cannot read image '{path}', frame {index}: {error}") from error

"""The ground that all readers share: frames, errors, the size limit. It loads neither numpy nor Pillow."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from ..images import ImageInput

logger = logging.getLogger(__name__)
TIMEOUT_S = 10.0  # How long a live source may give no frame.
MAX_PIXELS = 100_000_000  # Larger frames are not read, unless the caller gives another limit.
# Errors of a file that cannot be done: unreadable, refused, too large for the memory (torch reports that as a
# RuntimeError), of a format whose reader is not installed.
IMAGE_ERRORS = (OSError, ValueError, TypeError, RuntimeError, MemoryError, ImportError)
SCHEMES = ("rtsp", "rtsps", "udp", "http", "https")  # Schemes of network addresses.
# Type of raw values -> numpy's name of the type that they are read as. The 12-bit ones are packed, two in three bytes:
# the most significant bits first, or the least (GenICam's Mono12p).
RAW_TYPES = {
    "uint8": "|u1",
    "uint16le": "<u2",
    "uint16be": ">u2",
    "int16le": "<i2",
    "int16be": ">i2",
    "int32le": "<i4",
    "int32be": ">i4",
    "float32le": "<f4",
    "float32be": ">f4",
    "uint12le": "<u2",
    "uint12be": "<u2",
}


class ImageReadError(ValueError):
    """A file that exists and cannot be read as a gray image; the message names the file in one line."""


class FrameError(ValueError):
    """Why one frame of a sequence has no result; the others have theirs.

    Attributes:
        index: The frame's number.
    """

    def __init__(self, index: int, message: str):
        super().__init__(message)
        self.index = index


@dataclass(frozen=True)
class RawFormat:
    """The layout of a file of raw frames, which it does not say itself: height x width values a frame, row by row."""

    width: int
    height: int
    value_type: str  #: one of `RAW_TYPES`
    offset: int = 0  #: bytes before the first frame

    @classmethod
    def parse(cls, text: str) -> "RawFormat":
        """The format that WIDTHxHEIGHT:TYPE[:offset=BYTES] names, such as 640x512:uint16le.

        Raises:
            ValueError: another form, or an unknown TYPE.
        """
        match = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8}):(\w+)(?::offset=(\d{1,18}))?", text)
        if match is None or match[3] not in RAW_TYPES:
            raise ValueError(
                f"`raw` must be WIDTHxHEIGHT:TYPE[:offset=BYTES] with a TYPE of {', '.join(RAW_TYPES)}, got {text!r}"
            )
        return cls(int(match[1]), int(match[2]), match[3], int(match[4] or 0))


@dataclass(frozen=True)
class Address:
    """A network address of video; as a text it is without user, password and query."""

    url: str

    @classmethod
    def parse(cls, text: str) -> "Address | None":
        """The address that a text is, None for one that begins with no scheme of `SCHEMES` or names a file."""
        return cls(text) if re.match(rf"({'|'.join(SCHEMES)})://.", text) and not Path(text).exists() else None

    def __str__(self) -> str:
        return re.sub(r"//[^/]*@", "//", self.url.partition("?")[0])

    @property
    def stem(self) -> str:
        """What the files that are written for it are called, such as 127_0_0_1_5000."""
        return re.sub(r"\W+", "_", str(self).partition("://")[2]).strip("_") or "stream"


@contextmanager
def enough_memory(path: Path | Address) -> Iterator[None]:
    """Names the file that asks for more memory than there is, whichever library was asked: an ImageReadError."""
    try:
        yield
    except MemoryError as error:
        raise ImageReadError(f"cannot read image '{path}': it asks for more memory than there is") from error


@dataclass(frozen=True)
class Frame:
    """One frame of a file or of a live source."""

    index: int  # Number in the source, from 0.
    image: "np.ndarray"  # (H, W) uint8, uint16, int32 or float32, as `to_gray` returns it
    time_s: float | None  # Time stamp in the source, None where it has none.


class FrameSource:
    """The frames of one source; a class per format derives from it."""

    path: Any  #: a Path; of a network address an Address
    num_frames: int | None  #: None where the file does not tell
    frames_per_second: float | None = None  #: None where the file does not tell
    can_seek = True  #: whether any frame can be the first without decoding those before it
    is_live = False  #: whether frames come when they come, once

    def stored(self, start: int = 0) -> "Iterator[np.ndarray | Image.Image]":
        """The decoded frames from `start` on before they become gray, of files without time stamps."""
        raise NotImplementedError

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The frames from `start` on, decoded one by one in constant memory.

        Raises:
            ImageReadError: a frame that cannot be read, is larger than the limit, or holds NaN or infinite values.
        """
        with enough_memory(self.path):
            for index, pixels in enumerate(self.stored(start), start):
                yield gray_frame(self.path, None if self.num_frames == 1 else index, self.measured(pixels))

    def measured(self, pixels: "np.ndarray | Image.Image") -> "np.ndarray | Image.Image":
        """A decoded frame, as a masked array where the file declares a value that stands for pixels without data."""
        return pixels

    def error(self, reason: str) -> ImageReadError:
        """The error of this file, to be raised."""
        return ImageReadError(f"cannot read image '{self.path}': {reason}")


def check_size(path: Path | Address, width: int, height: int, max_pixels: int) -> None:
    """Raises ImageReadError for frames without pixels and frames of more than `max_pixels`."""
    if width < 1 or height < 1:
        raise ImageReadError(f"cannot read image '{path}': its frames of {width}x{height} have no pixel")
    if width * height > max_pixels:
        raise ImageReadError(
            f"cannot read image '{path}': {width}x{height} is more than the limit of {max_pixels / 1e6:g} megapixels"
        )


def gray_frame(path: Path | Address, index: int | None, pixels: "np.ndarray | Image.Image") -> Frame:
    """A decoded frame without a time stamp as gray; an index of None is that of a file's only frame.

    Raises ImageReadError for pixels that `to_gray` refuses.
    """
    from ..images import is_coloured, to_gray

    try:
        if not index and is_coloured(pixels):
            _warn_of_colours(path)
        return Frame(index or 0, to_gray(pixels), None)
    except (TypeError, ValueError) as error:
        number = "" if index is None else f", frame {index}"
        raise ImageReadError(f"cannot read image '{path}'{number}: {error}") from error


@cache
def _warn_of_colours(path: Path) -> None:
    """Warns of a file once, however often it is read."""
    logger.warning("'%s' is in colours and becomes gray by their brightness, which is not heat", path)


def checked_frames(frames: "Iterable[ImageInput | Frame]") -> Iterator[Frame | FrameError]:
    """Frames of one size, gray; in the place of one that cannot be read or has another size its error.

    An error of reading after which nothing comes is raised.
    """
    from ..images import to_gray

    source, index, shape = iter(frames), -1, None
    broken: ImageReadError | None = None
    while True:
        index += 1
        try:
            frame = next(source)
        except StopIteration:
            if broken is not None:
                raise broken from None
            return
        except ImageReadError as error:
            if broken is not None:
                yield FrameError(index - 1, str(broken))
            broken = error
            continue
        if broken is not None:
            yield FrameError(index - 1, str(broken))
            broken = None
        try:
            frame = frame if isinstance(frame, Frame) else Frame(index, to_gray(frame), None)
            index, (height, width) = frame.index, frame.image.shape
            shape = shape or frame.image.shape
            if frame.image.shape != shape:
                raise ValueError(f"frame {index} has {width}x{height} pixels, the first one {shape[1]}x{shape[0]}")
            yield frame
        except IMAGE_ERRORS as error:
            yield FrameError(index, str(error))

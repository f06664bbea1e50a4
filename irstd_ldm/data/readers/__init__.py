"""Files of cameras as gray frames: the one table of the formats that the package reads, and what opens a file.

Importing it loads neither numpy nor Pillow, so that a command's help is quick; a reader is loaded with its first file.
"""

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .frame import MAX_PIXELS, Frame, FrameFile, FrameSource, ImageReadError, RawFormat

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__all__ = [
    "FRAME_SUFFIXES",
    "IMAGE_SUFFIXES",
    "RAW_SUFFIXES",
    "Frame",
    "FrameSource",
    "ImageReadError",
    "RawFormat",
    "is_sequence",
    "open_frames",
    "read_image",
    "read_stored",
]

STILL = ("still", "StillFrames")
PGM = ("pgm", "PGMFrames")
TIFF = ("tiff", "TiffFrames")
NPY = ("npy", "NumpyFrames")
VIDEO = ("video", "VideoFrames")
# Suffix of a file -> module of this package and its class; every list of suffixes is made from this one.
READERS = {
    ".png": STILL,
    ".bmp": STILL,
    ".jpg": STILL,
    ".jpeg": STILL,
    ".pgm": PGM,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".npy": NPY,
    **dict.fromkeys((".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".wmv", ".mpg", ".mpeg", ".ts", ".nut"), VIDEO),
}
FRAME_SUFFIXES = tuple(READERS)
IMAGE_SUFFIXES = tuple(suffix for suffix, reader in READERS.items() if reader is not VIDEO)
RAW_SUFFIXES = (".raw", ".bin", ".y16")
# First bytes of a file whose suffix says nothing, or names a still image -> its reader, where that is not Pillow.
MAGIC = {b"II*\0": TIFF, b"MM\0*": TIFF, b"II+\0": TIFF, b"MM\0+": TIFF, b"\x93NUM": NPY, b"P5": PGM, b"P2": PGM}


def open_frames(
    path: str | PathLike[str], raw: RawFormat | None = None, max_pixels: int = MAX_PIXELS, band: int | None = None
) -> FrameSource:
    """The frames of a file, by its suffix; still images and files of other suffixes by their first bytes.

    Nothing is decoded yet: the head of the file is read and checked. Orientation tags (EXIF, TIFF) are ignored: a
    frame is the grid of pixels that the file stores, and positions are given in it.

    Args:
        path: the file.
        raw: how to read a file whose suffix is not among `FRAME_SUFFIXES`; None = its content tells.
        max_pixels: refuse larger frames, before they are decoded. Pillow's own `MAX_IMAGE_PIXELS` holds beside it.
        band: the band, from 1, of a TIFF of several; None = gray, or gray made of colours where the tags say so.

    Raises:
        ImageReadError: a file that is no image of its kind, is empty or truncated, or has larger frames.
        ImportError: a format whose reader is not installed; the message names the extra.
        OSError: a path that is missing (FileNotFoundError), a folder, or not readable.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None and raw is not None:
        reader = ("raw", "RawFrames")
    elif reader in (None, STILL):
        with path.open("rb") as file:
            start = file.read(4)
        reader = MAGIC.get(start, MAGIC.get(start[:2], STILL))
    opened = getattr(import_module(f".{reader[0]}", __name__), reader[1])
    if band is not None and reader is not TIFF:
        raise ImageReadError(f"cannot read image '{path}': `band` is for TIFF files")
    options = {"raw": raw} if reader[0] == "raw" else {"band": band} if reader is TIFF else {}
    return opened(path, max_pixels, **options)


def read_image(path: str | PathLike[str]) -> "np.ndarray":
    """The one frame of a file, (H, W) of a type that `to_gray` returns.

    Raises:
        ImageReadError: as `open_frames`, and a file of several frames.
        ImportError, OSError: as `open_frames`.
    """
    source = _open_single(path)
    (frame,) = source.frames()
    return frame.image


def read_stored(path: str | PathLike[str]) -> "np.ndarray | Image.Image":
    """The one frame of a file before it becomes gray: an array (H, W) or (H, W, 3), or a decoded PIL image.

    Raises:
        ImageReadError, ImportError, OSError: as `read_image`.
    """
    source = _open_single(path)
    (stored,) = source.stored()
    return stored


def is_sequence(source: FrameSource) -> bool:
    """Whether a file holds several frames, or is a video (of any length)."""
    return source.num_frames != 1 or READERS.get(source.path.suffix.lower()) is VIDEO


def _open_single(path: str | PathLike[str]) -> FrameFile:
    source = open_frames(path)
    if is_sequence(source) or not isinstance(source, FrameFile):
        number = "several" if source.num_frames is None else source.num_frames
        raise ImageReadError(f"cannot read image '{path}': {number} frames, where one image is due")
    return source

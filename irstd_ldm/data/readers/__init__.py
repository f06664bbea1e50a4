"""Files of cameras as gray frames: the one table of the formats that the package reads, and what opens a file.

Importing it loads neither numpy nor Pillow, so that a command's help is quick; a reader is loaded with its first file.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .frame import MAX_PIXELS, TIMEOUT_S, Address, FrameSource, ImageReadError, RawFormat, enough_memory

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# Readers, each by the module of this package and the class in it.
STILL, TIFF, VIDEO = ("still", "StillFrames"), ("tiff", "TiffFrames"), ("video", "VideoFrames")
PGM, NPY, RAW = ("plain", "PGMFrames"), ("plain", "NumpyFrames"), ("plain", "RawFrames")
# Suffix of a file -> its reader; every list of suffixes is made from this one.
READERS = {
    **dict.fromkeys((".png", ".bmp", ".jpg", ".jpeg"), STILL),
    ".pgm": PGM,
    **dict.fromkeys((".tif", ".tiff"), TIFF),
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
    reader = READERS.get(path.suffix.lower(), STILL if raw is None else RAW)
    if reader is STILL:
        with path.open("rb") as file:
            start = file.read(4)
        reader = MAGIC.get(start, MAGIC.get(start[:2], STILL))
    if band is not None and reader is not TIFF:
        raise ImageReadError(f"cannot read image '{path}': `band` is for TIFF files")
    module, name = reader
    options = {"band": band} if reader is TIFF else {"raw": raw} if reader is RAW else {}
    with enough_memory(path):
        return getattr(import_module(f".{module}", __name__), name)(path, max_pixels, **options)


def open_source(
    source: str | PathLike | Address,
    max_pixels: int = MAX_PIXELS,
    options: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    open_file: Callable[..., FrameSource] = open_frames,
) -> FrameSource:
    """The frames of a file, a device or a network address; a text that names a file is no address.

    `options` and `timeout_s` are those of [`LiveFrames`], for addresses and devices; `open_file` opens files.

    Raises:
        ImageReadError, ImportError, OSError: see `open_frames` and [`LiveFrames`].
    """
    address = Address.parse(source) if isinstance(source, str) else None
    live = source if isinstance(source, Address) else address or Path(source)
    if isinstance(live, Address) or live.is_char_device():
        from .video import LiveFrames

        return LiveFrames(live, max_pixels, options, timeout_s)
    return open_file(live, max_pixels=max_pixels)


def read_image(path: str | PathLike[str]) -> "np.ndarray":
    """The one frame of a file, (H, W) of a type that `to_gray` returns.

    Raises:
        ImageReadError: see `open_frames`; also a file of several frames.
        ImportError, OSError: see `open_frames`.
    """
    (frame,) = _open_single(path).frames()
    return frame.image


def read_stored(path: str | PathLike[str]) -> "np.ndarray | Image.Image":
    """The one frame of a file before it becomes gray: an array (H, W) or (H, W, 3), or a decoded PIL image.

    Raises:
        ImageReadError, ImportError, OSError: see `read_image`.
    """
    (stored,) = _open_single(path).stored()
    return stored


def is_sequence(source: FrameSource) -> bool:
    """Whether a file holds several frames, or is a video (of any length)."""
    return source.num_frames != 1 or READERS.get(source.path.suffix.lower()) is VIDEO


def _open_single(path: str | PathLike[str]) -> FrameSource:
    source = open_frames(path)
    if is_sequence(source):
        raise source.error(f"{source.num_frames or 'several'} frames, where one image is due")
    return source

"""Still images that Pillow decodes: PNG, BMP, JPEG and others."""

import errno
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from ..images import PILLOW_FORMATS
from . import READERS
from .frame import FrameSource, ImageReadError, check_size

ANIMATED_FORMATS = ("GIF", "PNG", "WEBP")
CUT_BY_PILLOW = ("LA;16B", "RGB;16B", "RGBA;16B")  # Pillow's raw modes of PNG of which it keeps 8 bits
READ_BYTES = 2**16  # Compressed data is read in pieces of this size.
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> samples per pixel
# First column and row of a pass of interlaced pixels, and the steps across and down.
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
DECODING_ERRORS = (SyntaxError, ValueError, TypeError, LookupError, OverflowError, EOFError, struct.error, zlib.error)


@contextmanager
def quiet_readers() -> Iterator[None]:
    """Pillow and tifffile say nothing of a file beside the error, and Pillow's size limit is lifted for our own."""
    tifffile_log = logging.getLogger("tifffile")
    level, limit = tifffile_log.level, Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        tifffile_log.setLevel(logging.CRITICAL + 1)
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            tifffile_log.setLevel(level)
            Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def open_image(
    path: str | PathLike[str], formats: Sequence[str] = PILLOW_FORMATS, unread: str = "not an image or truncated"
) -> Iterator[Image.Image]:
    """The image with its head read and its pixels not; closed afterwards.

    What is no image, broken, or beyond Pillow's size limit is an ImageReadError of the reason `unread`, also in the
    block; the file system's errors stay OSErrors. `formats` are Pillow's names of those that it may be of.
    """
    try:
        # A path would let Pillow 12 map uncompressed TIFF pixels, with the sides that the orientation exchanges.
        with Path(path).open("rb") as file, Image.open(file, formats=tuple(formats)) as image:
            yield image
    except ImageReadError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"cannot read image '{path}': {error}") from error
    except (OSError, *DECODING_ERRORS) as error:
        # The file system's errors keep their type. Pillow's have no number, and a seek to where a damaged file points
        # has that of a wrong argument.
        if getattr(error, "errno", None) not in (None, errno.EINVAL):
            raise
        raise ImageReadError(f"cannot read image '{path}': {unread}") from error


class StillFrames(FrameSource):
    """The one frame of a still image, whatever the suffix of its file."""

    num_frames = 1

    def __init__(self, path: Path, max_pixels: int):
        self.path, self._max_pixels = path, max_pixels
        with self._open():
            pass

    def stored(self, start: int = 0) -> Iterator[Image.Image]:
        if start > 0:
            return
        with self._open() as image:
            image.load()
            if image.format == "PNG" and _may_be_cut(image) and not _holds_all_rows(self.path):
                raise self.error("truncated: its data ends before its last row")
            yield image

    @contextmanager
    def _open(self) -> Iterator[Image.Image]:
        unread = "not an image or truncated"
        if self.path.suffix.lower() not in READERS:
            unread += f", or of a format that is not read (as {', '.join(READERS)} are): save its frames as .npy or "
            unread += "TIFF, or say by `raw` (`--raw`) how they lie in the file"
        with open_image(self.path, unread=unread) as image:
            check_size(self.path, *image.size, self._max_pixels)
            if image.format in ANIMATED_FORMATS and getattr(image, "is_animated", False):
                raise self.error("an animation; store its frames as a video")
            if isinstance(image, PngImageFile) and image.tile[0].args in CUT_BY_PILLOW:
                kind = "gray with alpha" if image.tile[0].args == "LA;16B" else "colours"
                raise self.error(f"16-bit {kind}, of which Pillow keeps 8 bits; store gray without alpha, or a TIFF")
            if any(marker == "APP1" and data[:5] == b"FLIR\0" for marker, data in getattr(image, "applist", ())):
                raise self.error(
                    "a radiometric JPEG: its picture is made for the eye, the temperatures lie beside it in segments "
                    "of the camera's maker; export a 16-bit TIFF with the maker's program"
                )
            yield image


def _may_be_cut(image: Image.Image) -> bool:
    """Whether rows of a PNG may have been left at 0: the last one is, or rows came in several passes."""
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    return "interlace" in image.info or last_row.getbbox() is None


def _holds_all_rows(path: Path) -> bool:
    """Whether the data of a PNG reaches to its last row; Pillow leaves rows at 0 where it ends in good order before.

    Source: the PNG specification, third edition, W3C 2025, sections 7.2 and 8.1.
    """
    unpack, num_bytes, wanted = zlib.decompressobj(), 0, 1
    with path.open("rb") as file:
        file.seek(8)  # the signature
        while (head := file.read(8)) and num_bytes < wanted:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IHDR":
                wanted = _row_bytes(*struct.unpack(">IIBBxxB", file.read(13)))
            elif kind == b"IDAT":
                for start in range(0, length, READ_BYTES):
                    num_bytes += len(unpack.decompress(file.read(min(READ_BYTES, length - start))))
            else:
                file.seek(length, 1)
            file.seek(4, 1)  # the chunk's checksum
    return num_bytes >= wanted


def _row_bytes(width: int, height: int, depth: int, colour: int, interlace: int) -> int:
    """Bytes of all rows, each behind the number of its filter, of one pass or of interlaced seven."""
    passes = ADAM7 if interlace else [(0, 0, 1, 1)]
    sizes = [(-(-(width - left) // across), -(-(height - top) // down)) for left, top, across, down in passes]
    bits = depth * PNG_SAMPLES[colour]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)

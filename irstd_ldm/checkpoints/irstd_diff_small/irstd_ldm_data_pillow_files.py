"""Image files through Pillow: which kinds, what goes wrong with them, and the pixels as stored."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

# Not all that Pillow knows: for EPS, say, it starts another program.
FORMATS = ("PNG", "BMP", "TIFF", "JPEG", "PPM", "JPEG2000", "WEBP", "GIF")
ORIENTATION = 0x0112  # the tag of EXIF and TIFF
COMPRESSION, PHOTOMETRIC = 259, 262  # tags of TIFF
UNCOMPRESSED, MIN_IS_WHITE = 1, 0
UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

_DECODING_ERRORS = (
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
)


class ImageReadError(ValueError):
    """A file that exists and cannot be read as a gray image; the message names the file in one line."""


class NotKeptError(ValueError):
    """Values that Pillow would change; `open_image` adds the file's name."""


@contextmanager
def open_image(path: str | PathLike[str], formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """The image with its head read and its pixels not; closed afterwards.

    Raises:
        ImageReadError: a file that is no image, is broken, or is beyond Pillow's size limit; also from the block.
        OSError: a path that is missing (FileNotFoundError), a folder, or not readable.
    """
    try:
        # A file: of a path Pillow 12 maps uncompressed TIFF pixels, with the sides that the orientation exchanges.
        with Path(path).open("rb") as file, Image.open(file, formats=tuple(formats)) as image:
            yield image
    except ImageReadError:
        raise
    except (Image.DecompressionBombError, NotKeptError) as error:
        raise ImageReadError(f"cannot read image '{path}': {error}") from error
    except OSError as error:
        if error.errno is not None:  # the file system's errors keep their type; Pillow's own have no number
            raise
        raise ImageReadError(f"cannot read image '{path}': not an image or truncated") from error
    except _DECODING_ERRORS as error:
        raise ImageReadError(f"cannot read image '{path}': not an image or truncated") from error


def stored_pixels(image: Image.Image) -> Image.Image:
    """The decoded image as the grid of values that the file stores, whatever its tags say of showing them.

    Ignored are the orientation and, of a TIFF, that its smallest value is to be shown white.

    Raises:
        NotKeptError: an image of whose values Pillow would make others.
    """
    _check_kept(image)
    if image.format != "TIFF":  # of the others Pillow ignores the tag
        image.load()
        return image
    orientation, photometric = image.getexif().get(ORIENTATION), image.getexif().get(PHOTOMETRIC)
    image.load()
    if photometric == MIN_IS_WHITE and image.mode in ("1", "L"):  # of deeper ones Pillow inverts none
        image = ImageChops.invert(image)
    return image.transpose(UNDO_ORIENTATION[orientation]) if orientation in UNDO_ORIENTATION else image


def _check_kept(image: Image.Image) -> None:
    """Before the pixels are loaded (source: Pillow 12's tables of raw modes)."""
    if isinstance(image, PngImageFile) and image.tile[0].args == "LA;16B":
        raise NotKeptError("16-bit gray with alpha, of which Pillow keeps 8 bits; store it without alpha")
    if isinstance(image, TiffImageFile) and image.mode in ("I", "F"):
        tags = image.tag_v2
        if tags.prefix == b"MM" and tags.get(COMPRESSION, UNCOMPRESSED) != UNCOMPRESSED:
            raise NotKeptError(
                "compressed and big-endian, which Pillow reads in the wrong byte order; "
                "`irstd_ldm.data.frames.open_frames` reads it"
            )

"""Still images that Pillow decodes: PNG, BMP, JPEG and others."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from .frames import Frame, check_size, gray_frame
from .images import ImageReadError

# Never EPS and the like: Pillow starts other programs for them.
FORMATS = ("PNG", "BMP", "JPEG", "PPM", "TIFF", "JPEG2000", "WEBP", "GIF")
DECODING_ERRORS = (SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class PillowFrames:
    """The one frame of a still image; see `FrameSource`."""

    num_frames = 1
    frames_per_second = None

    def __init__(self, path: Path, max_pixels: int):
        self.path, self._max_pixels = path, max_pixels
        with self._open():
            pass

    def frames(self, start: int = 0) -> Iterator[Frame]:
        if start > 0:
            return
        with self._open() as image:
            with pillow_errors(self.path):
                image.load()
            frame = gray_frame(self.path, 0, image)
        yield frame

    @contextmanager
    def _open(self) -> Iterator[Image.Image]:
        with open_pillow(self.path) as image:
            check_size(self.path, *image.size, self._max_pixels)
            if image.format in ("GIF", "PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
                raise ImageReadError(f"cannot read image '{self.path}': an animation; store its frames as a video")
            yield image


@contextmanager
def open_pillow(path: Path) -> Iterator[Image.Image]:
    """The image with its head read, closed afterwards."""
    with pillow_errors(path):
        image = Image.open(path, formats=FORMATS)
    with image:
        yield image


@contextmanager
def pillow_errors(path: Path) -> Iterator[None]:
    """Turns what Pillow raises on a broken file into ImageReadError; the file system's errors keep their type."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"cannot read image '{path}': {error}") from error
    except OSError as error:
        if error.errno is not None:  # Pillow's own have no number
            raise
        raise ImageReadError(f"cannot read image '{path}': not an image or truncated") from error
    except DECODING_ERRORS as error:
        raise ImageReadError(f"cannot read image '{path}': not an image or truncated") from error

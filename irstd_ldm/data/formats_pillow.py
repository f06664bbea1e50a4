"""Still images that Pillow decodes: PNG, BMP, JPEG and others."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from .frames import Frame, check_size, gray_frame
from .images import ImageReadError
from .pillow_files import open_image, stored_pixels

ANIMATED_FORMATS = ("GIF", "PNG", "WEBP")


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
            frame = gray_frame(self.path, 0, stored_pixels(image))
        yield frame

    @contextmanager
    def _open(self) -> Iterator[Image.Image]:
        with open_image(self.path) as image:
            check_size(self.path, *image.size, self._max_pixels)
            if image.format in ANIMATED_FORMATS and getattr(image, "n_frames", 1) > 1:
                raise ImageReadError(f"cannot read image '{self.path}': an animation; store its frames as a video")
            yield image

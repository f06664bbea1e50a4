"""A command's own words for broken files, instead of those of the libraries that read them."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image


@contextmanager
def readers_are_quiet() -> Iterator[None]:
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

"""TIFF and BigTIFF: pages and tags by tifffile; pixels by Pillow where it keeps their values, else by tifffile."""

import logging
import lzma
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageChops

from ...extras import install_command
from .frame import FrameSource, ImageReadError, check_size
from .still import open_image

IMAGEJ_IMAGES = re.compile(r"ImageJ=.*^images=(\d{1,9})$", re.DOTALL | re.MULTILINE)
TIFFFILE_SHAPE = re.compile(r'\{"shape": \[([\d, ]+)\]')
REDUCED_OR_MASK = 1 | 4  # these bits of the subfile type mark an overview and a mask
PHOTOMETRIC, ORIENTATION, GDAL_NODATA = 262, 274, 42113  # numbers of tags
MIN_IS_WHITE = 0  # the photometric interpretation that shows the smallest value white
COLOUR_SAMPLES = {2: 3, 5: 4, 6: 3, 8: 3}  # samples of RGB, CMYK, YCbCr and Lab; all others have one
BY_PILLOW_ALONE = (3, 5, 6, 8)  # the colours that it converts: palettes, CMYK, YCbCr and Lab
ALPHA_ALONE = ((1,), (2,))  # extra samples that are one alpha channel
BYTES_PER_PIXEL = 8  # most decoded bytes of all bands together: four of 16 bits, or one of 64
DEFLATE_RATIO = 1032  # the most that a byte of deflate becomes; for pages together beyond the limit of one
MAX_TILE_PX = 2**24
MAX_TAGS, MAX_PAGES = 4096, 2**16
# (bits, sample format) of little-endian gray pages whose values Pillow keeps beside those of up to 8 bits; formats:
# 1 unsigned, 2 signed, 3 floating point.
BY_PILLOW = ((12, 1), (16, 1), (16, 2), (32, 2), (32, 3))
PILLOW_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946)
UNBOUNDED: dict[int, Callable[[], Any]] = {
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    34925: lzma.LZMADecompressor,
}
# Without a handler the remarks of tifffile go to the standard error.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class TiffFrames(FrameSource):
    """The pages of a TIFF file that are no overviews, masks or previews, all of one size.

    Args:
        path: the file.
        max_pixels: refuse larger pages, before they are decoded.
        band: the band, from 1, to read of pages of several; None = gray, or gray made of colours.
    """

    num_frames: int

    def __init__(self, path: Path, max_pixels: int, band: int | None = None):
        self.path, self._band, self._max_pixels = path, band, max_pixels
        with self._open() as tiff:
            tags: Any = tiff.pages
            num_pages = self._count_pages(tiff)
            # Pages that are neither overviews nor masks: index in the file, size in pixels, type, whether by Pillow.
            every = (tags[index] for index in range(num_pages))
            pages = [self._check(page) for page in every if not page.subfiletype & REDUCED_OR_MASK]
            if not pages:
                raise self.error("no page of full resolution")
            first = tags[pages[0][0]]
            num_images = self._described_images(tiff, first)
            self._no_data = float(first.nodata) if GDAL_NODATA in first.tags else None
            decoded_bytes = sum(math.prod(size) * kind[0] * kind[2] for _, size, kind, _ in pages) // 8
            if decoded_bytes > max(BYTES_PER_PIXEL * max_pixels, DEFLATE_RATIO * tiff.filehandle.size):
                raise self.error(f"pages of {decoded_bytes / 1e9:.1f} GB in so small a file are more than the limit")
        if num_images > num_pages:
            raise self.error(
                f"{num_images} images in fewer pages, as ImageJ and tifffile may write them; store a page for each"
            )
        _, (width, height), first_kind, _ = pages[0]
        # A smaller page of another type is a picture for the eye beside the frames.
        pages = [page for page in pages if page[2] == first_kind or math.prod(page[1]) >= width * height]
        for number, (_, size, _, _) in enumerate(pages):
            if size != (width, height):
                raise self.error(
                    f"page {number} is {size[0]}x{size[1]}, the first is {width}x{height}; they must be equal"
                )
        self._indices = [page[0] for page in pages]
        self._by_pillow = all(page[3] for page in pages)
        self.num_frames = len(pages)

    def stored(self, start: int = 0) -> Iterator[np.ndarray | Image.Image]:
        by_pillow = open_image(self.path, ("TIFF",)) if self._by_pillow else nullcontext()
        with self._open() as tiff, by_pillow as image:
            for index in self._indices[start:]:
                page: Any = tiff.pages[index]
                self._check_decoded(tiff, page)
                if image is None:
                    yield self._by_tifffile(page)
                else:
                    image.seek(index)
                    yield _as_stored(image)

    def measured(self, pixels: np.ndarray | Image.Image) -> np.ndarray | Image.Image:
        values = np.asarray(pixels)
        if self._no_data is None or values.ndim != 2 or getattr(pixels, "mode", None) == "P":
            return pixels
        missing = np.isnan(values) if math.isnan(self._no_data) else values == self._no_data
        return np.ma.array(values, mask=missing)

    @contextmanager
    def _open(self) -> Iterator[tifffile.TiffFile]:
        try:
            with tifffile.TiffFile(self.path) as tiff:
                yield tiff
        except (ImageReadError, MemoryError):
            raise
        except Exception as error:  # tifffile raises whatever a broken tag leads to, a seek to nowhere among it
            if isinstance(error, OSError) and error.filename is not None:
                raise
            raise self.error("not a TIFF file, truncated or broken") from error

    def _count_pages(self, tiff: tifffile.TiffFile) -> int:
        """Follows the chain of pages to its end, which tifffile ends at the first that is broken."""
        form, file, offset = tiff.tiff, tiff.filehandle, tiff.pages.first.offset
        visited: set[int] = set()
        while offset:
            if offset in visited:
                raise ValueError
            visited.add(offset)
            file.seek(offset)
            (num_tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            if num_tags > MAX_TAGS or len(visited) > MAX_PAGES:
                raise ValueError
            file.seek(num_tags * form.tagsize, 1)
            (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
        return len(visited)

    def _check(self, page: tifffile.TiffPage) -> tuple[int, tuple[int, int], tuple[int, ...], bool]:
        """The page's index, size, type and whether Pillow decodes it; refused are too many bytes and unknown bands."""
        check_size(self.path, page.imagewidth, page.imagelength, self._max_pixels)
        size, samples, bits = (page.imagewidth, page.imagelength), page.samplesperpixel, page.bitspersample
        if page.imagedepth > 1:
            raise self.error(f"a volume of {page.imagedepth} planes; store a page for each")
        if isinstance(bits, tuple) or math.prod(size) * samples * bits > 8 * BYTES_PER_PIXEL * self._max_pixels:
            raise self.error(f"{samples} bands of {bits} bits are more than the limit, or not of one depth")
        if page.is_tiled and page.tilewidth * page.tilelength * page.tiledepth > max(MAX_TILE_PX, self._max_pixels):
            raise self.error(f"tiles of {page.tilewidth}x{page.tilelength} are more than the limit")
        if self._band is not None and not 1 <= self._band <= samples:
            raise self.error(f"`band` must be 1 to {samples}, got {self._band}")
        others = samples - COLOUR_SAMPLES.get(page.photometric, 1)
        if self._band is None and others > 0 and tuple(page.extrasamples) not in ALPHA_ALONE:
            raise self.error(
                f"{samples} bands, and no tag says which one is the image; choose it by `band` (`--band N`, from 1)"
            )
        return page.index, size, (bits, page.sampleformat, samples), self._is_kept_by_pillow(page)

    def _is_kept_by_pillow(self, page: tifffile.TiffPage) -> bool:
        if self._band is not None or page.compression not in PILLOW_COMPRESSIONS:
            return False
        if page.bitspersample <= 8:
            return page.sampleformat == 1 and not (page.parent.byteorder == ">" and page.parent.is_bigtiff)
        is_kept = (page.bitspersample, page.sampleformat) in BY_PILLOW and page.samplesperpixel == 1
        return is_kept and page.parent.byteorder == "<" and page.photometric != MIN_IS_WHITE

    def _described_images(self, tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
        """Images that ImageJ or tifffile say lie contiguous after a page's, where the file is large enough for them.

        Other programs keep the description of the stack that they took an image from.
        """
        num_values = page.imagewidth * page.imagelength * page.samplesperpixel
        if imagej := IMAGEJ_IMAGES.match(page.description):
            number = float(imagej[1])
        elif shaped := TIFFFILE_SHAPE.match(page.description):
            number = math.prod(float(side) for side in shaped[1].split(",") if side.strip()) // num_values
        else:
            return 1
        return int(number) if number * num_values * page.bitspersample <= 8 * tiff.filehandle.size else 1

    def _check_decoded(self, tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> None:
        """Refuses strips or tiles that are missing, overlap, or hold more than their part of the page."""
        sizes, file = page.databytecounts, tiff.filehandle
        if len(page.dataoffsets) != math.prod(page.chunked) or len(sizes) != len(page.dataoffsets) or 0 in sizes:
            raise self.error("truncated or broken: strips or tiles are missing")
        if sum(sizes) > file.size:
            raise self.error("broken: its strips or tiles overlap or lie beyond its end")
        if self._by_pillow or page.compression not in UNBOUNDED:
            return
        most = math.prod(page.chunks) * -(-page.bitspersample // 8)
        for offset, size in zip(page.dataoffsets, sizes, strict=True):
            file.seek(offset)
            if len(UNBOUNDED[page.compression]().decompress(file.read(size), most + 1)) > most:
                raise self.error("broken: a strip or tile holds more than its part of the page")

    def _by_tifffile(self, page: tifffile.TiffPage) -> np.ndarray:
        """(H, W), or (H, W, 3) of colours; other numbers of samples stay for `to_gray` to refuse."""
        if page.photometric in BY_PILLOW_ALONE:
            raise self.error(
                "a palette, CMYK, YCbCr or Lab in a byte order, depth or compression that Pillow does not read"
            )
        try:
            pixels = page.asarray()
        except Exception as error:  # tifffile raises whatever a broken tag leads to
            extra = f": {install_command('video')}" if "'imagecodecs' package" in str(error) else ""
            raise self.error(f"{error}{extra}") from error
        if page.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.ndim == 3:
            if self._band is not None:
                return pixels[..., self._band - 1]
            pixels = pixels[..., : COLOUR_SAMPLES.get(page.photometric, 1)]
        return pixels


def _as_stored(image: Image.Image) -> Image.Image:
    """The decoded page as the grid of values that the file stores, whatever its tags say of showing them.

    Ignored are the orientation, and that the smallest value is to be shown white.
    """
    tags = image.getexif()
    orientation, photometric = tags.get(ORIENTATION), tags.get(PHOTOMETRIC)
    image.load()
    if photometric == MIN_IS_WHITE and image.mode in ("1", "L"):  # Pillow inverts no deeper ones
        image = ImageChops.invert(image)
    return image.transpose(UNDO_ORIENTATION[orientation]) if orientation in UNDO_ORIENTATION else image

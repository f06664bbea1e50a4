"""TIFF and BigTIFF: pages and tags by tifffile; pixels by Pillow where it keeps their values, else by tifffile."""

import logging
import lzma
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageChops

from .frame import FrameFile, ImageReadError, check_size
from .still import open_image

IMAGEJ_IMAGES = re.compile(r"ImageJ=.*^images=(\d{1,9})$", re.DOTALL | re.MULTILINE)
TIFFFILE_SHAPE = re.compile(r'\{"shape": \[([\d, ]+)\]')
REDUCED_OR_MASK = 1 | 4  # bits of the subfile type
PHOTOMETRIC, ORIENTATION = 262, 274  # tags
MIN_IS_WHITE = 0  # a photometric interpretation
COLOUR_SAMPLES = {2: 3, 5: 4, 6: 3, 8: 3}  # samples of RGB, CMYK, YCbCr and Lab; all others have one
BY_PILLOW_ALONE = (3, 5, 6, 8)  # the colours that it converts: palettes, CMYK, YCbCr and Lab
ALPHA_ALONE = ((1,), (2,))  # kinds of extra samples
BYTES_PER_PIXEL = 8  # decoded, of all bands together, at most: four of 16 bits, or one of 64
MAX_TILE_PX = 2**24
MAX_TAGS = 4096
# What Pillow decodes with the values that are stored: (bits, sample format) of gray pages; formats are 1 unsigned,
# 2 signed, 3 floating point.
BY_PILLOW = ((12, 1), (16, 1), (16, 2), (32, 2), (32, 3))
BY_PILLOW_MIN_WHITE = ((16, 1), (32, 3))  # little-endian ones; it knows no others
BY_PILLOW_COMPRESSED_BIG_ENDIAN = ((16, 1),)  # it exchanges the bytes of the others once more
PILLOW_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946)
UNBOUNDED: dict[int, Callable[[], Any]] = {
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    34925: lzma.LZMADecompressor,
}
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else its remarks go to the standard error
UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class _Page:
    """A frame's page."""

    index: int  # in the file, from 0
    size: str  # WIDTHxHEIGHT
    num_pixels: int
    kind: tuple[int, ...]  # bits, sample format and number of samples
    by_pillow: bool


class TiffFrames(FrameFile):
    """The pages of a TIFF file that are no overviews, masks or previews, all of one size.

    Args:
        path: the file.
        max_pixels: refuse larger pages, before they are decoded.
        band: the band, from 1, to read of pages of several; None = gray, or gray made of colours.
    """

    def __init__(self, path: Path, max_pixels: int, band: int | None = None):
        self.path, self._band, self._max_pixels = path, band, max_pixels
        with self._open() as tiff:
            num_pages = self._count_pages(tiff)
            tags: Any = tiff.pages
            pages = [page for index in range(num_pages) if (page := self._page(tags[index])) is not None]
            if not pages:
                raise self.error("no page of full resolution")
            num_images = self._described_images(tiff, tags[pages[0].index])
        if num_images > num_pages:
            raise self.error(
                f"{num_images} images in fewer pages, as ImageJ and tifffile may write them; store a page for each"
            )
        first = pages[0]
        # A smaller page of another type is a picture for the eye beside the frames.
        pages = [page for page in pages if page.kind == first.kind or page.num_pixels >= first.num_pixels]
        for index, page in enumerate(pages):
            if page.size != first.size:
                raise self.error(f"page {index} is {page.size}, the first is {first.size}; they must be equal")
        self._indices = [page.index for page in pages]
        self._by_pillow = all(page.by_pillow for page in pages)
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

    @contextmanager
    def _open(self) -> Iterator[tifffile.TiffFile]:
        try:
            with tifffile.TiffFile(self.path) as tiff:
                yield tiff
        except (ImageReadError, OSError, MemoryError):
            raise
        except Exception as error:  # tifffile raises whatever a broken tag leads to
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
            if num_tags > MAX_TAGS:
                raise ValueError
            file.seek(num_tags * form.tagsize, 1)
            (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
        return len(visited)

    def _page(self, page: tifffile.TiffPage) -> _Page | None:
        """The page with its tags checked; None where it is an overview or a mask of another."""
        if page.subfiletype & REDUCED_OR_MASK:
            return None
        check_size(self.path, page.imagewidth, page.imagelength, self._max_pixels)
        samples, bits, num_pixels = page.samplesperpixel, page.bitspersample, page.imagewidth * page.imagelength
        size = f"{page.imagewidth}x{page.imagelength}"
        if page.imagedepth > 1:
            raise self.error(f"a volume of {page.imagedepth} planes; store a page for each")
        if isinstance(bits, tuple) or num_pixels * samples * bits > 8 * BYTES_PER_PIXEL * self._max_pixels:
            raise self.error(f"{size} of {samples} bands of {bits} bits is more than the limit, or not of one depth")
        if page.is_tiled and page.tilewidth * page.tilelength * page.tiledepth > max(MAX_TILE_PX, self._max_pixels):
            raise self.error(f"tiles of {page.tilewidth}x{page.tilelength} are more than the limit")
        if self._band is not None and not 1 <= self._band <= samples:
            raise self.error(f"`band` must be 1 to {samples}, got {self._band}")
        others = samples - COLOUR_SAMPLES.get(page.photometric, 1)
        if self._band is None and others and tuple(page.extrasamples) not in ALPHA_ALONE:
            raise self.error(
                f"{samples} bands, and no tag says which one is the image; choose it by `band` (`--band N`, from 1)"
            )
        kind = (bits, int(page.sampleformat), samples)
        return _Page(page.index, size, num_pixels, kind, self._is_kept_by_pillow(page))

    def _is_kept_by_pillow(self, page: tifffile.TiffPage) -> bool:
        bits, sample_format, is_big_endian = page.bitspersample, page.sampleformat, page.parent.byteorder == ">"
        if self._band is not None or page.compression not in PILLOW_COMPRESSIONS:
            return False
        if is_big_endian and page.parent.is_bigtiff:  # Pillow 12 does not recognise it
            return False
        if bits <= 8:
            return sample_format == 1
        kept: tuple[tuple[int, int], ...] = BY_PILLOW
        if page.photometric == MIN_IS_WHITE:
            kept = () if is_big_endian else BY_PILLOW_MIN_WHITE
        elif is_big_endian and page.compression != 1:
            kept = BY_PILLOW_COMPRESSED_BIG_ENDIAN
        return page.samplesperpixel == 1 and (bits, sample_format) in kept

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
            extra = ": pip install irstd-ldm[video]" if "'imagecodecs' package" in str(error) else ""
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

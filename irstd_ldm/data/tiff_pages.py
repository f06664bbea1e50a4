"""The pages of a TIFF or BigTIFF file from its tags, without decoding (source: TIFF 6.0, section 2)."""

import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .pillow_files import COMPRESSION, MIN_IS_WHITE, PHOTOMETRIC, UNCOMPRESSED, ImageReadError

SUBFILE_TYPE, WIDTH, HEIGHT, BITS_PER_SAMPLE, SAMPLE_FORMAT = 254, 256, 257, 258, 339
DESCRIPTION, ASCII = 270, 2
READ_TAGS = (SUBFILE_TYPE, WIDTH, HEIGHT, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT)
IMAGEJ_IMAGES = re.compile(rb"ImageJ=.*^images=(\d+)", re.DOTALL | re.MULTILINE)
TIFFFILE_SHAPE = re.compile(rb'\{"shape": \[([\d, ]+)\]')
REDUCED_OR_MASK = 1 | 4  # bits of the subfile type
VALUE_TYPES = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG, LONG8
MAX_SAMPLES = 1024
MAX_DESCRIPTION = 2**20  # bytes


@dataclass(frozen=True)
class TiffPage:
    """One page."""

    place: int  # in the file, from 0
    width: int
    height: int
    bits: tuple[int, ...]  # per sample
    sample_formats: tuple[int, ...]  # per sample: 1 unsigned, 2 signed, 3 floating point
    is_big_endian: bool
    is_compressed: bool
    is_min_white: bool  # the smallest value is to be shown white
    is_full: bool  # neither an overview nor a mask of another page
    num_images: int  # that ImageJ or tifffile say lie in the file, contiguous after this page's; 1 without their word


def read_tiff_pages(path: Path) -> list[TiffPage]:
    """All pages of a file, in its order.

    Raises:
        ImageReadError: no TIFF file, or a truncated or broken one.
        OSError: as `open`.
    """
    with path.open("rb") as file:
        try:
            return _Walk(file).pages()
        except (struct.error, KeyError, ValueError) as error:
            raise ImageReadError(f"cannot read image '{path}': not a TIFF file, truncated or broken") from error


class _Walk:
    """From page to page by the offsets in the file."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._order = {b"II": "<", b"MM": ">"}[file.read(2)]
        (version,) = self._unpack("H")
        # Formats of an offset, of a page's number of tags, and of one tag: identity, type, count, value or its offset
        self._offset, self._number, self._tag = {42: ("I", "H", "HHI4s"), 43: ("Q", "Q", "HHQ8s")}[version]
        if version == 43 and self._unpack("HH") != (8, 0):  # bytes of an offset, padding
            raise ValueError

    def pages(self) -> list[TiffPage]:
        pages: list[TiffPage] = []
        visited: set[int] = set()
        (offset,) = self._unpack(self._offset)
        while offset:
            if offset in visited:
                raise ValueError
            visited.add(offset)
            self._file.seek(offset)
            pages.append(self._page(len(pages)))
            (offset,) = self._unpack(self._offset)
        return pages

    def _page(self, place: int) -> TiffPage:
        (number,) = self._unpack(self._number)
        if number * struct.calcsize("<" + self._tag) > self._size:
            raise ValueError
        tags = [self._unpack(self._tag) for _ in range(number)]
        end = self._file.tell()
        values = {tag: self._values(*entry) for tag, *entry in tags if tag in READ_TAGS}
        described = b"".join(self._text(*entry) for tag, *entry in tags if tag == DESCRIPTION)
        self._file.seek(end)
        width, height, bits = values[WIDTH][0], values[HEIGHT][0], values.get(BITS_PER_SAMPLE, (1,))
        return TiffPage(
            place=place,
            width=width,
            height=height,
            bits=bits,
            sample_formats=values.get(SAMPLE_FORMAT, (1,)),
            is_big_endian=self._order == ">",
            is_compressed=values.get(COMPRESSION, (UNCOMPRESSED,))[0] != UNCOMPRESSED,
            is_min_white=values.get(PHOTOMETRIC, (None,))[0] == MIN_IS_WHITE,
            is_full=not values.get(SUBFILE_TYPE, (0,))[0] & REDUCED_OR_MASK,
            num_images=self._num_images(described, width * height * len(bits), max(bits)),
        )

    def _num_images(self, description: bytes, num_values: int, bits_per_value: int) -> int:
        """Images of a page's `num_values` that ImageJ or tifffile tell of, where the file is large enough for them.

        Other programs keep the description of the stack that they took an image from.
        """
        if imagej := IMAGEJ_IMAGES.match(description):
            number = int(imagej[1])
        elif shaped := TIFFFILE_SHAPE.match(description):
            number = math.prod(map(int, shaped[1].split(b","))) // max(num_values, 1)
        else:
            return 1
        return number if number * num_values * bits_per_value <= 8 * self._size else 1

    def _text(self, value_type: int, count: int, stored: bytes) -> bytes:
        if value_type != ASCII or count > MAX_DESCRIPTION:
            return b""
        if count > len(stored):
            self._file.seek(struct.unpack(self._order + self._offset, stored)[0])
            stored = self._file.read(count)
        return stored[:count]

    def _values(self, value_type: int, count: int, stored: bytes) -> tuple[int, ...]:
        if not 0 < count <= MAX_SAMPLES:
            raise ValueError
        form = f"{self._order}{count}{VALUE_TYPES[value_type]}"
        size = struct.calcsize(form)
        if size > len(stored):
            self._file.seek(struct.unpack(self._order + self._offset, stored)[0])
            stored = self._file.read(size)
        return struct.unpack(form, stored[:size])

    def _unpack(self, form: str) -> tuple:
        form = self._order + form
        return struct.unpack(form, self._file.read(struct.calcsize(form)))

"""TIFF and BigTIFF: the pages of full resolution, by Pillow where it keeps their values, else by tifffile."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from .frames import Frame, check_size, gray_frame
from .images import ImageReadError
from .pillow_files import open_image, stored_pixels
from .tiff_pages import TiffPage, read_tiff_pages

BIG_ENDIAN_BIGTIFF = b"MM\0+"  # Pillow 12 does not recognise it
# (bits, sample format) of gray pages whose values Pillow keeps; formats: 1 unsigned, 2 signed, 3 floating point
KEPT_BY_PILLOW = ((12, 1), (16, 1), (16, 2), (32, 2), (32, 3))
KEPT_MIN_WHITE = ((16, 1), (32, 3))  # little-endian ones; it knows no others
KEPT_COMPRESSED_BIG_ENDIAN = ((16, 1),)  # of the others it exchanges the bytes once more


class TiffFrames:
    """The pages of a TIFF file that are no overviews and no masks, all of one size; see `FrameSource`."""

    frames_per_second = None

    def __init__(self, path: Path, max_pixels: int):
        self.path = path
        all_pages = read_tiff_pages(path)
        pages = [page for page in all_pages if page.is_full]
        if not pages:
            raise ImageReadError(f"cannot read image '{path}': no page of full resolution")
        first = pages[0]
        if first.num_images > len(all_pages):
            raise ImageReadError(
                f"cannot read image '{path}': {first.num_images} images in fewer pages, as ImageJ and "
                "tifffile may write them; store a page for each"
            )
        for index, page in enumerate(pages):
            check_size(path, page.width, page.height, max_pixels)
            if (page.width, page.height) != (first.width, first.height):
                raise ImageReadError(
                    f"cannot read image '{path}': page {index} is {page.width}x{page.height}, the first is "
                    f"{first.width}x{first.height}; they must be equal"
                )
        self._places = [page.place for page in pages]
        with path.open("rb") as file:
            self._by_pillow = file.read(4) != BIG_ENDIAN_BIGTIFF and all(_is_kept_by_pillow(page) for page in pages)
        self.num_frames = len(pages)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        read = self._read_by_pillow if self._by_pillow else self._read_by_tifffile
        return read(start)

    def _read_by_pillow(self, start: int) -> Iterator[Frame]:
        with open_image(self.path, ("TIFF",)) as image:
            for index in range(start, self.num_frames):
                image.seek(self._places[index])
                yield gray_frame(self.path, index, stored_pixels(image))

    def _read_by_tifffile(self, start: int) -> Iterator[Frame]:
        try:
            import tifffile
        except ImportError as error:
            raise ImageReadError(
                f"cannot read image '{self.path}': a TIFF of this kind needs tifffile: pip install irstd-ldm[video]"
            ) from error
        try:
            with tifffile.TiffFile(self.path) as tiff:
                for index in range(start, self.num_frames):
                    page = tiff.pages[self._places[index]]
                    yield gray_frame(self.path, index, _without_alpha(page.asarray(), page.axes))
        except ImageReadError:
            raise
        except Exception as error:  # tifffile raises whatever a broken tag leads to
            extra = ": pip install irstd-ldm[video]" if "'imagecodecs' package" in str(error) else ""
            raise ImageReadError(f"cannot read image '{self.path}': {error}{extra}") from error


def _is_kept_by_pillow(page: TiffPage) -> bool:
    if max(page.bits) <= 8:
        return set(page.sample_formats) == {1}
    kept: Iterable[tuple[int, int]] = KEPT_BY_PILLOW
    if page.is_min_white:
        kept = () if page.is_big_endian else KEPT_MIN_WHITE
    elif page.is_big_endian and page.is_compressed:
        kept = KEPT_COMPRESSED_BIG_ENDIAN
    return len(page.bits) == 1 and (page.bits[0], page.sample_formats[0]) in kept


def _without_alpha(pixels: np.ndarray, axes: str) -> np.ndarray:
    """(H, W) or (H, W, 3) of a page as tifffile returns it; other numbers of samples stay for the reader to refuse."""
    if axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    return pixels[..., :3] if pixels.ndim == 3 and pixels.shape[-1] == 4 else pixels

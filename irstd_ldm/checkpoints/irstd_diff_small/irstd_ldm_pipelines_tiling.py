"""Overlapping tiles, their padding and their blending."""

from collections.abc import Callable

import numpy as np

PAD_MULTIPLE = 32
MIN_PADDED_SIZE = 128


def pad_image(image: np.ndarray) -> np.ndarray:
    """Continue (H, W) by reflection at the bottom and right to (PH, PW), multiples of 32 and at least 128."""
    padding = [(0, max(-(-n // PAD_MULTIPLE) * PAD_MULTIPLE, MIN_PADDED_SIZE) - n) for n in image.shape]
    return np.pad(image, padding, mode="reflect")


def tile_starts(extent: int, tile_size: int, tile_overlap: int) -> list[int]:
    """First pixels of the tiles that cover `extent` pixels; the last tile ends at the border."""
    if extent <= tile_size:
        return [0]
    return [*range(0, extent - tile_size, tile_size - tile_overlap), extent - tile_size]


def tile_windows(shape: tuple[int, ...], tile_size: int, tile_overlap: int) -> list[tuple[slice, slice]]:
    """Windows (rows, columns) that cover an image of shape (H, W), in raster order; all are of one size."""
    height, width = shape
    return [
        (slice(top, min(top + tile_size, height)), slice(left, min(left + tile_size, width)))
        for top in tile_starts(height, tile_size, tile_overlap)
        for left in tile_starts(width, tile_size, tile_overlap)
    ]


def ramp_weight(extent: int, tile_overlap: int) -> np.ndarray:
    """Weight of a tile's rows or columns (extent,) float32: a linear ramp over the overlap, 1 inside."""
    distance = np.minimum(np.arange(extent) + 1, np.arange(extent, 0, -1))
    return np.minimum(distance / max(tile_overlap, 1), 1).astype(np.float32)


def blend_weight(height: int, width: int, tile_overlap: int) -> np.ndarray:
    """Weight of a tile's pixels (height, width) float32: the product of its rows' and its columns' weights."""
    return np.outer(ramp_weight(height, tile_overlap), ramp_weight(width, tile_overlap))


class TileBlender:
    """Blends one image's tiles, added in the order of `tile_windows`, and holds no more than one row of tiles.

    Args:
        shape: (H, W) of the image.
        windows: Its tiles, from `tile_windows`.
        tile_overlap: Length of the ramp in pixels.
        ensemble_size: E.
        finish: Called with rows that no later tile touches, a slice from top to bottom, and their members
            (E, rows, W) float32, which are valid during the call.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        windows: list[tuple[slice, slice]],
        tile_overlap: int,
        ensemble_size: int,
        finish: Callable[[slice, np.ndarray], None],
    ):
        rows, columns = windows[0]
        ramp = tile_overlap if len(windows) > 1 else 0
        self._tops = sorted({window[0].start for window in windows})
        lefts = sorted({window[1].start for window in windows})
        self._blend = blend_weight(rows.stop, columns.stop, ramp)
        self._row_weight = _total_weight(shape[0], self._tops, rows.stop, ramp)  # (H,)
        self._column_weight = _total_weight(shape[1], lefts, columns.stop, ramp)  # (W,)
        self._strip = np.zeros((ensemble_size, rows.stop, shape[1]), np.float32)  # (E, rows of a tile, W)
        self._last_left, self._height, self._finish = lefts[-1], shape[0], finish

    def add(self, window: tuple[slice, slice], members: np.ndarray) -> None:
        """Adds the members (E, rows, columns) of the next tile."""
        self._strip[:, :, window[1]] += members * self._blend
        if window[1].start == self._last_left:
            self._end_row(window[0].start)

    def _end_row(self, top: int) -> None:
        place = self._tops.index(top) + 1
        end = self._tops[place] if place < len(self._tops) else self._height
        done = self._strip[:, : end - top]
        done /= np.outer(self._row_weight[top:end], self._column_weight)
        np.minimum(done, 1, out=done)  # members of 1 may add up to 1 and some rounding
        self._finish(slice(top, end), done)
        kept = self._strip.shape[1] - (end - top)
        self._strip[:, :kept] = self._strip[:, end - top :].copy()
        self._strip[:, kept:] = 0


def _total_weight(extent: int, starts: list[int], tile_extent: int, ramp: int) -> np.ndarray:
    """Sum of all tiles' weights along one axis (extent,) float32."""
    total = np.zeros(extent, np.float32)
    for start in starts:
        total[start : start + tile_extent] += ramp_weight(tile_extent, ramp)
    return total

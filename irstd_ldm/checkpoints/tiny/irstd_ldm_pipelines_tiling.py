"""Overlapping tiles and their blending."""

import numpy as np


def tile_starts(extent: int, tile_size: int, tile_overlap: int) -> list[int]:
    """First pixels of the tiles that cover `extent` pixels; the last tile ends at the border."""
    if extent <= tile_size:
        return [0]
    return [*range(0, extent - tile_size, tile_size - tile_overlap), extent - tile_size]


def tile_windows(shape: tuple[int, ...], tile_size: int, tile_overlap: int) -> list[tuple[slice, slice]]:
    """Windows (rows, columns) that cover an image of shape (H, W), in raster order."""
    height, width = shape
    return [
        (slice(top, min(top + tile_size, height)), slice(left, min(left + tile_size, width)))
        for top in tile_starts(height, tile_size, tile_overlap)
        for left in tile_starts(width, tile_size, tile_overlap)
    ]


def blend_weight(height: int, width: int, tile_overlap: int) -> np.ndarray:
    """Weight of a tile's pixels (height, width) float32: a linear ramp over the overlap, 1 inside."""
    rows, columns = (np.minimum(np.arange(n) + 1, np.arange(n, 0, -1)) for n in (height, width))
    ramp = max(tile_overlap, 1)
    return np.outer(np.minimum(rows / ramp, 1), np.minimum(columns / ramp, 1)).astype(np.float32)

"""From images of any size to fused probabilities: tiles cut, normalised and padded as they run, then blended."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from . irstd_ldm_data_images import gray_range, scale_gray
from . irstd_ldm_pipelines_fusion import MemberFusion
from . irstd_ldm_pipelines_tiling import TileBlender, pad_image, tile_windows


class _Tile(NamedTuple):
    place: int  # of its image
    window: tuple[slice, slice]
    padded: np.ndarray  # (PH, PW)


def predict_in_tiles(
    grays: Sequence[np.ndarray],
    predict: Callable[[np.ndarray, list[int]], np.ndarray],
    *,
    ensemble_size: int,
    ensemble_fusion: str,
    tile_size: int,
    tile_overlap: int,
    input_range: tuple[float, float] | None,
    normalization: str,
    batch_size: int,
) -> list[MemberFusion]:
    """The probability and the uncertainty of each image.

    Beyond the images and these results it holds `batch_size` tiles of each padded size and, per image in work, one row
    of tiles.

    Args:
        grays: N of (H, W), as `to_gray` returns them.
        predict: From tiles (B, PH, PW) float32, about [-1, 1], and the places of their images in `grays` to the
            members' probabilities (B, E, PH, PW) float32.
        ensemble_size: E.
        ensemble_fusion: One of `FUSIONS`.
        tile_size: Side of the tiles of images with a longer side, in pixels; 0 = no tiles.
        tile_overlap: Overlap of neighbouring tiles in pixels.
        input_range: Raw values that map to -1 and 1; None = those of the normalisation.
        normalization: One of `NORMALIZATIONS`, see `gray_range`.
        batch_size: Tiles of one padded size that run together, also those of different images.
    """
    fused: list[MemberFusion] = []
    blenders: list[TileBlender] = []
    waiting: dict[tuple[int, ...], list[_Tile]] = {}  # by padded size

    def run(tiles: list[_Tile]) -> None:
        members = predict(np.stack([tile.padded for tile in tiles]), [tile.place for tile in tiles])
        for tile, of_tile in zip(tiles, members, strict=True):
            height, width = (axis.stop - axis.start for axis in tile.window)
            blenders[tile.place].add(tile.window, of_tile[:, :height, :width])
        tiles.clear()

    for place, gray in enumerate(grays):
        windows = tile_windows(gray.shape, tile_size or max(gray.shape), tile_overlap)
        fused.append(MemberFusion(gray.shape, ensemble_size, ensemble_fusion))
        blenders.append(TileBlender(gray.shape, windows, tile_overlap, ensemble_size, fused[place].add))
        value_range = gray_range(gray, input_range, normalization)
        for window in windows:
            padded = pad_image(scale_gray(gray[window], value_range))
            tiles = waiting.setdefault(padded.shape, [])
            tiles.append(_Tile(place, window, padded))
            if len(tiles) == batch_size:
                run(tiles)
    for tiles in waiting.values():
        if tiles:
            run(tiles)
    for fusion in fused:
        fusion.finish()
    return fused

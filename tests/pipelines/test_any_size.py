"""Tiles of real weights: no seam, targets on a border once, memory that does not grow with the number of tiles."""

import tracemalloc

import numpy as np
import pytest

from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.data.images import scale_gray
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.tiling import SamplingSettings, TileBlender, iterate_tiles, tile_spans

TILE, OVERLAP = 256, 32


@pytest.fixture(scope="module")
def bundled_pipeline() -> IRSTDLatentPipeline:
    return IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())


def border_jumps(
    pipeline: IRSTDLatentPipeline, seed: int, overlap: int, tile_size: int = TILE
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Jumps of the probability across borders of tiles of `TILE` and elsewhere, (lines, pixels along them), by axis.

    A `tile_size` of 0 gives those of the whole image at the same places.
    """
    image = synthetic_scene(512, 640, num_targets=6, seed=seed).image
    probability = pipeline(image, tile_size=tile_size, tile_overlap=overlap).probability[0, 0]
    both = []
    for axis in (0, 1):
        jumps = np.moveaxis(np.abs(np.diff(probability, axis=axis)), axis, 0)
        spans = tile_spans(probability.shape[axis], TILE, overlap)
        borders = sorted({*(span.start - 1 for span in spans[1:]), *(span.stop - 1 for span in spans[:-1])})
        both.append((jumps[borders], np.delete(jumps, borders, axis=0)))
    return both


@pytest.mark.parametrize(("seed", "overlap", "seam"), ((2, OVERLAP, False), (0, OVERLAP, False), (0, 0, True)))
def test_a_border_adds_no_jump(bundled_pipeline, seed, overlap, seam):
    """What jumps more on a border than in the whole image is within the 99.9th percentile of the jumps elsewhere."""
    tiled, whole = (border_jumps(bundled_pipeline, seed, overlap, tile_size) for tile_size in (TILE, 0))
    added = [
        (across - of_whole).max() > np.percentile(elsewhere, 99.9)
        for (across, elsewhere), (of_whole, _) in zip(tiled, whole, strict=True)
    ]
    assert any(added) == seam


@pytest.mark.parametrize(("overlap", "seam"), ((OVERLAP, False), (0, True)))
def test_borders_jump_as_often_as_any_other_line(bundled_pipeline, overlap, seam):
    """Over scenes with whatever lies on a border: 1 % of the jumps elsewhere exceed their 99th percentile."""
    both = [pair for seed in range(20) for pair in border_jumps(bundled_pipeline, seed, overlap)]
    across, elsewhere = (np.concatenate([jumps.ravel() for jumps in side]) for side in zip(*both, strict=True))
    share = (across > np.percentile(elsewhere, 99)).mean()
    assert (share > 0.015) == seam


def test_structure_on_a_border_has_no_seam(bundled_pipeline):
    """A response lies on the lower border of the first tiles; a seam is a line whose jumps are high on average."""
    for across, elsewhere in border_jumps(bundled_pipeline, seed=0, overlap=OVERLAP):
        assert across.mean(axis=1).max() <= np.percentile(elsewhere.mean(axis=1), 99.9)


@pytest.mark.parametrize("x", (223, 224, 240, 255, 256))  # the second tile begins at 224, the first ends at 255
def test_a_target_on_a_tile_border_appears_once(bundled_pipeline, x):
    rows, columns = np.mgrid[:256, :480]
    rng = np.random.default_rng(0)
    image = 60 + 3 * rng.standard_normal((256, 480)) + 120 * np.exp(-((rows - 128) ** 2 + (columns - x) ** 2) / 4.5)
    output = bundled_pipeline(image.round().astype(np.uint8), tile_size=TILE, tile_overlap=OVERLAP)
    (target,) = output.targets[0]
    assert abs(target.x - x) < 0.5 and abs(target.y - 128) < 0.5


def extra_bytes(rows: int, ensemble_size: int = 1) -> int:
    """Most memory beyond image and results, for an image of so many rows of three tiles of 128 pixels."""
    gray = np.random.default_rng(0).integers(0, 2**14, (128 * rows, 384), np.uint16)
    settings = SamplingSettings(
        num_inference_steps=1,
        ensemble_size=ensemble_size,
        tile_size=128,
        tile_overlap=0,
        batch_size=2,
        ensemble_fusion="mean",
    )
    tracemalloc.start()
    blender = TileBlender(gray.shape, settings)
    for tiles in iterate_tiles([gray], settings):
        scaled = np.stack([scale_gray(tile.pixels, (0, 2**14)) for tile in tiles])
        members = np.full((len(tiles), ensemble_size, *scaled.shape[1:]), 0.5, np.float32)
        for tile, of_tile in zip(tiles, members, strict=True):
            blender.add(tile.window, of_tile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (blender.probability == 0.5).all()
    return peak - sum(result.nbytes for result in (blender.probability, blender.uncertainty) if result is not None)


@pytest.mark.parametrize("ensemble_size", (1, 3))
def test_memory_is_that_of_the_results_and_a_row_of_tiles(ensemble_size):
    few, many = extra_bytes(4, ensemble_size), extra_bytes(32, ensemble_size)
    assert many < 1.2 * few  # the images differ by a factor of 8

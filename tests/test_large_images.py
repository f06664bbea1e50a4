"""The scripts behind docs/large_images.md."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from irstd_ldm.data.folder import Sample
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.evaluation.counts import count_image

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_image_is_compared_with_itself_in_tiles(tiny_pipeline):
    tiled = load("tiled")
    scene = synthetic_scene(150, 200, num_targets=1, scr=8.0, seed=0)
    sample = Sample("scene", scene.image, scene.mask)
    whole, in_tiles, between = tiled.compare(tiny_pipeline, sample, 128, 32)
    masks = [tiny_pipeline(scene.image, tile_size=size, tile_overlap=32).mask[0, 0] for size in (0, 128)]
    assert whole == count_image(masks[0], scene.mask) and in_tiles == count_image(masks[1], scene.mask)
    assert between == count_image(masks[1], masks[0])
    same = tiled.compare(tiny_pipeline, sample, 256, 32)
    assert same[0] == same[1] and same[2].hits == same[2].predicted
    assert tiled.row_of("one", [same]).endswith(f"| {same[2].hits} (100.0 %) |")


@pytest.mark.parametrize("side", (1024, 2048, 1500))
def test_the_large_scene_repeats_without_a_seam(side):
    image = load("large_images").large_scene(side)
    assert image.shape == (side, side) and image.dtype == np.uint16
    np.testing.assert_array_equal(image[:512, :512], image[1023:511:-1, :512])
    np.testing.assert_array_equal(image[:, 511], image[:, 512])

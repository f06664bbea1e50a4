"""The scripts behind docs/large_images.md."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.data.folder import Sample
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.evaluation.counts import count_image
from irstd_ldm.targets import label_components

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    """Scripts import each other as they do when they are run."""
    monkeypatch.syspath_prepend(SCRIPTS)


def test_an_image_is_compared_with_itself_in_tiles(tiny_pipeline):
    tiled = load("tiled")
    scene = synthetic_scene(150, 200, num_targets=1, scr=8.0, seed=0)
    sample = Sample("scene", scene.image, scene.mask)
    whole, in_tiles, between, both, either = tiled.compare(tiny_pipeline, sample, 128, 32)
    masks = [tiny_pipeline(scene.image, tile_size=size, tile_overlap=32).mask[0, 0] for size in (0, 128)]
    assert whole == count_image(masks[0], scene.mask) and in_tiles == count_image(masks[1], scene.mask)
    assert between == count_image(masks[1], masks[0])
    assert both <= min(whole.hits, in_tiles.hits) <= max(whole.hits, in_tiles.hits) <= either
    same = tiled.compare(tiny_pipeline, sample, 256, 32)
    assert same[0] == same[1] and same[2].hits == same[2].predicted
    assert f"{same[2].hits} (100.0 %)" in tiled.row_of("one", [same])


def test_a_labelled_target_is_found_both_ways_or_one():
    tiled = load("tiled")
    mask = synthetic_scene(150, 200, num_targets=3, scr=8.0, seed=0).mask
    labels = label_components(mask)[0]
    compared = tiled.compare_masks((labels > 0) & (labels < 3), labels > 1, mask)
    assert (compared.hits_of_both, compared.hits_of_either) == (1, 3)
    assert tiled.row_of("one", [compared])[-2:] == ("1 (50.0 %)", "1 of 3 (33.3 %)")


@pytest.mark.parametrize(
    ("megapixels", "most_mib"), [(4, 128), pytest.param(64, 2048, marks=pytest.mark.slow)], ids=["4", "64"]
)
def test_memory_of_a_large_16_bit_image(tmp_path, megapixels, most_mib):
    side = round((megapixels * 2**20) ** 0.5)
    Image.fromarray(load("large_images").large_scene(side)).save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, str(SCRIPTS / "large_images.py"), "--measure", str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["targets"] >= megapixels
    assert measured["mib"] < most_mib


@pytest.mark.parametrize("side", (1024, 2048, 1500))
def test_the_large_scene_repeats_without_a_seam(side):
    image = load("large_images").large_scene(side)
    assert image.shape == (side, side) and image.dtype == np.uint16
    np.testing.assert_array_equal(image[:512, :512], image[1023:511:-1, :512])
    np.testing.assert_array_equal(image[:, 511], image[:, 512])

"""What one does with an output: pictures, JSON, files, boxes of other tools."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.results import draw_overlay, yolo_labels
from irstd_ldm.runtime.detector import ExportedDetectorRunner
from irstd_ldm.targets import Target

SCENES = [synthetic_scene(128, 160, num_targets=2, seed=seed) for seed in (1, 2)]
FRAMES = np.stack([scene.image for scene in SCENES])  # (2, 128, 160)


@pytest.fixture(scope="module")
def detector():
    return ExportedDetectorRunner()


@pytest.fixture(scope="module")
def output(detector):
    return detector(FRAMES)


def test_a_plot_is_the_image_with_its_targets(output):
    assert len(output.targets) == 2 and output.targets[1]
    expected = draw_overlay(FRAMES[1], output.targets[1])
    np.testing.assert_array_equal(np.asarray(output.plot(1)), np.asarray(expected))


def test_json_is_strict_and_holds_every_field(output):
    found = json.loads(output.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert [[Target(**target) for target in of_image] for of_image in found] == output.targets


def test_a_ratio_that_is_not_defined_is_none():
    target = Target(1.5, 2.5, 1, 2, 2, 1, 2, 0.9, 0.8, 0.95, math.nan)
    assert target.to_dict()["scr"] is None and target.to_dict()["x"] == 1.5
    assert json.loads(json.dumps(target.to_dict()))["area_px"] == 2
    assert target.xyxy == (1, 2, 3, 3)


def test_saving_writes_masks_overlays_and_targets(output, tmp_path):
    output.save(tmp_path / "new" / "folder", names=["a", "b"])
    folder = tmp_path / "new" / "folder"
    assert json.loads((folder / "targets.json").read_text())["b"] == json.loads(output.to_json())[1]
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "masks" / "b.png")) == 255, output.mask[1, 0])
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "overlays" / "a.png")), np.asarray(output.plot()))
    output.save(folder)
    assert sorted(path.name for path in (folder / "masks").iterdir()) == ["0.png", "1.png", "a.png", "b.png"]
    for names in (["a"], ["a", "a"], ["a", "b", "b"]):
        with pytest.raises(ValueError, match="`names` must be 2 different ones"):
            output.save(folder, names)
    for name in ("../x", "a/b", "..", "", "a\\b"):
        with pytest.raises(ValueError, match="`names` must be names of files without folders"):
            output.save(folder, ["a", name])


def test_a_pipeline_has_them_too(tiny_pipeline, tmp_path):
    output = tiny_pipeline(FRAMES, output_type="pt", mask_threshold=0.55)
    output.save(tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "masks" / "1.png")) == 255, output.mask[1, 0])
    assert len(json.loads(output.to_json())) == 2


def test_yolo_boxes_are_shares_of_the_image():
    target = Target(20, 30, left=16, top=24, width=8, height=12, area_px=90, score=1, confidence=0.75, peak=1, scr=9)
    assert yolo_labels([target, target], (120, 160)) == 2 * "0 0.125 0.25 0.05 0.1 0.75\n"
    assert yolo_labels([], (120, 160)) == ""


@pytest.mark.parametrize(
    "batch",
    [
        FRAMES,
        FRAMES[:, None],
        FRAMES[..., None],
        torch.from_numpy(FRAMES)[:, None],
        np.repeat(FRAMES[..., None], 3, axis=3),
        torch.from_numpy(FRAMES)[:, None].expand(2, 3, 128, 160),
        (frame for frame in FRAMES),
        list(FRAMES),
    ],
    ids=["NHW", "N1HW", "NHW1", "tensor N1HW", "NHW3", "tensor N3HW", "generator", "list"],
)
def test_a_batch_is_its_images(detector, output, batch):
    found = detector(batch)
    assert found.targets == output.targets and found.probability.shape == (2, 1, 128, 160)


def test_an_array_with_alpha_is_no_batch(detector):
    with pytest.raises(ValueError, match="`image` must have the shape"):
        detector(np.zeros((128, 160, 4), np.uint8))
    with pytest.raises(ValueError, match="at least one image"):
        detector(iter(()))


def test_a_seed_is_that_of_a_generator(tiny_pipeline):
    by_seed = tiny_pipeline(FRAMES, ensemble_size=2, seed=7).probability
    by_generator = tiny_pipeline(FRAMES, ensemble_size=2, generator=torch.Generator().manual_seed(7)).probability
    np.testing.assert_array_equal(by_seed, by_generator)
    assert (by_seed != tiny_pipeline(FRAMES, ensemble_size=2, seed=8).probability).any()
    with pytest.raises(ValueError, match="`generator` and `seed` exclude each other"):
        tiny_pipeline(FRAMES, seed=1, generator=torch.Generator())


def test_targets_of_black_hot_frames_are_dark(detector, tiny_pipeline):
    bright = detector(FRAMES)
    dark = detector(255 - FRAMES, polarity="black-hot")
    np.testing.assert_array_equal(dark.probability, bright.probability)
    np.testing.assert_array_equal(dark.images[0], 255 - FRAMES[0])
    expected = tiny_pipeline(FRAMES).probability
    np.testing.assert_array_equal(tiny_pipeline(255 - FRAMES, polarity="black-hot").probability, expected)
    with pytest.raises(ValueError, match="`polarity` must be one of white-hot, black-hot, got 'hot'"):
        detector(FRAMES, polarity="hot")

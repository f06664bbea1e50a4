import numpy as np
import pytest
import torch
from PIL import Image

from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.data.folder import IRSTDFolder
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.training import train_latent
from irstd_ldm.training.detectors import cover_crops, false_alarms, mine_hard_negatives
from irstd_ldm.training.train_latent import LatentSettings, LatentTask
from irstd_ldm.training.train_pixel import PixelSettings, PixelTask
from irstd_ldm.training.training_data import read_training_data


@pytest.fixture
def frames(tmp_path):
    """Two frames called empty; the second holds what any detector takes for a target."""
    folder = tmp_path / "frames" / "images"
    folder.mkdir(parents=True)
    scene = synthetic_scene(160, 160, num_targets=1, scr=12.0, seed=3)
    Image.fromarray(np.full((160, 160), 60, np.uint8)).save(folder / "a.png")
    Image.fromarray(scene.image).save(folder / "b.png")
    return folder.parent, scene.targets[0]


def settings(few_steps, frames, **changes):
    values = few_steps | {"output_dir": "unused", "background_dir": str(frames), "hard_negative_probability": 1.0}
    return LatentSettings(**values | {"pretrained_model_name_or_path": str(bundled_checkpoint())} | changes)


def test_false_alarms_become_crops(few_steps, frames):
    root, target = frames
    only_backgrounds = dict(target_probability=0, image_probability=0, background_probability=1, implant_probability=0)
    chosen = settings(few_steps, root, **only_backgrounds)
    data = read_training_data(chosen, chosen)
    mine_hard_negatives(IRSTDLatentPipeline.from_pretrained(bundled_checkpoint()), data, chosen)
    near = [n for n, pixel in data.crops.hard_negatives if np.hypot(*(pixel - (target.y, target.x))) < 3]
    assert near == [1] and all(number == 1 for number, _ in data.crops.hard_negatives)
    assert not any(data.crops[k]["mask"].any() for k in range(5))


def test_targets_of_a_labelled_image_are_no_false_alarms():
    pipeline = IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())
    scene = synthetic_scene(160, 160, num_targets=1, scr=12.0, seed=3)
    (pixel,) = false_alarms(pipeline, scene.image, np.zeros_like(scene.mask))
    assert np.hypot(*(pixel - (scene.targets[0].y, scene.targets[0].x))) < 3
    assert false_alarms(pipeline, scene.image, scene.mask) == []


def test_training_images_are_searched(few_steps, frames, tiny_pipeline):
    chosen = settings(few_steps, frames[0], hard_negative_probability=0.0, hard_image_probability=1.0)
    data = read_training_data(chosen, chosen)
    (data_set,) = data.data_sets
    mine_hard_negatives(tiny_pipeline, data, chosen)  # untrained, it marks all pixels: a component around the middle
    folder = IRSTDFolder(data_set.root)
    masks = [folder[folder.stems.index(stem)].mask for stem in data_set.train_stems]
    middles = [(np.array(mask.shape) - 1) / 2 for mask in masks]
    far = [np.abs(np.argwhere(mask) - middle).max(1).min() > 9 for mask, middle in zip(masks, middles, strict=True)]
    assert [index for _, index, _ in data.crops.hard_images] == np.flatnonzero(far).tolist() != []
    for number, index, pixel in data.crops.hard_images:
        assert number == 0 and np.abs(pixel - middles[index]).max() < 1
    assert data.crops.hard_negatives == []


def test_nothing_is_searched_for_where_nothing_is_asked_for(few_steps, frames):
    chosen = settings(few_steps, frames[0], hard_negative_probability=0.0)
    data = read_training_data(chosen, chosen)
    mine_hard_negatives(None, data, chosen)
    assert data.crops.hard_negatives == []


@pytest.mark.parametrize("missing", ["pretrained_model_name_or_path", "background_dir"])
def test_what_hard_negatives_need(few_steps, frames, missing):
    """Told before anything is read: of a recipe's later stage too."""
    with pytest.raises(ValueError, match=f"`hard_negative_probability` needs `{missing}`, got null"):
        settings(few_steps, frames[0], **{missing: None})


def test_a_trainer_mines_before_its_first_step(few_steps, frames, tmp_path, tiny_checkpoint, caplog):
    values = few_steps | {
        "output_dir": str(tmp_path / "run"),
        "background_dir": str(frames[0]),
        "pretrained_model_name_or_path": str(tiny_checkpoint),
        "hard_negative_probability": 0.5,
        "max_train_steps": 1,
        "report_to": "null",
    }
    with caplog.at_level("INFO"):
        train_latent.main([part for name, value in values.items() for part in (f"--{name}", str(value))])
    assert "hard negatives on 2 frames" in caplog.text
    assert torch.isfinite(next(iter(IRSTDLatentPipeline.from_pretrained(tmp_path / "run").unet.parameters()))).all()


@pytest.mark.parametrize(
    ("tile_size", "resolution", "trained"),
    [(256, 384, 384), (384, 384, 384), (384, 192, 384), (0, 384, 0)],
)
def test_tiles_are_no_smaller_than_the_crops(tiny_pipeline, tile_size, resolution, trained):
    tiny_pipeline.register_to_config(default_tile_size=tile_size)
    cover_crops(tiny_pipeline, resolution)
    assert tiny_pipeline.config.default_tile_size == trained


@pytest.mark.parametrize(
    ("task", "settings", "checkpoint"),
    [(LatentTask, LatentSettings, "tiny_checkpoint"), (PixelTask, PixelSettings, "tiny_diff_checkpoint")],
)
def test_trainers_cover_their_crops(few_steps, request, task, settings, checkpoint):
    folder = str(request.getfixturevalue(checkpoint))
    changes = {"output_dir": "run", "resolution": 320, "pretrained_model_name_or_path": folder}
    assert task(settings(**few_steps | changes), None).pipeline.config.default_tile_size == 320

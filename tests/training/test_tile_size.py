import pytest

from irstd_ldm.training.tile_size import cover_crops
from irstd_ldm.training.train_latent import LatentSettings, LatentTask
from irstd_ldm.training.train_pixel import PixelSettings, PixelTask


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

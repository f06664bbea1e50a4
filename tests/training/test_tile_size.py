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


@pytest.mark.parametrize("pretrained", (True, False))
def test_the_trainer_of_the_pixel_detector_covers_its_crops(few_steps, tiny_diff_checkpoint, pretrained):
    values = few_steps | {"output_dir": "run", "resolution": 320}
    if pretrained:
        values["pretrained_model_name_or_path"] = str(tiny_diff_checkpoint)
    assert PixelTask(PixelSettings(**values), None).pipeline.config.default_tile_size == 320


def test_the_trainer_of_the_latent_detector_covers_its_crops(few_steps, tiny_checkpoint):
    values = few_steps | {"output_dir": "run", "resolution": 320, "pretrained_model_name_or_path": str(tiny_checkpoint)}
    assert LatentTask(LatentSettings(**values), None).pipeline.config.default_tile_size == 320

from pathlib import Path

import pytest

from irstd_ldm.training.settings import parse_plan
from irstd_ldm.training.train_controlnet import ControlNetSettings
from irstd_ldm.training.train_image_unet import ImageUNetSettings
from irstd_ldm.training.train_latent import LatentSettings
from irstd_ldm.training.train_mask_vae import MaskVAESettings
from irstd_ldm.training.train_pixel import PixelSettings
from irstd_ldm.training.train_restoration import RestorationSettings

SETTINGS = {
    "train_controlnet": ControlNetSettings,
    "train_image_unet": ImageUNetSettings,
    "train_latent": LatentSettings,
    "train_mask_vae": MaskVAESettings,
    "train_pixel": PixelSettings,
    "train_restoration": RestorationSettings,
}
RECIPES = sorted((Path(__file__).resolve().parents[2] / "training" / "recipes").glob("*.yaml"))


def trainer_of(recipe: Path) -> str:
    for prefix in ("generator_", "gaussian_agnostic_"):
        if recipe.stem.startswith(prefix):
            return f"train_{recipe.stem.removeprefix(prefix)}"
    if recipe.stem.startswith("irstd_diff"):
        return "train_pixel"
    return "train_mask_vae" if recipe.stem.endswith("mask_vae") else "train_latent"


def test_the_recipes_are_there():
    names = {recipe.stem for recipe in RECIPES}
    assert {"lgldnet_small_mask_vae", "lgldnet_small_latent", "finetune"} <= names
    assert {"lgldnet_mask_vae", "lgldnet_latent"} <= names
    assert {"irstd_diff", "irstd_diff_small"} <= names
    assert {"gaussian_agnostic_restoration", "gaussian_agnostic_controlnet"} <= names
    assert {f"generator_{part}" for part in ("restoration", "image_unet", "controlnet")} <= names


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_parses_and_names_its_command(recipe):
    trainer = trainer_of(recipe)
    plan = parse_plan(SETTINGS[trainer], ["--config", str(recipe)])
    assert all(settings.model in settings.configurations for settings in plan.stages)
    heading = recipe.read_text(encoding="utf-8").split("\ntrain_data_dir")[0]
    assert all(line.startswith("#") for line in heading.splitlines())
    assert (
        f"# OMP_WAIT_POLICY=PASSIVE accelerate launch training/{trainer}.py --config training/recipes/{recipe.name}"
        in heading
    )


def test_a_latent_recipe_and_its_mask_vae_agree():
    for size in ("lgldnet_small", "lgldnet"):
        folder = RECIPES[0].parent
        plans = [
            parse_plan(settings, ["--config", str(folder / f"{size}_{name}.yaml")])
            for name, settings in (("mask_vae", MaskVAESettings), ("latent", LatentSettings))
        ]
        first, second = (plan.stages[0] for plan in plans)
        assert second.mask_vae == str(plans[0].output_dir)
        for shared in ("model", "train_data_dir", "val_fraction"):
            assert getattr(first, shared) == getattr(second, shared), shared
        assert first.background_dir is None and first.background_exclude is None  # there is no mask to learn from


def test_lgldnet_has_the_published_schedule():
    folder = RECIPES[0].parent
    settings = parse_plan(LatentSettings, ["--config", str(folder / "lgldnet_latent.yaml")]).stages[0]
    assert (settings.train_batch_size, settings.max_train_steps, settings.learning_rate) == (8, 60_000, 1e-4)
    assert (settings.lr_scheduler, settings.resolution) == ("cosine", 256)


def test_irstd_diff_has_the_published_setting():
    folder = RECIPES[0].parent
    settings = parse_plan(PixelSettings, ["--config", str(folder / "irstd_diff.yaml")]).stages[0]
    assert (settings.train_batch_size, settings.learning_rate, settings.resolution) == (4, 1e-4, 256)
    assert (settings.prediction_type, settings.beta_schedule) == ("epsilon", "linear")
    assert settings.num_train_timesteps == 1000
    assert (settings.adam_weight_decay, settings.lr_scheduler, settings.ema_decay) == (0, "constant", 0.9999)
    assert (settings.diffusion_weight, settings.bce_weight) == (1, 10)

"""`irstd-ldm train`."""

import logging
import shutil
import sys

import pytest
import yaml
from PIL import Image

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.cli.main import main
from irstd_ldm.training.curves import draw_curves
from irstd_ldm.training.settings import parse_plan
from irstd_ldm.training.train_latent import LatentSettings


def test_a_trainer_runs_with_a_recipe_of_the_package(synthetic_root, tmp_path, capsys):
    settings = ["--config", "finetune", "--max_train_steps", "1"]
    small = ["--resolution", "64", "--train_batch_size", "2", "--val_fraction", "0.2", "--dataloader_num_workers", "0"]
    data = ["--train_data_dir", str(synthetic_root), "--output_dir", str(tmp_path / "mine")]
    assert main(["train", "latent", *settings, *small, *data]) == 0
    assert yaml.safe_load((tmp_path / "mine" / "settings.yaml").read_text())["max_train_steps"] == 1
    assert IRSTDLatentPipeline.from_pretrained(tmp_path / "mine")
    assert "validation, " in (told := capsys.readouterr().err) and "latent: " in told and "crops/s=" in told
    with Image.open(tmp_path / "mine" / "curves.png") as picture:
        assert picture.size == (1000, 400) and len(picture.getcolors(2**20)) > 10


def test_a_recipe_on_data_sets_of_ones_own(synthetic_root, tmp_path, caplog):
    """Two sets, where the recipe has shares of three and frames without targets of its own."""
    caplog.set_level(logging.INFO)
    other = shutil.copytree(synthetic_root, tmp_path / "other")
    recipe = ["--config", "lgldnet_small_latent"]
    data = ["--train_data_dir", str(synthetic_root), str(other), "--output_dir", str(tmp_path / "run")]
    plan = parse_plan(LatentSettings, [*recipe, *data])
    assert all(one.train_data_shares is None and one.background_dir is None for one in plan.stages)
    assert not any(one.hard_negative_probability for one in plan.stages)  # it needs those frames
    with pytest.raises(ValueError, match="`hard_negative_probability` needs `background_dir`, got null"):
        parse_plan(LatentSettings, [*recipe, *data, "--background_dir", "null"])
    assert "--train_data_dir leaves the recipe's background_dir out" in caplog.text
    named = ["--train_data_shares", "1", "3", "--background_dir", "frames"]
    plan = parse_plan(LatentSettings, [*recipe, *data, *named])
    assert all((one.train_data_shares, one.background_dir) == ([1, 3], "frames") for one in plan.stages)
    three = parse_plan(LatentSettings, [*recipe, *data[:3], "third", *data[3:]])
    assert [one.train_data_shares for one in three.stages[:2]] == [[1.0, 1.6, 1.4]] * 2
    assert parse_plan(LatentSettings, recipe).stages[0].background_dir == "data/backgrounds"

    small = "--resolution 64 --train_batch_size 2 --max_train_steps 1 --dataloader_num_workers 0".split()
    data[-1] = str(tmp_path / "vae")
    assert main(["train", "mask_vae", "--config", "lgldnet_small_mask_vae", *data, *small]) == 0
    data[-1] = str(tmp_path / "latent")
    words = [*recipe, "--mask_vae", str(tmp_path / "vae"), "--stage", "1", "--mixed_precision", "no"]
    assert main(["train", "latent", *words, *data, *small]) == 0
    assert IRSTDLatentPipeline.from_pretrained(tmp_path / "latent" / "stage-1")


def test_without_matplotlib_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (tmp_path / "losses.jsonl").write_text('{"step": 1, "loss": 2.0, "iou": 0.5}\n')
    draw_curves(tmp_path / "losses.jsonl", tmp_path / "none", "iou", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--config", "nothing"], "`config` must be a file or one of finetune, "),
        (["--config", "finetune"], "no folder "),
    ],
)
def test_a_wrong_setting_is_one_line(settings, message, tmp_path, capsys):
    arguments = [*settings, "--train_data_dir", str(tmp_path / "none"), "--output_dir", str(tmp_path / "run")]
    assert main(["train", "latent", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("irstd-ldm train: ") and message in told and told.count("\n") == 1

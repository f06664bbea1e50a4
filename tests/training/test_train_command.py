"""`irstd-ldm train`."""

import sys

import pytest
import yaml
from PIL import Image

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.cli.main import main
from irstd_ldm.training.curves import draw_curves


def test_a_trainer_runs_with_a_recipe_of_the_package(synthetic_root, tmp_path, capsys):
    settings = ["--config", "finetune", "--pretrained_model_name_or_path", "tiny", "--max_train_steps", "1"]
    small = ["--resolution", "64", "--train_batch_size", "2", "--val_fraction", "0.2", "--dataloader_num_workers", "0"]
    data = ["--train_data_dir", str(synthetic_root), "--output_dir", str(tmp_path / "mine")]
    assert main(["train", "latent", *settings, *small, *data]) == 0
    assert yaml.safe_load((tmp_path / "mine" / "settings.yaml").read_text())["max_train_steps"] == 1
    assert IRSTDLatentPipeline.from_pretrained(tmp_path / "mine")
    assert "validation, " in (told := capsys.readouterr().err) and "latent: " in told and "crops/s=" in told
    with Image.open(tmp_path / "mine" / "curves.png") as picture:
        assert picture.size == (1000, 400) and len(picture.getcolors(2**20)) > 10


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

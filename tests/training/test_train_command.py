"""`irstd-ldm train`."""

import pytest
import yaml

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.cli.main import main


def test_a_trainer_runs_with_a_recipe_of_the_package(synthetic_root, tmp_path, capsys):
    settings = ["--config", "finetune", "--pretrained_model_name_or_path", "tiny", "--max_train_steps", "1"]
    small = ["--resolution", "64", "--train_batch_size", "2", "--val_fraction", "0.2", "--dataloader_num_workers", "0"]
    data = ["--train_data_dir", str(synthetic_root), "--output_dir", str(tmp_path / "mine")]
    assert main(["train", "latent", *settings, *small, *data]) == 0
    assert yaml.safe_load((tmp_path / "mine" / "settings.yaml").read_text())["max_train_steps"] == 1
    assert IRSTDLatentPipeline.from_pretrained(tmp_path / "mine")


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

import os
import re
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml

from irstd_ldm.data.crops import CropSettings
from irstd_ldm.training.settings import TrainSettings, changed_settings, parse_plan, read_recipe, save_settings
from irstd_ldm.training.train_latent import LatentSettings
from irstd_ldm.training.train_mask_vae import MaskVAESettings

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = ["--train_data_dir", "data", "--output_dir", "run"]


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text("train_data_dir: data\noutput_dir: run\n" + text, encoding="utf-8")
        return str(path)

    return write


def test_flags_override_the_recipe_and_the_recipe_the_defaults(recipe):
    path = recipe("max_train_steps: 7\ntrain_batch_size: 3\n")
    settings = parse_plan(
        LatentSettings, ["--config", path, "--train_batch_size", "5", "--output_dir", "other"]
    ).stages[0]
    assert (settings.max_train_steps, settings.train_batch_size) == (7, 5)
    assert (settings.train_data_dir, settings.output_dir) == ("data", "other")
    assert settings.bce_weight == LatentSettings.bce_weight


def test_an_unknown_key_is_refused_by_name(recipe):
    with pytest.raises(ValueError, match="LatentSettings does not know: learning_rat, lrscheduler"):
        parse_plan(LatentSettings, ["--config", recipe("lrscheduler: cosine\nlearning_rat: 1\n")])
    with pytest.raises(ValueError, match="MaskVAESettings does not know: klda_weight"):  # the other trainer's
        parse_plan(MaskVAESettings, ["--config", recipe("klda_weight: 1.0\n")])


@pytest.mark.parametrize("flag", ["--learning_rat", "--learning_ra"])  # no prefix stands for a flag either
def test_an_unknown_flag_exits_2(flag, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_plan(LatentSettings, [*REQUIRED, flag, "1"])
    assert exit_.value.code == 2 and flag in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3"])
def test_numbers_without_a_point_are_floats(recipe, text):
    settings = parse_plan(TrainSettings, ["--config", recipe(f"learning_rate: {text}\nema_decay: 1\n")]).stages[0]
    assert settings.learning_rate == 0.001
    assert settings.ema_decay == 1.0 and type(settings.ema_decay) is float


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("max_train_steps: many", "`max_train_steps` must be of type int, got 'many'"),
        ("max_train_steps: 2.5", "`max_train_steps` must be of type int, got 2.5"),
        ("learning_rate: fast", "`learning_rate` must be of type float, got 'fast'"),
        ("use_ema: 1", "`use_ema` must be of type bool, got 1"),
        ("mixed_precision: no", "`mixed_precision` must be of type str, got False"),
        ("seed: null", "`seed` must be of type int, got None"),
        ("background_exclude: S7*", "`background_exclude` must be of type"),
        ("resolution: 100", "`resolution` must be a multiple of 32, got 100"),
        ("val_fraction: 1.0", r"`val_fraction` must lie in \[0, 1\), got 1.0"),
        ("checkpointing_steps: 0", "`checkpointing_steps` must be at least 1, got 0"),
        ("checkpoints_total_limit: 0", "`checkpoints_total_limit` must be at least 1, got 0"),
        ("model: huge", "`model` must be one of lgldnet, lgldnet_small, got 'huge'"),
    ],
)
def test_a_bad_value_is_refused_by_name(recipe, line, named):
    with pytest.raises(ValueError, match=named):
        parse_plan(TrainSettings, ["--config", recipe(line)])


@pytest.mark.parametrize("cls", [LatentSettings, MaskVAESettings])
def test_help_shows_every_field_with_its_text_in_a_group(cls, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_plan(cls, ["--help"])
    assert exit_.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in fields(cls):
        assert re.search(rf"--{field.name}\b", shown), field.name
        assert " ".join(field.metadata["help"].split()) in shown, field.name
    assert "(default: 0.001)" in shown and "(required)" in shown
    titles = ["Settings of every training:", f"{cls.__doc__.rstrip('.')}:"]
    assert all(title in shown for title in titles)
    assert ("Settings of the training crops:" in shown) == (cls is LatentSettings)


def test_names_may_have_hyphens(recipe, capsys):
    flags = ["--train-data-dir", "A", "B", "--output-dir", "run", "--train_batch_size", "3", "--no-use-ema"]
    settings = parse_plan(LatentSettings, [*flags, "--klda-weight=0.5", "--blur-sigma-max-px", "2"]).stages[0]
    assert (settings.train_data_dir, settings.train_batch_size, settings.use_ema) == (["A", "B"], 3, False)
    assert (settings.klda_weight, settings.blur_sigma_max_px) == (0.5, 2.0)
    with pytest.raises(SystemExit):
        parse_plan(LatentSettings, ["--help"])
    assert "--train-data-dir" not in capsys.readouterr().out


def test_an_augmentation_is_a_setting_of_detectors_and_of_a_runs_digest_where_it_is_not_at_its_default():
    made = {"train_data_dir": "data", "output_dir": "run"}
    settings = LatentSettings(**made)
    assert {field.name for field in fields(CropSettings)} < {field.name for field in fields(settings)}
    # the digest of runs from before the other augmentations were settings
    assert settings.sha256 == "f45e6df282c5a33d2463a0cae0ded6f8aacb788d409598ac6c58794f5eaf5d14"
    assert LatentSettings(**made, gamma_probability=0.1).sha256 != settings.sha256
    with pytest.raises(ValueError, match="`gamma_min` and `gamma_max` must be 0 < min <= max, got 2.0 and 1.6"):
        LatentSettings(**made, gamma_min=2.0)
    with pytest.raises(ValueError, match="`target_probability`, .* must be >= 0 and sum to 1"):
        LatentSettings(**made, target_probability=0.6)


def test_a_setting_that_a_saved_file_does_not_know_had_its_default(tmp_path):
    settings = LatentSettings(train_data_dir="data", output_dir="run", gamma_probability=0.1)
    saved = {name: value for name, value in asdict(settings).items() if name != "gamma_probability"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(saved))
    assert changed_settings(settings, tmp_path / "settings.yaml", False) == ["gamma_probability: 0.4 -> 0.1"]
    settings.gamma_probability = 0.4
    assert changed_settings(settings, tmp_path / "settings.yaml", False) == []


def test_booleans_have_a_no_form(recipe):
    assert parse_plan(TrainSettings, REQUIRED).stages[0].use_ema is True
    assert parse_plan(TrainSettings, [*REQUIRED, "--no-use_ema"]).stages[0].use_ema is False
    assert parse_plan(TrainSettings, ["--config", recipe("use_ema: false"), "--use_ema"]).stages[0].use_ema is True


def test_null_on_the_command_line_is_none_where_allowed(recipe):
    path = recipe("background_dir: frames\n")
    flags = ["--resume_from_checkpoint", "null", "--background_dir", "null", "--report_to", "null"]
    settings = parse_plan(TrainSettings, ["--config", path, *flags]).stages[0]
    assert (settings.resume_from_checkpoint, settings.background_dir, settings.report_to) == (None, None, None)


def test_lists(recipe):
    path = recipe('background_exclude: ["S7*", "T*"]\n')
    assert parse_plan(TrainSettings, ["--config", path]).stages[0].background_exclude == ["S7*", "T*"]
    flags = [*REQUIRED, "--background_exclude", "A", "B"]
    assert parse_plan(TrainSettings, flags).stages[0].background_exclude == ["A", "B"]


def test_missing_required_settings_exit_2_by_name(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_plan(LatentSettings, ["--output_dir", "run"])
    assert exit_.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "--train_data_dir" in last and "--output_dir" not in last


def test_saved_settings_are_a_recipe_of_the_same_settings(tmp_path):
    settings = parse_plan(
        LatentSettings,
        [*REQUIRED, "--learning_rate", "1e-5", "--no-use_ema", "--background_exclude", "S7*", "--klda_weight", "0.3"]
        + ["--resume_from_checkpoint", "null"],
    ).stages[0]
    save_settings(settings, tmp_path / "settings.yaml")
    assert parse_plan(LatentSettings, ["--config", str(tmp_path / "settings.yaml")]).stages[0] == settings
    assert set(read_recipe(tmp_path / "settings.yaml", LatentSettings)) == {field.name for field in fields(settings)}


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "irstd_ldm.training.train_mask_vae"],
        ["-m", "accelerate.commands.launch", str(ROOT / "training" / "train_latent.py")],
    ],
    ids=["module", "accelerate"],
)
def test_a_trainer_runs_as_module_and_as_script(command, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, *command, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "--pretrained_model_name_or_path" in run.stdout

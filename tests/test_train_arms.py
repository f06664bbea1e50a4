"""scripts/train_arms.py: real trainings of one step, and the table of what sets them apart."""

import re

import pytest
import train_arms
import yaml

from irstd_ldm.data.folder import write_stem_list
from irstd_ldm.data.synthetic import synthetic_scene

from .conftest import write_scenes


@pytest.fixture
def command(tmp_path) -> list[str]:
    scenes = {f"s{seed}": synthetic_scene(64, 64, num_targets=1, scr=8.0, seed=seed) for seed in range(4)}
    write_stem_list(write_scenes(tmp_path / "DATA", scenes) / "train.txt", scenes)
    command = ["pixel", "--data", tmp_path / "DATA", "--output", tmp_path / "out", "--num-inference-steps", 0]
    command += ["--arm", "all", "--arm", "no LIW: --no-use_liw", "--seeds", 3, 4, "--processes", 2, "--"]
    command += ["--train_data_dir", tmp_path / "DATA", "--model", "irstd_diff_small", "--val_fraction", 0.5]
    command += ["--resolution", 64, "--train_batch_size", 1, "--max_train_steps", 1, "--validation_steps", 0]
    return [str(part) for part in command]


def test_arms_differ_in_their_settings_alone(command, tmp_path, capsys):
    train_arms.main(command)
    table = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| all", "| no LIW"]
    assert "| +0.0 (+0.0 to +0.0) |" in table[2]
    runs = [tmp_path / "out" / name for name in ("all-3", "all-4", "no_LIW-3", "no_LIW-4")]
    settings = [yaml.safe_load((run / "settings.yaml").read_text()) for run in runs]
    assert [one["seed"] for one in settings] == [3, 4, 3, 4]
    assert [one["use_liw"] for one in settings] == [True, True, False, False]
    assert {one["num_cpu_threads"] for one in settings} == {1}
    assert all((run / "counts-DATA-val-0.json").is_file() for run in runs)

    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    train_arms.main(command)  # nothing is trained again
    assert capsys.readouterr().out.splitlines() == table
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == weights


def test_the_output_of_a_training_that_fails_is_named(command, tmp_path):
    log = tmp_path / "out" / "all-3.log"
    with pytest.raises(RuntimeError, match=rf"a training failed; its output is in {re.escape(str(log))}"):
        train_arms.main([*command, "--train_batch_size", "none"])
    assert "--train_batch_size" in log.read_text()

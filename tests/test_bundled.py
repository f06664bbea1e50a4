"""A bundled model is known by its name, and a folder of that name wins."""

import logging
import subprocess
import sys

import numpy as np

from irstd_ldm import IRSTDDiffPipeline, IRSTDLatentPipeline, StreamDetector, bundled_checkpoint
from irstd_ldm.bundled import bundled_names, resolve_model
from irstd_ldm.cli.main import main
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.runtime.detector import ExportedDetectorRunner


def test_names_stand_for_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bundled_names() == ["gaussian_agnostic_small", "irstd_diff_small", "tiny"]
    assert resolve_model() == resolve_model("tiny") == bundled_checkpoint()
    assert resolve_model("irstd_diff_small") == bundled_checkpoint("irstd_diff_small")
    assert resolve_model("owner/name") == "owner/name"


def test_pipelines_load_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = synthetic_scene(128, 128, seed=1).image
    by_name, by_folder = map(IRSTDLatentPipeline.from_pretrained, ("tiny", bundled_checkpoint()))
    np.testing.assert_array_equal(by_name(image).probability, by_folder(image).probability)
    assert type(IRSTDDiffPipeline.from_pretrained("irstd_diff_small")) is IRSTDDiffPipeline
    runners = ExportedDetectorRunner("tiny"), ExportedDetectorRunner()
    assert runners[0].files == runners[1].files
    assert isinstance(StreamDetector("tiny", tracks=False)(image).targets, list)


def test_a_folder_of_the_name_wins_and_that_is_said(tiny_checkpoint, tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_checkpoint)
    with caplog.at_level(logging.WARNING):
        assert main(["detect", "--model", "tiny", "--output", "out"]) == 0
    assert [record.message for record in caplog.records].count(
        f"tiny is the folder {tmp_path / 'tiny'}, not the bundled checkpoint of this name"
    ) == 1
    assert "; runtime: torch" in capsys.readouterr().out  # the bundled graph is not that of the folder


def test_commands_take_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["detect", "--model", "tiny", "--output", "out"]) == 0
    assert "; runtime: onnxruntime" in capsys.readouterr().out
    assert main(["info", "--model", "irstd_diff_small"]) == 0
    told = capsys.readouterr().out
    assert "pipeline: IRSTDDiffPipeline" in told
    assert [line.split()[:2] for line in told.splitlines() if "MB of weights" in line] == [
        ["gaussian_agnostic_small", "GaussianAgnosticPipeline"],
        ["irstd_diff_small", "IRSTDDiffPipeline"],
        ["tiny", "IRSTDLatentPipeline"],
    ]


def test_the_package_is_the_command():
    done = subprocess.run([sys.executable, "-m", "irstd_ldm", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("irstd-ldm ")

"""`irstd-ldm synthesize`: ready data sets, resumed and never overwritten; no image of a test list."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.cli.main import main
from irstd_ldm.data.folder import IRSTDFolder, read_stem_list
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.targets import label_components

from ..conftest import write_scenes


@pytest.fixture
def data(tmp_path) -> Path:
    depths = (8, 8, 8, 8, 8, 16)
    scenes = [synthetic_scene(100, 90, seed=seed, scr=6.0, bit_depth=bits) for seed, bits in enumerate(depths)]
    root = write_scenes(tmp_path / "DATA", {f"s{seed}": scene for seed, scene in enumerate(scenes)})
    (root / "train.txt").write_text("s0\ns1\ns2\ns5\n")
    (root / "test.txt").write_text("s3\ns4\n")
    return root


@pytest.fixture
def backgrounds(tmp_path) -> Path:
    root = tmp_path / "frames"
    (root / "images").mkdir(parents=True)
    for seed in range(3):
        Image.fromarray(synthetic_scene(120, 140, seed=seed, num_targets=0).image).save(
            root / "images" / f"S{seed}_0.png"
        )
    return root


def rows(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "provenance.csv").read_text().splitlines()))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*arguments: object) -> int:
    return main(["synthesize", *map(str, arguments)])


def test_squeezed_set_with_its_originals(data, tmp_path):
    out = tmp_path / "out"
    assert run("--data", data, "--mode", "squeezed", "--count", 6, "--originals", "--output", out) == 0
    made = IRSTDFolder(out, split="train")
    assert len(made) == 10 and made.stems[:4] == ["s0", "s1", "s2", "s5"]
    source = IRSTDFolder(data, split="train")
    np.testing.assert_array_equal(made[0].image, source[0].image)
    np.testing.assert_array_equal(made[0].mask, source[0].mask)
    table = {row["name"]: row for row in rows(out)}
    assert set(table) == set(made.stems)
    sources = [table[stem]["source"] for stem in made.stems[4:]]
    assert sorted(sources[:4]) == ["s0", "s1", "s2", "s5"]  # each once before any again
    for stem in made.stems[4:]:
        sample, row = made[made.stems.index(stem)], table[stem]
        assert row["kind"] == "squeezed" and int(row["num_groups"]) % 2 == 0
        assert len(np.unique(sample.image)) <= int(row["num_groups"])
        assert len(label_components(sample.mask)[1]) == int(row["num_targets"])
        assert sample.image.dtype == (np.uint16 if row["source"] == "s5" else np.uint8)


def test_settings_hold_the_checkpoints_defaults(data, tmp_path):
    assert run("--data", data, "--num-inference-steps", "2", "--count", "1", "--output", tmp_path / "out") == 0
    settings = json.loads((tmp_path / "out" / "synthesis.json").read_text())
    assert (settings["model"], settings["num_inference_steps"]) == ("gaussian_agnostic_small", 2)
    assert settings["strength"] == 0.8 and settings["weights_sha256"]
    assert (tmp_path / "out" / "train.txt").read_text().count("_generated_") == 1


def test_planted_set(backgrounds, tmp_path):
    out = tmp_path / "out"
    assert (
        run("--mode", "planted", "--backgrounds", backgrounds, "--exclude", "S2*", "--count", 4, "--output", out) == 0
    )
    made = IRSTDFolder(out, split="train")
    assert len(made) == 4 and all(sample.mask.any() for sample in made)
    assert {row["source"] for row in rows(out)} == {"S0_0", "S1_0"}


def test_the_same_command_changes_nothing_and_a_larger_count_adds(data, tmp_path):
    out = tmp_path / "out"
    command = ["--data", data, "--mode", "squeezed", "--output", out]
    assert run(*command, "--count", 3) == 0
    before = contents(out)
    assert run(*command, "--count", 3) == 0
    assert contents(out) == before
    assert run(*command, "--count", 5) == 0
    after = contents(out)
    assert all(after[name] == data for name, data in before.items() if name.endswith(".png"))
    assert len(read_stem_list(out / "train.txt")) == 5


def test_killed_and_repeated_equals_uninterrupted(data, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ["--data", data, "--mode", "squeezed", "--count", "60"]
    assert run(*command, "--output", whole) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "irstd_ldm.cli", "synthesize", *map(str, command), "--output", cut]
    )
    while not (cut / "images").is_dir() or len(list((cut / "images").glob("*.png"))) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "train.txt").exists()
    with (cut / "provenance.csv").open("a") as file:
        file.write("s0_squeezed_000")  # a row that the kill cut
    assert run(*command, "--output", cut) == 0
    settings = "synthesis.json"
    first, second = contents(whole), contents(cut)
    assert json.loads(first.pop(settings)) == json.loads(second.pop(settings))
    assert first == {name: data for name, data in second.items() if not name.endswith(".part")}


def test_other_settings_and_other_folders_are_refused(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--data", data, "--mode", "squeezed", "--count", 1, "--output", out) == 0
    assert run("--data", data, "--mode", "squeezed", "--count", 1, "--output", out, "--seed", 1) == 2
    assert "begun with another seed (0)" in capsys.readouterr().err
    before = contents(data)
    assert run("--data", data, "--mode", "squeezed", "--count", 1, "--output", data) == 2
    assert "did not write" in capsys.readouterr().err
    assert contents(data) == before


def test_a_test_list_is_refused(data, tmp_path, capsys):
    (tmp_path / "mixed.txt").write_text("s0\ns3\n")
    arguments = ["--data", data, "--mode", "squeezed", "--count", 1, "--output", tmp_path / "out"]
    assert run(*arguments, "--list", tmp_path / "mixed.txt") == 2
    assert "the list must hold no image of a test list, got 1, such as s3" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(*arguments, "--split", "test")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "planted"], "needs --backgrounds"),
        (["--mode", "squeezed"], "needs --data"),
        (["--mode", "planted", "--originals"], "needs --data"),
        (["--data", "absent", "--mode", "squeezed"], "--data absent"),
        (["--data", "DATA", "--model", "tiny"], "is no generator of this package"),
        (["--data", "DATA", "--model", "absent"], "--model absent"),
        (["--mode", "planted", "--backgrounds", "absent"], "--backgrounds absent"),
        (["--mode", "planted", "--backgrounds", "frames", "--scr", "5", "2"], "`scr_range` must be"),
        (["--mode", "planted", "--backgrounds", "frames", "--exclude", "*"], "no frame is left"),
    ],
)
def test_wrong_usage(data, backgrounds, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments, "--count", 1, "--output", "out") == 2
    assert message in capsys.readouterr().err

"""One writer to a folder, outputs that stay in it and replace nothing of other origin, safe names, honest resuming."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.cli.detect import unique_names
from irstd_ldm.cli.main import main
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.files import LOCK, only_writer


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "scene.png"
    Image.fromarray(synthetic_scene(64, 80, seed=0).image).save(path)
    return path


@pytest.fixture
def stack(tmp_path) -> Path:
    path = tmp_path / "frames.npy"
    np.save(path, np.random.default_rng(0).integers(0, 255, (4, 48, 64), np.uint8))
    return path


@pytest.fixture
def data(tmp_path, image) -> Path:
    root = tmp_path / "DATA"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    scene = synthetic_scene(64, 80, seed=0)
    Image.fromarray(scene.image).save(root / "images/a.png")
    Image.fromarray(scene.mask).save(root / "masks/a.png")
    (root / "train.txt").write_text("a\n")
    return root


def run(*arguments: object) -> int:
    return main([*map(str, arguments)])


def commands(checkpoint: Path, image: Path, data: Path, out: Path) -> dict[str, list]:
    """The commands that fill a folder of the user's choice."""
    return {
        "detect": ["detect", image, "--model", checkpoint, "--output", out],
        "evaluate": ["evaluate", "--data", data, "--split", "train", "--model", checkpoint, "--output", out],
        "synthesize": ["synthesize", "--data", data, "--mode", "squeezed", "--count", 2, "--output", out],
    }


@pytest.mark.parametrize("name", ["detect", "evaluate", "synthesize"])
def test_a_second_process_is_told_who_writes(tiny_checkpoint, image, data, tmp_path, capsys, name):
    out = tmp_path / "out"
    out.mkdir()
    command = commands(tiny_checkpoint, image, data, out)[name]
    with only_writer(out, "irstd-ldm detect"):
        assert run(*command) == 1
        assert not [path for path in out.rglob("*") if path.is_file() and path.name not in (LOCK, ".irstd-ldm")]
    expected = f"irstd-ldm {name}: {out} is being written by irstd-ldm detect, process {os.getpid()} on "
    assert expected in capsys.readouterr().err
    assert run(*command) == 0
    assert not (out / LOCK).exists()


def test_two_processes_and_a_killed_one(tiny_checkpoint, stack, tmp_path):
    out = tmp_path / "out"
    np.save(stack, np.zeros((3000, 48, 64), np.uint8) + np.arange(64, dtype=np.uint8))
    command = [sys.executable, "-m", "irstd_ldm.cli", "detect", stack, "--model", tiny_checkpoint, "--output", out]
    first = subprocess.Popen(command)
    while not (out / "frames" / "detections.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert second.returncode == 1
    assert f"{out} is being written by irstd-ldm detect, process {first.pid} on " in second.stderr
    first.send_signal(signal.SIGKILL)
    first.wait()
    np.save(stack, np.zeros((4, 48, 64), np.uint8) + np.arange(64, dtype=np.uint8))
    third = subprocess.run(command, capture_output=True, text=True)
    assert third.returncode == 0, third.stderr
    assert len((out / "frames" / "detections.jsonl").read_text().splitlines()) == 4


NAMES = ["...npy", ".hidden.npy", "detections.json.npy", "masks.npy", "IMAGES.npy"]
NAMES += ["a\x1b[31mb.npy", "a\nb.npy", "=1.npy"]


def test_names_stay_inside_the_folder_and_are_plain(tmp_path):
    names = [item.name for item in unique_names(map(Path, NAMES))]
    assert names == ["unnamed", "hidden", "detections.json-2", "masks-2", "IMAGES-2", "a_[31mb", "a_b", "=1"]
    assert [item.name for item in unique_names([Path("\udcff.npy"), Path("b.tar.png")])] == ["\udcff", "b.tar"]


def test_hostile_names_leave_the_folder_and_terminal_and_tables_alone(tiny_checkpoint, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "deep" / "out"
    source.mkdir()
    for name in NAMES:
        np.save(source / "stack.npy", np.random.default_rng(0).integers(0, 255, (2, 48, 64), np.uint8))
        (source / "stack.npy").rename(source / name)
    scene = synthetic_scene(64, 80, seed=0).image
    for name in ("=cmd|' C calc'!A0.png", "a\x1b]0;title\x07.png"):
        Image.fromarray(scene).save(source / name)
    (source / "bad\x1b[2J.png").write_bytes(b"no image")
    paths = sorted(source.iterdir())
    assert run("detect", *paths, "--model", tiny_checkpoint, "--threshold", 0.3, "--output", out) == 1
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "\x07" not in shown.err and "bad\\x1b[2J.png" in shown.err
    assert {path.name for path in tmp_path.iterdir()} == {"in", "deep"} and os.listdir(tmp_path / "deep") == ["out"]
    content = json.loads((out / "detections.json").read_text())
    assert len(content["sequences"]) == len(NAMES) and len(content["images"]) == 2
    assert all((out / one["name"] / "sequence.json").is_file() for one in content["sequences"])
    text = (out / "detections.csv").read_text()
    assert "\x1b" not in text
    assert {row["name"][0] for row in csv.DictReader(text.splitlines())} == {"'", "a"}


@pytest.mark.parametrize(
    ("name", "file"), [("detect", "detections.csv"), ("detect", "detections.json"), ("evaluate", "metrics.json")]
)
def test_files_of_other_origin_are_not_replaced(tiny_checkpoint, image, data, tmp_path, capsys, name, file):
    out = tmp_path / "out"
    out.mkdir()
    (out / file).write_text('{"mine": 1}')
    command = commands(tiny_checkpoint, image, data, out)[name]
    assert run(*command) == 2
    assert f"its {file} was not written by `{name}`; name another" in capsys.readouterr().err
    assert (out / file).read_text() == '{"mine": 1}'
    (out / file).unlink()
    assert run(*command) == run(*command) == 0


def test_a_scene_of_other_origin_is_not_replaced(tiny_checkpoint, tmp_path, capsys):
    scene = tmp_path / "out/images/synthetic.png"
    scene.parent.mkdir(parents=True)
    scene.write_bytes(b"mine")
    command = ["detect", "--model", tiny_checkpoint, "--output", tmp_path / "out"]
    assert run(*command) == 2 and scene.read_bytes() == b"mine"
    assert "its images/synthetic.png was not written by `detect`" in capsys.readouterr().err
    scene.unlink()
    assert run(*command) == run(*command) == 0


def test_a_folder_of_other_origin_beside_a_sequence(tiny_checkpoint, stack, tmp_path, capsys):
    (tmp_path / "out/frames").mkdir(parents=True)
    (tmp_path / "out/frames/detections.csv").write_text("mine")
    assert run("detect", stack, "--model", tiny_checkpoint, "--output", tmp_path / "out") == 1
    assert "out/frames: holds files that `detect` did not write" in capsys.readouterr().err
    assert os.listdir(tmp_path / "out/frames") == ["detections.csv"]


def test_resuming_compares_what_the_file_and_the_model_hold(tiny_checkpoint, stack, tmp_path, capsys):
    model, out = shutil.copytree(tiny_checkpoint, tmp_path / "model"), tmp_path / "out"
    command = ["detect", stack, "--model", model, "--output", out, "--resume"]
    assert run(*command) == run(*command) == 0
    lines = (out / "frames/detections.jsonl").read_bytes()
    kept = stack.read_bytes()
    stack.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert run(*command) == 1
    assert "--resume: " in (err := capsys.readouterr().err) and "was made with file_sha256 " in err
    stack.write_bytes(kept)
    pipeline = IRSTDLatentPipeline.from_pretrained(model)
    with torch.no_grad():
        pipeline.unet.conv_out.bias += 1
    pipeline.save_pretrained(model)
    assert run(*command) == 1
    assert "was made with model_sha256 " in capsys.readouterr().err
    assert (out / "frames/detections.jsonl").read_bytes() == lines
    for damaged in ('{"header": [1]}', "{", '{"header": null}', "[]"):
        (out / "frames/sequence.json").write_text(damaged)
        assert run(*command) == 1
        assert "is not what `detect` writes" in capsys.readouterr().err


@pytest.mark.parametrize("damaged", ["synthesis.json", "provenance.csv"])
def test_damaged_notes_of_a_synthesis_are_one_line(data, tmp_path, capsys, damaged):
    command = ["synthesize", "--data", data, "--mode", "squeezed", "--count", 2, "--output", tmp_path / "out"]
    assert run(*command) == 0
    capsys.readouterr()
    for content in (b"[1]\n", b"\xff\xfe\n", b'{"a"\n', b"\x00\n"):
        (tmp_path / "out" / damaged).write_bytes(content)
        assert run(*command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("irstd-ldm synthesize: ") and "`synthesize`" in line

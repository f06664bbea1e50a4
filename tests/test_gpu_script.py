"""The script for a GPU that can be had for minutes: what travels, what is stopped, what comes back, a rehearsal."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import gpu
import numpy as np
import pytest

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.data.folder import IRSTDFolder, write_stem_list
from irstd_ldm.data.synthetic import synthetic_scene

from .conftest import write_scenes


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    """20 scenes of 160x200, the last four on a test list; one of the others has no target."""
    numbers = [2, 2, 2, 0, *[2] * 16]  # of targets
    scenes = [synthetic_scene(160, 200, num_targets=n, scr=8.0, seed=seed) for seed, n in enumerate(numbers)]
    stems = {f"scene_{seed}": scene for seed, scene in enumerate(scenes)}
    root = write_scenes(tmp_path_factory.mktemp("data") / "own", stems)
    for split, seeds in (("train", range(16)), ("test", range(16, 20))):
        write_stem_list(root / f"{split}.txt", [f"scene_{seed}" for seed in seeds])
    return root


@pytest.mark.parametrize(("budget", "side"), [(10**6, (160, 200)), (150_000, None)])
def test_crops_of_the_training_list_that_fit(data_root, tmp_path, budget, side):
    gpu.pack_crops([data_root], tmp_path / "data", budget)
    assert gpu.size(gpu.files(tmp_path / "data")) <= budget
    packed = IRSTDFolder(tmp_path / "data" / "own", split="train")
    assert packed.stems == [f"scene_{seed}" for seed in range(16) if seed != 3]
    assert not list((tmp_path / "data").glob("own/*/scene_1[6-9].png"))
    whole = {sample.stem: sample.image for sample in IRSTDFolder(data_root, split="train")}
    for sample in packed:
        assert sample.mask.any()
        windows = np.lib.stride_tricks.sliding_window_view(whole[sample.stem], sample.image.shape)
        assert (windows == sample.image).all(axis=(2, 3)).any()
    assert side is None or packed[0].image.shape == side
    assert side is not None or gpu.crop_side(tmp_path) == packed[0].image.shape[0] < 160


def test_crops_that_cannot_fit_are_an_error(data_root, tmp_path):
    with pytest.raises(SystemExit, match="do not fit"):
        gpu.pack_crops([data_root], tmp_path / "data", 1000)


def test_wheels_install_without_an_index(tmp_path, monkeypatch):
    wheel = tmp_path / "wheels" / "packed_wheel-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("packed_wheel.py", "value = 7\n")
        info = "packed_wheel-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: packed-wheel\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    gpu.install(tmp_path, "packed_wheel")
    ended, lines = gpu.run(["-c", "import packed_wheel; print(packed_wheel.value)"], tmp_path / "log", 60)
    assert (ended, lines) == ("done", ["7"])


def test_what_does_not_end_is_stopped_and_keeps_its_lines(tmp_path):
    ended, lines = gpu.run(["-uc", "import time; print('a line'); time.sleep(99)"], tmp_path / "log", 3)
    assert ended == "stopped, the time was over" and lines == ["a line"]
    assert gpu.run(["-c", "raise SystemExit(3)"], tmp_path / "log", 60) == ("failed, exit 3", [])


def test_a_model_comes_back_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PART_BYTES", 9000)
    monkeypatch.setattr(gpu, "MAX_PARTS", 2)
    model, work, output = (tmp_path / name for name in ("train_latent", "work", "output"))
    for folder in (model / "unet", model / "checkpoint-9", work, output):
        folder.mkdir(parents=True)
    weights = np.random.default_rng(0).bytes(20_000)
    (model / "unet" / "weights").write_bytes(weights)
    (model / "checkpoint-9" / "state").write_bytes(weights)
    lines = list(gpu.bring(model, work, output))
    assert [path.name for path in gpu.files(output)] == ["model.tar.00", "model.tar.01"]
    assert str(work / "model.tar.02") in lines[-1]
    parts = b"".join(path.read_bytes() for path in gpu.files(work))
    (tmp_path / "model.tar").write_bytes(parts)
    with tarfile.open(tmp_path / "model.tar") as tar:
        assert tar.getnames() == ["train_latent/unet/weights"]
        assert tar.extractfile("train_latent/unet/weights").read() == weights


@pytest.mark.slow
def test_a_rehearsal_of_all_stages(data_root, tmp_path):
    gpu.pack_crops([data_root], tmp_path / "pack" / "data", 10**6)
    command = [sys.executable, gpu.__file__, "--minutes", "2", "--device", "cpu", "--model", "tiny"]
    command += ["--folder", "pack", "--output", "out"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    report = (tmp_path / "out" / "report.txt").read_text()
    assert finished.returncode == 0, finished.stdout + finished.stderr + report
    assert report == "".join(finished.stdout.splitlines(keepends=True)[:-1])
    for line in ("test   done: ", "bench  float32", "train  train_latent, ", "losses.jsonl", "model in 1 parts"):
        assert line in report, report
    assert " 0 failed" in report
    returned = gpu.files(tmp_path / "out")
    assert len(returned) <= 8 and max(path.stat().st_size for path in returned) <= 16 * gpu.MIB
    with tarfile.open(tmp_path / "out" / "model.tar.00") as tar:
        tar.extractall(tmp_path, filter="data")
    pipe = IRSTDLatentPipeline.from_pretrained(tmp_path / "train_latent")
    assert pipe(synthetic_scene(96, 96, seed=1).image).mask.shape == (1, 1, 96, 96)

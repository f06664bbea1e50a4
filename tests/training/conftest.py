"""A small data set of synthetic scenes and the trainers as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from irstd_ldm.data.folder import write_stem_list
from irstd_ldm.data.synthetic import synthetic_scene

from ..conftest import write_scenes

ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES = 20


def write_training_set(root: Path, seeds: range) -> Path:
    """Scenes of 128x128 in the field's layout, all on the training list."""
    scenes = {f"frame_{seed:02d}": synthetic_scene(128, 128, num_targets=2, scr=8.0, seed=seed) for seed in seeds}
    write_stem_list(write_scenes(root, scenes) / "train.txt", scenes)
    return root


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory) -> Path:
    """20 scenes."""
    return write_training_set(tmp_path_factory.mktemp("data") / "own", range(NUM_IMAGES))


@pytest.fixture(scope="session")
def second_root(tmp_path_factory) -> Path:
    """10 other scenes, some of the same stems."""
    return write_training_set(tmp_path_factory.mktemp("data") / "second", range(15, 25))


@pytest.fixture
def few_steps(synthetic_root) -> dict:
    """Settings of a short run, by field name."""
    return {
        "train_data_dir": str(synthetic_root),
        "val_fraction": 0.0,
        "resolution": 64,
        "train_batch_size": 2,
        "max_train_steps": 4,
        "checkpointing_steps": 2,
        "lr_warmup_steps": 1,
        "num_cpu_threads": 1,
        "report_to": None,
    }


@pytest.fixture(autouse=True)
def restored_threads():
    """The loop sets the threads of its process, which here is that of all tests."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def start_trainer(tmp_path):
    """Start ``python [PREFIX...] training/NAME.py --config RECIPE`` as a user does; returns the process."""
    started = []

    def start(name: str, settings: dict, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
        recipe = tmp_path / f"recipe_{len(started)}.yaml"
        recipe.write_text(yaml.safe_dump(settings), encoding="utf-8")
        command = [sys.executable, *prefix, str(ROOT / "training" / f"{name}.py"), "--config", str(recipe)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            workers = psutil.Process(process.pid).children(recursive=True)  # a killed launcher leaves them behind
            for living in (process, *workers):
                living.kill()
        process.communicate(timeout=60)

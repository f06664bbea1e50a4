"""Commands that write, killed at random moments: what lies there is whole, and the next run gives what one run gives.

Three kills a command here; KILLS=50 for the long campaign of `make fuzz`.
"""

import csv
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.cli.main import main
from irstd_ldm.data.synthetic import synthetic_scene

from ..conftest import write_scenes

KILLS = int(os.environ.get("KILLS", 3))
SEED = int(os.environ.get("FUZZ_SEED", 0))
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")


def start(arguments: list[str]) -> int:
    """The process that does a command in a fork of this one, which has loaded the libraries."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os._exit(main(arguments))
    finally:
        os._exit(70)


def finish(arguments: list[str]) -> float:
    """Seconds that the command takes, undisturbed."""
    begun = time.monotonic()
    _, status = os.waitpid(start(arguments), 0)
    assert os.waitstatus_to_exitcode(status) == 0, arguments
    return time.monotonic() - begun


def check_whole(folder: Path) -> None:
    """Every table parses, every picture decodes; hidden files are unfinished ones."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                assert len({len(row) for row in csv.reader(file, strict=True)}) == 1, path
        elif path.suffix == ".png":
            Image.open(path).load()


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four images with masks and their lists, and a stack of six frames."""
    root = tmp_path_factory.mktemp("kills") / "SET"
    scenes = [synthetic_scene(64, 64, num_targets=1, scr=12.0, seed=seed) for seed in range(4)]
    write_scenes(root, {str(index): scene for index, scene in enumerate(scenes)})
    (root / "train.txt").write_text("0\n1\n2\n3\n")
    np.save(root / "stack.npy", np.stack([scene.image for scene in scenes + scenes[:2]]))
    return root


@pytest.mark.parametrize("command", ["detect", "resume", "evaluate", "synthesize"])
def test_a_killed_command_leaves_what_is_whole(command, data, tiny_checkpoint, tmp_path):
    torch_threads = {"OMP_NUM_THREADS": "1"}
    os.environ |= torch_threads
    model = ["--model", str(tiny_checkpoint), "--device", "cpu"]
    arguments = {
        "detect": ["detect", str(data / "images"), "--runtime", "torch", *model],
        "resume": ["detect", str(data / "stack.npy"), "--tracks", "--runtime", "torch", *model],
        "evaluate": ["evaluate", "--data", str(data), "--split", "train", "--predictions", str(data / "masks")],
        "synthesize": ["synthesize", "--data", str(data), "--mode", "squeezed", "--count", "6"],
    }[command]
    seconds = finish([*arguments, "--output", str(tmp_path / "whole")])
    rng, unfinished = random.Random(SEED), 0
    for number in range(KILLS):
        folder = tmp_path / f"killed-{number}"
        child = start([*arguments, "--output", str(folder)])
        time.sleep(rng.uniform(0.2, 1) * seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        unfinished += os.WIFSIGNALED(status)
        if folder.exists():
            check_whole(folder)
        if command == "synthesize" and folder.exists():
            shutil.rmtree(folder)  # it refuses a folder with files
        again = ["--resume"] if command == "resume" else []
        finish([*arguments, *again, "--output", str(folder)])
        assert same(contents(folder), contents(tmp_path / "whole"), folder, tmp_path / "whole")
    print(f"{command}: {KILLS} kills, {unfinished} before the end")


def same(one: dict[str, bytes], other: dict[str, bytes], folder: Path, whole: Path) -> bool:
    """Whether two folders hold the same, but for their own names."""
    assert one.keys() == other.keys()
    return all(one[name].replace(os.fsencode(folder), os.fsencode(whole)) == other[name] for name in one)

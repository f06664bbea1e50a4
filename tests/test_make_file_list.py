"""scripts/make_file_list.py: no test image, no scene on two sides, the same lists for the same seed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from irstd_ldm.data.folder import read_stem_list

ROOT = Path(__file__).parents[1]


def make_root(root: Path) -> None:
    """Twelve scenes of two frames each; the last three scenes are the test list."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for scene in range(12):
        field = ndimage.gaussian_filter(rng.standard_normal((80, 96)), 5)
        for view in range(2):
            levels = 100 + 30 * field / field.std() + rng.standard_normal(field.shape)
            Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(root / "images" / f"s{scene:02d}_{view}.png")
    (root / "test.txt").write_text("".join(f"s{scene:02d}_{view}\n" for scene in (9, 10, 11) for view in range(2)))


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "make_file_list.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("lists") / "DATA"
    make_root(root)
    return root


def test_lists(data, tmp_path):
    (tmp_path / "more.txt").write_text("s00_0\ns00_1\n")
    for name in ("a", "b"):
        done = run(data, "--output", tmp_path / name, "--val-fraction", 0.25, "--exclude", tmp_path / "more.txt")
        assert done.returncode == 0, done.stderr
    train, val = (read_stem_list(tmp_path / "a" / name) for name in ("train.list", "val.list"))
    assert (train, val) == tuple(read_stem_list(tmp_path / "b" / name) for name in ("train.list", "val.list"))
    scenes = [{stem[:3] for stem in side} for side in (train, val)]
    assert len(train) + len(val) == 16 and len(val) == 4
    assert scenes[0].isdisjoint(scenes[1])
    assert not (scenes[0] | scenes[1]) & {"s00", "s09", "s10", "s11"}
    assert train != sorted(train)
    assert "left out: 8 images" in done.stdout


def test_nothing_left_is_an_error(data, tmp_path):
    (tmp_path / "all.txt").write_text("".join(f"{path.stem}\n" for path in (data / "images").iterdir()))
    done = run(data, "--output", tmp_path / "x", "--exclude", tmp_path / "all.txt")
    assert done.returncode == 2 and "0 images" in done.stderr

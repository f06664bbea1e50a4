"""The section "Share" of the README, as pasted."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from irstd_ldm.data.synthetic import synthetic_scene

from .server import TOKEN

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def share() -> str:
    return re.search(r"^## Share\n(.*?)^## ", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)[1]


def test_its_five_lines_work(hub, client, share, tmp_path):
    Image.fromarray(synthetic_scene(seed=0, scr=8.0).image).save(tmp_path / "frame.png")
    example = re.search(r"```python\n(.*?)```", share, re.DOTALL)[1]
    assert len(example.splitlines()) == 5
    done = client("-c", example, cwd=tmp_path, token=TOKEN)
    assert done.returncode == 0, done.stderr
    assert "Target(x=" in done.stdout
    assert "README.md" in hub.files("you/irstd-mine")


def test_its_commands_work(hub, client, share, tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "runs" / "mine")
    hub.repos.pop("you/irstd-mine", None)
    commands = re.search(r"```bash\n(.*?)```", share, re.DOTALL)[1].splitlines()
    words = [shlex.split(line) for line in commands]
    assert [line[:2] for line in words] == [["irstd-ldm", name] for name in ("card", "push", "pull")]
    for line in words[1:]:  # tests/docs runs the first
        done = client("-m", "irstd_ldm.cli", *line[1:], cwd=tmp_path, token=TOKEN)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine" / "model_index.json").is_file()

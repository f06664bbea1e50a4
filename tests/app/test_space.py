"""scripts/space: what a Hugging Face Space is made of."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from irstd_ldm.data.synthetic import synthetic_scene

from .calls import Session, file_data, request, upload
from .conftest import free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "scripts" / "space"


@pytest.fixture
def space(tmp_path) -> Path:
    """The folder that is uploaded."""
    text = (ROOT / "docs" / "app.md").read_text(encoding="utf-8")
    commands = re.search(r"^mkdir -p space.*?(?=^```)", text, re.DOTALL | re.MULTILINE)[0]
    for _ in range(2):  # a folder that exists is renewed
        subprocess.run(["bash", "-ec", commands.replace(" space", f" {tmp_path}/space")], check=True, cwd=ROOT)
    return tmp_path / "space"


def test_it_holds_the_package_and_no_links(space):
    assert {path.name for path in space.iterdir()} == {"README.md", "app.py", "irstd_ldm", "requirements.txt"}
    assert not [path for path in space.rglob("*") if path.is_symlink() or path.name == "__pycache__"]
    for module in ("irstd_ldm", "irstd_ldm.pipelines", "irstd_ldm.training"):
        code = f"import {module}; print({module}.__file__)"
        imported = subprocess.run([sys.executable, "-c", code], cwd=space, capture_output=True, text=True, check=True)
        assert Path(imported.stdout.strip()).is_relative_to(space)


def test_its_page_detects_as_a_space_starts_it(space, tmp_path):
    pytest.importorskip("gradio")
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("MODEL", "PYTHONPATH")},
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "TMPDIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=space,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    scene = synthetic_scene(128, 160, kind="sky", num_targets=2, scr=10.0, seed=1)
    Image.fromarray(scene.image).save(tmp_path / "sky.png")
    try:
        wait_for(f"{url}/config", process)
        (path,) = json.loads(upload(url, "sky.png", (tmp_path / "sky.png").read_bytes())[1])
        session = Session(url)
        assert session.detect(file_data(path))["success"] is True
        shown = session.call("show_all", [None, 0, "score", 0.5, 0.5])
        assert shown["success"] is True
        json_file = shown["output"]["data"][3]["value"]["url"]  # after the viewer, the summary and the table
        record = json.loads(request(json_file)[1])
    finally:
        process.kill()
        process.communicate()
    (image,) = record["images"]
    assert (record["model"], image["file"], image["width"], image["height"]) == ("bundled", "sky.png", 160, 128)
    for planted in scene.targets:
        assert any(math.hypot(t["x"] - planted.x, t["y"] - planted.y) < 1.5 for t in image["targets"])


def test_its_metadata_are_those_of_the_tested_gradio():
    metadata = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert metadata["sdk"] == "gradio" and metadata["app_file"] == "app.py"
    assert f"gradio=={metadata['sdk_version']}\n" in (ROOT / "constraints.txt").read_text()
    assert len(metadata["short_description"]) <= 60
    assert metadata["license"] == "apache-2.0"
    assert re.search(r'python_requires=">=3.11"', (ROOT / "setup.py").read_text())
    assert metadata["python_version"] == "3.11"


def test_its_requirements_are_those_of_the_package():
    """Nothing of the kind irstd-ldm[demo,video]: it is on no index."""
    comment, torch, *others = (SPACE / "requirements.txt").read_text().splitlines()
    assert comment.startswith("# ")
    pinned = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert torch == pinned[0]
    setup = {"__file__": str(ROOT / "setup.py")}
    exec((ROOT / "setup.py").read_text().partition("\nsetup(")[0], setup)  # the lists, without the call
    needed = [*setup["CORE"], *setup["FEATURES"]["demo"], *setup["FEATURES"]["video"]]
    assert others == [requirement for requirement in needed if not requirement.startswith("torch>")]

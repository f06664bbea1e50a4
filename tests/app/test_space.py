"""scripts/space: what a Hugging Face Space is made of."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .conftest import free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "scripts" / "space"


def test_its_page_starts_as_a_space_starts_it(tmp_path, tiny_checkpoint):
    pytest.importorskip("gradio")
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "TMPDIR": str(tmp_path),
        "MODEL": str(tiny_checkpoint),
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    process = subprocess.Popen(
        [sys.executable, str(SPACE / "app.py")],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/config", process)
    finally:
        process.kill()
        process.communicate()


def test_its_metadata_are_those_of_the_tested_gradio():
    metadata = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert metadata["sdk"] == "gradio" and metadata["app_file"] == "app.py"
    assert f"gradio=={metadata['sdk_version']}\n" in (ROOT / "constraints.txt").read_text()
    assert len(metadata["short_description"]) <= 60
    assert metadata["license"] == "apache-2.0"
    assert re.search(r'python_requires=">=3.11"', (ROOT / "setup.py").read_text())
    assert metadata["python_version"] == "3.11"


def test_its_requirements_name_extras_that_exist():
    (extras,) = re.findall(r"irstd-ldm\[([\w,]+)\]", (SPACE / "requirements.txt").read_text())
    for extra in extras.split(","):
        assert f'    "{extra}": ' in (ROOT / "setup.py").read_text()

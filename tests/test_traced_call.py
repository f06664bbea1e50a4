"""A call is read in few files: those of ours that it enters, and how deep it goes."""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from irstd_ldm.data.synthetic import synthetic_scene

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys
from pathlib import Path
import irstd_ldm
from irstd_ldm.data.synthetic import synthetic_scene

package = Path(irstd_ldm.__file__).parent
homes = [folder.resolve() for folder in (package, package / "pipelines", package / "training")]
depth, deepest, files = 0, 0, set()

def trace(frame, event, argument):
    global depth, deepest
    path = Path(frame.f_code.co_filename).resolve()
    if event in ("call", "return") and frame.f_code.co_flags & 1 and any(map(path.is_relative_to, homes)):
        depth += 1 if event == "call" else -1
        deepest = max(deepest, depth)
        files.add(path.name)

pipe = irstd_ldm.IRSTDLatentPipeline.from_pretrained(irstd_ldm.bundled_checkpoint())
image = synthetic_scene().image
sys.setprofile(trace)
pipe(image)
sys.setprofile(None)
print(len(files), deepest, *sorted(files))
"""


def test_a_call_crosses_few_files_and_is_not_deep():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    num_files, deepest, *names = done.stdout.split()
    assert int(num_files) <= 12 and int(deepest) <= 8, names


def test_the_command_crosses_few_files_and_is_not_deep(tmp_path):
    """By the program that CONTRIBUTING.md prints."""
    Image.fromarray(synthetic_scene().image).save(tmp_path / "one.png")
    (program,) = re.findall(
        r"```python\n(import sys, threading.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    num_files, deepest, *names = done.stdout.split("runtime: torch\n")[1].split()
    assert int(num_files) <= 22 and int(deepest) <= 14, names

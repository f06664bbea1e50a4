"""Memory of `irstd-ldm detect` on a large image: that of the image, not of its tiles."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.data.synthetic import synthetic_scene

# Prints the largest resident set less that of the process that has loaded the model and run one tile, in MiB (Linux).
MEASURE = """\
import sys
from pathlib import Path
import numpy as np
from irstd_ldm.cli import detect
from irstd_ldm.cli.main import build_parser
from irstd_ldm.cli.model import load_pipeline, resolve_device

def resident_kib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

flags = ["--runtime", "torch", "--tile-size", "384", "--output", sys.argv[2]]
args = build_parser().parse_args(["detect", sys.argv[1], *flags])
pipeline = load_pipeline(args, resolve_device(None))
pipeline(np.zeros((384, 384), np.uint8))
idle_kib = resident_kib("VmRSS")
detect.load_detector = lambda *_: pipeline
detect.run(args)
print((resident_kib("VmHWM") - idle_kib) / 1024)
"""


@pytest.mark.parametrize(
    ("megapixels", "most_mib"), [(4, 128), pytest.param(64, 2048, marks=pytest.mark.slow)], ids=["4", "64"]
)
def test_memory_of_a_large_16_bit_image(tmp_path, megapixels, most_mib):
    scene = synthetic_scene(512, 512, num_targets=1, scr=8.0, seed=1, bit_depth=16).image
    side = round((megapixels * 2**20) ** 0.5)
    large = np.pad(scene, (0, side - len(scene)), mode="symmetric")
    Image.fromarray(large).save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "large.png"), str(tmp_path / "output")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) < most_mib
    [image] = json.loads((tmp_path / "output" / "detections.json").read_text())["images"]
    assert len(image["targets"]) >= megapixels

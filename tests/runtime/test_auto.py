"""`--runtime auto`: what it takes, and what an install without torch says of what it lacks."""

import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.cli.main import CORE, main
from irstd_ldm.cli.model import resolve_runtime
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.runtime import exported as exported_module

WITHOUT_TORCH = """\
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in CORE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from irstd_ldm.cli.main import main
for line in sys.argv[1:]:
    print(main(line.split()))
"""


def resolved(model=None, **given) -> str:
    return exported_module.fastest_runtime(model, **given)


def test_the_bundled_detector_runs_in_onnxruntime_and_others_in_torch(tiny_checkpoint):
    assert resolved() == resolved(num_inference_steps=1, device="cpu") == "onnxruntime"
    assert resolved(num_inference_steps=2) == resolved(device="cuda:0") == resolved(model="owner/name") == "torch"
    assert resolved(model=str(tiny_checkpoint)) == "torch"


def test_a_named_runtime_is_taken():
    assert resolve_runtime(Namespace(runtime="compile", model=None)) == "compile"


def test_a_cuda_device_is_for_torch(monkeypatch):
    monkeypatch.setattr(exported_module, "_has_cuda", lambda: True)
    assert resolved() == "torch" and resolved(device="cpu") == "onnxruntime"


def test_what_is_installed_counts(exported, monkeypatch):
    assert resolved(model=str(exported["onnx"])) == "onnxruntime"
    assert resolved(model=str(exported["openvino"])) == "openvino"
    monkeypatch.setattr(exported_module, "find_spec", lambda name: None if name == "onnxruntime" else True)
    assert resolved() == resolved(model=str(exported["onnx"])) == "openvino"
    monkeypatch.setattr(exported_module, "find_spec", lambda name: None)
    assert resolved() == "torch"
    assert resolved(model=str(exported["onnx"])) == "onnxruntime"  # which then is named as missing


def test_without_torch(tmp_path):
    """`detect` runs; what needs torch, or the Hub, says so in one line."""
    Image.fromarray(synthetic_scene(128, 160, seed=1).image).save(tmp_path / "frame.png")
    frame = f"{tmp_path}/frame.png --output {tmp_path}/out"
    lines = [
        f"detect {frame}",
        f"detect {frame} --num-inference-steps 2",
        f"detect {frame} --runtime torch",
        f"evaluate --data {tmp_path}",
        f"calibrate --model {tmp_path} --data {tmp_path} --max-fa-per-million-px 10",
        f"export --format onnx --output {tmp_path}/exported",
        "info",
        f"card {tmp_path}",
        f"push {tmp_path} owner/name",
        f"pull owner/name {tmp_path}/pulled",
        f"synthesize --data {tmp_path} --count 1 --model {tmp_path} --output {tmp_path}/made",
    ]
    done = subprocess.run(
        [sys.executable, "-c", f"CORE = {CORE}\n{WITHOUT_TORCH}", *lines], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert len(told) == len(lines) - 1
    for line, said in zip(lines[1:], told, strict=True):
        assert said.startswith(f"irstd-ldm {line.split()[0]}: needs ") and said.endswith(": pip install irstd-ldm")
    assert [word for word in done.stdout.splitlines() if word in "012"] == ["0", *"2" * (len(lines) - 1)]
    assert "; runtime: onnxruntime" in done.stdout


def test_the_runtime_is_told_and_makes_no_difference(tmp_path, capsys):
    Image.fromarray(synthetic_scene(160, 192, seed=1).image).save(tmp_path / "frame.png")
    for runtime in ("auto", "torch"):
        arguments = [str(tmp_path / "frame.png"), "--write", "probability", "--output", str(tmp_path / runtime)]
        assert main(["detect", *arguments, "--runtime", runtime]) == 0
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines() if "runtime: " in line] == [
        "onnxruntime",
        "torch",
    ]
    maps = [
        np.asarray(Image.open(tmp_path / name / "probability" / "frame.png")) / 65535 for name in ("auto", "torch")
    ]
    np.testing.assert_allclose(*maps, rtol=0, atol=1e-3)


@pytest.mark.parametrize("runtime", ("onnxruntime", "openvino"))
def test_the_bundled_graph_is_that_of_the_bundled_weights(runtime):
    """After other weights: `make graph`."""
    from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
    from irstd_ldm.runtime.detector import ExportedDetectorRunner

    pipeline = IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())
    detector = ExportedDetectorRunner(runtime=runtime)
    image = synthetic_scene(200, 256, num_targets=3, seed=2).image
    expected, found = pipeline(image), detector(image)
    assert expected.targets[0]
    np.testing.assert_allclose(found.probability, expected.probability, rtol=0, atol=1e-3)
    assert {name: pipeline.config[name] for name in detector.config} == detector.config
    assert sum(path.stat().st_size for path in exported_module.BUNDLED_GRAPH.iterdir()) <= 12 * 2**20

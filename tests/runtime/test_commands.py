"""`export`, and the commands that run what it wrote."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.cli.main import main
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.runtime.exported import read_description

from ..conftest import write_scenes


@pytest.fixture
def frame(tmp_path):
    path = tmp_path / "frame.png"
    Image.fromarray(synthetic_scene(128, 128, seed=1).image).save(path)
    return path


def refused(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_the_folder_describes_itself(onnx_folder, wide_checkpoint, capsys):
    assert sorted(path.name for path in onnx_folder.iterdir()) == ["detector.json", "model.onnx"]
    assert not [path for path in onnx_folder.parent.iterdir() if path.name.startswith(".")]
    content = json.loads((onnx_folder / "detector.json").read_text())
    index = json.loads((wide_checkpoint / "model_index.json").read_text())
    assert content["config"]["default_mask_threshold"] == index["default_mask_threshold"]
    assert (content["format"], content["noise"]) == ("onnx", {"noise": [8, 8], "posterior_noise": [4, 8]})
    assert main(["info", "--model", str(onnx_folder)]) == 0
    printed = capsys.readouterr().out
    assert "exported detector: onnx" in printed and "quantization = none, float32" in printed


@pytest.mark.parametrize(("format", "runtime"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_detect_without_torch(exported, wide_checkpoint, frame, tmp_path, format, runtime):
    flags = ["--threshold", "0.3", "--seed", "4", "--ensemble-size", "2"]
    main(["detect", str(frame), "--output", str(tmp_path / "torch"), "--model", str(wide_checkpoint), *flags])
    code = (
        "import sys\nfrom irstd_ldm.cli.main import main\ncode = main(sys.argv[1:])\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)\nsys.exit(code)"
    )
    arguments = ["detect", str(frame), "--output", str(tmp_path / "other"), "--model", str(exported[format])]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--runtime", runtime, *flags], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    expected, found = (json.loads((tmp_path / name / "detections.json").read_text()) for name in ("torch", "other"))
    assert (expected["settings"]["runtime"], found["settings"]["runtime"]) == ("torch", runtime)
    assert len(found["images"][0]["targets"]) == len(expected["images"][0]["targets"])
    masks = [np.asarray(Image.open(tmp_path / name / "masks" / "frame.png")) for name in ("torch", "other")]
    assert (masks[0] != masks[1]).mean() < 0.001


def test_detect_takes_tiles(exported, wide_checkpoint, tmp_path, capsys):
    Image.fromarray(synthetic_scene(160, 288, seed=1).image).save(tmp_path / "a.png")
    flags = ["--tile-size", "128", "--tile-overlap", "16", "--write", "probability"]
    models = {"torch": wide_checkpoint, "onnxruntime": exported["onnx"]}
    for runtime, model in models.items():
        arguments = [str(tmp_path / "a.png"), "--output", str(tmp_path / runtime), "--model", str(model), *flags]
        assert main(["detect", *arguments, "--runtime", runtime]) == 0
        assert json.loads((tmp_path / runtime / "detections.json").read_text())["settings"]["tile_size"] == 128
    maps = [np.asarray(Image.open(tmp_path / name / "probability" / "a.png")) / 65535 for name in models]
    np.testing.assert_allclose(*maps, atol=2e-3)
    capsys.readouterr()
    common = ("detect", str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), "--tile-size", "64")
    said = refused(capsys, *common, "--runtime", "onnxruntime", "--model", str(exported["onnx"]))
    assert "`tile_size` must be 0 (no tiles) or at least 128, got 64" in said


def test_evaluate_takes_a_runtime(exported, tmp_path):
    data = write_scenes(tmp_path / "data", {"a": synthetic_scene(128, 128, seed=1)})
    (data / "test.txt").write_text("a\n")
    arguments = ["--data", str(data), "--model", str(exported["openvino"]), "--runtime", "openvino", "--no-report"]
    assert main(["evaluate", *arguments, "--output", str(tmp_path / "out")]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["settings"]["runtime"] == "openvino" and metrics["num_images"] == 1


def test_the_model_and_the_runtime_must_fit(exported, wide_checkpoint, frame, capsys, tmp_path):
    common = ("detect", str(frame), "--output", str(tmp_path / "out"))
    checkpoint = refused(capsys, *common, "--runtime", "onnxruntime", "--model", str(wide_checkpoint))
    assert "needs as --model a folder that `export` wrote" in checkpoint
    torch_only = refused(capsys, *common, "--model", str(exported["onnx"]), "--runtime", "torch")
    assert "an exported detector" in torch_only
    onnx_only = refused(capsys, *common, "--runtime", "onnxruntime", "--model", str(exported["openvino"]))
    assert "reads the format onnx, got openvino" in onnx_only
    device = refused(
        capsys, *common, "--runtime", "openvino", "--model", str(exported["openvino"]), "--device", "cuda"
    )
    assert "--device cuda: --runtime openvino runs on the cpu" in device


@pytest.mark.parametrize("config", [None, [], {}])
def test_a_broken_config_is_named(exported, frame, tmp_path, capsys, config):
    broken = shutil.copytree(exported["onnx"], tmp_path / "broken")
    content = json.loads((broken / "detector.json").read_text()) | {"config": config}
    (broken / "detector.json").write_text(json.dumps(content))
    common = ("detect", str(frame), "--output", str(tmp_path / "out"))
    said = refused(capsys, *common, "--runtime", "onnxruntime", "--model", str(broken))
    assert "`config` must hold calibration, default_ensemble_size" in said
    assert "`config` must hold" in refused(capsys, "info", "--model", str(broken))


@pytest.mark.parametrize("content", ["not json", "[]", '{"format_version": 3}', '{"format_version": 2}'])
def test_a_broken_description_is_named(exported, frame, tmp_path, capsys, content):
    broken = shutil.copytree(exported["onnx"], tmp_path / "broken")
    (broken / "detector.json").write_text(content)
    common = ("detect", str(frame), "--output", str(tmp_path / "out"))
    assert "detector.json" in refused(capsys, *common, "--runtime", "onnxruntime", "--model", str(broken))


def test_descriptions_of_earlier_versions(exported, tmp_path):
    """Version 3 gave the latent's size, version 2 one threshold for pixels and targets, version 1 no normalisation."""
    folder = shutil.copytree(exported["onnx"], tmp_path / "old")
    today = read_description(folder)
    content = json.loads(today.to_json()) | {"latent_channels": 4, "latent_downscale": 8, "format_version": 1}
    del content["noise"], content["config"]["normalization"]
    for name in ("mask", "score"):
        content["config"].pop(f"default_{name}_threshold")
    content["config"]["default_threshold"] = 0.25
    (folder / "detector.json").write_text(json.dumps(content))
    old = read_description(folder)
    assert old.noise == today.noise and old.config["normalization"] == "range"
    assert old.config["default_mask_threshold"] == old.config["default_score_threshold"] == 0.25


def test_a_broken_graph_is_named(exported, frame, tmp_path, capsys):
    broken = shutil.copytree(exported["onnx"], tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"no graph")
    common = ("detect", str(frame), "--output", str(tmp_path / "out"), "--model", str(broken))
    for runtime in ("onnxruntime", "openvino"):
        assert f"--model {broken}: {runtime} cannot load it: " in refused(capsys, *common, "--runtime", runtime)


def test_what_is_not_exported(wide_checkpoint, tmp_path, capsys):
    output = ("--output", str(tmp_path / "out"))
    latent = ("export", "--model", str(wide_checkpoint), "--format", "onnx")
    assert "--int8 and --calibration ROOT go together" in refused(capsys, *latent, *output, "--int8")
    steps = refused(capsys, *latent, *output, "--num-inference-steps", "2000")
    assert "`num_inference_steps` must lie in [1, 1000], got 2000" in steps
    missing = refused(capsys, *latent, *output, "--int8", "--calibration", str(tmp_path / "none"))
    assert "none" in missing
    hub = refused(capsys, *latent, *output, "--int8", "--calibration", "hf:owner/name")
    assert "--calibration must be a folder" in hub
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    assert "exists and is not an empty folder" in refused(capsys, *latent, *output)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("format", ("onnx", "openvino"))
def test_int8_of_several_steps_by_the_command(wide_checkpoint, frame, tmp_path, format, capfd):
    data = tmp_path / "data"
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
    for number in range(3):
        scene = synthetic_scene(128, 128, seed=number)
        Image.fromarray(scene.image).save(data / "images" / f"{number}.png")
        Image.fromarray(scene.mask).save(data / "masks" / f"{number}.png")
    (data / "train.txt").write_text("0\n1\n2\n")
    arguments = ["--model", str(wide_checkpoint), "--format", format, "--output", str(tmp_path / "int8")]
    steps = ["--num-inference-steps", "2"]
    assert main(["export", *arguments, *steps, "--int8", "--calibration", str(data)]) == 0
    told = capfd.readouterr()
    assert told.out.count("\n") == 1 and f"{format}, int8, 2 steps" in told.out
    assert told.err == ""
    content = json.loads((tmp_path / "int8" / "detector.json").read_text())
    assert (content["num_inference_steps"], content["quantization"]["num_images"]) == (2, 3)
    runtime = "onnxruntime" if format == "onnx" else "openvino"
    common = ["detect", str(frame), "--output", str(tmp_path / "out"), "--model", str(tmp_path / "int8")]
    assert main([*common, "--runtime", runtime]) == 0


@pytest.mark.slow
def test_compiled_networks_find_the_same(wide_checkpoint, frame, tmp_path):
    common = ["detect", str(frame), "--model", str(wide_checkpoint), "--threshold", "0.3"]
    for runtime in ("torch", "compile"):
        assert main([*common, "--output", str(tmp_path / runtime), "--runtime", runtime]) == 0
    masks = [np.asarray(Image.open(tmp_path / runtime / "masks" / "frame.png")) for runtime in ("torch", "compile")]
    assert (masks[0] != masks[1]).mean() < 0.001

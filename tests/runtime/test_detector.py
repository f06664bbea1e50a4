"""An exported detector gives what the pipeline gives."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.runtime import exported as exported_module
from irstd_ldm.runtime.detector import ExportedDetectorRunner
from irstd_ldm.runtime.exported import ENGINES, MODEL_FILES, openvino_has_bf16, read_description

FLOAT32 = (("onnx", "onnxruntime"), ("onnx", "openvino"), ("openvino", "openvino"))
# Image size, tile size: padded, equal and unequal sides, tiled.
SIZES = (((128, 128), 0), ((100, 90), 0), ((192, 256), 0), ((320, 256), 0), ((512, 384), 256))


@pytest.fixture(scope="module", params=FLOAT32, ids=[f"{runtime} of {format}" for format, runtime in FLOAT32])
def detector(request, exported):
    format, runtime = request.param
    return ExportedDetectorRunner(exported[format], runtime, num_threads=1)


def assert_same(found, expected):
    for name in ("probability", "uncertainty"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert [len(targets) for targets in found.targets] == [len(targets) for targets in expected.targets]
    for ours, theirs in zip(sum(found.targets, []), sum(expected.targets, []), strict=True):
        np.testing.assert_allclose(dataclasses.astuple(ours), dataclasses.astuple(theirs), rtol=1e-3, atol=1e-3)


def threshold_between(probability: np.ndarray) -> float:
    """In the widest gap among the highest thousandth, so that rounding moves no pixel over it."""
    highest = np.sort(probability.ravel())[-max(probability.size // 1000, 3) :]
    gap = np.diff(highest).argmax()
    return float(highest[gap] + highest[gap + 1]) / 2


@pytest.mark.parametrize(("size", "tile_size"), SIZES)
def test_any_size_tiled_or_not(detector, pipeline, size, tile_size):
    image = synthetic_scene(*size, seed=1).image
    sampled = pipeline(image, tile_size=tile_size, generator=torch.Generator().manual_seed(9))
    threshold = threshold_between(sampled.probability)
    expected = pipeline(image, tile_size=tile_size, threshold=threshold, generator=torch.Generator().manual_seed(9))
    assert expected.targets[0]
    assert_same(detector(image, tile_size=tile_size, threshold=threshold, seed=9), expected)


def test_an_ensemble_samples_the_same_posterior(detector, pipeline):
    images = [synthetic_scene(128, 160, seed=seed).image for seed in (1, 2)]
    expected = pipeline(images, ensemble_size=3, ensemble_fusion="median", batch_size=2)
    assert expected.uncertainty.max() > 1e-3
    assert_same(detector(images, ensemble_size=3, ensemble_fusion="median", batch_size=2), expected)


def test_the_batch_changes_nothing(detector):
    images = [synthetic_scene(128, 128, seed=seed).image for seed in range(3)]
    alone, together = detector(images), detector(images, batch_size=3)
    np.testing.assert_allclose(together.probability, alone.probability, rtol=0, atol=1e-5)


def test_what_came_before_changes_nothing(detector):
    image = synthetic_scene(128, 160, seed=1).image
    first, *again = [detector(image).probability for _ in range(5)]
    detector(synthetic_scene(160, 128, seed=1).image)
    for later in (*again, detector(image).probability):
        np.testing.assert_array_equal(later, first)


def test_arguments_of_the_call(exported, pipeline):
    detector = ExportedDetectorRunner(exported["openvino"], "openvino")
    image = (np.arange(128 * 128).reshape(128, 128) % 5000).astype(np.uint16)
    expected = pipeline(image, input_range=(100, 4000), return_dict=False)
    found = detector(image, num_inference_steps=1, input_range=(100, 4000), return_dict=False)
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-3)
    assert found[2] is None and len(found) == 4
    for arguments, message in (
        ({"num_inference_steps": 2}, "`num_inference_steps` must be 1, with which the detector was exported, got 2"),
        ({"ensemble_size": 0}, "`ensemble_size` must be an integer of at least 1, got 0"),
        ({"max_fa_per_million_px": 3.0}, "`max_fa_per_million_px` 3.0 was never calibrated"),
        ({"threshold": 2.0}, "`threshold` must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            detector(image, **arguments)


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
def test_a_robust_detector_is_exported_as_such(exported, wide_checkpoint, tmp_path, dtype):
    folder = shutil.copytree(exported["onnx"], tmp_path / "robust")
    description = json.loads((folder / "detector.json").read_text())
    assert description["config"]["normalization"] == "range"
    description["config"]["normalization"] = "robust"
    description["pad_multiple"] = 32  # an earlier version wrote it
    (folder / "detector.json").write_text(json.dumps(description))
    robust = IRSTDLatentPipeline.from_pretrained(wide_checkpoint)
    robust.register_to_config(normalization="robust")
    image = (synthetic_scene(200, 150, seed=3).image // 4 + 10).astype(dtype)
    image[:40] = 0
    found = ExportedDetectorRunner(folder, "onnxruntime", num_threads=1)(image, tile_size=128, threshold=0.5)
    assert_same(found, robust(image, tile_size=128, threshold=0.5))
    as_range = ExportedDetectorRunner(exported["onnx"], "onnxruntime", num_threads=1)(image, tile_size=128)
    assert np.abs(found.probability - as_range.probability).max() > 0.01


def test_a_description_without_a_normalisation_has_the_first_one(exported, tmp_path):
    folder = shutil.copytree(exported["onnx"], tmp_path / "old")
    description = json.loads((folder / "detector.json").read_text())
    del description["config"]["normalization"]
    (folder / "detector.json").write_text(json.dumps(description))
    assert read_description(folder).config["normalization"] == "range"
    description["config"]["normalization"] = "minmax"
    (folder / "detector.json").write_text(json.dumps(description))
    with pytest.raises(
        ValueError, match=r"detector\.json: `normalization` must be one of range, robust, got 'minmax'"
    ):
        read_description(folder)


def test_what_a_runtime_does_not_read(exported):
    with pytest.raises(ValueError, match=f"`runtime` must be one of {', '.join(ENGINES)}, auto, got 'torch'"):
        ExportedDetectorRunner(exported["onnx"], "torch")
    with pytest.raises(ValueError, match="`runtime` 'onnxruntime' reads the format onnx, got openvino"):
        ExportedDetectorRunner(exported["openvino"], "onnxruntime")


def test_bfloat16_finds_the_same_targets():
    if not openvino_has_bf16():
        pytest.skip("this processor has no bfloat16")
    image = synthetic_scene(192, 256, num_targets=6, scr=8.0, seed=2).image
    expected = ExportedDetectorRunner(None, "openvino", num_threads=1)(image)
    found = ExportedDetectorRunner(None, "openvino-bf16", num_threads=1)(image)
    assert 1e-4 < np.abs(found.probability - expected.probability).max() < 0.1
    ours, theirs = ([(target.x, target.y) for target in output.targets[0]] for output in (found, expected))
    assert theirs
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.1)


def test_bfloat16_is_refused_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(exported_module, "openvino_has_bf16", lambda: False)
    with pytest.raises(ValueError, match="openvino-bf16 needs a processor with bfloat16"):
        ExportedDetectorRunner(None, "openvino-bf16")


def test_what_fails_in_onnxruntime_is_a_runtime_error(exported):
    """Its own errors are no RuntimeError: the command would end there, instead of going on with the next image."""
    infer = ENGINES["onnxruntime"](exported["onnx"] / MODEL_FILES["onnx"], 1)
    inputs = {
        "image": np.zeros((1, 64, 64), np.float32),
        "noise": np.zeros((1, 8, 8, 8), np.float32),
        "posterior_noise": np.zeros((1, 4, 8, 8), np.float32),
    }
    with pytest.raises(RuntimeError, match="image"):
        infer(inputs)

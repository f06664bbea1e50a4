"""The commands take whichever detector a checkpoint holds."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from irstd_ldm import IRSTDDiffPipeline, IRSTDLatentPipeline
from irstd_ldm.cli.main import main
from irstd_ldm.pipelines.detection import detector_class


@pytest.fixture
def image(tmp_path):
    gray = np.random.default_rng(0).integers(0, 255, (64, 80), dtype=np.uint8)  # (H, W)
    Image.fromarray(gray).save(tmp_path / "frame.png")
    return gray


def test_the_class_is_that_of_the_index(tiny_checkpoint, tiny_diff_checkpoint):
    assert detector_class(str(tiny_checkpoint)) is IRSTDLatentPipeline
    assert detector_class(str(tiny_diff_checkpoint)) is IRSTDDiffPipeline


@pytest.mark.parametrize("steps", (None, 0, 3))
def test_detect_runs_the_pixel_pipeline(tiny_diff_checkpoint, image, tmp_path, steps):
    flags = [] if steps is None else ["--num-inference-steps", str(steps)]
    folder = tmp_path / "out"
    arguments = ["detect", str(tmp_path / "frame.png"), "--output", str(folder), "--model", str(tiny_diff_checkpoint)]
    assert main([*arguments, *flags]) == 0
    pipeline = IRSTDDiffPipeline.from_pretrained(tiny_diff_checkpoint)
    expected = pipeline(image, num_inference_steps=steps, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "masks" / "frame.png")) > 0, expected.mask[0, 0])
    detections = json.loads((folder / "detections.json").read_text())
    assert detections["settings"]["num_inference_steps"] == (1 if steps is None else steps)


def test_info_describes_the_pixel_pipeline(tiny_diff_checkpoint, capsys):
    assert main(["info", "--model", str(tiny_diff_checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert "pipeline: IRSTDDiffPipeline" in printed
    assert "conditional_encoder" in printed and "IRSTDUNet2DModel" in printed


def test_another_class_is_named(tiny_diff_checkpoint, tmp_path, capsys):
    checkpoint = shutil.copytree(tiny_diff_checkpoint, tmp_path / "other")
    index = json.loads((checkpoint / "model_index.json").read_text())
    (checkpoint / "model_index.json").write_text(json.dumps(index | {"_class_name": ["pipeline", "StableDiffusion"]}))
    assert main(["info", "--model", str(checkpoint)]) == 2
    message = capsys.readouterr().err
    assert "names StableDiffusion, which is no pipeline of this package" in message
    assert message.count("\n") == 1


def test_a_negative_number_of_steps_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["detect", "--num-inference-steps", "-1"])
    assert stopped.value.code == 2
    assert "must be at least 0, got -1" in capsys.readouterr().err

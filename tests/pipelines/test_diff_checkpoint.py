"""The pixel pipeline's checkpoint folder: what is in it, and that it computes the same wherever it is loaded."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler, UNet2DModel

from irstd_ldm import ConditionalEncoder, IRSTDDiffPipeline, IRSTDLatentPipeline, IRSTDUNet2DModel

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (70, 50), dtype=np.uint8)  # (H, W)


@pytest.fixture
def checkpoint(tiny_diff_checkpoint, tmp_path) -> Path:
    """A copy of what `tiny_diff_pipeline` saves."""
    return shutil.copytree(tiny_diff_checkpoint, tmp_path / "checkpoint")


def run(pipeline, image: np.ndarray) -> np.ndarray:
    return np.asarray(pipeline(image, num_inference_steps=2, ensemble_size=2).probability)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_golden_files_and_index(checkpoint):
    files = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()}
    assert files == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        *(f"{name}/config.json" for name in ("unet", "conditional_encoder")),
        *(f"{name}/{WEIGHTS}" for name in ("unet", "conditional_encoder")),
    }
    index = read_json(checkpoint / "model_index.json")
    index.pop("_diffusers_version")
    assert set(index.pop("_sha256")) == {f"unet/{WEIGHTS}", f"conditional_encoder/{WEIGHTS}"}
    assert index == {
        "_class_name": "IRSTDDiffPipeline",
        "calibration": None,
        "conditional_encoder": ["irstd_ldm.models.conditional_encoder", "ConditionalEncoder"],
        "default_ensemble_size": 1,
        "default_num_inference_steps": 1,
        "default_mask_threshold": 0.5,
        "default_score_threshold": 0.5,
        "default_tile_overlap": 32,
        "default_tile_size": 256,
        "format_version": 2,
        "normalization": "range",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["irstd_ldm.models.pixel_unet", "IRSTDUNet2DModel"],
    }


def test_golden_component_configs(checkpoint):
    private = {"_class_name", "_diffusers_version"}
    assert set(read_json(checkpoint / "conditional_encoder/config.json")) == private | {
        "block_out_channels",
        "decoder_mid_channels",
        "heights",
        "in_channels",
        "mid_channels",
        "residual_channels",
        "stem",
        "use_liw",
    }
    unet = read_json(checkpoint / "unet/config.json")
    assert set(unet) - set(inspect.signature(UNet2DModel).parameters) == private | {"stem", "sees_map"}
    scheduler = read_json(checkpoint / "scheduler/scheduler_config.json")
    assert (scheduler["timestep_spacing"], scheduler["rescale_betas_zero_snr"]) == ("trailing", True)
    assert (scheduler["prediction_type"], scheduler["clip_sample"]) == ("sample", True)


def test_save_and_load_is_bit_equal(tiny_diff_pipeline, checkpoint, image):
    loaded = IRSTDDiffPipeline.from_pretrained(checkpoint)
    assert type(loaded.unet) is IRSTDUNet2DModel
    assert type(loaded.conditional_encoder) is ConditionalEncoder
    np.testing.assert_array_equal(run(loaded, image), run(tiny_diff_pipeline, image))


def test_another_scheduler_is_saved_and_loaded(tiny_diff_pipeline, image, tmp_path):
    tiny_diff_pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        tiny_diff_pipeline.scheduler.config, thresholding=True, sample_max_value=1.0
    )
    tiny_diff_pipeline.save_pretrained(tmp_path / "dpm")
    loaded = IRSTDDiffPipeline.from_pretrained(tmp_path / "dpm")
    assert type(loaded.scheduler) is DPMSolverMultistepScheduler and loaded.scheduler.config.thresholding
    np.testing.assert_array_equal(run(loaded, image), run(tiny_diff_pipeline, image))


def test_the_other_detector_s_class_refuses_it(checkpoint):
    with pytest.raises(OSError, match="no entry .* for the component `image_encoder`"):
        IRSTDLatentPipeline.from_pretrained(checkpoint)


WITHOUT_THE_PACKAGE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "irstd_ldm":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())

import numpy as np
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("checkpoint", trust_remote_code=True)
output = pipeline(np.load("image.npy"), num_inference_steps=2, ensemble_size=2)
np.save("probability.npy", output.probability)
"""


def test_loads_without_the_package(tiny_diff_pipeline, image, tmp_path):
    tiny_diff_pipeline.save_pretrained(tmp_path / "checkpoint", remote_code=True)
    np.save(tmp_path / "image.npy", image)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Expected types" not in done.stderr  # diffusers' warning about a component of another class
    np.testing.assert_array_equal(np.load(tmp_path / "probability.npy"), run(tiny_diff_pipeline, image))

"""A small random detector, exported once: torch's exporter takes most of a minute."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.cli.main import main
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.runtime.export import write_openvino
from irstd_ldm.runtime.exported import read_description
from irstd_ldm.runtime.quantize import Calibration, calibration_inputs, quantize_onnx


@pytest.fixture(scope="session")
def onnx_folder(wide_checkpoint, tmp_path_factory) -> Path:
    """Written by the command."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    assert main(["export", "--model", str(wide_checkpoint), "--format", "onnx", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    return Calibration("scenes", [synthetic_scene(128, 160, seed=seed).image for seed in range(4)])


@pytest.fixture(scope="session")
def exported(onnx_folder, calibration, tmp_path_factory) -> dict[str, Path]:
    """Folders of one graph: onnx, openvino, and both with int8 convolutions."""
    description = read_description(onnx_folder)
    folders = {"onnx": onnx_folder}
    for name in ("onnx-int8", "openvino", "openvino-int8"):
        folders[name] = tmp_path_factory.mktemp("exported") / name
        folders[name].mkdir()
        described = dataclasses.replace(
            description,
            format=name.removesuffix("-int8"),
            quantization=calibration.describe() if name.endswith("int8") else None,
        )
        if described.format == "openvino":
            write_openvino(folders[name.replace("openvino", "onnx")] / "model.onnx", folders[name] / "model.xml")
        else:
            shutil.copy(onnx_folder / "model.onnx", folders[name])
            quantize_onnx(folders[name] / "model.onnx", calibration_inputs(calibration, description))
        (folders[name] / "detector.json").write_text(described.to_json())
    return folders


@pytest.fixture(scope="session")
def pipeline(wide_checkpoint) -> IRSTDLatentPipeline:
    loaded = IRSTDLatentPipeline.from_pretrained(wide_checkpoint)
    loaded.set_progress_bar_config(disable=True)
    return loaded

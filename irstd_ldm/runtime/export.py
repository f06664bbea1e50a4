"""Writes a detector's networks as an ONNX or OpenVINO graph with dynamic image sizes."""

import io
import logging
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..tiling import PAD_MULTIPLE
from .exported_folder import DESCRIPTION, MODEL_FILES, ExportedDetector
from .networks import LatentDetector
from .quantize import Calibration, calibration_inputs, quantize_onnx

if TYPE_CHECKING:
    from ..pipelines.detection import IRSTDDetectionPipeline
    from ..pipelines.pipeline_irstd_latent import IRSTDLatentPipeline

INPUTS, OUTPUT = ("image", "noise", "posterior_noise"), "probability"
# Sizes of 1 and equal sizes would become constants of the graph.
EXAMPLE_BATCH, EXAMPLE_HEIGHT, EXAMPLE_WIDTH = 2, 192, 256


def export_detector(
    pipeline: "IRSTDDetectionPipeline",
    folder: Path,
    format: str,
    model: str,
    num_inference_steps: int | None = None,
    calibration: Calibration | None = None,
) -> ExportedDetector:
    """Writes a folder that [`ExportedDetectorRunner`] runs; all of it or nothing.

    Args:
        pipeline: The detector, an [`IRSTDLatentPipeline`].
        folder: Absent or empty.
        format: ``onnx`` or ``openvino``.
        model: Name of the checkpoint, recorded.
        num_inference_steps: Denoising steps, unrolled; None = the checkpoint's default.
        calibration: Images whose activations set the int8 ranges; None = float32.

    Raises:
        TypeError: Another pipeline.
        ValueError: An unknown format, or steps out of range.
        FileExistsError: `folder` is not empty.
        ModuleNotFoundError: A package of the extra `export` is not installed.
    """
    from ..pipelines.pipeline_irstd_latent import IRSTDLatentPipeline  # the rest of the runtime knows no pipelines

    if not isinstance(pipeline, IRSTDLatentPipeline):
        raise TypeError(f"`pipeline` must be an IRSTDLatentPipeline to be exported, got {type(pipeline).__name__}")
    if format not in MODEL_FILES:
        raise ValueError(f"`format` must be one of {', '.join(MODEL_FILES)}, got {format!r}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"`folder` must be absent or an empty folder, got {folder}")
    settings = {name: value for name, value in pipeline.config.items() if name.startswith("default_")}
    steps = settings["default_num_inference_steps"] if num_inference_steps is None else num_inference_steps
    if not 1 <= steps <= pipeline.max_inference_steps:
        raise ValueError(f"`num_inference_steps` must lie in [1, {pipeline.max_inference_steps}], got {steps}")
    downscale = 2 ** _num_halvings(pipeline)
    description = ExportedDetector(
        format=format,
        num_inference_steps=steps,
        pad_multiple=PAD_MULTIPLE,
        latent_downscale=downscale,
        latent_channels=pipeline.vae.config.latent_channels,
        config={
            **settings,
            "default_num_inference_steps": steps,
            "calibration": pipeline.config.calibration,
            "normalization": pipeline.config.normalization,
        },
        model=model,
        version=__version__,
        quantization=None if calibration is None else calibration.describe(),
    )
    unfinished = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    unfinished.mkdir(parents=True)
    try:
        onnx_path = unfinished / MODEL_FILES["onnx"]
        with _quiet():
            write_onnx(LatentDetector(pipeline, steps), description, onnx_path)
            if calibration is not None:
                quantize_onnx(onnx_path, calibration_inputs(calibration, description))
            if format == "openvino":
                write_openvino(onnx_path, unfinished / MODEL_FILES["openvino"])
                onnx_path.unlink()
        (unfinished / DESCRIPTION).write_text(description.to_json(), encoding="utf-8")
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return description


def _num_halvings(pipeline: "IRSTDLatentPipeline") -> int:
    levels = len(pipeline.image_encoder.config.block_out_channels)
    return levels if pipeline.image_encoder.config.stem == "haar" else levels - 1


def write_onnx(networks: LatentDetector, description: ExportedDetector, path: Path) -> None:
    """Writes the graph as ONNX, in float32, for any batch and any image size that is a multiple of the padding.

    Raises:
        ModuleNotFoundError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error.name} is not installed: pip install irstd-ldm[export]") from error
    channels, downscale = description.latent_channels, description.latent_downscale
    size = (EXAMPLE_HEIGHT // downscale, EXAMPLE_WIDTH // downscale)
    example = (
        torch.zeros(EXAMPLE_BATCH, 1, EXAMPLE_HEIGHT, EXAMPLE_WIDTH),
        torch.zeros(EXAMPLE_BATCH, 2 * channels, *size),
        torch.zeros(EXAMPLE_BATCH, channels, *size),
    )
    dynamic = {axis: torch.export.Dim.AUTO for axis in (0, 2, 3)}
    with torch.no_grad():
        exported = torch.export.export(networks, example, dynamic_shapes=(dynamic,) * len(example), strict=False)
        program: Any = torch.onnx.export(
            exported, (), dynamo=True, verbose=False, input_names=list(INPUTS), output_names=[OUTPUT]
        )
        program.save(path, external_data=False)


def write_openvino(onnx_path: Path, path: Path) -> None:
    """Writes an ONNX graph, float32 or int8, as OpenVINO's.

    Raises:
        ModuleNotFoundError: openvino is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("openvino is not installed: pip install irstd-ldm[export]") from error
    openvino.save_model(openvino.Core().read_model(onnx_path), path, compress_to_fp16=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters log, warn of their own deprecations, and draw progress bars on the standard output."""
    loggers = [logging.getLogger(name) for name in ("root", "onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""Writes a detector's networks as an ONNX or OpenVINO graph with dynamic image sizes."""

import copy
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .. import __version__
from ..extras import required
from ..files import is_free, unfinished_folder
from .exported import DESCRIPTION, MODEL_FILES, ExportedDetector
from .quantize import Calibration, calibration_inputs, quantize_onnx

if TYPE_CHECKING:
    from ..pipelines.detection import IRSTDDetectionPipeline
    from ..pipelines.pipeline_irstd_latent import IRSTDLatentPipeline

INPUTS, OUTPUT = ("image", "noise", "posterior_noise"), "probability"
# Sizes of 1 and equal sizes would become constants of the graph.
EXAMPLE_BATCH, EXAMPLE_HEIGHT, EXAMPLE_WIDTH = 2, 192, 256


class LatentDetector(nn.Module):
    """Copies of the networks of [`IRSTDLatentPipeline`] as one, with the denoising steps unrolled."""

    def __init__(self, pipeline: "IRSTDLatentPipeline", num_inference_steps: int):
        super().__init__()
        networks = (copy.deepcopy(one).eval() for one in (pipeline.image_encoder, pipeline.unet, pipeline.vae))
        self.image_encoder, self.unet, self.vae = (one.to("cpu", torch.float32) for one in networks)
        self.scheduler = copy.deepcopy(pipeline.scheduler)
        self.scheduler.set_timesteps(num_inference_steps)
        self.timesteps = self.scheduler.timesteps.tolist()

    def forward(self, image: torch.Tensor, noise: torch.Tensor, posterior_noise: torch.Tensor) -> torch.Tensor:
        """Image (B, 1, PH, PW) of about [-1, 1] and standard normal noise (B, 8, h, w) -> probability (B, 1, PH, PW).

        Posterior noise (B, 4, h, w): zeros decode the posterior's mode, standard normal numbers a sample of it.
        """
        encoded = self.image_encoder(image)
        latents = noise * self.scheduler.init_noise_sigma
        for timestep in self.timesteps:
            sample = torch.cat([self.scheduler.scale_model_input(latents, timestep), encoded.image_latent], dim=1)
            clean = self.unet(sample, timestep, encoded.tokens).sample
            latents = self.scheduler.step(clean, timestep, latents).prev_sample
        posterior = self.vae.variables_to_posterior(latents)
        z = posterior.mode() + posterior.std * posterior_noise  # (B, 4, h, w)
        return self.vae.decode(z, image_features=encoded.features).sample.sigmoid()


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
    if not is_free(folder):
        raise FileExistsError(f"`folder` must be absent or an empty folder, got {folder}")
    settings = {name: value for name, value in pipeline.config.items() if name.startswith("default_")}
    steps = settings["default_num_inference_steps"] if num_inference_steps is None else num_inference_steps
    if not 1 <= steps <= pipeline.max_inference_steps:
        raise ValueError(f"`num_inference_steps` must lie in [1, {pipeline.max_inference_steps}], got {steps}")
    encoder = pipeline.image_encoder.config
    description = ExportedDetector(
        format=format,
        num_inference_steps=steps,
        latent_downscale=2 ** (len(encoder.block_out_channels) - (encoder.stem != "haar")),
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
    with unfinished_folder(folder) as unfinished:
        onnx_path = unfinished / MODEL_FILES["onnx"]
        with _quiet():
            write_onnx(LatentDetector(pipeline, steps), description, onnx_path)
            if calibration is not None:
                quantize_onnx(onnx_path, calibration_inputs(calibration, description))
            if format == "openvino":
                write_openvino(onnx_path, unfinished / MODEL_FILES["openvino"])
                onnx_path.unlink()
            else:
                make_smaller(onnx_path)
        (unfinished / DESCRIPTION).write_text(description.to_json(), encoding="utf-8")
        os.replace(unfinished, folder)
    return description


def write_onnx(networks: LatentDetector, description: ExportedDetector, path: Path) -> None:
    """Writes the graph as ONNX, in float32, for any batch and any image size that is a multiple of the padding."""
    for name in ("onnx", "onnxscript"):
        required(name)
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


def make_smaller(path: Path) -> None:
    """Stores the weights of an ONNX file that float16 holds without loss in it; a cast to float32 reads each.

    What the exporter notes of every operation goes: it is a third of the file, and names folders of this machine.
    """
    onnx = required("onnx")
    model = onnx.load(path)
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and (values == values.astype(np.float16)).all():
            casts.append(onnx.helper.make_node("Cast", [f"{tensor.name}_half"], [tensor.name], to=tensor.data_type))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), casts[-1].input[0]))
    nodes = [*casts, *graph.node]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for one in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del one.metadata_props[:]
    onnx.save(model, path)


def write_openvino(onnx_path: Path, path: Path) -> None:
    """Writes an ONNX graph, float32 or int8, as OpenVINO's."""
    openvino = required("openvino")
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

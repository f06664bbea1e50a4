"""Writes a detector's networks as an ONNX or OpenVINO graph with dynamic image sizes."""

import copy
import io
import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import nn

from .. import __version__
from ..extras import required
from ..files import is_free, unfinished_folder
from .column_pairs import fits_in_pairs, pair_columns
from .exported import DESCRIPTION, MODEL_FILES, POSTERIOR_NOISE, ExportedDetector
from .quantize import Calibration, calibration_inputs, quantize_onnx

if TYPE_CHECKING:
    from ..pipelines.detection import IRSTDDetectionPipeline
    from ..pipelines.pipeline_irstd_diff import IRSTDDiffPipeline
    from ..pipelines.pipeline_irstd_latent import IRSTDLatentPipeline

# Sizes of 1 and equal sizes would become constants of the graph.
EXAMPLE_BATCH, EXAMPLE_HEIGHT, EXAMPLE_WIDTH = 2, 192, 256


class LatentDetector(nn.Module):
    """Copies of the networks of [`IRSTDLatentPipeline`] as one, with the denoising steps unrolled."""

    def __init__(self, pipeline: "IRSTDLatentPipeline", num_inference_steps: int):
        super().__init__()
        self.image_encoder, self.unet, self.vae = map(_copied, (pipeline.image_encoder, pipeline.unet, pipeline.vae))
        self.scheduler = copy.deepcopy(pipeline.scheduler)
        self.scheduler.set_timesteps(num_inference_steps)
        self.timesteps = self.scheduler.timesteps.tolist()
        encoder, channels = pipeline.image_encoder.config, pipeline.vae.config.latent_channels
        downscale = 2 ** (len(encoder.block_out_channels) - (encoder.stem != "haar"))
        self.noise = {"noise": [2 * channels, downscale], POSTERIOR_NOISE: [channels, downscale]}
        if fits_in_pairs(self.image_encoder, self.vae):
            pair_columns(self.image_encoder, self.vae)

    def forward(self, image: torch.Tensor, noise: Sequence[torch.Tensor]) -> torch.Tensor:
        """Image (B, 1, PH, PW) of about [-1, 1] and two standard normal noises -> probability (B, 1, PH, PW).

        The first (B, 8, h, w) is denoised. The second (B, 4, h, w) takes a sample of the posterior, zeros its mode.
        """
        start, posterior_noise = noise
        for axis in (2, 3):  # The graph then names the sizes of added maps alike, in pairs of columns too.
            torch._check(image.shape[axis] == start.shape[axis] * self.noise["noise"][1])
        encoded = self.image_encoder(image)
        latents = start * self.scheduler.init_noise_sigma
        for timestep in self.timesteps:
            sample = torch.cat([self.scheduler.scale_model_input(latents, timestep), encoded.image_latent], dim=1)
            clean = self.unet(sample, timestep, encoded.tokens).sample
            latents = self.scheduler.step(clean, timestep, latents).prev_sample
        posterior = self.vae.variables_to_posterior(latents)
        z = posterior.mode() + posterior.std * posterior_noise  # (B, 4, h, w)
        return self.vae.decode(z, image_features=encoded.features).sample.sigmoid()


class PixelDetector(nn.Module):
    """Copies of the networks of [`IRSTDDiffPipeline`] as one, with the denoising steps unrolled.

    Without a step it is the conditional encoder alone.

    Raises:
        ValueError: Another scheduler than DDIM's and DDPM's, another prediction than of the clean sample, dynamic
            thresholding, or another variance than DDPM's own.
    """

    def __init__(self, pipeline: "IRSTDDiffPipeline", num_inference_steps: int):
        super().__init__()
        self.conditional_encoder, self.unet = map(_copied, (pipeline.conditional_encoder, pipeline.unet))
        self.scheduler = copy.deepcopy(pipeline.scheduler)
        config = self.scheduler.config
        found = {"prediction_type": config.prediction_type, "thresholding": config.get("thresholding", False)}
        found["variance_type"] = config.get("variance_type", "fixed_small")
        needed = {"prediction_type": "sample", "thresholding": False, "variance_type": "fixed_small"}
        if type(self.scheduler) not in (DDIMScheduler, DDPMScheduler) or found != needed:
            raise ValueError(
                f"`pipeline` must have a DDIMScheduler or a DDPMScheduler of {needed}, got "
                f"{type(self.scheduler).__name__} of {found}"
            )
        self.timesteps: list[int] = []
        if num_inference_steps:
            self.scheduler.set_timesteps(num_inference_steps)
            self.timesteps = self.scheduler.timesteps.tolist()
        self.factors = []
        if isinstance(self.scheduler, DDPMScheduler):
            self.factors = [self._factors(timestep) for timestep in self.timesteps]
        # A step of DDPM but for the last, which leads to the clean mask, adds noise to what it began with.
        count = len(self.factors) or min(num_inference_steps, 1)
        self.noise = {"noise" if step == 0 else f"noise_{step}": [1, 1] for step in range(count)}

    def forward(self, image: torch.Tensor, noise: Sequence[torch.Tensor]) -> torch.Tensor:
        """Image (B, 1, PH, PW) of about [-1, 1] and standard normal noises alike -> probability (B, 1, PH, PW)."""
        encoded = self.conditional_encoder(image)
        if not self.timesteps:
            return encoded.logits.sigmoid()
        pixels, latents = self.unet.condition(image, encoded.logits), noise[0]
        for step, timestep in enumerate(self.timesteps):
            predicted = self.unet(torch.cat([pixels, latents], dim=1), timestep, encoded.residuals).sample
            if self.factors:
                latents = self._ancestral_step(step, predicted, latents, noise)
            else:
                latents = self.scheduler.step(predicted, timestep, latents).prev_sample
        return ((latents + 1) / 2).clamp(0, 1)

    def _factors(self, timestep: int) -> tuple[float, float, float]:
        """Of the clean mask, the noisy one and fresh noise in a step of DDPM (arXiv 2006.11239, eq. 6 and 7)."""
        signal, later = self.scheduler.alphas_cumprod, self.scheduler.previous_timestep(timestep)
        before, after = float(signal[timestep]), float(signal[later]) if later >= 0 else 1.0
        kept = before / after
        variance = (1 - after) / (1 - before) * (1 - kept)
        return after**0.5 * (1 - kept) / (1 - before), kept**0.5 * (1 - after) / (1 - before), variance**0.5

    def _ancestral_step(
        self, step: int, predicted: torch.Tensor, latents: torch.Tensor, noise: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        limit = self.scheduler.config.clip_sample_range if self.scheduler.config.clip_sample else math.inf
        of_clean, of_latents, of_noise = self.factors[step]
        mean = of_clean * predicted.clamp(-limit, limit) + of_latents * latents
        return mean if step == len(self.factors) - 1 else mean + of_noise * noise[step + 1]


def _copied(network: nn.Module) -> Any:
    return copy.deepcopy(network).eval().to("cpu", torch.float32)


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
        pipeline: The detector, an [`IRSTDLatentPipeline`] or an [`IRSTDDiffPipeline`].
        folder: Absent or empty.
        format: ``onnx`` or ``openvino``.
        model: Name of the checkpoint, recorded.
        num_inference_steps: Denoising steps, unrolled; None = the checkpoint's default.
        calibration: Images whose activations set the int8 ranges; None = float32.

    Raises:
        TypeError: Another pipeline.
        ValueError: An unknown format, steps out of range, or a scheduler that [`PixelDetector`] refuses.
        FileExistsError: `folder` is not empty.
        ModuleNotFoundError: A package of the extra `export` is not installed.
    """
    from ..pipelines.pipeline_irstd_diff import IRSTDDiffPipeline  # the rest of the runtime knows no pipelines
    from ..pipelines.pipeline_irstd_latent import IRSTDLatentPipeline

    if not isinstance(pipeline, IRSTDLatentPipeline | IRSTDDiffPipeline):
        raise TypeError(f"`pipeline` must be a detector of this package, got {type(pipeline).__name__}")
    if format not in MODEL_FILES:
        raise ValueError(f"`format` must be one of {', '.join(MODEL_FILES)}, got {format!r}")
    if not is_free(folder):
        raise FileExistsError(f"`folder` must be absent or an empty folder, got {folder}")
    settings = {name: value for name, value in pipeline.config.items() if name.startswith("default_")}
    steps = settings["default_num_inference_steps"] if num_inference_steps is None else num_inference_steps
    least, most = pipeline.min_inference_steps, pipeline.max_inference_steps
    if not least <= steps <= most:
        raise ValueError(f"`num_inference_steps` must lie in [{least}, {most}], got {steps}")
    networks: LatentDetector | PixelDetector
    if isinstance(pipeline, IRSTDLatentPipeline):
        networks = LatentDetector(pipeline, steps)
    else:
        networks = PixelDetector(pipeline, steps)
    description = ExportedDetector(
        format=format,
        num_inference_steps=steps,
        noise=networks.noise,
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
            write_onnx(networks, onnx_path)
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


def write_onnx(networks: LatentDetector | PixelDetector, path: Path) -> None:
    """Writes the graph as ONNX, in float32, for any batch and any image size that is a multiple of the padding."""
    for name in ("onnx", "onnxscript"):
        required(name)
    noise = [
        torch.zeros(EXAMPLE_BATCH, channels, EXAMPLE_HEIGHT // downscale, EXAMPLE_WIDTH // downscale)
        for channels, downscale in networks.noise.values()
    ]
    example = torch.zeros(EXAMPLE_BATCH, 1, EXAMPLE_HEIGHT, EXAMPLE_WIDTH), noise
    dynamic: Any = {axis: torch.export.Dim.AUTO for axis in (0, 2, 3)}
    with torch.no_grad():
        exported = torch.export.export(
            networks, example, dynamic_shapes=(dynamic, [dynamic] * len(noise)), strict=False
        )
        program: Any = torch.onnx.export(
            exported,
            (),
            dynamo=True,
            verbose=False,
            input_names=["image", *networks.noise],
            output_names=["probability"],
        )
        program.save(path, external_data=False)


def make_smaller(path: Path) -> None:
    """Stores the weights of an ONNX file that float16 holds without loss in it; a cast to float32 reads each.

    What the exporter notes of every operation goes: it is a third of the file, and names folders of this machine. Its
    names of the maps' sizes stay: by them onnxruntime adds a map in the convolution that it is added to.
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
    del graph.node[:]
    graph.node.extend(nodes)
    for one in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
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

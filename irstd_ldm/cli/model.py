"""Loading a pipeline for a command, and running it so that a file's result does not depend on its neighbours."""

import argparse
import re
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

from .. import bundled_checkpoint
from ..pipelines.detection_pipeline import IRSTDDetectionPipeline
from ..pipelines.hub import explain
from ..pipelines.pipeline_irstd_diff import IRSTDDiffPipeline
from ..pipelines.pipeline_irstd_latent import IRSTDLatentPipeline
from ..pipelines.target import Target
from . import EXIT_USAGE, CommandError

BUNDLED = "bundled"
PIPELINES: dict[str, type[IRSTDDetectionPipeline]] = {
    pipeline.__name__: pipeline for pipeline in (IRSTDLatentPipeline, IRSTDDiffPipeline)
}
HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


def model_name(args: argparse.Namespace) -> str:
    """What the outputs call the model: the argument, or "bundled"."""
    return BUNDLED if args.model is None else args.model


def model_folder(args: argparse.Namespace) -> Path | None:
    """The folder that `--model` names (default: the bundled checkpoint), None for a Hub id."""
    folder = bundled_checkpoint() if args.model is None else Path(args.model)
    return folder if folder.is_dir() else None


def pipeline_class(source: str) -> type[IRSTDDetectionPipeline]:
    """The detector's class that the model_index.json of a folder or of a Hub repository names.

    Raises:
        ValueError: the class is no detector of this package.
        OSError: there is no such file, or it cannot be read.
    """
    try:
        name = IRSTDDetectionPipeline.load_config(source)["_class_name"]
    except OSError as error:
        raise OSError(str(error) if Path(source).is_dir() else explain(error, source)) from error
    if name not in PIPELINES:
        raise ValueError(f"model_index.json names {name}, must be one of {', '.join(PIPELINES)}")
    return PIPELINES[name]


def load_pipeline(args: argparse.Namespace, device: torch.device | None = None) -> IRSTDDetectionPipeline:
    """The pipeline that `--model` names (default: the bundled checkpoint), on `device`.

    Raises:
        CommandError: it cannot be loaded; wrong usage.
    """
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    source = str(bundled_checkpoint() if args.model is None else args.model)
    is_folder = Path(source).is_dir()
    if not is_folder and HUB_ID.fullmatch(source) is None:
        raise CommandError(f"--model {source}: no such folder, and not a Hub id (OWNER/NAME)", EXIT_USAGE)
    try:
        pipeline = pipeline_class(source).from_pretrained(source)
    except Exception as error:  # a checkpoint is foreign input: a folder, a file or a server may be wrong in any way
        reason = str(error).strip().splitlines() or [type(error).__name__]
        kind = "folder" if is_folder else "Hub repository (there is no folder of this name)"
        raise CommandError(f"--model {source}: cannot load this {kind}: {reason[0]}", EXIT_USAGE) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline if device is None else pipeline.to(device)


def resolve_device(name: str | None) -> torch.device:
    """The device that `--device` names; default: CUDA where there is one, else the CPU.

    Raises:
        CommandError: no such device here; wrong usage.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CommandError(f"--device {name}: {str(error).splitlines()[0]}", EXIT_USAGE) from error
    return device


def predict(
    pipeline: IRSTDDetectionPipeline,
    image: np.ndarray,
    args: argparse.Namespace,
    threshold: float | None = None,
    input_range: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray, list[Target]]:
    """One image, in a call of its own.

    The pipeline derives an image's noise from the seed and the image's place in the call. Alone in its call, a file
    has the same result whichever files stand beside it; `--batch-size` is for the tiles of a large image.

    Args:
        image: (H, W), as `to_gray` returns it.
        threshold: of the mask and the targets; None = the checkpoint's own.
        input_range: raw values that map to -1 and 1; None = the image's own, see `gray_range`.

    Returns:
        Probability (H, W) float32, mask (H, W) bool, and the targets.
    """
    probability, mask, _, targets = pipeline(
        image,
        num_inference_steps=args.num_inference_steps,
        ensemble_size=args.ensemble_size,
        threshold=threshold,
        input_range=input_range,
        batch_size=args.batch_size,
        generator=torch.Generator().manual_seed(args.seed),
        return_dict=False,
    )  # (1, 1, H, W) twice
    return probability[0, 0], mask[0, 0], targets[0]


def resolve_threshold(args: argparse.Namespace, pipeline: IRSTDDetectionPipeline) -> float:
    """The threshold that `--threshold` or `--max-fa-per-million-px` names; default: the checkpoint's own.

    Raises:
        CommandError: the budget was never calibrated; wrong usage.
    """
    try:
        return pipeline.resolve_threshold(args.threshold, args.max_fa_per_million_px)
    except ValueError as error:
        raise CommandError(f"--model {model_name(args)}: {error}", EXIT_USAGE) from error


def sampling(args: argparse.Namespace, pipeline: IRSTDDetectionPipeline) -> dict[str, int]:
    """Denoising steps and ensemble size, the checkpoint's own defaults filled in."""
    given = {name: getattr(args, name) for name in ("num_inference_steps", "ensemble_size")}
    return {name: pipeline.config[f"default_{name}"] if value is None else value for name, value in given.items()}


def settings(args: argparse.Namespace, pipeline: IRSTDDetectionPipeline, threshold: float) -> dict[str, Any]:
    """The settings that the outputs record, the checkpoint's own defaults filled in."""
    return {
        **sampling(args, pipeline),
        "threshold": threshold,
        "max_fa_per_million_px": args.max_fa_per_million_px,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "device": str(pipeline.device),
    }

"""Loading a detector for a command, and running it so that a file's result does not depend on its neighbours.

torch is imported only where it runs the networks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import bundled_checkpoint, targets
from ..runtime.detector import ExportedDetectorRunner
from ..runtime.engines import ENGINES
from ..runtime.exported_folder import is_exported
from ..tiling import resolve_sampling
from . import EXIT_USAGE, CommandError

if TYPE_CHECKING:
    import torch

    from ..pipelines.detection import IRSTDDetectionPipeline

    Detector = IRSTDDetectionPipeline | ExportedDetectorRunner

BUNDLED = "bundled"
SAMPLING = ("num_inference_steps", "ensemble_size", "tile_size", "tile_overlap")


def model_name(args: argparse.Namespace) -> str:
    """What the outputs call the model: the argument, or "bundled"."""
    return BUNDLED if args.model is None else args.model


def model_folder(args: argparse.Namespace) -> Path | None:
    """The folder that `--model` names (default: the bundled checkpoint), None for a Hub id."""
    folder = bundled_checkpoint() if args.model is None else Path(args.model)
    return folder if folder.is_dir() else None


def load_pipeline(args: argparse.Namespace, device: torch.device | None = None) -> IRSTDDetectionPipeline:
    """The pipeline that `--model` names (default: the bundled checkpoint), on `device`.

    Raises:
        CommandError: it cannot be loaded; wrong usage.
    """
    source = str(bundled_checkpoint() if args.model is None else args.model)
    if is_exported(source):
        raise CommandError(f"--model {source}: an exported detector, which `detect --runtime` runs", EXIT_USAGE)
    from .torch_model import load_torch_pipeline

    return load_torch_pipeline(source, device)


def load_detector(args: argparse.Namespace, device: torch.device | None) -> Detector:
    """What `--model` names (default: the bundled checkpoint) for `--runtime`, on `device` where torch runs it.

    Raises:
        CommandError: it cannot be loaded; wrong usage.
    """
    if args.runtime in ENGINES:
        return _load_exported(args)
    pipeline = load_pipeline(args, device)
    if args.runtime == "compile":
        from .torch_model import compile_networks

        compile_networks(pipeline)
    return pipeline


def _load_exported(args: argparse.Namespace) -> ExportedDetectorRunner:
    if args.model is None or not is_exported(args.model):
        raise CommandError(
            f"--runtime {args.runtime} needs as --model a folder that `export` wrote, got {model_name(args)}",
            EXIT_USAGE,
        )
    try:
        return ExportedDetectorRunner(args.model, args.runtime)
    except Exception as error:  # an exported model is foreign input, read by a library with errors of its own
        raise CommandError(f"--model {args.model}: cannot load this folder: {error}", EXIT_USAGE) from error


def resolve_device(name: str | None, runtime: str = "torch") -> torch.device | None:
    """The device that `--device` names; default: CUDA where there is one, else the CPU; None without torch.

    Raises:
        CommandError: no such device here; wrong usage.
    """
    if runtime in ENGINES:
        if name not in (None, "cpu"):
            raise CommandError(f"--device {name}: --runtime {runtime} runs on the cpu", EXIT_USAGE)
        return None
    from .torch_model import torch_device

    return torch_device(name)


def predict(
    pipeline: Detector,
    image: np.ndarray,
    args: argparse.Namespace,
    threshold: float | None = None,
    input_range: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray, list[targets.Target]]:
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
        **{name: getattr(args, name) for name in SAMPLING},
        threshold=threshold,
        input_range=input_range,
        batch_size=args.batch_size,
        return_dict=False,
        **_randomness(pipeline, args.seed),
    )  # (1, 1, H, W) twice
    return probability[0, 0], mask[0, 0], targets[0]


def _randomness(pipeline: Detector, seed: int) -> dict[str, Any]:
    if isinstance(pipeline, ExportedDetectorRunner):
        return {"seed": seed}
    import torch

    return {"generator": torch.Generator().manual_seed(seed)}


def resolve_threshold(args: argparse.Namespace, pipeline: Detector) -> float:
    """The threshold that `--threshold` or `--max-fa-per-million-px` names; default: the checkpoint's own.

    Raises:
        CommandError: the budget was never calibrated; wrong usage.
    """
    try:
        return targets.resolve_threshold(pipeline.config, args.threshold, args.max_fa_per_million_px)
    except ValueError as error:
        raise CommandError(f"--model {model_name(args)}: {error}", EXIT_USAGE) from error


def sampling(args: argparse.Namespace, pipeline: Detector) -> dict[str, int]:
    """Denoising steps, ensemble size and tiles, the checkpoint's own defaults filled in.

    Raises:
        CommandError: one is out of the pipeline's range; wrong usage.
    """
    try:
        called = resolve_sampling(
            pipeline.config,
            range(pipeline.min_inference_steps, pipeline.max_inference_steps + 1),
            **{name: getattr(args, name) for name in SAMPLING},
            batch_size=args.batch_size,
        )
    except ValueError as error:
        raise CommandError(f"--model {model_name(args)}: {error}", EXIT_USAGE) from error
    return {name: getattr(called, name) for name in SAMPLING}


def settings(args: argparse.Namespace, pipeline: Detector, threshold: float) -> dict[str, Any]:
    """The settings that the outputs record, the checkpoint's own defaults filled in."""
    return {
        **sampling(args, pipeline),
        "threshold": threshold,
        "max_fa_per_million_px": args.max_fa_per_million_px,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "runtime": args.runtime,
        "device": str(pipeline.device),
    }

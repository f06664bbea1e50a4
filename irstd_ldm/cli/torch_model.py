"""Loading a pipeline for a command: the half that needs torch."""

import re
from pathlib import Path

import diffusers
import torch
import transformers

from ..hub.upload import explain
from ..pipelines.detection import IRSTDDetectionPipeline
from ..pipelines.pipeline_irstd_diff import IRSTDDiffPipeline
from ..pipelines.pipeline_irstd_latent import IRSTDLatentPipeline
from . import EXIT_USAGE, CommandError

PIPELINES: dict[str, type[IRSTDDetectionPipeline]] = {
    pipeline.__name__: pipeline for pipeline in (IRSTDLatentPipeline, IRSTDDiffPipeline)
}
HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


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


def load_torch_pipeline(source: str, device: torch.device | None) -> IRSTDDetectionPipeline:
    """The pipeline of a folder or of a Hub repository, on `device`.

    Raises:
        CommandError: it cannot be loaded; wrong usage.
    """
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
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


def compile_networks(pipeline: IRSTDDetectionPipeline) -> None:
    """Compiles each network by `torch.compile` at its first call, and again at the first call of another size."""
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.compile()
    if isinstance(pipeline, IRSTDLatentPipeline):
        pipeline.vae.decoder.compile()  # `decode` passes the module's own call by


def torch_device(name: str | None) -> torch.device:
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

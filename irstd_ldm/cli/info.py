"""`irstd-ldm info`: a model's components, sizes and defaults, and the versions at work."""

import argparse
import platform
from collections.abc import Iterable
from functools import partial
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from typing import Any

from .. import __version__
from ..bundled import bundled_checkpoint, bundled_names, resolve_model
from ..hub.format import INDEX, read_json
from ..runtime.exported import ENGINES, is_exported, read_description
from ..targets import calibrated_budgets
from . import EXIT_DONE, EXIT_USAGE, CommandError, plain
from .model import load_pipeline

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy", "scipy", "PyWavelets", "pillow")


def run(args: argparse.Namespace) -> int:
    """Prints the description of `--model` and returns the exit code."""
    is_graph = args.model is not None and is_exported(args.model)
    config, versions = _describe_exported(args.model) if is_graph else _describe_pipeline(args)
    print("\nconfig:")
    for name, value in sorted(config):
        print(f"  {name} = {'on ' + value['data'] if name == 'calibration' and value else value}")
    for name, budgets in calibrated_budgets(dict(config)).items():
        print(f"    {name}: " + ", ".join(f"{one:g} at score > {score:.4g}" for one, score in budgets.items()))
    print("\nmodels that come with the package, by the names for --model:")
    for name in bundled_names():
        weights = sum(path.stat().st_size for path in bundled_checkpoint(name).glob("*/*.safetensors"))
        pipeline = read_json(bundled_checkpoint(name) / INDEX)["_class_name"]
        print(f"  {name:<24}{pipeline:<24}{weights / 1e6:>6.1f} MB of weights")
    print("\nversions:")
    print(f"  irstd-ldm {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(versions)
    return EXIT_DONE


def _describe_pipeline(args: argparse.Namespace) -> tuple[Iterable[tuple[str, Any]], str]:
    """Prints the components; returns the entries of the config, and the versions of the libraries."""
    import torch

    from ..pipelines.base import IRSTDPipelineBase
    from ..pipelines.detection import pipeline_class

    pipeline = load_pipeline(args, class_of=partial(pipeline_class, kind=IRSTDPipelineBase))
    print(f"model: {resolve_model(args.model)}")
    print(f"pipeline: {type(pipeline).__name__}")
    print("\ncomponents:")
    total = 0
    for name, component in pipeline.components.items():
        line = f"  {name:<24}{type(component).__name__:<32}"
        if isinstance(component, torch.nn.Module):
            num_parameters = sum(parameter.numel() for parameter in component.parameters())
            total += num_parameters
            line += f"{num_parameters:>14,} parameters"
        print(line.rstrip())
    print(f"  {'all':<56}{total:>14,} parameters")
    config = [item for item in pipeline.config.items() if item[0] not in pipeline.components and item[0][0] != "_"]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "not available"
    return config, f"  {versions}\n  CUDA: {cuda}"


def _describe_exported(folder: str) -> tuple[Iterable[tuple[str, Any]], str]:
    """Does as `_describe_pipeline` for a folder that `irstd-ldm export` wrote; torch is not needed."""
    try:
        description = read_description(folder)
    except (OSError, ValueError) as error:
        raise CommandError(f"--model {folder}: {plain(error)}", EXIT_USAGE) from error
    print(f"model: {folder}\nexported detector: {description.format}")
    print(f"  exported from {description.model} by irstd-ldm {description.version}")
    print(f"  num_inference_steps = {description.num_inference_steps}")
    print(f"  quantization = {description.quantization or 'none, float32'}")
    distributions = packages_distributions()  # the package onnxruntime may come from onnxruntime-gpu
    installed = [f"{name} {version(distributions[name][0])}" for name in ENGINES if find_spec(name) is not None]
    return description.config.items(), f"  {', '.join(installed)}"

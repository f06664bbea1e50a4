"""`irstd-ldm info`: a model's components, sizes and defaults, and the versions at work."""

import argparse
import platform
from importlib.metadata import version

import torch

from .. import __version__, bundled_checkpoint
from . import EXIT_DONE
from .model import load_pipeline

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy", "scipy", "PyWavelets", "pillow")


def run(args: argparse.Namespace) -> int:
    """Prints the description of `--model` and returns the exit code."""
    pipeline = load_pipeline(args)
    print(f"model: {bundled_checkpoint() if args.model is None else args.model}")
    print(f"pipeline: {type(pipeline).__name__}")
    print("\ncomponents:")
    total = 0
    for name, component in pipeline.components.items():
        line = f"  {name:<16}{type(component).__name__:<32}"
        if isinstance(component, torch.nn.Module):
            num_parameters = sum(parameter.numel() for parameter in component.parameters())
            total += num_parameters
            line += f"{num_parameters:>14,} parameters"
        print(line.rstrip())
    print(f"  {'all':<48}{total:>14,} parameters")
    print("\nconfig:")
    for name, value in sorted(pipeline.config.items()):
        if name not in pipeline.components and not name.startswith("_"):
            print(f"  {name} = {value}")
    print("\nversions:")
    print(f"  irstd-ldm {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print("  " + ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    print(f"  CUDA: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'not available'}")
    return EXIT_DONE

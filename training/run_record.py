"""What a run writes down about itself: ``run.json``, with digests of what went in and came out, and logs by step."""

import hashlib
import inspect
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from .. import __version__
from ..hub.format import read_json
from .checkpoints import list_checkpoints
from .settings import TrainSettings, changed_settings

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")  # whose versions a run records
RECORD, SETTINGS = "run.json", "settings.yaml"
ORIGINS = {"data_sha256": "images on other lists", "start_sha256": "other weights"}


def state_sha256(model: nn.Module, half_precision: bool = False) -> str:
    """Digest of a model's weights and buffers; `half_precision`: as they are once they were saved in float16."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if half_precision and tensor.is_floating_point():
            tensor = tensor.half().float()
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def origin(settings: TrainSettings, lists: Mapping[str, Sequence[str]], model: nn.Module) -> dict[str, str]:
    """Digests of what a run is a function of: settings, lists of images, weights at the start."""
    return {
        "settings_sha256": settings.sha256,
        "data_sha256": hashlib.sha256(json.dumps(lists).encode()).hexdigest(),
        "start_sha256": state_sha256(model),
    }


def make_record(accelerator: Accelerator, settings: TrainSettings, **values: Any) -> dict[str, Any]:
    """What `settings.yaml` cannot know."""
    on_cpu = accelerator.device.type != "cuda"
    return {
        "trainer": Path(inspect.getfile(type(settings))).stem,
        "num_processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "hardware": f"{os.cpu_count()} {platform.machine()} cores" if on_cpu else torch.cuda.get_device_name(),
        "num_cpu_threads": torch.get_num_threads(),
        "versions": {"irstd_ldm": __version__, **{name: version(name) for name in LIBRARIES}},
        **values,
    }


def write_record(output_dir: Path, record: Mapping[str, Any]) -> None:
    """Write ``run.json``; one with the digest `saved_sha256` of the saved model says that the run is finished."""
    temporary = output_dir / f"{RECORD}.tmp"
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, output_dir / RECORD)


def read_record(output_dir: Path) -> dict[str, Any]:
    """The content of ``run.json``, empty where there is none."""
    return read_json(output_dir / RECORD) if (output_dir / RECORD).is_file() else {}


def is_finished(settings: TrainSettings) -> bool:
    """Whether `output_dir` holds this run's trained model.

    Raises:
        ValueError: It holds one of other settings or from data or weights of other names, or checkpoints of a run of
            other settings.
    """
    output_dir = Path(settings.output_dir)
    record = read_record(output_dir)
    finished = "saved_sha256" in record
    if finished or (record and list_checkpoints(output_dir)):
        changed = changed_settings(settings, output_dir / SETTINGS, finished)
        if changed:
            raise ValueError(
                f"`output_dir` {output_dir} holds a run of other settings: {'; '.join(changed)}; "
                "remove it or choose another `output_dir`"
            )
    return finished


def refuse_other_origin(settings: TrainSettings, found: Mapping[str, str]) -> None:
    """Check that the checkpoints in `output_dir`, where there are any, are of this run.

    Args:
        settings: Of the run.
        found: What `origin` returns.

    Raises:
        ValueError: They are of other settings, lists of images or weights at the start.
    """
    output_dir = Path(settings.output_dir)
    is_finished(settings)
    record = read_record(output_dir)
    if record and list_checkpoints(output_dir):
        for name, what in ORIGINS.items():
            if record.get(name) != found[name]:
                raise ValueError(
                    f"`output_dir` {output_dir} holds checkpoints of a run from {what}; "
                    "remove them or choose another `output_dir`"
                )


def append_line(path: Path, step: int, values: Mapping[str, float]) -> None:
    """Add what was measured after a step to a log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def keep_until(path: Path, step: int) -> None:
    """Drop from a log what comes after the step from which the run goes on, and a last line that a kill cut short."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        if lines and not _is_json(lines[-1]):
            lines.pop()
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(temporary, path)

"""The command of a trainer, with its stages, and a run's folder: record, logs and checkpoints.

``run.json`` holds digests of what went in and came out. A checkpoint is complete or not there.
"""

import hashlib
import inspect
import json
import logging
import os
import pickle
import platform
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from .. import __version__
from ..files import only_writer, replacing_folder, write_json, write_text
from ..hub.format import INDEX, read_json, safe_files, stale_files
from .settings import Plan, Settings, TrainSettings, changed_settings, parse_plan, save_settings, stage_folder

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")  # a run records their versions
RECORD, SETTINGS = "run.json", "settings.yaml"
STATE, AVERAGE = "state.json", "average.safetensors"  # in a checkpoint, beside what accelerate saves
ORIGINS = {"data_sha256": "images on other lists", "start_sha256": "other weights"}
LISTS = ("train.txt", "val.txt", "train_*.txt", "val_*.txt")  # the files of `write_split`

logger = logging.getLogger(__name__)


def start(cls: type[Settings], run: Callable[[Settings], None], argv: Sequence[str] | None = None) -> None:
    """Run a trainer from the command line; of a recipe with stages, those that are missing or unfinished, in order.

    In the end OUTPUT_DIR holds the model of the last stage and its lists. `run` trains with given settings.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)  # four lines at every checkpoint
    plan = parse_plan(cls, argv)
    plan.output_dir.mkdir(parents=True, exist_ok=True)
    is_main = os.environ.get("RANK", "0") == "0"
    with only_writer(plan.output_dir, f"the training {cls.__name__}") if is_main else nullcontext():
        _run_plan(plan, run, is_main)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _run_plan(plan: Plan[Settings], run: Callable[[Settings], None], is_main: bool) -> None:
    for number, settings in enumerate(plan.stages, start=1):
        if plan.only not in (None, number):
            continue
        finished = is_finished(settings)
        if number > 1:
            _check_start(plan.output_dir, number, finished)
        if finished:
            logger.info("%s is finished: nothing to do", settings.output_dir)
            continue
        if plan.is_staged:
            logger.info("stage %d of %d: %s", number, len(plan.stages), settings.output_dir)
        run(settings)
    if plan.is_staged and plan.only in (None, len(plan.stages)) and is_main:
        _copy_model(stage_folder(plan.output_dir, len(plan.stages)), plan.output_dir)


def _check_start(output_dir: Path, number: int, finished: bool) -> None:
    """Refuse a stage where the one before is unfinished, or a finished one up to it started from other weights."""
    before = stage_folder(output_dir, number - 1)
    if "saved_sha256" not in read_record(before):
        raise ValueError(f"stage {number} starts from the weights in {before}, where there is no finished stage")
    for k in range(2, number + finished):
        before, folder = (stage_folder(output_dir, stage) for stage in (k - 1, k))
        saved, record = read_record(before).get("saved_sha256"), read_record(folder)
        if saved is not None and "saved_sha256" in record and record["start_sha256"] != saved:
            raise ValueError(
                f"{folder} was trained from other weights than {before} holds now; remove {folder} and later stages"
            )


def _copy_model(folder: Path, output_dir: Path) -> None:
    """Copy a stage's model and lists, in place of those of an earlier model."""
    stale: set[Path] = set()
    with replacing_folder(output_dir, INDEX, stale.__contains__) as unfinished:
        for file in model_files(folder):
            (unfinished / file).parent.mkdir(exist_ok=True)
            shutil.copy(folder / file, unfinished / file)
        stale |= stale_files(output_dir, unfinished, None)
        stale |= {Path(path.name) for pattern in LISTS for path in output_dir.glob(pattern)}


def model_files(folder: Path) -> list[Path]:
    """The files of the components in a folder, their lists too, relative to it."""
    return safe_files(folder, {config.parent.name for config in folder.glob("*/*config.json")})


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
    """The content of ``run.json``: facts that `settings.yaml` cannot know, and `values`."""
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


def read_record(output_dir: Path) -> dict[str, Any]:
    """The content of ``run.json``, empty where there is none; with `saved_sha256` the run is finished."""
    return read_json(output_dir / RECORD) if (output_dir / RECORD).is_file() else {}


def is_finished(settings: TrainSettings) -> bool:
    """Whether `output_dir` holds this run's trained model; one of other settings, or of none, is refused."""
    output_dir = Path(settings.output_dir)
    finished = "saved_sha256" in read_record(output_dir)
    has_settings = (output_dir / SETTINGS).is_file()
    has_model = any(any(config.parent.glob("*.safetensors")) for config in output_dir.glob("*/config.json"))
    if (finished or has_model) and not has_settings:
        raise ValueError(f"`output_dir` {output_dir} holds a model without {SETTINGS}: choose another `output_dir`")
    if has_settings and (finished or has_model or list_checkpoints(output_dir)):
        changed = changed_settings(settings, output_dir / SETTINGS, finished)
        if changed:
            raise ValueError(
                f"`output_dir` {output_dir} holds a run of other settings: {'; '.join(changed)}; "
                "remove it or choose another `output_dir`"
            )
    return finished


def refuse_other_origin(settings: TrainSettings, found: Mapping[str, str], checkpoint: Path | None) -> None:
    """Refuse checkpoints, in `output_dir` or to go on from, of other settings, lists of images or first weights."""
    output_dir = Path(settings.output_dir)
    is_finished(settings)
    record = read_record(output_dir)
    if record and list_checkpoints(output_dir):
        for name, other in ORIGINS.items():
            if record.get(name) != found[name]:
                raise ValueError(
                    f"`output_dir` {output_dir} holds checkpoints of a run from {other}; "
                    "remove them or choose another `output_dir`"
                )
    if checkpoint is not None:
        if not (checkpoint / STATE).is_file():
            raise ValueError(f"{checkpoint} has no {STATE}: earlier versions wrote pickles, which are not loaded")
        changed = changed_settings(settings, checkpoint / SETTINGS, finished=False)
        state = read_json(checkpoint / STATE)
        changed += [other for name, other in ORIGINS.items() if state.get(name) != found[name]]
        if changed:
            raise ValueError(f"`resume_from_checkpoint` {checkpoint} is of another run: {'; '.join(changed)}")


def append_line(path: Path, step: int, values: Mapping[str, float]) -> None:
    """Add what was measured after a step to a log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")


def keep_until(path: Path, step: int) -> None:
    """Drop from a log what comes after the step from which the run goes on, and a last line that a kill cut short."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1].splitlines(keepends=True)
        write_text(path, "".join(line for line in whole if json.loads(line)["step"] <= step))


def checkpoint_step(folder: Path) -> int:
    """The step in the name of a checkpoint folder, ``checkpoint-STEP``."""
    return int(folder.name.removeprefix("checkpoint-"))


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((p for p in output_dir.glob("checkpoint-*") if p.name[11:].isdigit()), key=checkpoint_step)


def save_checkpoint(
    accelerator: Accelerator,
    settings: TrainSettings,
    step: int,
    lr_scheduler: LRScheduler,
    average: AveragedModel | None,
    found: Mapping[str, str],
) -> None:
    """Write a checkpoint and keep the last ones; a kill leaves no half of one under a checkpoint's name.

    `found` is the run's `origin`. What is written here is safetensors and JSON; accelerate pickles its own part.
    """
    output_dir = Path(settings.output_dir)
    partial = output_dir / f"partial-checkpoint-{step}"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if average is not None:
            save_file({name: tensor.contiguous() for name, tensor in average.state_dict().items()}, partial / AVERAGE)
        save_settings(settings, partial / SETTINGS)
        write_json(partial / STATE, {**found, "lr_scheduler": lr_scheduler.state_dict()})
        os.replace(partial, output_dir / f"checkpoint-{step}")
        for stale in list_checkpoints(output_dir)[: -settings.checkpoints_total_limit]:
            doomed = stale.with_name(f"partial-{stale.name}-old")
            os.replace(stale, doomed)
            shutil.rmtree(doomed)
    accelerator.wait_for_everyone()


def load_checkpoint(
    accelerator: Accelerator, checkpoint: Path, lr_scheduler: LRScheduler, average: AveragedModel | None
) -> None:
    """Load what `save_checkpoint` has written, and of pickles only what `torch.load` with `weights_only=True` takes.

    Raises:
        ValueError: The checkpoint holds other pickles, or a part of it is damaged or missing.
    """
    pickles = sorted(path.name for path in checkpoint.glob("custom_checkpoint_*.pkl"))
    if pickles:
        raise ValueError(f"{checkpoint / pickles[0]} is a pickle of an earlier version or of another hand: refused")
    try:
        accelerator.load_state(str(checkpoint))
        lr_scheduler.load_state_dict(read_json(checkpoint / STATE)["lr_scheduler"])
        if average is not None:
            average.load_state_dict(load_file(checkpoint / AVERAGE))
    except (OSError, ValueError, LookupError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        raise ValueError(f"{checkpoint} cannot be loaded: {error}") from error


def find_checkpoint(settings: TrainSettings) -> Path | None:
    """The checkpoint to go on from; one before others is refused: the run's own would be taken for the oldest."""
    checkpoints = list_checkpoints(Path(settings.output_dir))
    if settings.resume_from_checkpoint == "latest":
        return checkpoints[-1] if checkpoints else None
    checkpoint = None if settings.resume_from_checkpoint is None else Path(settings.resume_from_checkpoint)
    if checkpoint and not (checkpoint.is_dir() and re.fullmatch(r"checkpoint-\d+", checkpoint.name)):
        raise ValueError(f"`resume_from_checkpoint` must be latest or a folder checkpoint-STEP, got {checkpoint}")
    step = checkpoint_step(checkpoint) if checkpoint else 0
    later = [folder.name for folder in checkpoints if checkpoint_step(folder) > step]
    if later:
        raise ValueError(
            f"`output_dir` {settings.output_dir} holds checkpoints after step {step}, where this run starts: "
            f"{', '.join(later)}; remove them or choose another `output_dir`"
        )
    return checkpoint

"""The one training loop that every trainer shares."""

import hashlib
import inspect
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from huggingface_hub import HfApi
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from .. import __version__
from ..pipelines.checkpoint_files import CARD, safe_files
from ..pipelines.hub import HUB_ERRORS, explain, upload_files
from ..pipelines.model_card import make_card
from .settings import TrainSettings, save_settings

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")  # whose versions a run records


@dataclass
class Validation:
    """What a validation found.

    Attributes:
        scores: Scalars by name.
        picture: (H, W, 3) uint8, image / truth / prediction side by side, one row per example.
    """

    scores: dict[str, float]
    picture: np.ndarray = field(repr=False)


class Task(Protocol):
    """What a trainer brings to the loop.

    Attributes:
        headline: Name of the scalar, of a batch and of a validation, that the progress bar shows beside the loss.
    """

    headline: str

    @property
    def model(self) -> nn.Module:
        """The module whose trainable parameters are optimised; its forward pass is one training step's."""

    def loss(
        self, model: nn.Module, batch: dict[str, torch.Tensor], step: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch and scalars to log. All randomness is drawn from `generator`, on the CPU."""

    def validate(self) -> Validation:
        """Score `model` on the validation images."""

    def save_pretrained(self, folder: Path) -> None:
        """Write the trained components."""


class StepSampler(Sampler[int]):
    """Item numbers of one process: those of step s are [s*world + rank]*batch_size and following.

    What a step sees is a function of its number alone, which makes a resumed run equal to an uninterrupted one.
    """

    def __init__(self, first_step: int, last_step: int, batch_size: int, rank: int, world: int):
        self.first_step, self.last_step, self.batch_size = first_step, last_step, batch_size
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[int]:
        for step in range(self.first_step, self.last_step):
            first = (step * self.world + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.batch_size


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The source of a step's randomness, a function of its arguments alone."""
    state = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def checkpoint_step(folder: Path) -> int:
    """The step in the name of a checkpoint folder, ``checkpoint-STEP``."""
    return int(folder.name.removeprefix("checkpoint-"))


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((p for p in output_dir.glob("checkpoint-*") if p.name[11:].isdigit()), key=checkpoint_step)


def _remove(folder: Path) -> None:
    """Delete a checkpoint; a kill on the way leaves no half of it under a checkpoint's name."""
    doomed = folder.with_name(f"partial-{folder.name}-old")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _save_checkpoint(accelerator: Accelerator, output_dir: Path, step: int, limit: int) -> None:
    partial = output_dir / f"partial-checkpoint-{step}"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        final = output_dir / f"checkpoint-{step}"
        os.replace(partial, final)
        for stale in list_checkpoints(output_dir)[:-limit]:
            _remove(stale)
    accelerator.wait_for_everyone()


def _find_checkpoint(settings: TrainSettings) -> Path | None:
    """The checkpoint to go on from.

    Raises:
        ValueError: `resume_from_checkpoint` names no checkpoint, or `output_dir` holds later ones, among which the
            run's own would be taken for the oldest.
    """
    checkpoints = list_checkpoints(Path(settings.output_dir))
    if settings.resume_from_checkpoint == "latest":
        return checkpoints[-1] if checkpoints else None
    checkpoint, step = None, 0
    if settings.resume_from_checkpoint is not None:
        checkpoint = Path(settings.resume_from_checkpoint)
        if not checkpoint.is_dir() or not re.fullmatch(r"checkpoint-\d+", checkpoint.name):
            raise ValueError(f"`resume_from_checkpoint` must be latest or a folder checkpoint-STEP, got {checkpoint}")
        step = checkpoint_step(checkpoint)
    later = [folder.name for folder in checkpoints if checkpoint_step(folder) > step]
    if later:
        raise ValueError(
            f"`output_dir` {settings.output_dir} holds checkpoints after step {step}, where this run starts: "
            f"{', '.join(later)}; remove them or choose another `output_dir`"
        )
    return checkpoint


def _record_run(accelerator: Accelerator, settings: TrainSettings, **values) -> dict[str, Any]:
    """Write what `settings.yaml` cannot know into ``run.json``, and return it."""
    output_dir = Path(settings.output_dir)
    on_cpu = accelerator.device.type != "cuda"
    record = {
        "trainer": Path(inspect.getfile(type(settings))).stem,
        "num_processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "hardware": f"{os.cpu_count()} {platform.machine()} cores" if on_cpu else torch.cuda.get_device_name(),
        "num_cpu_threads": torch.get_num_threads(),
        "versions": {"irstd_ldm": __version__, **{name: version(name) for name in LIBRARIES}},
        **values,
    }
    temporary = output_dir / "run.json.tmp"
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, output_dir / "run.json")
    return record


def _open_repository(repo_id: str) -> None:
    """Make the repository on the Hub if it is absent: a login that may not fails before the training, not after it.

    Raises:
        OSError: The Hub refuses or does not answer.
    """
    try:
        HfApi().create_repo(repo_id, exist_ok=True)
    except HUB_ERRORS as error:
        raise OSError(f"`hub_model_id` {explain(error, repo_id)}") from error


def _push(task: Task, settings: TrainSettings, record: dict[str, Any], step: int) -> None:
    """Upload the components as they are now, and a card, in one commit.

    Raises:
        OSError: The Hub refuses, does not answer or breaks off; what it has stays as it was.
    """
    repo_id = settings.hub_repo_id
    with TemporaryDirectory() as name:
        folder = Path(name)
        task.save_pretrained(folder)
        card = make_card(folder, repo_id, run=record, settings=asdict(settings))
        (folder / CARD).write_text(str(card), encoding="utf-8")
        files = safe_files(folder, {path.parent.name for path in folder.glob("*/*config.json")})
        try:
            upload_files(folder, files, repo_id, f"{record['trainer']}, step {step}")
        except HUB_ERRORS as error:
            raise OSError(explain(error, repo_id)) from error


def _weights_sha256(parameters: list[nn.Parameter]) -> list[str]:
    """The digest of the weights in each process, in the processes' order.

    Raises:
        RuntimeError: The processes hold different weights.
    """
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().cpu().numpy().tobytes())
    digests = gather_object([digest.hexdigest()])
    if len(set(digests)) > 1:
        raise RuntimeError(f"the processes ended with different weights, SHA-256 {digests}")
    return digests


def _validate(task: Task, accelerator: Accelerator, output_dir: Path, step: int) -> Validation:
    validation = task.validate()
    with open(output_dir / "validation.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **validation.scores}) + "\n")
    accelerator.log({f"validation/{name}": score for name, score in validation.scores.items()}, step=step)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_image("validation", validation.picture, step, dataformats="HWC")
    Image.fromarray(validation.picture).save(output_dir / "validation.png")
    logger.info("step %d: %s", step, ", ".join(f"{name} {score:.4f}" for name, score in validation.scores.items()))
    return validation


def train(settings: TrainSettings, task: Task, dataset: Dataset) -> None:
    """Train `task.model` on `dataset`, whose item k is a function of k alone.

    Resumes from the last complete checkpoint; k steps, a kill and the same command equal an uninterrupted run bit for
    bit on a CPU, given the same number of threads. ``run.json`` records the processes, the threads and, at the end, a
    digest of the weights in each process.

    On a CPU each process uses `num_cpu_threads` threads, by default all cores divided by the processes: launchers set
    ``OMP_NUM_THREADS=1`` where it is unset, which cannot be told from a choice, so that variable does not count here.

    With `push_to_hub` the averaged weights go to the Hub after every validation and at the end. An upload that fails
    on the way is logged, and the next one makes up for it; at the end it raises, the model being saved by then.

    Raises:
        OSError: The Hub refuses this login at the start, or the upload at the end.
        ValueError: `resume_from_checkpoint` names no checkpoint, or `output_dir` holds later ones.
        FloatingPointError: The loss or, without fp16, whose scaler skips such steps, the gradient is not finite.
        RuntimeError: The processes ended with different weights.
    """
    output_dir = Path(settings.output_dir)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else two processes on a CPU would not know of each other
        mixed_precision=settings.mixed_precision,
        log_with=settings.report_to,
        project_dir=str(output_dir),
    )
    if accelerator.device.type == "cpu":
        cores = os.cpu_count() or 1
        torch.set_num_threads(settings.num_cpu_threads or max(cores // accelerator.num_processes, 1))
    set_seed(settings.seed)
    checkpoint = _find_checkpoint(settings)
    first_step = checkpoint_step(checkpoint) if checkpoint is not None else 0
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        for partial in output_dir.glob("partial-checkpoint-*"):
            shutil.rmtree(partial)
        save_settings(settings, output_dir / "settings.yaml")
        save_settings(settings, output_dir / f"settings-from-step-{first_step}.yaml")
        record = _record_run(accelerator, settings, first_step=first_step)
        if settings.push_to_hub:
            _open_repository(settings.hub_repo_id)
    accelerator.wait_for_everyone()
    if settings.report_to:
        accelerator.init_trackers("logs")

    parameters = [p for p in task.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.adam_weight_decay, foreach=True
    )
    lr_scheduler = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
    )
    model, optimizer = accelerator.prepare(task.model, optimizer)
    accelerator.register_for_checkpointing(lr_scheduler)
    ema = EMAModel(parameters, decay=settings.ema_decay, foreach=True) if settings.use_ema else None
    if ema is not None:
        accelerator.register_for_checkpointing(ema)
    if checkpoint is not None:
        accelerator.load_state(str(checkpoint))
        logger.info("resumed from %s", checkpoint)
    if ema is not None:
        ema.to(accelerator.device)  # a loaded moving average lies on the CPU

    sampler = StepSampler(
        first_step,
        settings.max_train_steps,
        settings.train_batch_size,
        accelerator.process_index,
        accelerator.num_processes,
    )
    loader = DataLoader(
        dataset, settings.train_batch_size, sampler=sampler, num_workers=settings.dataloader_num_workers
    )
    progress = tqdm(
        total=settings.max_train_steps,
        initial=first_step,
        desc=type(settings).__name__,
        disable=not accelerator.is_main_process,
    )
    validates = settings.validation_steps > 0 and settings.val_fraction > 0
    shown: dict[str, str] = {}
    for step, batch in enumerate(loader, start=first_step):
        model.train()
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        generator = step_generator(settings.seed, step, accelerator.process_index)
        with accelerator.autocast():
            loss, scalars = task.loss(model, batch, step, generator)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
        accelerator.backward(loss)
        gradient_norm = accelerator.clip_grad_norm_(parameters, settings.max_grad_norm)
        if settings.mixed_precision != "fp16" and not torch.isfinite(gradient_norm):
            raise FloatingPointError(f"the gradient's norm is {gradient_norm.item()} at step {step}")
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        if ema is not None:
            ema.step(parameters)
        done = step + 1
        progress.update()
        if done % 20 == 0:
            values = {name: scalar.item() for name, scalar in scalars.items()} | {"loss": loss.item()}
            shown |= {name: f"{values[name]:.3f}" for name in ("loss", task.headline)}
            values["learning_rate"] = lr_scheduler.get_last_lr()[0]
            accelerator.log(values, step=done)
        last = done == settings.max_train_steps
        if accelerator.is_main_process and validates and (done % settings.validation_steps == 0 or last):
            with _averaged(ema, parameters):
                validation = _validate(task, accelerator, output_dir, done)
                if settings.push_to_hub and not last:
                    try:
                        _push(task, settings, record, done)
                    except OSError as error:  # the next upload brings all of it
                        logger.warning("step %d was not uploaded: %s", done, error)
            shown[f"val_{task.headline}"] = f"{validation.scores[task.headline]:.3f}"
        progress.set_postfix(shown, refresh=False)
        if done % settings.checkpointing_steps == 0 or last:
            _save_checkpoint(accelerator, output_dir, done, settings.checkpoints_total_limit)
    progress.close()

    digests = _weights_sha256(parameters)
    if accelerator.is_main_process:
        record = _record_run(accelerator, settings, first_step=first_step, weights_sha256=digests)
        with _averaged(ema, parameters):
            task.save_pretrained(output_dir)
            if settings.push_to_hub:
                _push(task, settings, record, settings.max_train_steps)
    accelerator.wait_for_everyone()
    # The wrapped model goes before the process group, whose end in that model's destructor may deadlock (torch 2.13).
    model, optimizer = accelerator.free_memory(model, optimizer)
    accelerator.end_training()


class _averaged:
    """Context in which `parameters` hold their moving average."""

    def __init__(self, ema: EMAModel | None, parameters: list[nn.Parameter]):
        self.ema, self.parameters = ema, parameters

    def __enter__(self) -> None:
        if self.ema is not None:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)

    def __exit__(self, *exception) -> None:
        if self.ema is not None:
            self.ema.restore(self.parameters)

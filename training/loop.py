"""The one training loop that every trainer shares, and the moving average of the weights."""

import hashlib
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object, send_to_device, set_seed
from diffusers.optimization import get_scheduler
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from ..files import replacing_folder, write_json
from ..hub.format import CARD, INDEX, seal, stale_files
from ..hub.model_card import make_card
from ..hub.upload import HUB_ERRORS, explain, upload, upload_contents
from . import runs
from .curves import CURVES, draw_curves
from .muon import Muon
from .settings import TrainSettings, save_settings
from .training_data import TrainingData, write_split

logger = logging.getLogger(__name__)

LOGGING_STEPS = 20  # steps between two looks at the losses: each waits for the device
LOSS_LOG, VALIDATION_LOG = "losses.jsonl", "validation.jsonl"
SHOWN = 6  # rows of a validation's picture
TILE_PX = 192  # side of an image in it


@dataclass
class Validation:
    """Result of a validation: scalars by name, and rows of images (H, W) in [0, 1]: image, truth, prediction, say."""

    scores: dict[str, float]
    rows: Sequence[Sequence[np.ndarray]]

    @property
    def picture(self) -> np.ndarray:
        """The first rows, images cut to their top left corner: (rows * 192, columns * 192, 3) uint8."""
        gray = np.block([[_tile(image) for image in row] for row in self.rows[:SHOWN]])
        return np.repeat(gray[:, :, None], 3, axis=2)


def _tile(image: np.ndarray) -> np.ndarray:
    """The top left corner of an image (H, W) in [0, 1], (192, 192) uint8, black where the image ends."""
    corner = np.rint(np.clip(image[:TILE_PX, :TILE_PX], 0, 1) * 255).astype(np.uint8)
    return np.pad(corner, [(0, TILE_PX - side) for side in corner.shape])


class Task:
    """A trainer's part of the loop: model, loss, validation, and how both are saved."""

    settings_class: ClassVar[type[TrainSettings]]
    headline: ClassVar[str]  #: the scalar, of a batch and of a validation, that is shown beside the loss
    model: Any  #: the `nn.Module` that is optimised; its forward pass is one training step's
    pipeline: Any  #: the pipeline of tasks that save no components of their own

    def __init__(self, settings: Any, data: TrainingData):
        self.settings, self.data = settings, data

    @property
    def name(self) -> str:
        """What the progress bar calls the training: "latent" of `LatentTask`."""
        return type(self).__name__.removesuffix("Task").lower()

    @classmethod
    def read_data(cls, settings: Any) -> TrainingData:
        """Read what is trained on and held out."""
        raise NotImplementedError

    def prepare(self) -> None:
        """What the settings change in the model before the first step, once its weights at the start are recorded."""

    def loss(
        self, model: nn.Module, batch: dict[str, torch.Tensor], step: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch and scalars to log. All randomness is drawn from `generator`, on the CPU."""
        raise NotImplementedError

    def validate(self) -> Validation:
        """Score the model, in evaluation mode, on the validation images."""
        raise NotImplementedError

    def save_components(self, folder: Path) -> None:
        """Write the trained components; the model is in evaluation mode."""
        self.pipeline.save_pretrained(folder)

    def save_pretrained(self, folder: Path) -> None:
        """Write the trained components and the lists of images."""
        self.model.eval()
        write_split(self.data, folder)
        self.save_components(folder)

    def checkpoint_gradients(self, *components: Any) -> None:
        """Let diffusers models save memory, where the settings say so."""
        if self.settings.gradient_checkpointing:
            for component in components:
                component.enable_gradient_checkpointing()

    @classmethod
    def run(cls, settings: Any) -> None:
        """Train once."""
        data = cls.read_data(settings)
        train(settings, cls(settings, data), data.crops, data.lists)

    @classmethod
    def main(cls, argv: Sequence[str] | None = None) -> None:
        """Train as the command line says."""
        runs.start(cls.settings_class, cls.run, argv)


class StepSampler(Sampler[int]):
    """Indices of one process's items: those of step s are [s*world + rank]*batch_size and following.

    What a step sees is a function of its number alone, which makes a resumed run equal to an uninterrupted one.
    """

    def __init__(self, first_step: int, last_step: int, batch_size: int, rank: int, world: int):
        self.steps, self.batch_size, self.rank, self.world = range(first_step, last_step), batch_size, rank, world

    def __iter__(self) -> Iterator[int]:
        for step in self.steps:
            first = (step * self.world + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)

    def __len__(self) -> int:
        return len(self.steps) * self.batch_size


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The source of a step's randomness, a function of its arguments alone."""
    state = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


@contextmanager
def _hub_errors(repo_id: str, prefix: str = "") -> Iterator[None]:
    """A context in which an error of the Hub becomes an OSError of one line."""
    try:
        yield
    except HUB_ERRORS as error:
        raise OSError(prefix + explain(error, repo_id)) from error


@torch.no_grad()
def _save(task: Task, settings: TrainSettings, folder: Path) -> None:
    """Write the trained components, in half precision where the settings say so, in place of earlier ones at once."""
    stale: set[Path] = set()
    with replacing_folder(folder, INDEX, stale.__contains__) as unfinished:
        task.save_pretrained(unfinished)
        if settings.half_precision:
            for path in unfinished.glob("*/*.safetensors"):
                tensors = load_file(path)
                halved = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
                save_file(halved, path, metadata={"format": "pt"})
            if (unfinished / INDEX).exists():
                seal(unfinished)
        stale |= stale_files(folder, unfinished, None)


def _push(task: Task, settings: TrainSettings, record: dict[str, Any], step: int) -> None:
    """Upload the components as they are now, and a card, in one commit; of a failure nothing is left on the Hub."""
    repo_id = settings.hub_repo_id
    with TemporaryDirectory() as name:
        folder = Path(name)
        _save(task, settings, folder)
        card = make_card(folder, repo_id, run=record, settings=asdict(settings))
        (folder / CARD).write_text(str(card), encoding="utf-8")
        with _hub_errors(repo_id):
            contents = upload_contents(folder, runs.model_files(folder))
            upload(folder, contents, repo_id, f"{record['trainer']}, step {step}")


def _weights_sha256(parameters: list[nn.Parameter]) -> list[str]:
    """The digest of the weights in each process, in the processes' order; they must be equal."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().cpu().numpy().tobytes())
    digests = gather_object([digest.hexdigest()])
    if len(set(digests)) > 1:
        raise RuntimeError(f"the processes ended with different weights, SHA-256 {digests}")
    return digests


@torch.no_grad()
def _validate(task: Task, accelerator: Accelerator, output_dir: Path, step: int) -> Validation:
    task.model.eval()
    validation = task.validate()
    runs.append_line(output_dir / VALIDATION_LOG, step, validation.scores)
    accelerator.log({f"validation/{name}": score for name, score in validation.scores.items()}, step=step)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_image("validation", validation.picture, step, dataformats="HWC")
    Image.fromarray(validation.picture).save(output_dir / "validation.png")
    logger.info("step %d: %s", step, ", ".join(f"{name} {score:.4f}" for name, score in validation.scores.items()))
    return validation


def _warn_of_slow_bf16(accelerator: Accelerator) -> None:
    is_emulated = (
        platform.machine() in ("x86_64", "AMD64")
        and not torch.cpu._is_avx512_bf16_supported()
        and not torch.cpu._is_amx_tile_supported()
    )
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16" and is_emulated:
        logger.warning("this processor computes bf16 by way of float32, which may be many times slower than float32")


def _check_finite(checks: list[tuple[int, str, torch.Tensor]]) -> None:
    """Raise for the first (step, name, whether it was finite) that was not; to look is to wait for the device."""
    for step, name, is_finite in checks:
        if not is_finite:
            raise FloatingPointError(f"the {name} is not finite at step {step}")
    checks.clear()


class TrainedPart(nn.Module):
    """The trainable parameters of a model and all its buffers, those of frozen parts too; the tensors are its own."""

    def __init__(self, model: nn.Module):
        super().__init__()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)
        for name, buffer in model.named_buffers():
            self.register_buffer(name.replace(".", "/"), buffer)


class MovingAverage(AveragedModel):
    """Exponential moving average of the trained part of a model: running statistics are averaged too, counts copied.

    The first step copies; the decay of step n after it is min(`decay`, (1 + n) / (10 + n)): a long memory would keep
    the random start for long.
    """

    def __init__(self, part: TrainedPart, decay: float):
        super().__init__(part, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move towards `model`; unlike the base class's this waits for no device, the count of steps is the CPU's."""
        num_steps = int(self.n_averaged)
        decay = min(self.decay, (1 + num_steps) / (10 + num_steps)) if num_steps else 0.0
        averaged, current = ([*part.parameters(), *part.buffers()] for part in (self.module, model))
        is_float = [tensor.is_floating_point() for tensor in averaged]
        torch._foreach_lerp_([*compress(averaged, is_float)], [*compress(current, is_float)], 1 - decay)
        for ours, theirs in zip(averaged, current, strict=True):
            if not ours.is_floating_point():
                ours.copy_(theirs)
        self.n_averaged += 1

    def by_name(self) -> dict[str, torch.Tensor]:
        """The averaged tensors by their names in the model."""
        return {name.replace("/", "."): tensor for name, tensor in self.module.state_dict().items()}


@contextmanager
def averaged_weights(model: nn.Module, average: MovingAverage | None) -> Iterator[None]:
    """A context in which `model` holds the moving average, if there is one, contiguous as files need it."""
    averaged = {} if average is None else average.by_name()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    own = {name: tensor.data for name, tensor in tensors.items()}
    try:
        for name, tensor in tensors.items():
            tensor.data = averaged.get(name, tensor.data).contiguous()
        yield
    finally:
        for name, tensor in tensors.items():
            tensor.data = own[name]


def train(settings: TrainSettings, task: Task, dataset: Dataset, lists: Mapping[str, Sequence[str]]) -> None:
    """Train `task.model` on `dataset`, whose item k is a function of k alone.

    Resumes from the last complete checkpoint; k steps, a kill and the same command equal an uninterrupted run bit for
    bit on a CPU, given the same number of threads. ``run.json`` records the processes, the threads and digests: of the
    settings, the lists and the weights at the start; at the end of the weights in each process and of the saved model.
    ``losses.jsonl`` and ``validation.jsonl`` are the logs.

    With `max_train_minutes` the schedule follows the share of the steps or of the minutes, whichever is larger, and
    the run ends with it. The minutes count from here, of a resumed run anew; the first step, which compiles, takes
    of them but does not move the schedule.

    On a CPU each process uses `num_cpu_threads` threads, by default all cores divided by the processes: launchers set
    ``OMP_NUM_THREADS=1`` where it is unset, which cannot be told from a choice, so that variable does not count here.

    Args:
        settings: The run's.
        task: Model, loss and validation.
        dataset: Crops.
        lists: Stems of what is trained on and held out, by list.

    Raises:
        OSError: The Hub refuses this login at the start, or the upload at the end.
        ValueError: `resume_from_checkpoint` names no checkpoint or one of another run, or `output_dir` holds later
            ones, those of another run, or a model that no run has left there; `max_train_minutes` in one of several
            processes.
        FloatingPointError: The loss or, without fp16, whose scaler skips such steps, the gradient is not finite. One
            looks every 20 steps and before anything is saved.
        RuntimeError: The processes ended with different weights.
    """
    output_dir, ends_at = Path(settings.output_dir), time.monotonic() + 60 * (settings.max_train_minutes or 0)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else two processes on a CPU would not know of each other
        mixed_precision=settings.mixed_precision,
        log_with=settings.report_to,
        project_dir=str(output_dir),
    )
    if accelerator.device.type == "cpu":
        cores = os.cpu_count() or 1
        torch.set_num_threads(settings.num_cpu_threads or max(cores // accelerator.num_processes, 1))
    if settings.max_train_minutes is not None and accelerator.num_processes > 1:
        raise ValueError(f"`max_train_minutes` must be null with several processes, got {settings.max_train_minutes}")
    _warn_of_slow_bf16(accelerator)
    set_seed(settings.seed)
    checkpoint = runs.find_checkpoint(settings)
    first_step = runs.checkpoint_step(checkpoint) if checkpoint is not None else 0
    found = runs.origin(settings, lists, task.model)
    runs.refuse_other_origin(settings, found, checkpoint)
    task.prepare()
    accelerator.wait_for_everyone()
    record = runs.make_record(accelerator, settings, first_step=first_step, **found)
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        for unfinished in output_dir.glob("partial-checkpoint-*"):
            shutil.rmtree(unfinished)
        for log in (LOSS_LOG, VALIDATION_LOG):
            runs.keep_until(output_dir / log, first_step)
        save_settings(settings, output_dir / runs.SETTINGS)
        write_json(output_dir / runs.RECORD, record)
        if settings.push_to_hub:
            with _hub_errors(settings.hub_repo_id, "`hub_model_id` "):  # before the training, not after it
                HfApi().create_repo(settings.hub_repo_id, exist_ok=True)
    accelerator.wait_for_everyone()
    if settings.report_to:
        accelerator.init_trackers("logs")

    if settings.channels_last:
        task.model.to(memory_format=torch.channels_last)
    if settings.compile:
        task.model.compile()
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    make_optimizer = Muon if settings.optimizer == "muon" else partial(torch.optim.AdamW, fused=True)
    optimizer = make_optimizer(parameters, lr=settings.learning_rate, weight_decay=settings.adam_weight_decay)
    lr_scheduler = get_scheduler(
        settings.lr_scheduler, optimizer, None, settings.lr_warmup_steps, settings.max_train_steps
    )
    model, optimizer = accelerator.prepare(task.model, optimizer)
    trained = TrainedPart(task.model)
    average = MovingAverage(trained, settings.ema_decay) if settings.use_ema else None
    if checkpoint is not None:
        runs.load_checkpoint(accelerator, checkpoint, lr_scheduler, average)
        logger.info("resumed from %s", checkpoint)

    num_parts, num_workers = settings.gradient_accumulation_steps, settings.dataloader_num_workers
    crops_per_step = settings.train_batch_size * num_parts
    sampler = StepSampler(
        first_step, settings.max_train_steps, crops_per_step, accelerator.process_index, accelerator.num_processes
    )
    loader = DataLoader(
        dataset,
        settings.train_batch_size,
        sampler=sampler,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        pin_memory=accelerator.device.type == "cuda",
    )
    is_main = accelerator.is_main_process
    progress = tqdm(total=settings.max_train_steps, initial=first_step, desc=task.name, disable=not is_main)
    validates = settings.validation_steps > 0 and settings.val_fraction > 0
    checks: list[tuple[int, str, torch.Tensor]] = []
    shown: dict[str, str] = {}
    shown_step, shown_at, begun = first_step, time.monotonic(), 0.0
    batches = iter(loader)
    model.train()
    for step in range(first_step, settings.max_train_steps):
        generator = step_generator(settings.seed, step, accelerator.process_index)
        measured: dict[str, torch.Tensor] = {}
        for part in range(num_parts):
            batch = send_to_device(next(batches), accelerator.device, non_blocking=True)
            if settings.channels_last:
                batch = {name: tensor.to(memory_format=torch.channels_last) for name, tensor in batch.items()}
            with accelerator.no_sync(model) if part + 1 < num_parts else nullcontext():
                with accelerator.autocast():
                    loss, scalars = task.loss(model, batch, step, generator)
                accelerator.backward(loss / num_parts)
            for name, scalar in {**scalars, "loss": loss}.items():
                measured[name] = measured.get(name, 0) + scalar.detach() / num_parts
        gradient_norm = accelerator.clip_grad_norm_(parameters, settings.max_grad_norm)
        checks.append((step, "loss", measured["loss"].isfinite()))
        if settings.mixed_precision != "fp16":
            checks.append((step, "gradient's norm", gradient_norm.isfinite()))
        optimizer.step()
        if settings.max_train_minutes is not None:
            now = time.monotonic()
            begun = now if step == first_step else begun
            share = min((now - begun) / max(ends_at - begun, 1e-6), 1.0)  # beyond its end a cosine rises again
            lr_scheduler.last_epoch = max(lr_scheduler.last_epoch, round(share * settings.max_train_steps) - 1)
        lr_scheduler.step()
        optimizer.zero_grad()
        if average is not None:
            average.update_parameters(trained)
        done = step + 1
        progress.update()
        last = lr_scheduler.last_epoch >= settings.max_train_steps
        logs = done % LOGGING_STEPS == 0 or last
        saves = done % settings.checkpointing_steps == 0 or last
        is_validated = validates and (done % settings.validation_steps == 0 or last)
        if logs or saves or is_validated:
            _check_finite(checks)
        if logs or step == first_step:
            values = {name: scalar.item() for name, scalar in measured.items()}
            shown |= {name: f"{values[name]:.3f}" for name in ("loss", task.headline)}
            seconds = time.monotonic() - shown_at
            rate = (done - shown_step) * crops_per_step * accelerator.num_processes / seconds
            shown["crops/s"] = f"{rate:.1f}"
            shown_step, shown_at = done, shown_at + seconds
        if logs and is_main:
            values["learning_rate"] = lr_scheduler.get_last_lr()[0]
            runs.append_line(output_dir / LOSS_LOG, done, values)
            accelerator.log(values, step=done)
        if is_validated and is_main:
            with averaged_weights(task.model, average):
                validation = _validate(task, accelerator, output_dir, done)
                if settings.push_to_hub and not last:
                    try:
                        _push(task, settings, record, done)
                    except OSError as error:  # the next upload brings all of it
                        logger.warning("step %d was not uploaded: %s", done, error)
            model.train()
            shown[f"val_{task.headline}"] = f"{validation.scores[task.headline]:.3f}"
        progress.set_postfix(shown, refresh=step == first_step)
        if saves:
            runs.save_checkpoint(accelerator, settings, done, lr_scheduler, average, found)
        if last:
            break
    progress.close()

    digests = _weights_sha256(parameters)
    if is_main:
        with averaged_weights(task.model, average):
            saved = runs.state_sha256(task.model, settings.half_precision)
            record |= {"weights_sha256": digests, "saved_sha256": saved}
            _save(task, settings, output_dir)
            if settings.push_to_hub:
                _push(task, settings, record, settings.max_train_steps)
        write_json(output_dir / runs.RECORD, record)
        draw_curves(output_dir / LOSS_LOG, output_dir / VALIDATION_LOG, task.headline, output_dir / CURVES)
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    # The wrapped model goes before the process group, whose end in that model's destructor may deadlock (torch 2.13).
    model, optimizer = accelerator.free_memory(model, optimizer)
    AcceleratorState._reset_state()  # the next stage may have another precision; the processes stay connected

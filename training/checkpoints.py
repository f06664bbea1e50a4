"""A run's checkpoints: complete or not there."""

import os
import re
import shutil
from pathlib import Path

from accelerate import Accelerator

from .settings import TrainSettings


def checkpoint_step(folder: Path) -> int:
    """The step in the name of a checkpoint folder, ``checkpoint-STEP``."""
    return int(folder.name.removeprefix("checkpoint-"))


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((p for p in output_dir.glob("checkpoint-*") if p.name[11:].isdigit()), key=checkpoint_step)


def save_checkpoint(accelerator: Accelerator, output_dir: Path, step: int, limit: int) -> None:
    """Write a checkpoint and keep the last `limit`."""
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


def _remove(folder: Path) -> None:
    """Delete a checkpoint; a kill on the way leaves no half of it under a checkpoint's name."""
    doomed = folder.with_name(f"partial-{folder.name}-old")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def find_checkpoint(settings: TrainSettings) -> Path | None:
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

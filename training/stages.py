"""The command of a trainer: one run, or the stages of a recipe, each from the weights of the one before."""

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..hub.format import safe_files
from .run_record import is_finished, read_record
from .settings import Settings, parse_plan, stage_folder

LISTS = ("train.txt", "val.txt", "train_*.txt", "val_*.txt")  # what `write_split` writes

logger = logging.getLogger(__name__)


def start(cls: type[Settings], run: Callable[[Settings], None], argv: Sequence[str] | None = None) -> None:
    """Run a trainer from the command line; of a recipe with stages, those that are missing or unfinished, in order.

    In the end OUTPUT_DIR holds the model of the last stage and its lists.

    Args:
        cls: The trainer's settings.
        run: Trains with given settings.
        argv: The command line; None = the process's own.

    Raises:
        ValueError: As of `parse_plan` and `is_finished`; or a stage's start is not there, or not the one that it had.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    plan = parse_plan(cls, argv)
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
    if plan.is_staged and plan.only in (None, len(plan.stages)) and os.environ.get("RANK", "0") == "0":
        _copy_model(stage_folder(plan.output_dir, len(plan.stages)), plan.output_dir)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _check_start(output_dir: Path, number: int, finished: bool) -> None:
    """Check that a stage follows from those before it that are still there, each from the one before.

    Raises:
        ValueError: The stage before is not finished, or a finished one, up to this one, started from other weights.
    """
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
    """Copy a stage's model and lists; lists of an earlier model go."""
    for pattern in LISTS:
        for stale in output_dir.glob(pattern):
            if not (folder / stale.name).exists():
                stale.unlink()
    for file in safe_files(folder, {config.parent.name for config in folder.glob("*/*config.json")}):
        (output_dir / file).parent.mkdir(exist_ok=True)
        shutil.copy(folder / file, output_dir / file)

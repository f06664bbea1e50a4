"""`irstd-ldm calibrate`: thresholds for false-alarm budgets and the targets' confidence, stored in the checkpoint."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import __version__, bundled_checkpoint
from ..data.folder import validation_list
from ..data.readers.frame import IMAGE_ERRORS
from ..evaluation.confidence import ScoredTarget, confidences_and_hits, fit_platt, scored_targets
from ..evaluation.curves import BUDGET_THRESHOLDS, BudgetThreshold, threshold_for_budget
from ..evaluation.matching import label_image
from ..evaluation.thresholds import ThresholdCounts, count_image_at
from ..files import write_json
from ..hub.format import INDEX, read_json
from ..pipelines.detection import IRSTDDetectionPipeline
from ..targets import ConfidenceCalibration
from . import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, CommandError, describe
from .image_set import ImageSet
from .model import load_pipeline, model_folder, predict, resolve_device, sampling
from .outputs import held, writing


def run(args: argparse.Namespace) -> int:
    """Calibrates, prints the table, writes model_index.json and returns the exit code."""
    folder = model_folder(args)
    if folder is None or folder.resolve().parent == bundled_checkpoint().resolve().parent:
        raise CommandError("--model must be the folder of a checkpoint of your own; it is written to", EXIT_USAGE)
    try:
        image_sets = _open(args, folder)
    except (ImportError, OSError, ValueError) as error:
        raise CommandError(str(describe(args.data, error)), EXIT_USAGE) from error
    pipeline = load_pipeline(args, resolve_device(args.device))
    sampled = sampling(args, pipeline)
    counts: dict[str, list[ThresholdCounts]] = {}
    targets: list[list[ScoredTarget]] = []
    for images in image_sets:
        counts[images.description] = of_set = []
        for one, scored in _find(images, pipeline, args):
            of_set.append(one)
            targets.append(scored)
    try:
        budgets = [
            threshold_for_budget(counts, BUDGET_THRESHOLDS, budget) for budget in sorted(args.max_fa_per_million_px)
        ]
        confidence = fit_platt(*confidences_and_hits(targets))
    except ValueError as error:
        raise CommandError(str(error)) from error
    path = folder / INDEX
    with writing(path), held(folder, "calibrate"):
        write_json(path, {**read_json(path), "calibration": _calibration(image_sets, budgets, confidence, sampled)})
    for images in image_sets:
        print(f"{images.root}, {images.description}: {len(images)} images")
    print(_table(budgets))
    print(f"confidence: {json.dumps(confidence.to_dict())}")
    print(f"written: {path}")
    return EXIT_DONE


def _open(args: argparse.Namespace, folder: Path) -> list[ImageSet]:
    split, list_file = (args.split, None) if args.list is None else (None, args.list)
    if split == "val":
        list_file = validation_list(folder, args.data)
    image_sets = [ImageSet(args.data, split=split, list_file=list_file)]
    if args.backgrounds is not None:
        image_sets.append(ImageSet(args.backgrounds, list_file=folder / "val_backgrounds.txt", no_targets=True))
    return image_sets


def _find(
    images: ImageSet, pipeline: IRSTDDetectionPipeline, args: argparse.Namespace
) -> Iterator[tuple[ThresholdCounts, list[ScoredTarget]]]:
    """For each image its counts at `BUDGET_THRESHOLDS`, and its predicted targets at the checkpoint's threshold."""
    try:
        for _, image, mask in tqdm(images, unit="image", disable=None):
            probability, predicted, _ = predict(pipeline, image, args)
            components = label_image(predicted, mask > 0)
            counts = count_image_at(probability, mask > 0, BUDGET_THRESHOLDS)
            yield counts, scored_targets(components, components.match(), probability)
    except IMAGE_ERRORS as error:
        raise CommandError(str(describe(images.root, error)), EXIT_FAILED) from error


def _calibration(
    image_sets: Sequence[ImageSet],
    budgets: Sequence[BudgetThreshold],
    confidence: ConfidenceCalibration,
    sampled: Mapping[str, int],
) -> dict[str, Any]:
    return {
        "data": ", ".join(f"{images.root.resolve().name} ({len(images)} images)" for images in image_sets),
        "thresholds": {f"{budget.max_fa_per_million_px:g}": budget.threshold for budget in budgets},
        "budgets": [{**asdict(budget), "is_resolved": budget.is_resolved} for budget in budgets],
        "confidence": confidence.to_dict(),
        **sampled,
        "version": __version__,
    }


def _table(budgets: Sequence[BudgetThreshold]) -> str:
    lines = ["budget (1e-6)   threshold      Fa     up to (95 %)       Pd"]
    for budget in budgets:
        lines.append(
            f"{budget.max_fa_per_million_px:>13g}{budget.threshold:>12.4f}{budget.fa_per_million_px:>8.2f}"
            f"{budget.fa_upper_bound:>17.2f}{budget.pd:>9.4f}"
        )
        if not budget.is_resolved:
            one_target = budget.smallest_measurable_fa
            lines.append(f"    not resolved by these images: one false target of usual size is {one_target:.1f}")
    return "\n".join(lines)

"""`irstd-ldm calibrate`: thresholds for false-alarm budgets and the targets' confidence, stored in the checkpoint."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import __version__, bundled_checkpoint
from ..data.folder import validation_list
from ..data.readers.frame import IMAGE_ERRORS
from ..evaluation.confidence import ScoredTarget, confidences_and_hits, fit_platt, scored_targets
from ..evaluation.curves import ARGUMENTS, BudgetThreshold, threshold_for_budget
from ..evaluation.matching import label_image
from ..evaluation.metrics import METRICS, number_text
from ..evaluation.thresholds import ThresholdCounts, count_image_at
from ..files import finite, write_text
from ..hub.format import INDEX, read_json
from ..pipelines.detection import IRSTDDetectionPipeline
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
        raise CommandError(str(describe(args.data[0] if args.data else folder, error)), EXIT_USAGE) from error
    pipeline = load_pipeline(args, resolve_device(args.device))
    sampled = sampling(args, pipeline)
    mask_threshold = pipeline.config.default_mask_threshold
    counts: list[ThresholdCounts] = []
    targets: list[list[ScoredTarget]] = []
    for images in image_sets:
        for one, scored in _find(images, pipeline, args, mask_threshold):
            counts.append(one)
            targets += [scored] if images.root != args.frames else []
    budgets = [
        threshold_for_budget(counts, rate, budget)
        for rate, name in ARGUMENTS.items()
        for budget in sorted(getattr(args, name))
    ]
    budgets = [replace(one, score_threshold=max(one.score_threshold, mask_threshold)) for one in budgets]
    try:
        confidence = fit_platt(*confidences_and_hits(targets)).to_dict() if args.data else None
    except ValueError as error:
        raise CommandError(str(error)) from error
    path = folder / INDEX
    with writing(path), held(folder, "calibrate"):
        index = read_json(path)
        confidence = confidence or (index.get("calibration") or {}).get("confidence")
        calibration = _calibration(image_sets, budgets, confidence, {"mask_threshold": mask_threshold, **sampled})
        calibrated = finite({**index, "calibration": calibration})
        write_text(path, json.dumps(calibrated, indent=2, sort_keys=True) + "\n")  # as a pipeline saves it
    for images in image_sets:
        print(f"{images.root}, {images.description}: {len(images)} images")
    print(_table(budgets))
    print(f"confidence: {json.dumps(calibration['confidence'])}")
    print(f"written: {path}")
    return EXIT_DONE


def _open(args: argparse.Namespace, folder: Path) -> list[ImageSet]:
    image_sets = []
    for root in args.data:
        split, list_file = (args.split, None) if args.list is None else (None, args.list)
        if split == "val":
            list_file = validation_list(folder, root)
        image_sets.append(ImageSet(root, split=split, list_file=list_file))
    if args.backgrounds is not None:
        image_sets.append(ImageSet(args.backgrounds, list_file=folder / "val_backgrounds.txt", no_targets=True))
    if args.frames is not None:
        image_sets.append(ImageSet(args.frames, no_targets=True))
    if not image_sets:
        raise ValueError("nothing to calibrate on: name --data, --backgrounds or --frames")
    return image_sets


def _find(
    images: ImageSet, pipeline: IRSTDDetectionPipeline, args: argparse.Namespace, mask_threshold: float
) -> Iterator[tuple[ThresholdCounts, list[ScoredTarget]]]:
    """For each image its counts at all score thresholds, and all components of its mask."""
    try:
        for _, image, mask in tqdm(images, unit="image", disable=None):
            probability = predict(pipeline, image, args)[0]
            components = label_image(probability > mask_threshold, mask > 0)
            counts = count_image_at(probability, mask > 0, mask_threshold=mask_threshold)
            yield counts, scored_targets(components, components.match(), probability)
    except IMAGE_ERRORS as error:
        raise CommandError(str(describe(images.root, error)), EXIT_FAILED) from error


def _calibration(
    image_sets: Sequence[ImageSet],
    budgets: Sequence[BudgetThreshold],
    confidence: Mapping[str, Any] | None,
    settings: Mapping[str, float],
) -> dict[str, Any]:
    thresholds: dict[str, dict[str, float]] = {}
    for budget in budgets:
        thresholds.setdefault(ARGUMENTS[budget.rate], {})[f"{budget.budget:g}"] = budget.score_threshold
    return {
        "data": ", ".join(f"{images.root.resolve().name} ({len(images)} images)" for images in image_sets),
        "score_thresholds": thresholds,
        "budgets": [{**asdict(budget), "is_resolved": budget.is_resolved} for budget in budgets],
        "confidence": confidence,
        **settings,
        "version": __version__,
    }


def _table(budgets: Sequence[BudgetThreshold]) -> str:
    lines = [f"{'budget':<36}   score >     found    up to (95 %)       Pd"]
    for budget in budgets:
        name = f"{budget.budget:g} {METRICS[budget.rate].heading}"
        lines.append(
            f"{name:<36}{budget.score_threshold:>10.4f}{budget.found:>10.3f}{budget.upper_bound:>16.3f}"
            f"{number_text(budget.pd, 4):>9}"
        )
        if not budget.is_resolved:
            lines.append(f"    not resolved by these images, whose lowest promise is {budget.smallest_resolved:.3g}")
    return "\n".join(lines)

"""`irstd-ldm card`: the model card of a checkpoint, its numbers from what `evaluate` and the trainer have written."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult
from PIL import Image

from .. import __version__
from ..bundled import resolve_model
from ..data.synthetic import synthetic_scene
from ..evaluation.metrics import metric_rows, metrics_of
from ..files import write_text
from ..hub.format import CARD, INDEX, PICTURE, checkpoint_files, class_name, read_json
from ..hub.model_card import GENERATOR_CLASS, TASK, CardResults, make_card
from ..pipelines.pipeline_gaussian_agnostic import generator_class
from ..results import draw_overlay
from . import EXIT_DONE, EXIT_USAGE, SCENE_SCR, CommandError, describe
from .model import BUNDLED, load_pipeline
from .outputs import save_png

SCENE_SEED = 0
THRESHOLDS = ("mask_threshold", "score_threshold")
NEEDED = ("data", "images", "intervals_95", *THRESHOLDS, "iou", "niou", "pd", "fa_per_million_px")
CONDITIONS = ("protocol", *THRESHOLDS, "matching", "connectivity", "centroid_tolerance_px", "false_alarm_count")
HOW_SCORED = """\
A mask is where probability > mask threshold, in 8-connected components whose mean > score threshold; a hit is a
centroid nearer than the tolerance. IoU, nIoU, Pd and F1 in percent, Fa in false-alarm pixels per million, 95 %
bootstrap intervals over images in brackets.
"""


def run(args: argparse.Namespace) -> int:
    """Writes the card and its picture into the checkpoint's folder and returns the exit code."""
    name = args.name or str(args.folder)
    try:
        checkpoint_files(args.folder)
        metrics = [read_metrics(path, args.folder, name) for path in args.metrics]
        record = read_json(args.run / "run.json") if args.run else None
        settings = yaml.safe_load((args.run / "settings.yaml").read_text(encoding="utf-8")) if args.run else None
        notes = args.notes.read_text(encoding="utf-8") if args.notes else ""
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CommandError(str(describe(args.folder, error)), EXIT_USAGE) from error
    args.model = str(args.folder)
    picture = example_picture(args)
    texts: dict[str, Any] = {"run": record, "settings": settings, "notes": notes}
    try:
        save_png(args.folder / PICTURE, picture)
        results = card_results(metrics) if metrics else None
        card = make_card(args.folder, name, results=results, versions={"irstd-ldm": __version__}, **texts)
        write_text(args.folder / CARD, str(card))
    except OSError as error:
        raise CommandError(str(describe(args.folder, error))) from error
    print(f"written: {args.folder / CARD}, {args.folder / PICTURE}")
    return EXIT_DONE


def read_metrics(path: Path, folder: Path, name: str) -> Mapping[str, Any]:
    """The content of a `metrics.json`, ValueError unless of the checkpoint in `folder`, on the Hub `name`."""
    metrics = read_json(path)
    missing = set(NEEDED) - set(metrics)
    if missing:
        raise ValueError(f"{path} is no metrics.json of `irstd-ldm evaluate`: it has no {', '.join(sorted(missing))}")
    model = metrics.get("model")
    if model is None:
        raise ValueError(f"{path} is of the predictions in {metrics['predictions']}, not of a model")
    measured = Path(resolve_model(None if model == BUNDLED else model))
    if model != name and measured.resolve() != folder.resolve():
        raise ValueError(f"{path} is of the model {model}, not of {folder}: `irstd-ldm evaluate --model {folder}`")
    return metrics


def card_results(metrics: Sequence[Mapping[str, Any]]) -> CardResults:
    """The results that a card shows, one row for the content of each `metrics.json`."""
    rows, entries = [], []
    for one in metrics:
        data, images = Path(one["data"]).name, one["images"]
        row = {
            "images": f"{data}, {images}",
            "protocol": one["protocol"],
            "thresholds": ", ".join(f"{one[name]:g}" for name in THRESHOLDS),
            "matching": f"{one['matching']} < {one['centroid_tolerance_px']:g} px",
            "N images": str(one["num_images"]),
            "N targets": str(one["num_targets"]),
        }
        conditions = {name: one[name] for name in (*CONDITIONS, "num_images", "num_targets")}
        conditions |= {name: one["settings"][name] for name in ("num_inference_steps", "ensemble_size")}
        shown = [metric.key for metric in metrics_of("card") if metric.key in one]
        for key, (label, text) in zip(shown, metric_rows(one), strict=True):
            row[label] = text
            if text != "-":
                entries.append(
                    EvalResult(
                        task_type=TASK,
                        dataset_type=data,
                        dataset_name=f"{data}, {images}",
                        dataset_split=images.removeprefix("split "),
                        metric_type=key,
                        metric_name=label,
                        metric_value=one[key],
                        metric_args={**conditions, "interval_95": one["intervals_95"][key]},
                    )
                )
        rows.append(row)
    return CardResults(rows, HOW_SCORED, entries)


def example_picture(args: argparse.Namespace) -> Image.Image:
    """A synthetic scene with what the checkpoint finds in it, or beside what a generator makes of it.

    An image of a data set would need its licence.
    """
    scene = synthetic_scene(seed=SCENE_SEED, scr=SCENE_SCR)
    if class_name(read_json(args.folder / INDEX)) != GENERATOR_CLASS:
        return draw_overlay(scene.image, load_pipeline(args)(scene.image).targets[0])
    made = load_pipeline(args, class_of=generator_class)(scene.image, mask=scene.mask).images[0]  # (H, W) in [0, 1]
    return Image.fromarray(np.hstack([scene.image, np.rint(made * 255).astype(np.uint8)]))

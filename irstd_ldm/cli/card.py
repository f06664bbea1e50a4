"""`irstd-ldm card`: the model card of a checkpoint, its numbers from what `evaluate` and the trainer have written."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from .. import __version__, bundled_checkpoint
from ..data.synthetic import synthetic_scene
from ..files import write_text
from ..pipelines.checkpoint_files import CARD, PICTURE, checkpoint_files, read_json
from ..pipelines.model_card import METRICS, make_card
from . import EXIT_DONE, EXIT_USAGE, SCENE_SCR, CommandError
from .inputs import describe
from .model import BUNDLED, load_pipeline
from .pictures import draw_overlay, save_png

SCENE_SEED = 0


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
    versions = {"irstd-ldm": __version__}
    try:
        save_png(args.folder / PICTURE, picture)
        card = make_card(
            args.folder, name, metrics=metrics, run=record, settings=settings, notes=notes, versions=versions
        )
        write_text(args.folder / CARD, str(card))
    except OSError as error:
        raise CommandError(str(describe(args.folder, error))) from error
    print(f"written: {args.folder / CARD}, {args.folder / PICTURE}")
    return EXIT_DONE


def read_metrics(path: Path, folder: Path, name: str) -> Mapping[str, Any]:
    """The content of a `metrics.json`, if it is of the checkpoint in `folder`, which the Hub knows as `name`.

    Raises:
        OSError: it cannot be read.
        ValueError: `evaluate` did not write it, or it is of another model.
    """
    metrics = read_json(path)
    missing = {"data", "images", "intervals_95", *METRICS} - set(metrics)
    if missing:
        raise ValueError(f"{path} is no metrics.json of `irstd-ldm evaluate`: it has no {', '.join(sorted(missing))}")
    model = metrics.get("model")
    if model is None:
        raise ValueError(f"{path} is of the predictions in {metrics['predictions']}, not of a model")
    place = bundled_checkpoint() if model == BUNDLED else Path(model)
    if model != name and place.resolve() != folder.resolve():
        raise ValueError(f"{path} is of the model {model}, not of {folder}: `irstd-ldm evaluate --model {folder}`")
    return metrics


def example_picture(args: argparse.Namespace) -> Image.Image:
    """A synthetic scene with what the checkpoint finds in it: an image of a data set would need its licence."""
    image = synthetic_scene(seed=SCENE_SEED, scr=SCENE_SCR).image  # (H, W)
    return draw_overlay(image, load_pipeline(args)(image).targets[0])

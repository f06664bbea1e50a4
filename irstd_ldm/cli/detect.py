"""`irstd-ldm detect`: images in; masks, overlays and tables of targets out."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from PIL import Image
from tqdm import tqdm

from .. import __version__
from ..data.images import to_gray
from ..data.synthetic import synthetic_scene
from ..pipelines.detection_pipeline import IRSTDDetectionPipeline
from ..pipelines.target import Target
from . import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, CommandError
from .inputs import IMAGE_ERRORS, Failure, InputFile, collect_inputs, describe
from .model import load_pipeline, model_name, predict, resolve_device, resolve_threshold, settings
from .outputs import TARGET_FIELDS, DetectionWriter, make_folder, save_png
from .overlay import draw_overlay

TABLE_ROWS = 20


def run(args: argparse.Namespace) -> int:
    """Detects targets in every input and returns the exit code."""
    device = resolve_device(args.device)
    writer = DetectionWriter(args.output)
    inputs, failures = collect_inputs(args.inputs) if args.inputs else ([_write_scene(args)], [])
    for failure in failures:
        _tell(failure)
    num_inputs = len(inputs) + len(failures)
    if not inputs:
        return _close(num_inputs, failures, interrupted=False)
    pipeline = load_pipeline(args, device)
    threshold = resolve_threshold(args, pipeline)
    header = {"version": __version__, "model": model_name(args), "settings": settings(args, pipeline, threshold)}
    _begin(writer, header)
    detection = _Run(pipeline, args, threshold, writer, failures)
    interrupted = False
    try:
        detection.detect(inputs)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        _finish(writer, failures, complete=writer.num_images + len(failures) == num_inputs)
    if num_inputs == 1 and writer.num_images == 1:
        print(_table(detection.last_targets))
        print(f"overlay: {writer.overlays / inputs[0].name}.png")
    print(f"images: {writer.num_images}, targets: {writer.num_targets}; {writer.json_path}, {writer.csv_path}")
    return _close(num_inputs, failures, interrupted)


class _Run:
    """One pass over the inputs, an image in memory at a time; a failure ends its image, not the pass."""

    def __init__(
        self,
        pipeline: IRSTDDetectionPipeline,
        args: argparse.Namespace,
        threshold: float,
        writer: DetectionWriter,
        failures: list[Failure],
    ):
        self.pipeline, self.args, self.threshold = pipeline, args, threshold
        self.writer, self.failures = writer, failures
        self.last_targets: Sequence[Target] = []

    def detect(self, inputs: Sequence[InputFile]) -> None:
        for item in tqdm(inputs, unit="image", disable=None):
            if self.writer.holds(item.path):
                self._fail(Failure(str(item.path), "is in the folder that this command writes"))
                continue
            try:
                image = to_gray(item.path)  # (H, W)
                _, mask, targets = predict(self.pipeline, image, self.args, self.threshold)
                overlay = draw_overlay(image, targets)
            except IMAGE_ERRORS as error:
                self._fail(describe(item.path, error))
                continue
            self.last_targets = targets
            try:
                self.writer.add(item, mask, overlay, targets)
            except OSError as error:
                self._fail(Failure(str(item.path), f"cannot write its results: {describe('', error).error}"))

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        _tell(failure)


def _write_scene(args: argparse.Namespace) -> InputFile:
    """Makes the synthetic scene that is detected where no input is given."""
    path = args.output / "images" / "synthetic.png"
    make_folder(path.parent)
    try:
        scene = synthetic_scene(seed=args.seed)
        save_png(path, Image.fromarray(scene.image))
    except (OSError, ValueError) as error:  # a full disk, or a seed whose scene has no room for the targets
        raise CommandError(f"{path}: {describe(path, error).error}") from error
    places = ", ".join(f"({target.x:.1f}, {target.y:.1f})" for target in scene.targets)
    print(f"synthetic scene: {path}, {len(scene.targets)} targets planted at (x, y) = {places}")
    return InputFile(path, path.stem)


def _table(targets: Sequence[Target]) -> str:
    """The most confident targets, at most `TABLE_ROWS`."""
    if not targets:
        return "no target"
    lines = ["".join(f"{name:>11}" for name in TARGET_FIELDS)]
    for target in sorted(targets, key=lambda target: -target.confidence)[:TABLE_ROWS]:
        cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in astuple(target))
        lines.append("".join(f"{cell:>11}" for cell in cells))
    if len(targets) > TABLE_ROWS:
        lines.append(f"and {len(targets) - TABLE_ROWS} less confident ones")
    return "\n".join(lines)


def _begin(writer: DetectionWriter, header: Mapping[str, Any]) -> None:
    try:
        writer.begin(header)
    except OSError as error:
        raise CommandError(f"{writer.json_path}: {describe('', error).error}") from error


def _finish(writer: DetectionWriter, failures: Sequence[Failure], complete: bool) -> None:
    try:
        writer.finish(failures, complete)
    except OSError as error:
        raise CommandError(f"{writer.json_path}: {describe('', error).error}") from error


def _close(num_inputs: int, failures: Sequence[Failure], interrupted: bool) -> int:
    if failures:
        print(f"irstd-ldm detect: {len(failures)} of {num_inputs} inputs failed", file=sys.stderr)
    if interrupted:
        print("irstd-ldm detect: interrupted; what is written stays", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if failures else EXIT_DONE


def _tell(failure: Failure) -> None:
    tqdm.write(f"irstd-ldm detect: {failure}", file=sys.stderr)

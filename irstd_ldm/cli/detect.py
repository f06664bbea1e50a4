"""`irstd-ldm detect`: images and sequences in; masks, overlays and tables of targets out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from .. import __version__
from ..data.readers import FRAME_SUFFIXES, RAW_SUFFIXES, FrameSource, is_sequence, open_frames
from ..data.synthetic import synthetic_scene
from ..targets import Target
from . import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, SCENE_SCR, CommandError, say
from .detection_writer import DetectionWriter
from .frame_detector import FrameDetector
from .inputs import IMAGE_ERRORS, Failure, InputFile, collect_inputs, describe
from .kinds import DEFAULT_KINDS
from .model import load_detector, model_name, resolve_device, resolve_threshold, settings
from .outputs import TARGET_FIELDS, make_folder, save_png
from .quiet import readers_are_quiet
from .sequence_flags import check_flags
from .stream_sequence import stream_sequence
from .write_tables import StandardOutput
from .writers import ImageResult

TABLE_ROWS = 20
STANDARD_OUTPUT = Path("-")


def run(args: argparse.Namespace) -> int:
    """Detects targets in every input and returns the exit code."""
    device = resolve_device(args.device, args.runtime)
    folder = None if args.output == STANDARD_OUTPUT else args.output
    if folder is None:
        _check_standard_output(args)
    suffixes = FRAME_SUFFIXES if args.raw is None else (*FRAME_SUFFIXES, *RAW_SUFFIXES)
    inputs, failures = collect_inputs(args.inputs, suffixes)
    check_flags(inputs, args)
    writer = DetectionWriter(folder, args.write or DEFAULT_KINDS)
    if not args.inputs:
        inputs = [_write_scene(args)]
    for failure in failures:
        _tell(failure)
    num_inputs = len(inputs) + len(failures)
    if not inputs:
        if folder is None:
            with _writing(writer):
                writer.finish(failures, complete=True)
        return _close(num_inputs, failures, None)
    pipeline = load_detector(args, device)
    threshold = resolve_threshold(args, pipeline)
    header = {
        "version": __version__,
        "model": model_name(args),
        "settings": settings(args, pipeline, threshold),
        "input_range": args.input_range,
        "polarity": args.polarity,
    }
    with _writing(writer):
        writer.begin(header)
    detection = _Run(FrameDetector(pipeline, args, threshold), args, header, writer, failures)
    interrupted: str | None = None
    try:
        with readers_are_quiet():
            detection.detect(inputs)
    except KeyboardInterrupt:
        interrupted = _interruption(writer)
    finally:
        with _writing(writer):
            writer.finish(failures, complete=detection.num_tried == len(inputs))
    if folder is not None:
        if num_inputs == 1 and writer.num_images == 1:
            say(_table(detection.last_targets))
            if "overlays" in writer.pictures:
                say(f"overlay: {writer.pictures['overlays'] / inputs[0].name}.png")
        tables = ", ".join(map(str, writer.tables))
        say(f"images: {writer.num_images}, {_sequences(writer)}targets: {writer.num_targets}; {tables}")
    return _close(num_inputs, failures, interrupted)


class _Run:
    """One pass over the inputs, an image in memory at a time; a failure ends its input, not the pass."""

    def __init__(
        self,
        detector: FrameDetector,
        args: argparse.Namespace,
        header: Mapping[str, Any],
        writer: DetectionWriter,
        failures: list[Failure],
    ):
        self._detector, self._args, self._header = detector, args, header
        self._writer, self._failures = writer, failures
        self.last_targets: Sequence[Target] = []
        self.num_tried = 0

    def detect(self, inputs: Sequence[InputFile]) -> None:
        for item in tqdm(inputs, unit="image", disable=None):
            self._detect_input(item)
            self.num_tried += 1

    def _detect_input(self, item: InputFile) -> None:
        if self._writer.holds(item.path):
            self._fail(Failure(str(item.path), "is in the folder that this command writes"))
            return
        try:
            source = open_frames(item.path, self._args.raw, self._args.max_pixels)
            if is_sequence(source):
                self._detect_sequence(item, source)
                return
            result = self._detect_image(item, source)
        except BrokenPipeError:  # the reader of the standard output left
            raise
        except IMAGE_ERRORS as error:
            self._fail(describe(item.path, error))
            return
        self.last_targets = result.targets
        try:
            self._writer.add(result)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._fail(Failure(str(item.path), f"cannot write its results: {describe('', error).error}"))
        except IMAGE_ERRORS as error:  # no memory for an overlay, say
            self._fail(describe(item.path, error))

    def _detect_image(self, item: InputFile, source: FrameSource) -> ImageResult:
        (frame,) = source.frames()
        asked = self._args.input_range
        input_range = asked if isinstance(asked, tuple) else None
        return ImageResult(item, frame.image, *self._detector(frame.image, input_range))

    def _detect_sequence(self, item: InputFile, source: FrameSource) -> None:
        if self._args.output == STANDARD_OUTPUT:
            stream_sequence(source, item, self._detector, self._args, StandardOutput().write)
            return
        from .detect_sequence import SequenceResult, detect_sequence

        def report(result: SequenceResult) -> None:
            self._writer.add_sequence({"file": str(item.path), "name": item.name, **asdict(result)})

        try:
            detect_sequence(source, item.name, self._detector, self._args, self._args.output, self._header, report)
        except CommandError as error:
            self._fail(Failure(str(item.path), str(error)))
        except OSError as error:
            if error.filename is None or str(error.filename) == str(item.path):
                raise
            self._fail(Failure(str(item.path), f"cannot write its results: {error.filename}: {error.strerror}"))

    def _fail(self, failure: Failure) -> None:
        self._failures.append(failure)
        _tell(failure)


def _check_standard_output(args: argparse.Namespace) -> None:
    for is_given, name in (
        (not args.inputs, "no INPUT"),
        (args.tracks, "--tracks"),
        (args.annotated_video, "--annotated-video"),
        (args.resume, "--resume"),
        (args.write, "--write"),
    ):
        if is_given:
            raise CommandError(f"--output -: not with {name}: it writes JSON lines and no files", EXIT_USAGE)


def _write_scene(args: argparse.Namespace) -> InputFile:
    """Makes the synthetic scene that is detected where no input is given."""
    path = args.output / "images" / "synthetic.png"
    make_folder(path.parent)
    try:
        scene = synthetic_scene(seed=args.seed, scr=SCENE_SCR)
        save_png(path, Image.fromarray(scene.image))
    except (OSError, ValueError) as error:  # a full disk, or a seed whose scene has no room for the targets
        raise CommandError(f"{path}: {describe(path, error).error}") from error
    places = ", ".join(f"({target.x:.1f}, {target.y:.1f})" for target in scene.targets)
    say(f"synthetic scene: {path}, {len(scene.targets)} targets of SCR {SCENE_SCR:g} planted at (x, y) = {places}")
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


@contextmanager
def _writing(writer: DetectionWriter) -> Iterator[None]:
    """Beginning or ending the tables, of which the first names a failure."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(f"{writer.tables[0]}: {describe('', error).error}") from error


def _sequences(writer: DetectionWriter) -> str:
    """Their number in the summary, where there are any."""
    if not writer.sequences:
        return ""
    num_parts = sum(not sequence["complete"] for sequence in writer.sequences)
    return f"sequences: {len(writer.sequences)}{f' ({num_parts} in part)' if num_parts else ''}, "


def _interruption(writer: DetectionWriter) -> str:
    """What is kept of an interrupted run, and of the sequence in which it was interrupted."""
    line = "interrupted; what is written stays"
    for sequence in writer.sequences:
        if not sequence["complete"] and sequence["error"] is None:
            line += f"; --resume goes on after the {sequence['num_frames']} frames of {sequence['file']}"
    return line


def _close(num_inputs: int, failures: Sequence[Failure], interrupted: str | None) -> int:
    if failures:
        print(f"irstd-ldm detect: {len(failures)} of {num_inputs} inputs failed", file=sys.stderr)
    if interrupted is not None:
        print(f"irstd-ldm detect: {interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if failures else EXIT_DONE


def _tell(failure: Failure) -> None:
    tqdm.write(f"irstd-ldm detect: {failure}", file=sys.stderr)

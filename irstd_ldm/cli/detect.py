"""`irstd-ldm detect`: images and sequences in; masks, overlays and tables of targets out."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from .. import __version__
from ..data.readers import FRAME_SUFFIXES, RAW_SUFFIXES, is_sequence, open_frames
from ..data.readers.frame import IMAGE_ERRORS, FrameSource
from ..data.synthetic import synthetic_scene
from ..files import part_path
from ..targets import Target
from . import (
    DEFAULT_KINDS,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    KINDS,
    PICTURE_KINDS,
    SCENE_SCR,
    TABLE_NAMES,
    CommandError,
    make_folder,
    say,
)
from .inputs import Failure, InputFile, check_flags, collect_inputs, describe, readers_are_quiet
from .model import FrameDetector, load_detector, model_name, resolve_device, resolve_threshold, settings
from .pictures import Pictures, save_png
from .records import TABLES, TARGET_FIELDS, Ending, Log, Record, StandardOutput, check_installed, write_table
from .sequence import SequenceResult, detect_sequence

TABLE_ROWS = 20
STANDARD_OUTPUT = Path("-")


def run(args: argparse.Namespace) -> int:
    """Detects targets in every input and returns the exit code."""
    # 1. Inputs, and the flags that must fit them.
    device = resolve_device(args.device, args.runtime)
    folder = None if args.output == STANDARD_OUTPUT else args.output
    if folder is None:
        _check_standard_output(args)
    suffixes = FRAME_SUFFIXES if args.raw is None else (*FRAME_SUFFIXES, *RAW_SUFFIXES)
    inputs, failures = collect_inputs(args.inputs, suffixes)
    check_flags(inputs, args)
    # 2. Outputs, before the time that loading takes.
    outputs = _StreamOutputs() if folder is None else _FolderOutputs(folder, args.write or DEFAULT_KINDS)
    if not args.inputs:
        inputs = [_write_scene(args)]
    for failure in failures:
        _tell(failure)
    num_inputs = len(inputs) + len(failures)
    if not inputs:
        outputs.finish({}, Ending(failures, [], True))
        return _close(num_inputs, failures, None)
    # 3. The detector.
    pipeline = load_detector(args, device)
    threshold = resolve_threshold(args, pipeline)
    header = {
        "version": __version__,
        "model": model_name(args),
        "settings": settings(args, pipeline, threshold),
        "input_range": args.input_range,
        "polarity": args.polarity,
    }
    outputs.begin()
    # 4. Frames.
    detection = _Run(FrameDetector(pipeline, args, threshold), args, header, outputs, failures)
    interrupted: str | None = None
    try:
        with readers_are_quiet():
            for item in tqdm(inputs, unit="image", disable=None):
                detection.detect(item)
    except KeyboardInterrupt:
        interrupted = detection.interruption()
    # 5. Tables and the summary, also of a run that was interrupted or broken off.
    finally:
        outputs.finish(header, Ending(failures, detection.sequences, detection.num_tried == len(inputs)))
    if isinstance(outputs, _FolderOutputs):
        if num_inputs == 1 and outputs.num_images == 1:
            say(_table(detection.last_targets))
            if "overlays" in outputs.kinds:
                say(f"overlay: {args.output / 'overlays' / inputs[0].name}.png")
        tables = ", ".join(map(str, outputs.tables))
        num_targets = detection.num_targets
        say(f"images: {outputs.num_images}, {detection.summary()}targets: {num_targets}; {tables}")
    return _close(num_inputs, failures, interrupted)


class _StreamOutputs:
    """Lines of JSON on the standard output, and nothing else."""

    def __init__(self) -> None:
        self._log = StandardOutput()

    def begin(self) -> None:
        pass

    def holds(self, path: Path) -> bool:
        return False

    def add(self, image: np.ndarray, probability: np.ndarray, record: Record) -> None:
        self._log.append(record.to_json())

    def finish(self, header: Mapping[str, Any], ending: Ending) -> None:
        for failure in ending.failures:
            self._log.append(failure.to_json())


class _FolderOutputs:
    """DIR: the log of stills and their pictures as they come, the tables of the log when the run ends.

    A still appears in all of them or in none. detections.json is always written. The log is detections.jsonl where
    that is asked for, otherwise a hidden file that goes when the tables are whole.

    Args:
        folder: DIR.
        kinds: Some of `KINDS`.

    Raises:
        CommandError: DIR cannot be written or holds pictures of other origin, or an extra is missing.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]):
        self.kinds = [kind for kind in KINDS if kind in (*kinds, "json")]
        self._pictures = Pictures(folder, [kind for kind in PICTURE_KINDS if kind in self.kinds])
        self._tables = {folder / TABLE_NAMES[kind]: TABLES[kind] for kind in self.kinds if kind in TABLES}
        check_installed(self.kinds)
        make_folder(folder)
        self._pictures.make_folders()
        path = folder / TABLE_NAMES["jsonl"]
        self.tables = [folder / TABLE_NAMES[kind] for kind in self.kinds if kind in TABLE_NAMES]
        self._path = path if "jsonl" in self.kinds else part_path(path)
        self._log: Log | None = None
        self.num_images = 0

    def begin(self) -> None:
        """Opens the log and checks that the disk takes the tables, before anything is detected.

        Raises:
            CommandError: It does not.
        """
        for path in self._tables:
            with _writing(path):
                part = part_path(path)
                try:
                    part.write_bytes(b"0")
                finally:
                    if not part.is_dir():
                        part.unlink(missing_ok=True)
        with _writing(self._path):
            self._log = Log(self._path)

    def holds(self, path: Path) -> bool:
        """Whether an input lies among the pictures of this run."""
        return os.path.dirname(os.path.realpath(path)) in map(os.path.realpath, self._pictures.folders)

    def add(self, image: np.ndarray, probability: np.ndarray, record: Record) -> None:
        """Writes a still's pictures and then its line.

        Raises:
            OSError: The disk refuses; nothing of the still is left.
        """
        assert self._log is not None
        self._pictures.write(record.name, image, probability, record.mask, record.targets)
        try:
            self._log.append(record.to_json())
        except BaseException:  # an interruption too
            self._pictures.remove(record.name)
            raise
        self.num_images += 1

    def finish(self, header: Mapping[str, Any], ending: Ending) -> None:
        """Writes the tables.

        Raises:
            CommandError: The disk refuses; the log stays, where it holds a still.
        """
        if self._log is None:
            return
        try:
            for path, table in self._tables.items():
                with _writing(path):
                    write_table(path, table(header, self._log.records, ending))
        except CommandError:
            if self.num_images:
                raise
            self._path.unlink()
            raise
        with _writing(self._path):
            if "jsonl" in self.kinds:
                for failure in ending.failures:
                    self._log.append(failure.to_json())
            else:
                self._path.unlink()
        self._log.close()


class _Run:
    """One pass over the inputs, a frame in memory at a time; a failure ends its input, not the pass."""

    def __init__(
        self,
        detector: FrameDetector,
        args: argparse.Namespace,
        header: Mapping[str, Any],
        outputs: _StreamOutputs | _FolderOutputs,
        failures: list[Failure],
    ):
        self._detector, self._args, self._header = detector, args, header
        self._outputs, self._failures = outputs, failures
        self.sequences: list[Mapping[str, Any]] = []
        self.last_targets: Sequence[Target] = []
        self.num_targets = self.num_tried = 0

    def detect(self, item: InputFile) -> None:
        """Detects targets in one input."""
        try:
            if self._outputs.holds(item.path):
                raise ValueError("is in the folder that this command writes")
            source = open_frames(item.path, self._args.raw, self._args.max_pixels)
            asked = self._args.input_range
            if not is_sequence(source):
                input_range = asked if isinstance(asked, tuple) else None
            elif isinstance(self._outputs, _StreamOutputs):
                input_range = self._detector.value_range(source, asked or "sequence")
            else:
                self._detect_sequence(item, source)
                self.num_tried += 1
                return
            for frame, probability, record in self._detector.frames(source, item, input_range):
                self._add(item, frame.image, probability, record)
        except BrokenPipeError:  # the reader of the standard output left
            raise
        except IMAGE_ERRORS as error:
            self._fail(describe(item.path, error))
        self.num_tried += 1

    def summary(self) -> str:
        """The number of sequences, where there are any."""
        if not self.sequences:
            return ""
        num_parts = sum(not sequence["complete"] for sequence in self.sequences)
        return f"sequences: {len(self.sequences)}{f' ({num_parts} in part)' if num_parts else ''}, "

    def interruption(self) -> str:
        """What is kept of an interrupted run, and of the sequence in which it was interrupted."""
        line = "interrupted; what is written stays"
        for sequence in self.sequences:
            if not sequence["complete"] and sequence["error"] is None:
                line += f"; --resume goes on after the {sequence['num_frames']} frames of {sequence['file']}"
        return line

    def _add(self, item: InputFile, image: np.ndarray, probability: np.ndarray, record: Record) -> None:
        try:
            self._outputs.add(image, probability, record)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._fail(Failure(str(item.path), f"cannot write its results: {describe('', error).error}"))
            return
        self.last_targets = record.targets
        self.num_targets += len(record.targets)

    def _detect_sequence(self, item: InputFile, source: FrameSource) -> None:
        def report(result: SequenceResult) -> None:
            self.sequences.append({"file": str(item.path), "name": item.name, **dataclasses.asdict(result)})
            self.num_targets += result.num_targets

        try:
            detect_sequence(source, item, self._detector, self._args, self._args.output, self._header, report)
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
        cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in dataclasses.astuple(target))
        lines.append("".join(f"{cell:>11}" for cell in cells))
    if len(targets) > TABLE_ROWS:
        lines.append(f"and {len(targets) - TABLE_ROWS} less confident ones")
    return "\n".join(lines)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Names the table that cannot be begun or ended."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path}: {describe('', error).error}") from error


def _close(num_inputs: int, failures: Sequence[Failure], interrupted: str | None) -> int:
    if failures:
        print(f"irstd-ldm detect: {len(failures)} of {num_inputs} inputs failed", file=sys.stderr)
    if interrupted is not None:
        print(f"irstd-ldm detect: {interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if failures else EXIT_DONE


def _tell(failure: Failure) -> None:
    tqdm.write(f"irstd-ldm detect: {failure}", file=sys.stderr)

"""`irstd-ldm detect`: images and sequences in; masks, overlays and tables of targets out."""

from __future__ import annotations

import argparse
import dataclasses
import glob
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from .. import __version__
from ..data.readers import FRAME_SUFFIXES, RAW_SUFFIXES, is_sequence, open_frames
from ..data.readers.frame import IMAGE_ERRORS, FrameSource
from ..data.synthetic import synthetic_scene
from ..files import printable
from ..targets import Target
from . import (
    DEFAULT_KINDS,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    PICTURE_KINDS,
    SCENE_SCR,
    TABLE_NAMES,
    CommandError,
    Failure,
    InputFile,
    describe,
)
from .model import (
    FrameDetector,
    load_detector,
    model_name,
    resolve_decision,
    resolve_device,
    resolve_runtime,
    settings,
)
from .outputs import MARKER, TARGET_FIELDS, Ending, FolderOutputs, Record, StreamOutputs, make_folder, save_png, say
from .sequence import SequenceResult, detect_sequence

if TYPE_CHECKING:
    import torch

TABLE_ROWS = 20
STANDARD_OUTPUT = Path("-")
# Flags that fit inputs of several frames alone, and tables that fit stills alone.
SEQUENCE_FLAGS = ("tracks", "annotated_video", "resume")
STILL_TABLES = ("coco", "geojson")


def run(args: argparse.Namespace) -> int:
    """Detects targets in every input and returns the exit code."""
    # 1. Inputs, and the flags that must fit them.
    args.runtime = resolve_runtime(args)
    device = resolve_device(args.device, args.runtime)
    inputs, failures = collect_inputs(
        args.inputs, FRAME_SUFFIXES if args.raw is None else FRAME_SUFFIXES + RAW_SUFFIXES
    )
    is_stream = args.output == STANDARD_OUTPUT
    _check_flags(inputs, args, is_stream)
    # 2. Outputs, before the time that loading takes.
    outputs = StreamOutputs() if is_stream else FolderOutputs(args.output, args.write or DEFAULT_KINDS)
    with outputs.held():
        return _detect(args, device, inputs, failures, outputs)


def _detect(
    args: argparse.Namespace,
    device: torch.device | None,
    inputs: list[InputFile],
    failures: list[Failure],
    outputs: StreamOutputs | FolderOutputs,
) -> int:
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
    decision = resolve_decision(args, pipeline.config)
    header = {
        "version": __version__,
        "model": model_name(args),
        "settings": settings(args, pipeline, decision),
        "band": args.band,
        "input_range": args.input_range,
        "polarity": args.polarity,
    }
    outputs.begin()
    # 4. Frames.
    detection = _Run(FrameDetector(pipeline, args, decision), args, header, outputs, failures)
    interrupted, complete = None, False
    try:
        with readers_are_quiet():
            for item in tqdm(inputs, unit="image", disable=None):
                detection.detect(item)
        complete = True
    except KeyboardInterrupt:
        interrupted = detection.interruption()
    # 5. Tables and the summary, also of a run that was interrupted or broken off.
    finally:
        outputs.finish(header, Ending(failures, detection.sequences, complete))
    if isinstance(outputs, FolderOutputs):
        if num_inputs == 1 and outputs.num_images == 1:
            say(_table(detection.last_targets))
            if "overlays" in outputs.kinds:
                say(f"overlay: {args.output / 'overlays' / inputs[0].name}.png")
        tables = ", ".join(map(str, outputs.tables))
        say(f"images: {outputs.num_images}, {detection.summary()}; {tables}; runtime: {args.runtime}")
    return _close(num_inputs, failures, interrupted)


@dataclasses.dataclass
class _Run:
    """One pass over the inputs, a frame in memory at a time; a failure ends its input, not the pass."""

    detector: FrameDetector
    args: argparse.Namespace
    header: Mapping[str, Any]
    outputs: StreamOutputs | FolderOutputs
    failures: list[Failure]
    sequences: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    last_targets: Sequence[Target] = ()
    num_targets: int = 0

    def detect(self, item: InputFile) -> None:
        """Detects targets in one input."""
        try:
            if self.outputs.holds(item.path):
                raise ValueError("is in the folder that this command writes")
            source = _open(item.path, self.args)
            if is_sequence(source) and isinstance(self.outputs, FolderOutputs):
                self._detect_sequence(item, source)
                return
            for frame, probability, record in self.detector.frames(source, item, self.detector.value_range(source)):
                self._add(item, frame.image, probability, record)
        except IMAGE_ERRORS as error:
            self._fail(describe(item.path, error))

    def _add(self, item: InputFile, image: np.ndarray, probability: np.ndarray, record: Record) -> None:
        try:
            self.outputs.add(image, probability, record)
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
            detect_sequence(source, item, self.detector, self.args, self.args.output, self.header, report)
        except CommandError as error:
            self._fail(Failure(str(item.path), str(error)))
        except OSError as error:
            if error.filename is None or str(error.filename) == str(item.path):
                raise
            self._fail(Failure(str(item.path), f"cannot write its results: {error.filename}: {error.strerror}"))

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        _tell(failure)

    def summary(self) -> str:
        """The number of sequences, where there are any, and of targets."""
        num_parts = sum(not sequence["complete"] for sequence in self.sequences)
        sequences = f"sequences: {len(self.sequences)}{f' ({num_parts} in part)' if num_parts else ''}, "
        return f"{sequences if self.sequences else ''}targets: {self.num_targets}"

    def interruption(self) -> str:
        """Says that the output is kept, and how a sequence that was interrupted goes on."""
        line = "interrupted; what is written stays"
        for sequence in self.sequences:
            if not sequence["complete"] and sequence["error"] is None:
                line += f"; --resume goes on after the {sequence['num_frames']} frames of {sequence['file']}"
        return line


def collect_inputs(
    arguments: Iterable[str], suffixes: Sequence[str] = FRAME_SUFFIXES
) -> tuple[list[InputFile], list[Failure]]:
    """The image files that the arguments name, in their order, each file once, and a failure per argument without any.

    An argument is an existing file (of any suffix), an existing folder (its files with these suffixes, sorted, without
    subfolders), or a glob (each match as if it had been named, sorted; `**` crosses folders).
    """
    paths: dict[Path, Path] = {}  # resolved path -> path as named
    failures: list[Failure] = []
    for argument in arguments:
        try:
            for path in _expand(argument, suffixes):
                paths.setdefault(Path(os.path.realpath(path)), path)
        except (OSError, ValueError) as error:
            failures.append(describe(argument, error))
    return unique_names(paths.values()), failures


def _expand(argument: str, suffixes: Sequence[str]) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        files = _image_files(path, suffixes)
        if not files:
            raise ValueError(f"folder without images ({', '.join(suffixes)})")
        return files
    if path.exists() or not glob.has_magic(argument):
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
    if not matches:
        raise ValueError("no file matches")
    files = [file for match in matches for file in (_image_files(match, suffixes) if match.is_dir() else [match])]
    if not files:
        raise ValueError("no image in the folders that match")
    return files


def _image_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder with these suffixes, sorted, without subfolders and hidden files; a broken link is one."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes
        and not path.name.startswith(".")
        and (path.is_file() or (path.is_symlink() and not path.exists()))
    )


def unique_names(paths: Iterable[Path]) -> list[InputFile]:
    """Names every file by its stem, a stem's second file STEM-2, its third STEM-3, whatever the case of letters.

    A name has no dots at its beginning and no control characters, and is none of those that `detect` gives itself.
    """
    taken = {*PICTURE_KINDS, *TABLE_NAMES.values(), "images"}
    files = []
    for path in paths:
        stem = "".join(c if printable(c) == c else "_" for c in path.stem).lstrip(".") or "unnamed"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        files.append(InputFile(path, name))
    return files


@contextmanager
def readers_are_quiet() -> Iterator[None]:
    """Pillow and tifffile say nothing of a file beside the error, and Pillow's size limit is lifted for our own."""
    tifffile_log = logging.getLogger("tifffile")
    level, limit = tifffile_log.level, Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        tifffile_log.setLevel(logging.CRITICAL + 1)
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            tifffile_log.setLevel(level)
            Image.MAX_IMAGE_PIXELS = limit


def _check_flags(inputs: Sequence[InputFile], args: argparse.Namespace, is_stream: bool) -> None:
    """Refuses flags that fit no input, and tables of stills for sequences; where only some fit, a note says so."""
    flags = [f"--{name.replace('_', '-')}" for name in SEQUENCE_FLAGS if getattr(args, name)]
    unfit = ([] if args.inputs else ["no INPUT"]) + flags + (["--write"] if args.write else [])
    if is_stream and unfit:
        raise CommandError(f"--output -: not with {unfit[0]}: it writes JSON lines and no files", EXIT_USAGE)
    flags += ["--input-range sequence"] if args.input_range == "sequence" else []
    tables = ",".join(kind for kind in args.write or () if kind in STILL_TABLES)
    if not flags and not tables:
        return
    with readers_are_quiet():
        kinds = [_is_sequence(item.path, args) for item in inputs]
    sequences = [item.path for item, kind in zip(inputs, kinds, strict=True) if kind]
    has_stills, named = False in kinds, ", ".join(flags)
    if tables and sequences:
        raise CommandError(f"--write {tables}: not for inputs of several frames, such as {sequences[0]}", EXIT_USAGE)
    if flags and not sequences and (has_stills or not args.inputs):
        raise CommandError(f"{named}: for inputs of several frames, and there is none", EXIT_USAGE)
    if flags and sequences and has_stills:
        of_all = f"{len(sequences)} of {len(inputs)} inputs that have several frames"
        print(f"irstd-ldm detect: {named}: for the {of_all}", file=sys.stderr)


def _open(path: Path, args: argparse.Namespace) -> FrameSource:
    return open_frames(path, args.raw, args.max_pixels, args.band)


def _is_sequence(path: Path, args: argparse.Namespace) -> bool | None:
    """None for what cannot be read, which fails in its turn."""
    try:
        return is_sequence(_open(path, args))
    except IMAGE_ERRORS:
        return None


def _write_scene(args: argparse.Namespace) -> InputFile:
    """Makes the synthetic scene that is detected where no input is given."""
    path = args.output / "images" / "synthetic.png"
    if path.exists() and not (path.with_name(MARKER).exists() or (args.output / TABLE_NAMES["json"]).is_file()):
        message = f"--output {args.output}: its images/{path.name} was not written by `detect`; name another"
        raise CommandError(message, EXIT_USAGE)
    make_folder(path.parent)
    try:
        path.with_name(MARKER).touch()
        scene = synthetic_scene(seed=args.seed, scr=SCENE_SCR)
        save_png(path, Image.fromarray(scene.image))
    except (OSError, ValueError) as error:  # a full disk, or a seed whose scene has no room for the targets
        raise CommandError(f"{path}: {describe(path, error).error}") from error
    positions = ", ".join(f"({target.x:.1f}, {target.y:.1f})" for target in scene.targets)
    say(f"synthetic scene: {path}, {len(scene.targets)} targets of SCR {SCENE_SCR:g} planted at (x, y) = {positions}")
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


def _close(num_inputs: int, failures: Sequence[Failure], interrupted: str | None) -> int:
    if failures:
        print(f"irstd-ldm detect: {len(failures)} of {num_inputs} inputs failed", file=sys.stderr)
    if interrupted is not None:
        print(f"irstd-ldm detect: {printable(interrupted)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if failures else EXIT_DONE


def _tell(failure: Failure) -> None:
    tqdm.write(f"irstd-ldm detect: {failure}", file=sys.stderr)

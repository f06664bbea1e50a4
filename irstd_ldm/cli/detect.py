"""`irstd-ldm detect`: images and sequences in; masks, overlays and tables of targets out."""

from __future__ import annotations

import argparse
import dataclasses
import glob
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from .. import __version__
from ..data.readers import FRAME_SUFFIXES, IMAGE_SUFFIXES, RAW_SUFFIXES, is_sequence, open_frames, open_source
from ..data.readers.folder import NumberedFrames, are_numbered, natural
from ..data.readers.frame import IMAGE_ERRORS, TIMEOUT_S, Address, FrameSource
from ..data.readers.still import quiet_readers
from ..data.synthetic import synthetic_scene
from ..files import printable
from ..targets import Target
from ..tracking import Tracker
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
from .sequence import SequenceResult, detect_sequence, tracked

if TYPE_CHECKING:
    import torch

TABLE_ROWS = 20
STANDARD_OUTPUT = Path("-")
# Flags that fit inputs of several frames alone, and tables that fit stills alone.
SEQUENCE_FLAGS = ("tracks", "annotated_video", "fuse_frames", "resume")
LIVE_FLAGS = ("keep_frames", "stream_options", "timeout_s")
STILL_TABLES = tuple(kind for kind in TABLE_NAMES if kind not in ("json", "csv", "jsonl"))


def run(args: argparse.Namespace) -> int:
    """Detects targets in every input and returns the exit code."""
    # 1. Inputs, and the flags that must fit them.
    args.runtime = resolve_runtime(args)
    device = resolve_device(args.device, args.runtime)
    inputs, failures = collect_inputs(
        args.inputs,
        FRAME_SUFFIXES if args.raw is None else FRAME_SUFFIXES + RAW_SUFFIXES,
        args.tracks or args.annotated_video or args.fuse_frames or args.input_range == "sequence",
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
        "fuse_frames": args.fuse_frames,
    }
    outputs.begin()
    # 4. Frames.
    detection = _Run(
        FrameDetector(pipeline, args, decision, partial(_fail, failures)), args, header, outputs, failures
    )
    interrupted, complete = None, False
    try:
        with quiet_readers():
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
            if self.outputs.holds(Path(str(item.path))):
                raise ValueError("is in the folder that this command writes")
            source = _open(item.path, self.args)
            if is_sequence(source) and isinstance(self.outputs, FolderOutputs):
                self._detect_sequence(item, source)
            else:
                tracker = Tracker() if self.args.tracks and is_sequence(source) else None
                with closing(self.detector.frames(source, item, self.detector.value_range(source))) as frames:
                    for frame, probability, record in frames:
                        if tracker is not None:
                            record = tracked(record, tracker)
                        self._add(item, frame.image, probability, record)
            if source.is_live:
                _tell(Failure(str(item.path), f"ended, {self.detector.summary()}"))
        except IMAGE_ERRORS as error:
            _fail(self.failures, describe(item.path, error))

    def _add(self, item: InputFile, image: np.ndarray, probability: np.ndarray, record: Record) -> None:
        try:
            self.outputs.add(image, probability, record)
        except OSError as error:
            _fail(self.failures, Failure(str(item.path), f"cannot write its results: {describe('', error).error}"))
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
            _fail(self.failures, Failure(str(item.path), str(error)))
        except OSError as error:
            if error.filename is None or str(error.filename) == str(item.path):
                raise
            _fail(
                self.failures, Failure(str(item.path), f"cannot write its results: {error.filename}: {error.strerror}")
            )

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
    arguments: Iterable[str], suffixes: Sequence[str] = FRAME_SUFFIXES, as_sequences: bool = False
) -> tuple[list[InputFile], list[Failure]]:
    """The image files that the arguments name, in their order, each file once, and a failure per argument without any.

    An argument is an existing file (of any suffix), an existing folder (its files with these suffixes, sorted, without
    subfolders), a glob (each match as if it had been named, sorted; `**` crosses folders), or a network address. With
    `as_sequences` a folder of numbered still images is one input.
    """
    paths: dict[Path | str, Path | Address] = {}  # resolved path or address -> as named
    failures: list[Failure] = []
    for argument in arguments:
        address = Address.parse(argument)
        if address is not None:
            paths.setdefault(address.url, address)
            continue
        try:
            for path in _expand(argument, suffixes, as_sequences):
                paths.setdefault(Path(os.path.realpath(path)), path)
        except (OSError, ValueError) as error:
            failures.append(describe(argument, error))
    return unique_names(paths.values()), failures


def _expand(argument: str, suffixes: Sequence[str], as_sequences: bool) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        files = _image_files(path, suffixes)
        if not files:
            raise ValueError(f"folder without images ({', '.join(suffixes)})")
        are_stills = all(file.suffix.lower() in IMAGE_SUFFIXES + RAW_SUFFIXES for file in files)
        return [path] if as_sequences and are_stills and are_numbered(files) else files
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
    """The files of a folder with these suffixes, by the numbers in their names, and then the letters; a broken link is
    one, subfolders and hidden files are not."""
    files = (
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes
        and not path.name.startswith(".")
        and (path.is_file() or (path.is_symlink() and not path.exists()))
    )
    return sorted(files, key=natural)


def unique_names(paths: Iterable[Path | Address]) -> list[InputFile]:
    """Names every file by its stem, a stem's second file STEM-2, its third STEM-3, whatever the case of letters.

    A name has no dots at its beginning and no control characters, and is none of those that `detect` gives itself.
    """
    taken = {*PICTURE_KINDS, *TABLE_NAMES.values(), "images"}
    files = []
    for path in paths:
        stem = path.stem or Path(os.path.realpath(str(path))).stem  # "." has none
        stem = "".join(c if printable(c) == c else "_" for c in stem).lstrip(".") or "unnamed"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        files.append(InputFile(path, name))
    return files


def _check_flags(inputs: Sequence[InputFile], args: argparse.Namespace, is_stream: bool) -> None:
    """Refuses flags that fit no input, and tables of stills for sequences; where only some fit, a note says so."""
    flags, of_files = _flags(args, SEQUENCE_FLAGS), _flags(args, ("annotated_video", "resume", "write"))
    unfit = ([] if args.inputs else ["no INPUT"]) + of_files
    if is_stream and unfit:
        raise CommandError(f"--output -: not with {unfit[0]}: it writes JSON lines and no files", EXIT_USAGE)
    flags += ["--input-range sequence"] if args.input_range == "sequence" else []
    live = [item.path for item in inputs if isinstance(item.path, Address) or item.path.is_char_device()]
    if live and (unfit := flags[len(_flags(args, SEQUENCE_FLAGS[:3])) :]):
        raise CommandError(f"{unfit[0]}: not for network addresses and devices, such as {live[0]}", EXIT_USAGE)
    if not live and (unfit := _flags(args, LIVE_FLAGS)):
        raise CommandError(f"{unfit[0]}: for network addresses and devices, and there is none", EXIT_USAGE)
    if args.fuse_frames and args.resume:
        raise CommandError(
            "--resume: not with --fuse-frames, whose results are those of all frames before", EXIT_USAGE
        )
    tables = ",".join(kind for kind in args.write or () if kind in STILL_TABLES)
    if not flags and not tables:
        return
    with quiet_readers():
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


def _flags(args: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of these flags that are given."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]


def _open(path: Path | Address, args: argparse.Namespace) -> FrameSource:
    options = {"raw": args.raw, "band": args.band}
    if isinstance(path, Path) and path.is_dir():
        suffixes = IMAGE_SUFFIXES if args.raw is None else IMAGE_SUFFIXES + RAW_SUFFIXES
        return NumberedFrames(path, _image_files(path, suffixes), args.max_pixels, **options)
    open_file = partial(open_frames, **options)
    return open_source(path, args.max_pixels, args.stream_options, args.timeout_s or TIMEOUT_S, open_file)


def _is_sequence(path: Path | Address, args: argparse.Namespace) -> bool | None:
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
        num_failed = len({failure.file for failure in failures})  # Several frames of one file may have failed.
        print(f"irstd-ldm detect: {num_failed} of {num_inputs} inputs failed", file=sys.stderr)
    if interrupted is not None:
        print(f"irstd-ldm detect: {printable(interrupted)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if failures else EXIT_DONE


def _fail(failures: list[Failure], failure: Failure) -> None:
    failures.append(failure)
    _tell(failure)


def _tell(failure: Failure) -> None:
    tqdm.write(f"irstd-ldm detect: {failure}", file=sys.stderr)

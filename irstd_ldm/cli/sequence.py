"""`irstd-ldm detect` for an input of several frames: one frame in memory at a time, results written as they come."""

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.readers.frame import Address, FrameSource, checked_frames
from ..files import file_sha256, finite, write_json
from ..tracking import Tracker, TrackerParameters
from . import PICTURE_KINDS, CommandError, InputFile, describe
from .model import FrameDetector
from .outputs import Ending, Log, Pictures, Record, remove_frame_pictures, sequence_csv, tracks_csv, write_table
from .video import AnnotatedVideo

SUMMARY, LOG, TRACKS, ANNOTATED = "sequence.json", "detections.jsonl", "tracks.csv", "annotated.mp4"


@dataclasses.dataclass
class SequenceResult:
    """What a sequence came to; one that is not complete has an error or was interrupted."""

    num_frames: int = 0
    num_targets: int = 0
    num_tracks: int = 0  # 0 without `--tracks`
    num_left_out: int = 0  # frames that were dropped, damaged or of another size
    complete: bool = False
    error: str | None = None


def detect_sequence(
    source: FrameSource,
    item: InputFile,
    detector: FrameDetector,
    args: argparse.Namespace,
    folder: Path,
    header: Mapping[str, Any],
    report: Callable[[SequenceResult], None],
) -> None:
    """Detects targets in every frame of a file and writes DIR/NAME.

    A frame's result is that of the frame as a single image with the same range of gray values; frames that cannot be
    read, or are of another size than the first, are left out and named. With `--resume` frames that an earlier run has
    written are not detected again; their tracks and tables are made anew, so that the files are those of a run without
    interruption. sequence.json tells what was run and, at the end, how far it came. What was written before an error
    or an interruption stays, and `report` is called with it.
    """
    folder = folder / item.name
    input_range = detector.value_range(source)
    shown_range = detector.shown_range(input_range)
    kinds = [kind for kind in PICTURE_KINDS if kind in (args.write or ())]
    header = finite(
        {
            **header,
            "file": str(source.path),
            "file_bytes": source.path.stat().st_size if isinstance(source.path, Path) else None,
            "file_sha256": _digest(source.path),
            "model_sha256": detector.sha256,
            "raw": None if args.raw is None else str(args.raw),
            "frames_per_second": source.frames_per_second,
            "input_range": args.input_range or "sequence",
            "value_range": input_range,
            "polarity": args.polarity,
            "tracker": dataclasses.asdict(TrackerParameters()) if args.tracks else None,
            "pictures": kinds,
        }
    )
    pictures = Pictures(folder, kinds, shown_range)
    video = AnnotatedVideo(folder / ANNOTATED, source.frames_per_second) if args.annotated_video else None
    num_recorded, first, kept_bytes = _begin(folder, header, args.resume)
    pictures.make_folders()
    log, tracker, result = Log(folder / LOG, kept_bytes), Tracker() if args.tracks else None, SequenceResult()
    with ExitStack() as at_end:
        if video is not None:
            at_end.callback(video.close)
        try:
            # An earlier run's frames are drawn again.
            images = checked_frames(source.frames()) if video is not None else iter(())
            recorded = (
                (next((image for image in images if image.index == record.frame), None), None, record)
                for record in log.records(num_recorded)
            )
            detected = at_end.enter_context(closing(detector.frames(source, item, input_range, first)))
            frames = tqdm(chain(recorded, detected), total=source.num_frames, unit="frame", disable=None)
            for frame, probability, record in frames:
                if tracker is not None:
                    record = tracked(record, tracker)
                if probability is not None:
                    pictures.add(log, f"{record.frame:06}", frame.image, probability, record)
                result.num_frames += 1
                result.num_left_out = (record.frame or 0) + 1 - result.num_frames
                result.num_targets += len(record.targets)
                result.num_tracks = max([result.num_tracks, *(track.id for track in record.tracks or ())])
                if video is not None:
                    video.add(frame.image, record.targets, record.tracks or (), shown_range)
            result.complete = True
        except Exception as caught:
            result.error = describe(source.path, caught).error
            raise
        finally:
            log.close()
            report(result)
            write_json(folder / SUMMARY, {"header": header, **dataclasses.asdict(result)})
            ending = Ending([], [], result.complete)
            for name, table in (("detections.csv", sequence_csv), (TRACKS, tracks_csv))[: 2 if tracker else 1]:
                write_table(folder / name, table(header, log.records, ending))


def _digest(path: Path | Address) -> str | None:
    """SHA-256 of a file, or of the names and digests of a folder's; None of what is live."""
    if isinstance(path, Address) or path.is_char_device():
        return None
    if path.is_file():
        return file_sha256(path)
    files = sorted(file for file in path.iterdir() if file.is_file())
    return hashlib.sha256("".join(f"{file.name} {file_sha256(file)}\n" for file in files).encode()).hexdigest()


def tracked(record: Record, tracker: Tracker) -> Record:
    """A frame's record with its tracks."""
    return dataclasses.replace(record, tracks=tracker.update_targets(record.targets, record.frame, record.time_s))


def _begin(folder: Path, header: Mapping[str, Any], resume: bool) -> tuple[int, int, int]:
    """Makes DIR/NAME; returns the frames kept of an earlier run, the first to do, and the bytes of the kept lines."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = folder / SUMMARY
    if any(folder.iterdir()) and not summary.exists():
        raise CommandError(f"{folder}: holds files that `detect` did not write; name another --output")
    kept = 0, 0, 0
    if resume and summary.exists():
        try:
            earlier = dict(json.loads(summary.read_text(encoding="utf-8"))["header"])
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(f"--resume: {summary} is not what `detect` writes") from error
        for name, value in header.items():
            if earlier.get(name) != value:
                was = f"{folder} was made with {name} {earlier.get(name)!r}"
                raise CommandError(f"--resume: {was}, now it is {value!r}")
        kept = _whole_lines(folder / LOG)
    else:
        for name in (LOG, TRACKS, ANNOTATED):  # the log before the summary: `--resume` goes by both
            (folder / name).unlink(missing_ok=True)
        remove_frame_pictures(folder)
    write_json(summary, {"header": header, **dataclasses.asdict(SequenceResult())})
    return kept


def _whole_lines(path: Path) -> tuple[int, int, int]:
    """Number of lines that hold a sequence's frames in their order, the frame after them, their size in bytes."""
    count = first = end = 0
    if not path.exists():
        return 0, 0, 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                frame = Record.from_json(line.decode()).frame if line.endswith(b"\n") else None
            except (ValueError, KeyError, TypeError):
                frame = None
            if frame is None or frame < first:
                break
            count, first, end = count + 1, frame + 1, end + len(line)
    return count, first, end

"""What `detect` writes for a sequence: a line of JSON and the rows of CSV per frame, kept whatever happens next."""

import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..targets import Target
from ..tracking import Track
from . import CommandError
from .outputs import TARGET_FIELDS, append, csv_line, finite, save_json

TRACKS, ANNOTATED = "tracks.csv", "annotated.mp4"
TRACK_FIELDS = tuple(field.name for field in dataclasses.fields(Track))


@dataclasses.dataclass(frozen=True)
class FrameRecord:
    """A line of detections.jsonl; `tracks` is None where none are kept."""

    frame: int
    time_s: float | None
    targets: list[Target]
    tracks: list[Track] | None

    def row(self) -> dict[str, Any]:
        """The line's fields; those that are None are left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def to_json(self) -> str:
        return json.dumps(finite(self.row())) + "\n"

    @classmethod
    def from_json(cls, line: str) -> "FrameRecord":
        """What `to_json` wrote, without its tracks: they follow from the targets."""
        row = json.loads(line)
        targets = [
            Target(**{**target, "scr": math.nan if target["scr"] is None else target["scr"]})
            for target in row["targets"]
        ]
        return cls(row["frame"], row.get("time_s"), targets, None)


class SequenceFiles:
    """DIR/NAME/detections.jsonl, .csv, tracks.csv and sequence.json of one sequence.

    Lines are appended unbuffered, under their final names: a kill leaves whole lines, but for the last. sequence.json
    tells what was run and, at the end, how far it came.

    Args:
        folder: DIR/NAME, made if absent.
        header: What the lines were made with; JSON values.
        with_tracks: Whether tracks.csv is written.
        resume: Keep the lines of an earlier run with the same header.

    Attributes:
        num_recorded: Frames kept of the earlier run.

    Raises:
        CommandError: `resume`, and the earlier run had another header.
        OSError: the disk refuses.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], with_tracks: bool, resume: bool):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._header = folder, finite(header)
        self._summary = folder / "sequence.json"
        lines = folder / "detections.jsonl"
        self.num_recorded, end = 0, 0
        if resume and self._summary.exists():
            self._check_header()
            self.num_recorded, end = _complete_lines(lines)
        else:
            self._remove_earlier()
        self._lines = lines.open("ab", 0)
        self._lines.truncate(end)
        self._targets = (folder / "detections.csv").open("wb", 0)
        append(self._targets, csv_line(("frame", "time_s", *TARGET_FIELDS, *(["track"] if with_tracks else []))))
        self._tracks = (folder / TRACKS).open("wb", 0) if with_tracks else None
        if self._tracks is not None:
            append(self._tracks, csv_line(("frame", "time_s", *TRACK_FIELDS)))
        self.num_frames = self.num_targets = self.num_tracks = 0
        self._save(complete=False, error=None)

    def recorded(self) -> Iterator[FrameRecord]:
        """The frames kept of the earlier run, one in memory at a time."""
        with (self.folder / "detections.jsonl").open(encoding="utf-8") as lines:
            for _ in range(self.num_recorded):
                yield FrameRecord.from_json(lines.readline())

    def add(self, record: FrameRecord) -> None:
        """Appends a frame, or its rows alone where its line is kept of an earlier run.

        Raises:
            OSError: the disk refuses; the line is not there.
        """
        if record.frame >= self.num_recorded:
            append_whole(self._lines, record.to_json())
        followers = {track.target: track.id for track in record.tracks or () if track.target is not None}
        for place, target in enumerate(record.targets):
            row = (record.frame, record.time_s, *finite(dataclasses.astuple(target)))
            append(self._targets, csv_line(row if record.tracks is None else (*row, followers.get(place))))
        if self._tracks is not None:
            for track in record.tracks or ():
                append(self._tracks, csv_line((record.frame, record.time_s, *dataclasses.astuple(track))))
                self.num_tracks = max(self.num_tracks, track.id)
        self.num_frames += 1
        self.num_targets += len(record.targets)

    def finish(self, complete: bool, error: str | None) -> None:
        """Closes the files and says how far they go.

        Raises:
            OSError: the disk refuses.
        """
        for file in (self._lines, self._targets, self._tracks):
            if file is not None:
                file.close()
        self._save(complete, error)

    def _remove_earlier(self) -> None:
        """What an earlier run may have written and this one may not."""
        if self._summary.exists():
            for name in (TRACKS, ANNOTATED):
                (self.folder / name).unlink(missing_ok=True)

    def _save(self, complete: bool, error: str | None) -> None:
        counts = {name: getattr(self, name) for name in ("num_frames", "num_targets", "num_tracks")}
        save_json(self._summary, {"header": self._header, **counts, "complete": complete, "error": error})

    def _check_header(self) -> None:
        try:
            earlier = json.loads(self._summary.read_text(encoding="utf-8"))["header"]
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(f"--resume: {self._summary} is not what `detect` writes") from error
        for name, value in self._header.items():
            if earlier.get(name) != value:
                raise CommandError(
                    f"--resume: {self.folder} was made with {name} {earlier.get(name)!r}, now it is {value!r}"
                )


def append_whole(file: io.FileIO, text: str) -> None:
    """Appends a line, or nothing."""
    end = file.tell()
    try:
        append(file, text)
    except BaseException:  # an interruption too must not leave half a line
        file.seek(end)
        file.truncate()
        raise


def _complete_lines(path: Path) -> tuple[int, int]:
    """Number of lines that hold frames 0, 1, 2, ... and where they end, in bytes."""
    count = end = 0
    if not path.exists():
        return 0, 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                whole = line.endswith(b"\n") and FrameRecord.from_json(line.decode()).frame == count
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                break
            count, end = count + 1, end + len(line)
    return count, end

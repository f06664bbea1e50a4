"""A frame and its targets as a line of JSON, the log of such lines, and the tables that are made of it."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..files import finite, replacing
from ..targets import Target, label_components
from ..tracking import Track
from . import EXIT_USAGE, CommandError, say
from .inputs import Failure

TARGET_FIELDS = tuple(field.name for field in dataclasses.fields(Target))
TRACK_FIELDS = tuple(field.name for field in dataclasses.fields(Track))
NAMING = "name is the file's stem; a second file of one stem is STEM-2, a third STEM-3, in the order of the inputs"
COCO_CATEGORIES = [{"id": 1, "name": "target"}]


@dataclasses.dataclass(frozen=True)
class Record:
    """One frame and its targets.

    Attributes:
        file: The input, as it was named.
        name: Stem of what is written for the input.
        width, height: Size of the frame in pixels.
        targets: In the order of the mask's components.
        mask: (H, W) bool.
        frame: Index in a sequence, from 0; None for a still.
        time_s: Time stamp of the frame; None where the file has none.
        tracks: Tracks after this frame; None where none are kept.
    """

    file: str
    name: str
    width: int
    height: int
    targets: list[Target]
    mask: np.ndarray
    frame: int | None = None
    time_s: float | None = None
    tracks: list[Track] | None = None

    def row(self) -> dict[str, Any]:
        """JSON values of all fields but the mask; those that are None are left out."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "mask"}
        for name in ("targets", "tracks"):
            if fields[name] is not None:
                fields[name] = [dataclasses.asdict(one) for one in fields[name]]
        return finite({name: value for name, value in fields.items() if value is not None})

    def to_json(self) -> str:
        """The line, without its end."""
        mask = {"size": list(self.mask.shape), "counts": run_lengths(self.mask)}
        return json.dumps({**self.row(), "mask": mask})

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The record of a line.

        Raises:
            ValueError, KeyError, TypeError: The line is no record.
        """
        row: dict[str, Any] = json.loads(line)
        mask = mask_of_run_lengths(row.pop("mask")["counts"], row["height"], row["width"])
        targets = [
            Target(**{name: math.nan if value is None else value for name, value in target.items()})  # type: ignore
            for target in row.pop("targets")
        ]
        tracks = [Track(**track) for track in row.pop("tracks")] if "tracks" in row else None
        return cls(**row, targets=targets, mask=mask, tracks=tracks)


class Log:
    """Lines appended at once and unbuffered: a kill leaves whole lines, but for the last.

    Args:
        path: The file, made if absent.
        kept_bytes: What stays of a file that is there.
    """

    def __init__(self, path: Path, kept_bytes: int = 0):
        self.path = path
        self._file = io.FileIO(path, "a")
        self._file.truncate(kept_bytes)

    def append(self, line: str) -> None:
        """Appends a line, or nothing.

        Raises:
            OSError: The disk refuses.
        """
        end = self._file.seek(0, io.SEEK_END)
        data = memoryview(f"{line}\n".encode(errors="surrogateescape"))
        try:
            while data:
                data = data[self._file.write(data) :]
        except BaseException:  # an interruption too must not leave half a line
            self._file.truncate(end)
            raise

    def records(self, num_records: int | None = None) -> Iterator[Record]:
        """The records from the first on, one in memory at a time; lines of failures follow and are none."""
        with self.path.open(encoding="utf-8", errors="surrogateescape") as lines:
            for index, line in enumerate(lines):
                if index == num_records or "error" in line and "targets" not in json.loads(line):
                    return
                yield Record.from_json(line)

    def close(self) -> None:
        self._file.close()


class StandardOutput:
    """The lines of a [`Log`] on the standard output; see `say` for what fails."""

    def append(self, line: str) -> None:
        say(line)

    def close(self) -> None:
        pass


def whole_lines(path: Path) -> tuple[int, int]:
    """Number of lines that hold the frames 0, 1, 2, ... of a sequence, and their size in bytes."""
    count = end = 0
    if not path.exists():
        return 0, 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                is_next = line.endswith(b"\n") and Record.from_json(line.decode()).frame == count
            except (ValueError, KeyError, TypeError):
                is_next = False
            if not is_next:
                break
            count, end = count + 1, end + len(line)
    return count, end


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of (H, W) bool: of background and foreground in turns, column by column."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(edges, prepend=0, append=flat.size).tolist()
    return [0, *counts] if flat[0] else counts


def mask_of_run_lengths(counts: list[int], height: int, width: int) -> np.ndarray:
    """The mask (H, W) bool of `run_lengths`.

    Raises:
        ValueError: The counts do not fill the mask.
    """
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


@dataclasses.dataclass(frozen=True)
class Ending:
    """What is known when a run ends, complete or not; sequences are described by their file, name and counts."""

    failures: Sequence[Failure]
    sequences: Sequence[Mapping[str, Any]]
    complete: bool


Records = Callable[[], Iterator[Record]]  # the log from its beginning, as often as a table asks
Table = Callable[[Mapping[str, Any], Records, Ending], Iterable[str]]  # header, records, ending -> pieces of text


def json_table(header: Mapping[str, Any], records: Records, ending: Ending) -> Iterator[str]:
    """detections.json: the settings, an entry per still, the sequences, the failures."""
    yield json.dumps({**finite(header), "naming": NAMING}, indent=2)[:-2] + ',\n  "images": ['
    yield from _elements((record.row() for record in records()), indent=4 * " ", end="\n  ")
    yield f'],\n  "sequences": {json.dumps(finite(ending.sequences))},\n'
    yield f'  "failed": {json.dumps([dataclasses.asdict(failure) for failure in ending.failures])},\n'
    yield f'  "complete": {json.dumps(ending.complete)}\n}}\n'


def csv_table(header: Mapping[str, Any], records: Records, ending: Ending) -> Iterator[str]:
    """detections.csv of stills: a row per target."""
    yield _csv_line(("file", "name", *TARGET_FIELDS))
    for record in records():
        yield from (_csv_line((record.file, record.name, *row.values())) for row in record.row()["targets"])


def coco_table(header: Mapping[str, Any], records: Records, ending: Ending) -> Iterator[str]:
    """detections_coco.json: an image per still, an annotation per target with a `score`, its confidence."""
    from pycocotools import mask as coco_mask

    yield f'{{"info": {json.dumps(finite(header))},\n"categories": {json.dumps(COCO_CATEGORIES)},\n"annotations": ['
    yield from _elements(_numbered(_annotations(record, coco_mask) for record in records()))
    yield '],\n"images": ['
    images = (
        {"id": number, "file_name": record.file, "width": record.width, "height": record.height}
        for number, record in enumerate(records(), start=1)
    )
    yield from _elements(images)
    yield "]}\n"


def geojson_table(header: Mapping[str, Any], records: Records, ending: Ending) -> Iterator[str]:
    """detections.geojson: two features per target of a GeoTIFF, its centroid and its box."""
    from .geojson import features

    yield '{"type": "FeatureCollection", "features": ['
    yield from _elements(feature for record in records() for feature in features(record))
    yield "\n]}\n"


# A new table is a function above and an entry here and in `TABLE_NAMES`.
TABLES: dict[str, Table] = {"json": json_table, "csv": csv_table, "coco": coco_table, "geojson": geojson_table}
MODULES = {"coco": "pycocotools", "geojson": "rasterio"}  # the module that a table needs
EXTRAS = {"coco": "coco", "geojson": "geo"}


def sequence_csv(header: Mapping[str, Any], records: Records, ending: Ending) -> Iterator[str]:
    """detections.csv of a sequence: a row per target, with the track that follows it where tracks are kept."""
    with_tracks = bool(header["tracker"])
    yield _csv_line(("frame", "time_s", *TARGET_FIELDS, *(["track"] if with_tracks else [])))
    for record in records():
        followers = {track.target: track.id for track in record.tracks or () if track.target is not None}
        for index, target in enumerate(record.row()["targets"]):
            row = (record.frame, record.time_s, *target.values())
            yield _csv_line((*row, followers.get(index)) if with_tracks else row)


def tracks_csv(header: Mapping[str, Any], records: Records, ending: Ending) -> Iterator[str]:
    """tracks.csv of a sequence: a row per track and frame."""
    yield _csv_line(("frame", "time_s", *TRACK_FIELDS))
    for record in records():
        for track in record.tracks or ():
            yield _csv_line((record.frame, record.time_s, *dataclasses.astuple(track)))


def check_installed(kinds: Iterable[str]) -> None:
    """Checks that what the tables need is installed.

    Raises:
        CommandError: It is not; the message names the extra.
    """
    for kind in kinds:
        try:
            __import__(MODULES.get(kind, "json"))
        except ImportError as error:
            raise CommandError(
                f"--write {kind}: {error}; pip install irstd-ldm[{EXTRAS[kind]}]", EXIT_USAGE
            ) from error


def write_table(path: Path, pieces: Iterable[str]) -> None:
    """Writes a table under a temporary name and renames it.

    Raises:
        OSError: The disk refuses; a table that is there stays.
    """
    with replacing(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.writelines(pieces)


def _elements(values: Iterable[Any], indent: str = "", end: str = "") -> Iterator[str]:
    """The elements of a JSON list, one a line, and `end` where there are any."""
    separator = ""
    for value in values:
        yield f"{separator}\n{indent}{json.dumps(value)}"
        separator = ","
    yield end if separator else ""


def _annotations(record: Record, coco_mask: Any) -> Iterator[dict[str, Any]]:
    height, width = record.mask.shape
    labels, components = label_components(record.mask)
    for target, component in zip(record.targets, components, strict=True):
        window = np.s_[target.top : target.top + target.height, target.left : target.left + target.width]
        counts = _run_lengths_of_window(labels[window] == component.label, target.left, target.top, height, width)
        encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        yield {
            "category_id": 1,
            "segmentation": {"size": [height, width], "counts": encoded["counts"].decode()},
            "area": target.area_px,
            "bbox": [target.left, target.top, target.width, target.height],
            "iscrowd": 0,
            "score": target.confidence,
        }


def _run_lengths_of_window(inside: np.ndarray, left: int, top: int, height: int, width: int) -> list[int]:
    """COCO's run lengths of a mask (height, width) that is `inside` (h, w) in a window and empty around it."""
    columns, rows = np.nonzero(inside.T)
    positions = (columns + left) * height + rows + top  # ascending, in the order of columns
    breaks = np.flatnonzero(np.diff(positions) > 1)
    starts = positions[np.append(0, breaks + 1)]
    ends = positions[np.append(breaks, -1)] + 1
    return np.diff(np.stack([starts, ends], axis=1).ravel(), prepend=0, append=height * width).tolist()


def _numbered(annotations: Iterable[Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    number = 0
    for image_number, of_image in enumerate(annotations, start=1):
        for annotation in of_image:
            number += 1
            yield {"id": number, "image_id": image_number, **annotation}


def _csv_line(values: Sequence[Any]) -> str:
    """One row with its line feed."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()

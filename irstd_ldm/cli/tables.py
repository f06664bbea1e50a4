"""Tables of `detect`, each made from the log of a folder when a run ends: JSON, CSV, COCO."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.components import label_components
from ..files import finite, replacing
from ..tracking.tracker import Track
from . import EXIT_USAGE, CommandError
from .inputs import Failure
from .outputs import TARGET_FIELDS, csv_line
from .records import Record

NAMING = "name is the file's stem; a second file of one stem is STEM-2, a third STEM-3, in the order of the inputs"
COCO_CATEGORIES = [{"id": 1, "name": "target"}]
TRACK_FIELDS = tuple(field.name for field in dataclasses.fields(Track))


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
    yield csv_line(("file", "name", *TARGET_FIELDS))
    for record in records():
        yield from (csv_line((record.file, record.name, *row.values())) for row in record.row()["targets"])


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
    yield csv_line(("frame", "time_s", *TARGET_FIELDS, *(["track"] if with_tracks else [])))
    for record in records():
        followers = {track.target: track.id for track in record.tracks or () if track.target is not None}
        for index, target in enumerate(record.row()["targets"]):
            row = (record.frame, record.time_s, *target.values())
            yield csv_line((*row, followers.get(index)) if with_tracks else row)


def tracks_csv(header: Mapping[str, Any], records: Records, ending: Ending) -> Iterator[str]:
    """tracks.csv of a sequence: a row per track and frame."""
    yield csv_line(("frame", "time_s", *TRACK_FIELDS))
    for record in records():
        for track in record.tracks or ():
            yield csv_line((record.frame, record.time_s, *dataclasses.astuple(track)))


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

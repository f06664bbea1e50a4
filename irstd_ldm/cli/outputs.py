"""The outputs of `detect`: pictures of a frame, its line of JSON, the log of such lines, tables made of the log."""

import dataclasses
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from ..data.images import displayable
from ..extras import install_command
from ..files import FolderInUseError, csv_line, finite, only_writer, part_path, printable, replacing, write_text
from ..results import draw_overlay, mask_of_run_lengths, run_lengths, yolo_labels
from ..targets import Target
from ..tracking import Track
from . import (
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    KINDS,
    PICTURE_KINDS,
    TABLE_NAMES,
    YOLO,
    CommandError,
    Failure,
    describe,
    drop_standard_output,
)

TARGET_FIELDS = tuple(field.name for field in dataclasses.fields(Target))
TRACK_FIELDS = tuple(field.name for field in dataclasses.fields(Track))
NAMING = "name is the file's stem; a second file of one stem is STEM-2, a third STEM-3, in the order of the inputs"
HEAD = 2**20  # characters at the beginning of detections.json, which hold the settings
MARKER = ".irstd-ldm"  # an empty file beside pictures that `detect` may replace


def say(text: str) -> None:
    """Prints lines at once; where the reader has left, the command ends as an interrupted one."""
    try:
        print("\n".join(map(printable, text.split("\n"))), flush=True)
    except BrokenPipeError:
        drop_standard_output()
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        drop_standard_output()
        raise CommandError(f"cannot write to the standard output: {error.strerror}") from error


def make_folder(folder: Path) -> None:
    """Makes a folder of `--output`, and checks that a file can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "writable")
    except OSError as error:
        raise CommandError(f"--output {folder}: cannot write there: {error.strerror}", EXIT_USAGE) from error


@contextmanager
def held(folder: Path, command: str) -> Iterator[None]:
    """Keeps other processes of this package from writing to a folder meanwhile."""
    with ExitStack() as stack:
        try:
            stack.enter_context(only_writer(folder, f"irstd-ldm {command}"))
        except FolderInUseError as error:
            raise CommandError(f"{error}; wait for it, or name another folder") from error
        except OSError as error:  # a file system without locks
            raise CommandError(f"{folder}: cannot be locked: {error.strerror}") from error
        yield


def check_writable(path: Path) -> None:
    """Writes a byte under the file's temporary name: a full disk still takes an empty file."""
    part = part_path(path)
    try:
        part.write_bytes(b"0")
    finally:
        if not part.is_dir():
            part.unlink(missing_ok=True)


def save_png(path: Path, image: Image.Image) -> None:
    """Writes a picture under a temporary name and renames it."""
    with replacing(path) as part:
        image.save(part, format="PNG")


@dataclasses.dataclass(frozen=True)
class Record:
    """One frame, its targets in the order of the mask's components, and the tracks after it where they are kept."""

    file: str  # the input, as it was named
    name: str  # stem of what is written for the input
    width: int
    height: int
    targets: list[Target]
    mask: np.ndarray  # (H, W) bool
    frame: int | None = None  # index in a sequence, from 0; None for a still
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
        """The record of a line; another line raises ValueError, KeyError or TypeError."""
        row: dict[str, Any] = json.loads(line)
        mask = mask_of_run_lengths(row.pop("mask")["counts"], row["height"], row["width"])
        targets = [
            Target(**{name: math.nan if value is None else value for name, value in target.items()})  # type: ignore
            for target in row.pop("targets")
        ]
        tracks = [Track(**track) for track in row.pop("tracks")] if "tracks" in row else None
        return cls(**row, targets=targets, mask=mask, tracks=tracks)


class Log:
    """Appends lines, unbuffered, behind `kept_bytes` of a file: a kill leaves all but the last of them whole."""

    def __init__(self, path: Path, kept_bytes: int = 0):
        self.path = path
        self._file = io.FileIO(path, "a")
        self._file.truncate(kept_bytes)

    def append(self, line: str) -> None:
        """Appends a line, or nothing where the disk refuses."""
        end = self.end
        data = memoryview(f"{line}\n".encode(errors="surrogateescape"))
        try:
            while data:
                data = data[self._file.write(data) :]
        except BaseException:  # an interruption too must not leave half a line
            self.cut(end)
            raise

    @property
    def end(self) -> int:
        """Size of the file in bytes."""
        return self._file.seek(0, io.SEEK_END)

    def cut(self, end: int) -> None:
        """Drops what was appended behind `end` bytes."""
        self._file.truncate(end)

    def records(self, num_records: int | None = None) -> Iterator[Record]:
        """The records from the first on, one in memory at a time; lines of failures follow and are none."""
        with self.path.open(encoding="utf-8", errors="surrogateescape") as lines:
            for index, line in enumerate(lines):
                if index == num_records or "error" in line and "targets" not in json.loads(line):
                    return
                yield Record.from_json(line)

    def close(self) -> None:
        self._file.close()


class Pictures:
    """Writes DIR/KIND/NAME, all kinds of a frame or none; `value_range` of overlays is as in `displayable`.

    A folder DIR/KIND with files of other origin (a data set's masks, say) is a CommandError.
    """

    def __init__(self, folder: Path, kinds: Sequence[str], value_range: tuple[float, float] | None = None):
        self.folders = [folder / kind for kind in kinds]
        self._value_range = value_range
        for path in self.folders:
            if path.is_dir() and any(path.iterdir()) and not (path / MARKER).exists():
                raise CommandError(
                    f"--output {folder}: its {path.name}/ holds files that `detect` did not write; name another",
                    EXIT_USAGE,
                )

    def make_folders(self) -> None:
        for path in self.folders:
            make_folder(path)

    def add(self, log: Log, name: str, image: np.ndarray, probability: np.ndarray, record: Record) -> None:
        """Writes a frame's pictures, then its line; none of them stays where one fails or is interrupted."""
        draw: dict[str, Callable[[], Image.Image]] = {
            "masks": lambda: Image.fromarray(record.mask.astype(np.uint8) * 255),
            "overlays": lambda: draw_overlay(displayable(image, self._value_range), record.targets),
            "probability": lambda: Image.fromarray(np.rint(probability * np.float32(65535)).astype(np.uint16)),
        }
        end = log.end
        try:
            for path in self.folders:
                (path / MARKER).touch()
                file = path / picture_name(path.name, name)
                if path.name == YOLO:
                    write_text(file, yolo_labels(record.targets, record.mask.shape))
                else:
                    save_png(file, draw[path.name]())
            log.append(record.to_json())
        except BaseException:
            log.cut(end)
            for path in self.folders:
                (path / picture_name(path.name, name)).unlink(missing_ok=True)
            raise


def picture_name(kind: str, name: str) -> str:
    """The file of a frame in DIR/KIND: a picture, or of "yolo" a text."""
    return f"{name}.txt" if kind == YOLO else f"{name}.png"


def remove_frame_pictures(folder: Path) -> None:
    """Removes DIR/KIND/FRAME.png, or .txt, of an earlier run; files of other origin or name stay."""
    for kind in PICTURE_KINDS:
        if (folder / kind / MARKER).exists():
            for path in (folder / kind).glob(picture_name(kind, "*")):
                if path.stem.isdecimal():
                    path.unlink()


@dataclasses.dataclass(frozen=True)
class Ending:
    """The facts that are known when a run ends, complete or not; a sequence has its file, name and counts."""

    failures: Sequence[Failure]
    sequences: Sequence[Mapping[str, Any]]
    complete: bool


Records = Callable[[], Iterator[Record]]  # the log from its beginning, as often as a table asks
Table = Callable[[Mapping[str, Any], Records, Ending], Iterable[str]]  # header, records, ending -> pieces of text


def json_table(header: Mapping[str, Any], records: Records, ending: Ending) -> Iterator[str]:
    """detections.json: the settings, an entry per still, the sequences, the failures."""
    yield json.dumps({**finite(header), "naming": NAMING}, indent=2)[:-2] + ',\n  "images": ['
    yield from list_elements((record.row() for record in records()), indent=4 * " ", end="\n  ")
    yield f'],\n  "sequences": {json.dumps(finite(ending.sequences))},\n'
    yield f'  "failed": {json.dumps([dataclasses.asdict(failure) for failure in ending.failures])},\n'
    yield f'  "complete": {json.dumps(ending.complete)}\n}}\n'


def csv_table(header: Mapping[str, Any], records: Records, ending: Ending) -> Iterator[str]:
    """detections.csv of stills: a row per target."""
    yield csv_line(("file", "name", *TARGET_FIELDS))
    for record in records():
        yield from (csv_line((record.file, record.name, *row.values())) for row in record.row()["targets"])


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


# A new table is a function above, or in exchange.py where it needs a library, and an entry here and in `TABLE_NAMES`.
TABLES: dict[str, Table] = {"json": json_table, "csv": csv_table}
EXTRAS = {"coco": ("pycocotools", "coco"), "geojson": ("rasterio", "geo")}  # table -> library, extra that brings it


def table_of(kind: str) -> Table:
    """The table of a kind; a CommandError that names the extra where its library is not installed."""
    if kind in TABLES:
        return TABLES[kind]
    library, extra = EXTRAS[kind]
    try:
        import_module(library)
    except ImportError as error:
        raise CommandError(f"--write {kind}: {error}; {install_command(extra)}", EXIT_USAGE) from error
    return getattr(import_module(".exchange", __package__), f"{kind}_table")


def write_table(path: Path, pieces: Iterable[str]) -> None:
    """Writes a table; where the disk refuses, one that is there stays."""
    with replacing(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.writelines(pieces)


def list_elements(values: Iterable[Any], indent: str = "", end: str = "") -> Iterator[str]:
    """The elements of a JSON list, one a line, and `end` where there are any."""
    separator = ""
    for value in values:
        yield f"{separator}\n{indent}{json.dumps(value)}"
        separator = ","
    yield end if separator else ""


class StreamOutputs:
    """Lines of JSON on the standard output, and nothing else."""

    def begin(self) -> None:
        pass

    def held(self) -> AbstractContextManager[None]:
        return nullcontext()

    def holds(self, path: Path) -> bool:
        return False

    def add(self, image: np.ndarray, probability: np.ndarray, record: Record) -> None:
        say(record.to_json())

    def finish(self, header: Mapping[str, Any], ending: Ending) -> None:
        for failure in ending.failures:
            say(failure.to_json())


class FolderOutputs:
    """DIR: the log of stills and their pictures as they come, the tables of the log when the run ends.

    A still appears in all of them or in none. detections.json is always written. The log is detections.jsonl where
    that is asked for, otherwise a hidden file that goes when the tables are whole. What cannot be written is a
    CommandError, but for a still's own files, whose OSError leaves nothing of the still.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]):
        self.kinds = [kind for kind in KINDS if kind in (*kinds, "json")]
        self.tables = [folder / TABLE_NAMES[kind] for kind in self.kinds if kind in TABLE_NAMES]
        self.num_images = 0
        self._pictures = Pictures(folder, [kind for kind in PICTURE_KINDS if kind in self.kinds])
        self._tables = {
            folder / TABLE_NAMES[kind]: table_of(kind) for kind in self.kinds if kind in {*TABLES, *EXTRAS}
        }
        make_folder(folder)
        self._folder = folder
        self._check_tables()
        self._pictures.make_folders()
        path = folder / TABLE_NAMES["jsonl"]
        self._path = path if "jsonl" in self.kinds else part_path(path)
        self._log: Log | None = None

    def _check_tables(self) -> None:
        """Refuses a folder with files of a table's name and without a detections.json of `detect`."""
        found = [path for path in self.tables if path.is_file()]
        if not found:
            return
        try:
            with (self._folder / TABLE_NAMES["json"]).open(encoding="utf-8", errors="replace") as file:
                is_ours = NAMING in file.read(HEAD)
        except OSError:  # absent, or a folder
            is_ours = False
        if not is_ours:
            raise CommandError(
                f"--output {self._folder}: its {found[0].name} was not written by `detect`; name another", EXIT_USAGE
            )

    def held(self) -> AbstractContextManager[None]:
        """Keeps other processes out of the folder meanwhile."""
        return held(self._folder, "detect")

    def begin(self) -> None:
        """Opens the log and checks that the disk takes the tables, before anything is detected.

        A new folder has a detections.json from the beginning, by which a later run knows it.
        """
        for path in self._tables:
            with writing(path):
                check_writable(path)
        with writing(self._path):
            self._log = Log(self._path)
        path = self._folder / TABLE_NAMES["json"]
        if not path.exists():
            with writing(path):
                write_table(path, json_table({}, self._log.records, Ending([], [], False)))

    def holds(self, path: Path) -> bool:
        """Whether an input lies among the pictures of this run."""
        return os.path.dirname(os.path.realpath(path)) in map(os.path.realpath, self._pictures.folders)

    def add(self, image: np.ndarray, probability: np.ndarray, record: Record) -> None:
        """Writes a still's pictures and then its line."""
        assert self._log is not None
        self._pictures.add(self._log, record.name, image, probability, record)
        self.num_images += 1

    def finish(self, header: Mapping[str, Any], ending: Ending) -> None:
        """Writes the tables; where the disk refuses, the log stays if it holds a still."""
        if self._log is None:
            return
        try:
            for path, table in self._tables.items():
                with writing(path):
                    write_table(path, table(header, self._log.records, ending))
        except CommandError:
            if not self.num_images:
                self._path.unlink()
            raise
        with writing(self._path):
            if "jsonl" in self.kinds:
                for failure in ending.failures:
                    self._log.append(failure.to_json())
            else:
                self._path.unlink()
        self._log.close()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file that cannot be written."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path}: {describe('', error).error}") from error

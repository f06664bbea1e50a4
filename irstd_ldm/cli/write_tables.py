"""Targets as text: JSON, JSON lines, CSV."""

import dataclasses
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .growing_file import GrowingFile
from .outputs import TARGET_FIELDS, append, csv_line, finite
from .writers import Ending, ImageResult

CSV_FIELDS = ("file", "name", *TARGET_FIELDS)
NAMING = "name is the file's stem; a second file of one stem is STEM-2, a third STEM-3, in the order of the inputs"


class JSONTable:
    """detections.json: the settings, an entry per image, the sequences, the failures."""

    def __init__(self, folder: Path):
        self._file = GrowingFile(folder / "detections.json")
        self._is_empty = self._was_empty = True

    def begin(self, header: Mapping[str, Any]) -> None:
        self._file.open()
        self._file.append(json.dumps({**finite(header), "naming": NAMING}, indent=2)[:-2] + ',\n  "images": [')

    def add(self, result: ImageResult) -> None:
        self._file.mark()
        self._was_empty = self._is_empty
        self._file.append(("\n    " if self._is_empty else ",\n    ") + json.dumps(result.record()))
        self._is_empty = False

    def take_back(self) -> None:
        self._file.take_back()
        self._is_empty = self._was_empty

    def finish(self, ending: Ending) -> None:
        end = "]" if self._is_empty else "\n  ]"
        sequences = json.dumps(finite(ending.sequences))
        failed = json.dumps([dataclasses.asdict(failure) for failure in ending.failures])
        self._file.append(f'{end},\n  "sequences": {sequences},\n  "failed": {failed},\n')
        self._file.append(f'  "complete": {json.dumps(ending.complete)}\n}}\n')
        self._file.finish()

    def discard(self) -> None:
        self._file.discard()


class CSVTable:
    """detections.csv: a row per target."""

    def __init__(self, folder: Path):
        self._file = GrowingFile(folder / "detections.csv")

    def begin(self, header: Mapping[str, Any]) -> None:
        self._file.open()
        self._file.append(csv_line(CSV_FIELDS))

    def add(self, result: ImageResult) -> None:
        self._file.mark()
        item = result.item
        self._file.append("".join(csv_line((item.path, item.name, *row.values())) for row in result.target_rows()))

    def take_back(self) -> None:
        self._file.take_back()

    def finish(self, ending: Ending) -> None:
        self._file.finish()

    def discard(self) -> None:
        self._file.discard()


class JSONLines:
    """detections.jsonl: a line per image as soon as it is done, under its final name; failures in the end."""

    def __init__(self, folder: Path):
        self._path = folder / "detections.jsonl"
        self._file: io.FileIO | None = None

    def begin(self, header: Mapping[str, Any]) -> None:
        self._file = io.FileIO(self._path, "w")

    def add(self, result: ImageResult) -> None:
        assert self._file is not None
        self._mark = self._file.tell()
        append(self._file, json.dumps(result.record()) + "\n")

    def take_back(self) -> None:
        assert self._file is not None
        self._file.seek(self._mark)
        self._file.truncate()

    def finish(self, ending: Ending) -> None:
        assert self._file is not None
        for failure in ending.failures:
            append(self._file, json.dumps(dataclasses.asdict(failure)) + "\n")
        self._file.close()

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)


class StandardOutput:
    """The lines of detections.jsonl on the standard output."""

    def begin(self, header: Mapping[str, Any]) -> None:
        pass

    def add(self, result: ImageResult) -> None:
        self.write(result.record())

    def take_back(self) -> None:
        pass

    def finish(self, ending: Ending) -> None:
        for failure in ending.failures:
            self.write(dataclasses.asdict(failure))

    def discard(self) -> None:
        pass

    def write(self, record: Mapping[str, Any]) -> None:
        """One line, at once."""
        print(json.dumps(finite(record)), file=sys.stdout, flush=True)

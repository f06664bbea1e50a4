"""Targets as text: JSON, JSON lines, CSV."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import say
from .growing_file import GrowingFile
from .kinds import TABLE_NAMES
from .outputs import TARGET_FIELDS, csv_line, finite
from .writers import Ending, ImageResult

CSV_FIELDS = ("file", "name", *TARGET_FIELDS)
NAMING = "name is the file's stem; a second file of one stem is STEM-2, a third STEM-3, in the order of the inputs"


class TextTable:
    """A table of one growing file; a subclass appends to it."""

    file_name: str
    named_at_once = False

    def __init__(self, folder: Path):
        self._file = GrowingFile(folder / self.file_name, self.named_at_once)

    def begin(self, header: Mapping[str, Any]) -> None:
        self._file.open()

    def add(self, result: ImageResult) -> None:
        self._file.mark()

    def take_back(self) -> None:
        self._file.take_back()

    def finish(self, ending: Ending) -> None:
        self._file.finish()

    def discard(self) -> None:
        self._file.discard()


class ListTable(TextTable):
    """A table with a JSON list that grows, element by element."""

    def begin(self, header: Mapping[str, Any]) -> None:
        super().begin(header)
        self._is_empty = self._was_empty = True

    def add(self, result: ImageResult) -> None:
        super().add(result)
        self._was_empty = self._is_empty

    def append_element(self, element: Mapping[str, Any], indent: str = "") -> None:
        self._file.append(("" if self._is_empty else ",") + f"\n{indent}{json.dumps(element)}")
        self._is_empty = False

    def take_back(self) -> None:
        super().take_back()
        self._is_empty = self._was_empty


class JSONTable(ListTable):
    """detections.json: the settings, an entry per image, the sequences, the failures."""

    file_name = TABLE_NAMES["json"]

    def begin(self, header: Mapping[str, Any]) -> None:
        super().begin(header)
        self._file.append(json.dumps({**finite(header), "naming": NAMING}, indent=2)[:-2] + ',\n  "images": [')

    def add(self, result: ImageResult) -> None:
        super().add(result)
        self.append_element(result.record(), indent=4 * " ")

    def finish(self, ending: Ending) -> None:
        end = "]" if self._is_empty else "\n  ]"
        sequences = json.dumps(finite(ending.sequences))
        failed = json.dumps([dataclasses.asdict(failure) for failure in ending.failures])
        self._file.append(f'{end},\n  "sequences": {sequences},\n  "failed": {failed},\n')
        self._file.append(f'  "complete": {json.dumps(ending.complete)}\n}}\n')
        super().finish(ending)


class CSVTable(TextTable):
    """detections.csv: a row per target."""

    file_name = TABLE_NAMES["csv"]

    def begin(self, header: Mapping[str, Any]) -> None:
        super().begin(header)
        self._file.append(csv_line(CSV_FIELDS))

    def add(self, result: ImageResult) -> None:
        super().add(result)
        item = result.item
        self._file.append("".join(csv_line((item.path, item.name, *row.values())) for row in result.target_rows()))


class JSONLines(TextTable):
    """detections.jsonl: a line per image as soon as it is done, under its final name; failures in the end."""

    file_name = TABLE_NAMES["jsonl"]
    named_at_once = True

    def add(self, result: ImageResult) -> None:
        super().add(result)
        self._file.append(json.dumps(result.record()) + "\n")

    def finish(self, ending: Ending) -> None:
        for failure in ending.failures:
            self._file.append(json.dumps(dataclasses.asdict(failure)) + "\n")
        super().finish(ending)


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
        """One line, at once; see `say` for what it raises."""
        say(json.dumps(finite(record)))

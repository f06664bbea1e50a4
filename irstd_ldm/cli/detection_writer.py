"""All outputs of one `detect` run."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import EXIT_USAGE, CommandError
from .inputs import Failure
from .kinds import KINDS, PICTURE_KINDS, TABLE_NAMES
from .outputs import make_folder
from .write_pictures import Pictures, refuse_foreign_pictures
from .write_tables import CSVTable, JSONLines, JSONTable, StandardOutput
from .writers import Ending, ImageResult, Writer


class DetectionWriter:
    """The outputs of one run, grown image by image, so that memory does not.

    Tables are written under temporary names and renamed by `finish`, also after an interruption; JSON lines have their
    name at once. An image appears in all tables or in none. detections.json is always written.

    Args:
        folder: DIR of `detect --output`; None = JSON lines on the standard output and nothing else.
        kinds: of `KINDS`.

    Raises:
        CommandError: DIR cannot be written or holds pictures of other origin (a data set's, say), or an extra is
            missing.
    """

    def __init__(self, folder: Path | None, kinds: Sequence[str]):
        self.num_images = self.num_targets = 0
        self.sequences: list[Mapping[str, Any]] = []
        self.pictures: dict[str, Path] = {}
        self.tables: list[Path] = []
        if folder is None:
            self._writers: list[Writer] = [StandardOutput()]
            return
        chosen = [kind for kind in KINDS if kind in (*kinds, "json")]
        tables = [_table(kind, folder) for kind in chosen if kind in TABLE_NAMES]
        picture_kinds = [kind for kind in chosen if kind in PICTURE_KINDS]
        refuse_foreign_pictures(folder, picture_kinds)
        make_folder(folder)
        pictures = [Pictures(folder, kind) for kind in picture_kinds]
        self.pictures = {kind: folder / kind for kind in picture_kinds}
        self.tables = [folder / TABLE_NAMES[kind] for kind in chosen if kind in TABLE_NAMES]
        self._writers = [*pictures, *tables]

    def holds(self, path: Path) -> bool:
        """Whether an input lies where this run writes."""
        return os.path.dirname(os.path.realpath(path)) in map(os.path.realpath, self.pictures.values())

    def begin(self, header: Mapping[str, Any]) -> None:
        """Starts the tables; `header` holds what is common to all images (model, settings).

        Raises:
            OSError: the disk refuses; no table is left.
        """
        try:
            for writer in self._writers:
                writer.begin(header)
        except BaseException:
            self._discard()
            raise

    def add(self, result: ImageResult) -> None:
        """Writes one image's files and rows.

        Raises:
            OSError: the disk refuses; the tables are as before.
        """
        asked: list[Writer] = []
        try:
            for writer in self._writers:
                asked.append(writer)
                writer.add(result)
        except BaseException:  # an interruption too must not leave half a record
            for writer in asked:
                writer.take_back()
            raise
        self.num_images += 1
        self.num_targets += len(result.targets)

    def add_sequence(self, summary: Mapping[str, Any]) -> None:
        """Counts an input of several frames, whose own files are written as far as it came."""
        self.sequences.append(summary)
        self.num_targets += summary["num_targets"]

    def finish(self, failures: Sequence[Failure], complete: bool) -> None:
        """Ends the tables and gives them their names.

        Raises:
            OSError: the disk refuses; tables without images are removed, others stay under their temporary names.
        """
        try:
            for writer in self._writers:
                writer.finish(Ending(failures, self.sequences, complete))
        except OSError:
            if not self.num_images:
                self._discard()
            raise

    def _discard(self) -> None:
        for writer in self._writers:
            writer.discard()


def _table(kind: str, folder: Path) -> Writer:
    try:
        if kind == "coco":
            from .write_coco import COCOFile

            return COCOFile(folder)
        if kind == "geojson":
            from .write_geojson import GeoJSONFile

            return GeoJSONFile(folder)
    except ImportError as error:
        extra = {"coco": "coco", "geojson": "geo"}[kind]
        raise CommandError(f"--write {kind}: {error}; pip install irstd-ldm[{extra}]", EXIT_USAGE) from error
    tables: dict[str, type[JSONTable] | type[CSVTable] | type[JSONLines]]
    tables = {"json": JSONTable, "csv": CSVTable, "jsonl": JSONLines}
    return tables[kind](folder)

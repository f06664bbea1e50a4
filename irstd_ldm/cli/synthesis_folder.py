"""The data set that `synthesize` writes: resumable, never overwriting."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.folder import write_stem_list
from ..files import write_json
from . import EXIT_USAGE, CommandError, make_folder
from .pictures import save_png

SETTINGS, PROVENANCE, TRAIN_LIST = "synthesis.json", "provenance.csv", "train.txt"


@dataclass(frozen=True)
class Provenance:
    """Where one image comes from."""

    name: str  # its stem in images/ and masks/
    source: str  # stem of the image or of the background that it was made of
    kind: str  # original, generated, squeezed or planted
    num_groups: int | None  # of the squeezer
    num_targets: int  # in the mask
    seed: int | None  # of everything random


class SynthesisFolder:
    """DIR of `synthesize --output`: images/, masks/, provenance.csv, synthesis.json and, when complete, train.txt.

    A row of provenance.csv is written after its image and mask, so that what has a row is complete.

    Args:
        folder: DIR; absent, empty, or what an interrupted run of the same settings left.
        settings: everything that decides the result.

    Raises:
        CommandError: DIR holds something else, or cannot be written; wrong usage.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        self.images, self.masks = folder / "images", folder / "masks"
        if folder.is_dir() and any(folder.iterdir()):
            self._check(dict(settings))
        for made in (folder, self.images, self.masks):
            make_folder(made)
        if not (folder / SETTINGS).exists():
            write_json(folder / SETTINGS, settings)
        self.done = self._read_provenance()

    def _check(self, settings: dict[str, Any]) -> None:
        try:
            found = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            message = f"--output {self.folder}: holds files that `synthesize` did not write; name another"
            raise CommandError(message, EXIT_USAGE) from error
        differing = [name for name in settings if found.get(name) != json.loads(json.dumps(settings[name]))]
        if differing:
            raise CommandError(
                f"--output {self.folder}: was begun with another {differing[0]} ({found.get(differing[0])}); "
                "repeat that, or name another folder",
                EXIT_USAGE,
            )

    def _read_provenance(self) -> set[str]:
        path = self.folder / PROVENANCE
        if not path.is_file():
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerow(field.name for field in fields(Provenance))
            return set()
        text = path.read_text(encoding="utf-8")
        complete = text[: text.rfind("\n") + 1]  # a kill may have cut the last row
        if complete != text:
            path.write_text(complete, encoding="utf-8")
        return {row["name"] for row in csv.DictReader(complete.splitlines())}

    def add(self, image: np.ndarray, mask: np.ndarray, provenance: Provenance) -> None:
        """Write one image (H, W) uint8 or uint16 and its mask (H, W) bool, then its row."""
        save_png(self.images / f"{provenance.name}.png", Image.fromarray(image))
        save_png(self.masks / f"{provenance.name}.png", Image.fromarray(mask.astype(np.uint8) * 255))
        with (self.folder / PROVENANCE).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(astuple(provenance))
        self.done.add(provenance.name)

    def finish(self, stems: Sequence[str]) -> None:
        """Write the list of all images, which makes the folder a data set."""
        write_stem_list(self.folder / TRAIN_LIST, stems)

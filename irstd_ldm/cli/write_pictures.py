"""Pictures per image: masks, overlays, probabilities."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import EXIT_USAGE, CommandError
from .outputs import make_folder, save_png
from .overlay import draw_overlay
from .writers import Ending, ImageResult


def mask_picture(result: ImageResult) -> Image.Image:
    """8-bit, 0 or 255."""
    return Image.fromarray(result.mask.astype(np.uint8) * 255)


def overlay_picture(result: ImageResult) -> Image.Image:
    return draw_overlay(result.image, result.targets)


def probability_picture(result: ImageResult) -> Image.Image:
    """16-bit, 65535 is a probability of 1; `evaluate --predictions` reads it."""
    return Image.fromarray(np.rint(result.probability * np.float32(65535)).astype(np.uint16))


PICTURES: dict[str, Callable[[ImageResult], Image.Image]] = {
    "masks": mask_picture,
    "overlays": overlay_picture,
    "probability": probability_picture,
}


MARKER = ".irstd-ldm"  # an empty file beside pictures that `detect` may replace


def refuse_foreign_pictures(folder: Path, kinds: Sequence[str]) -> None:
    """Looks at DIR/KIND before anything is written there.

    Raises:
        CommandError: it holds files that `detect` did not write (a data set's masks, say); wrong usage.
    """
    for kind in kinds:
        if (folder / kind).is_dir() and any((folder / kind).iterdir()) and not (folder / kind / MARKER).exists():
            raise CommandError(
                f"--output {folder}: its {kind}/ holds files that `detect` did not write; name another", EXIT_USAGE
            )


def remove_frame_pictures(folder: Path) -> None:
    """Those of an earlier run's frames in DIR/NAME/KIND; files of other origin or name stay."""
    if (folder / MARKER).exists():
        for path in folder.glob("*.png"):
            if path.stem.isdecimal():
                path.unlink()


class Pictures:
    """DIR/KIND/NAME.png.

    Args:
        folder: DIR.
        kind: of `PICTURES`.

    Raises:
        CommandError: DIR/KIND cannot be written.
    """

    def __init__(self, folder: Path, kind: str):
        self.folder, self._draw = folder / kind, PICTURES[kind]
        make_folder(self.folder)

    def begin(self, header: Mapping[str, Any]) -> None:
        pass

    def add(self, result: ImageResult) -> None:
        (self.folder / MARKER).touch()
        self._last = self.folder / f"{result.item.name}.png"
        save_png(self._last, self._draw(result))

    def take_back(self) -> None:
        self._last.unlink(missing_ok=True)

    def finish(self, ending: Ending) -> None:
        pass

    def discard(self) -> None:
        pass

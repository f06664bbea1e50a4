"""Pictures of a sequence's frames: DIR/NAME/masks, overlays, probability."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.images import displayable
from ..data.readers.frame import Frame
from ..targets import Target
from .inputs import InputFile
from .kinds import PICTURE_KINDS
from .write_pictures import Pictures, refuse_foreign_pictures, remove_frame_pictures
from .writers import ImageResult


class FramePictures:
    """DIR/NAME/KIND/FRAME.png, FRAME in six digits from 000000.

    Args:
        folder: DIR/NAME.
        kinds: of `PICTURE_KINDS`.
        value_range: black and white of overlays, None as in `displayable`.
        resume: keep the pictures of an earlier run.

    Raises:
        CommandError: DIR/NAME/KIND holds files of other origin, or cannot be written.
    """

    def __init__(self, folder: Path, kinds: Sequence[str], value_range: tuple[float, float] | None, resume: bool):
        refuse_foreign_pictures(folder, kinds)
        if not resume:
            for kind in PICTURE_KINDS:
                remove_frame_pictures(folder / kind)
        self._pictures = [Pictures(folder, kind) for kind in kinds]
        self._path, self._value_range = folder, value_range

    def add(self, frame: Frame, probability: np.ndarray, mask: np.ndarray, targets: Sequence[Target]) -> None:
        """Writes a frame's pictures.

        Raises:
            OSError: the disk refuses.
        """
        if not self._pictures:
            return
        shown = displayable(frame.image, self._value_range)
        item = InputFile(self._path, f"{frame.index:06}")
        for pictures in self._pictures:
            pictures.add(ImageResult(item, shown, probability, mask, targets))

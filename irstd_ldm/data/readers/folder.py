"""A folder of numbered still images, read as one sequence."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import is_sequence, open_frames
from .frame import MAX_PIXELS, Frame, FrameSource


class NumberedFrames(FrameSource):
    """Still images as successive frames, in the order of the numbers in their names.

    The next frame can be asked for after an ImageReadError of one.

    Args:
        folder: What holds the images.
        paths: The images.
        options: Of `open_frames`, for each.
    """

    num_frames: int

    def __init__(self, folder: Path, paths: Sequence[Path], max_pixels: int = MAX_PIXELS, **options):
        self.path, self._paths = folder, sorted(paths, key=natural)
        self.num_frames, self._options = len(paths), {"max_pixels": max_pixels, **options}

    def frames(self, start: int = 0) -> Iterator[Frame]:
        return map(self._frame, range(start, self.num_frames))

    def _frame(self, index: int) -> Frame:
        source = open_frames(self._paths[index], **self._options)
        if is_sequence(source):
            raise source.error("several frames, where one image is due")
        (frame,) = source.frames()
        return Frame(index, frame.image, None)


def natural(path: Path) -> list[str | int]:
    """A key to sort by: numbers in names by their value."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def are_numbered(paths: Sequence[Path]) -> bool:
    """Whether files, at least two, differ by a number in their names alone."""
    return len(paths) > 1 and len({re.sub(r"\d+", "0", path.stem) for path in paths}) == 1

"""Pictures of a frame: its mask, its probability, and the frame with boxes and confidences drawn on it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.images import displayable
from ..files import replacing
from ..targets import Target
from . import EXIT_USAGE, PICTURE_KINDS, CommandError, make_folder

MIN_LONG_SIDE_PX = 640  # smaller images are enlarged, so that a two-digit confidence is legible beside a 3 px target
MAX_LABELS = 100  # more text than that hides the image
BOX_MARGIN_PX = 2  # of the input image, at least: the box must not cover the target
BOX_COLOUR = (255, 64, 64)
TEXT_COLOUR = (255, 235, 59)
OUTLINE_COLOUR = (0, 0, 0)
MARKER = ".irstd-ldm"  # an empty file beside pictures that `detect` may replace

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom


class Pictures:
    """DIR/KIND/NAME.png, of a frame all kinds or none.

    Args:
        folder: DIR.
        kinds: Some of `PICTURE_KINDS`.
        value_range: Gray values of black and white in overlays, None as in `displayable`.

    Raises:
        CommandError: DIR/KIND holds files of other origin (a data set's masks, say), or cannot be written.
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
        """Makes DIR/KIND.

        Raises:
            CommandError: It cannot be written.
        """
        for path in self.folders:
            make_folder(path)

    def write(
        self, name: str, image: np.ndarray, probability: np.ndarray, mask: np.ndarray, targets: Sequence[Target]
    ) -> None:
        """Writes a frame's pictures.

        Args:
            name: NAME.
            image: (H, W), as `to_gray` returns it.
            probability: (H, W) float32 in [0, 1]; 16-bit in the picture, 65535 is a probability of 1.
            mask: (H, W) bool; 0 or 255 in the picture.
            targets: In pixels of `image`.

        Raises:
            OSError: The disk refuses; no picture of the frame is left.
        """
        draw: dict[str, Callable[[], Image.Image]] = {
            "masks": lambda: Image.fromarray(mask.astype(np.uint8) * 255),
            "overlays": lambda: draw_overlay(displayable(image, self._value_range), targets),
            "probability": lambda: Image.fromarray(np.rint(probability * np.float32(65535)).astype(np.uint16)),
        }
        try:
            for path in self.folders:
                (path / MARKER).touch()
                save_png(path / f"{name}.png", draw[path.name]())
        except BaseException:  # an interruption too must not leave some of them
            self.remove(name)
            raise

    def remove(self, name: str) -> None:
        """Removes a frame's pictures."""
        for path in self.folders:
            (path / f"{name}.png").unlink(missing_ok=True)


def save_png(path: Path, image: Image.Image) -> None:
    """Writes a picture under a temporary name and renames it."""
    with replacing(path) as part:
        image.save(part, format="PNG")


def remove_frame_pictures(folder: Path) -> None:
    """Removes DIR/KIND/FRAME.png of an earlier run; files of other origin or name stay."""
    for kind in PICTURE_KINDS:
        if (folder / kind / MARKER).exists():
            for path in (folder / kind).glob("*.png"):
                if path.stem.isdecimal():
                    path.unlink()


def draw_overlay(gray: np.ndarray, targets: Sequence[Target]) -> Image.Image:
    """The image in RGB with a box per target, and the confidence beside the 100 most confident ones.

    Args:
        gray: (H, W), as `to_gray` returns it; other types than uint8 are stretched between their 0.1 and 99.9
            percentiles.
        targets: in pixels of `gray`.

    Returns:
        An RGB image of s * W x s * H pixels, s the smallest whole factor that makes the longer side at least 640.
    """
    height, width = gray.shape
    scale = max(1, -(-MIN_LONG_SIDE_PX // max(height, width)))
    picture = Image.fromarray(displayable(gray)).convert("RGB")
    picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    long_side = max(picture.size)
    font = ImageFont.load_default(size=max(16, long_side // 45))
    line_px = max(2, long_side // 500)
    margin_px = max(BOX_MARGIN_PX * scale, long_side // 120)
    boxes = [_box(target, scale, margin_px, picture.size) for target in targets]
    for box in boxes:
        draw.rectangle(box, outline=BOX_COLOUR, width=line_px)
    occupied = list(boxes)
    by_confidence = sorted(zip(targets, boxes, strict=True), key=lambda pair: -pair[0].confidence)
    for target, box in by_confidence[:MAX_LABELS]:
        text = f"{target.confidence:.2f}"
        _, _, text_width, text_height = draw.textbbox((0, 0), text, font=font, stroke_width=2)
        place = _free_place(box, (int(text_width) + 2, int(text_height) + 2), picture.size, occupied)
        occupied.append(place)
        draw.text(place[:2], text, font=font, fill=TEXT_COLOUR, stroke_width=2, stroke_fill=OUTLINE_COLOUR)
    return picture


def _box(target: Target, scale: int, margin_px: int, size: tuple[int, int]) -> Rectangle:
    """The target's box in the enlarged picture of this size, grown by `margin_px` of it."""
    return (
        max(0, target.left * scale - margin_px),
        max(0, target.top * scale - margin_px),
        min(size[0], (target.left + target.width) * scale + margin_px) - 1,
        min(size[1], (target.top + target.height) * scale + margin_px) - 1,
    )


def _free_place(
    box: Rectangle, text_size: tuple[int, int], size: tuple[int, int], occupied: Sequence[Rectangle]
) -> Rectangle:
    """Where the text covers no box and no text: above the box, below, right or left of it; else above."""
    width, height = text_size
    corners = ((box[0], box[1] - height - 1), (box[0], box[3] + 1), (box[2] + 2, box[1]), (box[0] - width - 1, box[1]))
    places = []
    for left, top in corners:
        left = max(0, min(left, size[0] - width))
        top = max(0, min(top, size[1] - height))
        places.append((left, top, left + width, top + height))
    return next((place for place in places if not any(_overlap(place, other) for other in occupied)), places[0])


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]

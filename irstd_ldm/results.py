"""What one does with detections: look at them, save them, hand them on. Neither torch nor diffusers is needed."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .data.images import displayable
from .targets import Target

MIN_LONG_SIDE_PX = 640  # smaller images are enlarged, so that a two-digit confidence is legible beside a 3 px target
MAX_LABELS = 100  # more text than that hides the image
BOX_MARGIN_PX = 2  # least distance of a box from its target in pixels of the input
BOX_COLOUR = (255, 64, 64)
TEXT_COLOUR = (255, 235, 59)
OUTLINE_COLOUR = (0, 0, 0)

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom


class DetectionsMixin:
    """The methods of a detector's output, which has `images`, `mask` and `targets` of N images."""

    images: list[np.ndarray]
    mask: Any
    targets: list[list[Target]]

    def plot(self, index: int = 0) -> Image.Image:
        """The image of an index with its targets' boxes and confidences, see `draw_overlay`."""
        return draw_overlay(self.images[index], self.targets[index])

    def to_json(self) -> str:
        """A list of the targets of every image, as strict JSON; a ratio that is not defined is null."""
        return json.dumps(_rows(self.targets))

    def save(self, folder: str | PathLike, names: Sequence[str] | None = None) -> None:
        """Writes FOLDER/masks/NAME.png, FOLDER/overlays/NAME.png and FOLDER/targets.json, replacing what is there.

        Args:
            folder: Made if absent.
            names: One of each image; None = 0, 1, 2 and so on.

        Raises:
            ValueError: `names` are not as many as the images, two are the same, or one leads out of the folder.
        """
        names = [str(index) for index in range(len(self.images))] if names is None else [*names]
        if not len(set(names)) == len(names) == len(self.images):
            raise ValueError(f"`names` must be {len(self.images)} different ones, got {names}")
        if any(name in ("", ".", "..") or {"/", "\\"} & set(name) for name in names):
            raise ValueError(f"`names` must be names of files without folders, got {names}")
        masks, overlays = Path(folder, "masks"), Path(folder, "overlays")
        for path in (masks, overlays):
            path.mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(names):
            Image.fromarray(np.uint8(255) * np.asarray(self.mask[index][0], np.uint8)).save(masks / f"{name}.png")
            self.plot(index).save(overlays / f"{name}.png")
        by_name = dict(zip(names, _rows(self.targets), strict=True))
        Path(folder, "targets.json").write_text(json.dumps(by_name, indent=2) + "\n", encoding="utf-8")


def _rows(targets: Sequence[Sequence[Target]]) -> list[list[dict[str, int | float | None]]]:
    return [[target.to_dict() for target in of_image] for of_image in targets]


def yolo_labels(targets: Sequence[Target], shape: tuple[int, ...]) -> str:
    """Boxes as YOLO writes detections: a line "0 x y width height confidence" per target.

    Centre and size are shares of the image's width and height; the only class is 0.
    """
    height, width = shape
    lines = []
    for target in targets:
        left, top, right, bottom = target.xyxy
        box = (left + right) / 2 / width, (top + bottom) / 2 / height, target.width / width, target.height / height
        lines.append(" ".join(f"{value:.6g}" for value in (0, *box, target.confidence)))
    return "".join(f"{line}\n" for line in lines)


def draw_overlay(gray: np.ndarray, targets: Sequence[Target]) -> Image.Image:
    """The image (H, W) in RGB with a box per target, and the confidence beside the 100 most confident ones.

    Other types than uint8 are stretched between their 0.1 and 99.9 percentiles. The picture has s * W x s * H pixels,
    s the smallest whole factor that makes the longer side at least 640.
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
        label = _free_rectangle(box, (int(text_width) + 2, int(text_height) + 2), picture.size, occupied)
        occupied.append(label)
        draw.text(label[:2], text, font=font, fill=TEXT_COLOUR, stroke_width=2, stroke_fill=OUTLINE_COLOUR)
    return picture


def _box(target: Target, scale: int, margin_px: int, size: tuple[int, int]) -> Rectangle:
    """The target's box in the enlarged picture of this size, grown by `margin_px` of it."""
    return (
        max(0, target.left * scale - margin_px),
        max(0, target.top * scale - margin_px),
        min(size[0], (target.left + target.width) * scale + margin_px) - 1,
        min(size[1], (target.top + target.height) * scale + margin_px) - 1,
    )


def _free_rectangle(
    box: Rectangle, text_size: tuple[int, int], size: tuple[int, int], occupied: Sequence[Rectangle]
) -> Rectangle:
    """A position at which the text covers no box and no text: above, below, right or left of the box; else above."""
    width, height = text_size
    corners = ((box[0], box[1] - height - 1), (box[0], box[3] + 1), (box[2] + 2, box[1]), (box[0] - width - 1, box[1]))
    candidates = []
    for left, top in corners:
        left = max(0, min(left, size[0] - width))
        top = max(0, min(top, size[1] - height))
        candidates.append((left, top, left + width, top + height))
    return next((one for one in candidates if not any(_overlap(one, other) for other in occupied)), candidates[0])


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of (H, W) bool: background and foreground in turns, column by column."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(edges, prepend=0, append=flat.size).tolist()
    return [0, *counts] if flat[0] else counts


def mask_of_run_lengths(counts: list[int], height: int, width: int) -> np.ndarray:
    """The mask (H, W) bool of `run_lengths`; a ValueError where the counts do not fill it."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T

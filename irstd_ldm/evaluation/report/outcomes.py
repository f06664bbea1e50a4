"""Images with their hits, misses and false alarms, told apart by colour and by shape, and the worst of them."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from ...data.images import displayable
from ...targets import Component, ConfidenceCalibration
from ..matching import ImageComponents
from ..metrics import iou
from ..result import EvaluationResult, ImageEvaluation

# Okabe and Ito's palette, which the usual colour-blindnesses tell apart; light enough for dark frames.
HIT_COLOUR = (86, 180, 233)
MISS_COLOUR = (240, 228, 66)
FALSE_ALARM_COLOUR = (213, 94, 0)
EDGE_COLOUR = (0, 0, 0)
COLOURS = {"box": HIT_COLOUR, "circle": MISS_COLOUR, "diamond": FALSE_ALARM_COLOUR}

LONG_SIDE_PX = (640, 960)  # smaller images are enlarged by a whole factor, larger ones reduced
MARGIN_PX = 9  # picture pixels between a component's box and the mark around it
LINE_PX = 3
DETAIL_PX = 24  # side of a cut-out around an error in pixels of the image
DETAIL_SCALE = 8
OUTLINE_PX = 2
CROP_PX = 48  # side of a target's crop in a paper's grid
NUM_DETAILS = 3
UNCHANGING_NOUNS = ("predicted", "px")


@dataclass(frozen=True, eq=False)
class WorstImage:
    """An image, drawn.

    Attributes:
        stem: Its name.
        misses, false_targets: Targets without a predicted component, predicted components without a target.
        targets: Number of targets of the image.
        iou: IoU of its pixels.
        picture: PNG file of the whole image; marks stand around their components and cover none.
        details: PNG files of cut-outs around the first errors, enlarged, with the outlines of truth and prediction.
    """

    stem: str
    misses: int
    false_targets: int
    targets: int
    iou: float
    picture: bytes
    details: tuple[bytes, ...]

    @property
    def rank(self) -> tuple[int, float, str]:
        """Sorts the worst image first."""
        return -self.misses - self.false_targets, self.iou, self.stem


@dataclass(frozen=True, eq=False)
class TargetCrop:
    """The surroundings of an image's first target, (48, 48) or what the image has of it."""

    gray: np.ndarray  # uint8
    truth: np.ndarray  # bool
    predicted: np.ndarray  # bool


class WorstImages:
    """The images of an evaluation with the most errors, drawn as they stream past; memory holds these alone.

    An image is worse with more errors (missed targets and false alarms), then with a lower IoU, then by its name.
    Pass `observe` to `evaluate_probabilities`. It can be pickled.

    Args:
        num_worst: Highest number of images kept.
        keep_crops: Whether to keep `crops`, for the grid of a paper.

    Attributes:
        images: The images, the worst first.
        crops: Of every image with a target, its first one, by the image's stem.

    Raises:
        ValueError: `num_worst` is negative.
    """

    def __init__(self, num_worst: int = 12, keep_crops: bool = False):
        if num_worst < 0:
            raise ValueError(f"`num_worst` must be at least 0, got {num_worst}")
        self.num_worst, self.keep_crops = num_worst, keep_crops
        self.images: list[WorstImage] = []
        self.crops: dict[str, TargetCrop] = {}

    def observe(
        self, image: ImageEvaluation, gray: np.ndarray, components: ImageComponents, pairs: list[tuple[int, int]]
    ) -> None:
        """Draws and keeps an image if it is among the worst; the arguments are those of `result.Observer`."""
        counts = image.counts
        if self.keep_crops and components.targets:
            self.crops[image.stem] = _crop(displayable(gray), components)
        misses, false_targets = counts.targets - counts.hits, counts.predicted - counts.hits
        rank = -misses - false_targets, iou(counts), image.stem
        if sum(worst.rank < rank for worst in self.images) < self.num_worst:
            drawn = _draw_outcomes(displayable(gray), components, pairs)
            self.add(WorstImage(image.stem, misses, false_targets, counts.targets, iou(counts), *drawn))

    def add(self, *images: WorstImage) -> None:
        """Keeps those of the images that are among the worst, which may have been drawn by another process."""
        self.images = sorted([*self.images, *images], key=lambda image: image.rank)[: self.num_worst]


def _crop(gray: np.ndarray, components: ImageComponents) -> TargetCrop:
    target = components.targets[0]
    top, left = (
        int(np.clip(round(centre) - CROP_PX // 2, 0, max(0, extent - CROP_PX)))
        for centre, extent in zip((target.y, target.x), gray.shape, strict=True)
    )
    window = np.s_[top : top + CROP_PX, left : left + CROP_PX]
    return TargetCrop(
        gray[window].copy(), components.truth_labels[window] > 0, components.prediction_labels[window] > 0
    )


def _draw_outcomes(
    gray: np.ndarray, components: ImageComponents, pairs: list[tuple[int, int]]
) -> tuple[bytes, tuple[bytes, ...]]:
    """`picture` and `details` of an image (H, W) uint8: the outcome of every target and predicted component."""
    found, right = {target for target, _ in pairs}, {predicted for _, predicted in pairs}
    hits = [target for index, target in enumerate(components.targets) if index in found]
    misses = [target for index, target in enumerate(components.targets) if index not in found]
    false_alarms = [predicted for index, predicted in enumerate(components.predicted) if index not in right]
    picture, scale = _resized(gray)
    draw = ImageDraw.Draw(picture)
    for shape, marked in (("box", hits), ("diamond", false_alarms), ("circle", misses)):
        for component in marked:
            _mark(draw, shape, component, scale)
    errors = [*misses, *false_alarms][:NUM_DETAILS]
    return _png(picture), tuple(_png(_detail(gray, components, error)) for error in errors)


def _resized(gray: np.ndarray) -> tuple[Image.Image, float]:
    """The image in RGB and how many of its pixels one of `gray` is wide."""
    height, width = gray.shape
    smallest, largest = LONG_SIDE_PX
    long_side = max(height, width)
    image = Image.fromarray(gray)
    if long_side > largest:
        scale = largest / long_side
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return image.resize(size, Image.Resampling.BOX).convert("RGB"), scale
    factor = -(-smallest // long_side)
    return image.resize((width * factor, height * factor), Image.Resampling.NEAREST).convert("RGB"), float(factor)


def _mark(draw: ImageDraw.ImageDraw, shape: str, component: Component, scale: float) -> None:
    """Draws the shape around the component, a dark line under the bright one."""
    left, top = component.left * scale - MARGIN_PX, component.top * scale - MARGIN_PX
    right = (component.left + component.width) * scale + MARGIN_PX
    bottom = (component.top + component.height) * scale + MARGIN_PX
    x, y, radius_x, radius_y = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
    for paint, width in ((EDGE_COLOUR, LINE_PX + 2), (COLOURS[shape], LINE_PX)):
        grown = (width - LINE_PX) / 2
        if shape == "box":
            draw.rectangle((left - grown, top - grown, right + grown, bottom + grown), outline=paint, width=width)
        elif shape == "circle":
            radius = max(radius_x, radius_y) + grown
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=paint, width=width)
        else:
            reach = (radius_x + radius_y) * 0.8
            corners = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
            draw.line([*corners, *corners[:2]], fill=paint, width=width, joint="curve")


def _detail(gray: np.ndarray, components: ImageComponents, error: Component) -> Image.Image:
    """The surroundings of an error, stretched in contrast, with the outlines of all components."""
    height, width = gray.shape
    left = int(np.clip(round(error.x) - DETAIL_PX // 2, 0, max(0, width - DETAIL_PX)))
    top = int(np.clip(round(error.y) - DETAIL_PX // 2, 0, max(0, height - DETAIL_PX)))
    window = np.s_[top : top + DETAIL_PX, left : left + DETAIL_PX]
    cut = gray[window].astype(np.float64)
    cut = (cut - cut.min()) / max(cut.max() - cut.min(), 1) * 255
    large = np.kron(np.rint(cut).astype(np.uint8), np.ones((DETAIL_SCALE, DETAIL_SCALE), np.uint8))
    rgb = np.stack([large] * 3, axis=2)  # (enlarged H, enlarged W, 3)
    for labels, colour in (
        (components.truth_labels, MISS_COLOUR),
        (components.prediction_labels, FALSE_ALARM_COLOUR),
    ):
        mask = np.kron(labels[window] > 0, np.ones((DETAIL_SCALE, DETAIL_SCALE), bool))
        rgb[_outline(mask, inside=colour == FALSE_ALARM_COLOUR)] = colour
    return Image.fromarray(rgb)


def _outline(mask: np.ndarray, inside: bool) -> np.ndarray:
    """The mask's own pixels along its edge, or those of its surroundings."""
    if inside:
        return mask & ~ndimage.binary_erosion(mask, iterations=OUTLINE_PX, border_value=1)
    return ndimage.binary_dilation(mask, iterations=OUTLINE_PX) & ~mask


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


@dataclass(frozen=True, eq=False)
class NamedEvaluation:
    """A detector on a data set: an evaluation with the names, files and settings that a report shows beside it.

    Attributes:
        detector, data: Names; evaluations of one `data` share plots and are compared.
        settings: How the numbers were made (model, split, steps, ...), in the report's list of settings.
        result: The numbers.
        worst: The worst images of the same evaluation, drawn.
        images: Image files by stem, for links; stems without a file are not linked.
        calibration: The detector's calibration, shown beside its confidences.
        crops: `WorstImages.crops`, for the grid of a paper.
    """

    detector: str
    data: str
    settings: Mapping[str, Any]
    result: EvaluationResult
    worst: Sequence[WorstImage] = ()
    images: Mapping[str, Path] = field(default_factory=dict)
    calibration: ConfidenceCalibration | None = None
    crops: Mapping[str, TargetCrop] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """DETECTOR on DATA."""
        return f"{self.detector} on {self.data}"

    @property
    def stems(self) -> list[str]:
        """The images, in the order of the result."""
        return [image.stem for image in self.result.per_image]


def file_stem(name: str) -> str:
    """A name without blanks and separators, for a file."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "data"


def count(value: int, noun: str) -> str:
    """The number with thousands apart, and the noun, whose plural has an s."""
    return f"{value:,} {noun}" + ("" if value == 1 or noun in UNCHANGING_NOUNS else "s")

"""A picture of synthetic images beside what they were made of, for the eye."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from irstd_ldm.targets import Component, label_components

PANEL_PX, GAP_PX, TEXT_PX = 256, 8, 16
CLOSE_UP_PX = 40  # pixels of the image around a target
BOX_MARGIN_PX = 3  # pixels of the image
BOX_COLOUR, PAPER, INK = (255, 64, 64), (255, 255, 255), (0, 0, 0)
COLUMNS = (
    "source",
    "synthetic",
    "synthetic - source (gray = 0)",
    "a target in the source, stretched",
    "in the synthetic image, alike",
)


class Example(NamedTuple):
    """One synthetic image and, where it is at hand, its source: gray levels (H, W), 0 to 255, of one shape."""

    caption: str
    source: np.ndarray | None
    synthetic: np.ndarray
    mask: np.ndarray  # (H, W) bool, the synthetic image's


def contact_sheet(examples: Sequence[Example]) -> Image.Image:
    """A row per example: source, synthetic, their difference, and the largest target close up; boxes on targets.

    Both close-ups are stretched alike, from the darkest to the brightest level in either.
    """
    row_px = TEXT_PX + GAP_PX + PANEL_PX
    size = (GAP_PX + len(COLUMNS) * (PANEL_PX + GAP_PX), TEXT_PX + 2 * GAP_PX + len(examples) * (row_px + GAP_PX))
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=TEXT_PX - 2)
    lefts = [GAP_PX + column * (PANEL_PX + GAP_PX) for column in range(len(COLUMNS))]
    for left, title in zip(lefts, COLUMNS, strict=True):
        draw.text((left, GAP_PX // 2), title, font=font, fill=INK)
    for number, example in enumerate(examples):
        top = TEXT_PX + 2 * GAP_PX + number * (row_px + GAP_PX)
        draw.text((GAP_PX, top), example.caption, font=font, fill=INK)
        for left, panel in zip(lefts, _panels(example), strict=True):
            if panel is not None:
                sheet.paste(panel, (left, top + TEXT_PX + GAP_PX))
    return sheet


def _panels(example: Example) -> list[Image.Image | None]:
    source, synthetic = example.source, example.synthetic
    _, targets = label_components(example.mask)
    whole = (0, 0, synthetic.shape[1], synthetic.shape[0])
    difference = None if source is None else 127.5 + (synthetic - source)
    panels = [_panel(source, whole, targets), _panel(synthetic, whole, targets), _panel(difference, whole, [])]
    if not targets:
        return [*panels, None, None]
    largest = max(targets, key=lambda target: target.area_px)
    side = max(CLOSE_UP_PX, 2 * max(largest.width, largest.height))
    left, top = round(largest.x) - side // 2, round(largest.y) - side // 2
    window = (max(left, 0), max(top, 0), min(left + side, whole[2]), min(top + side, whole[3]))
    close_ups = [one[window[1] : window[3], window[0] : window[2]] for one in (source, synthetic) if one is not None]
    low, gain = np.min(close_ups), 255 / max(np.ptp(close_ups), 1)
    pair = (None if one is None else gain * (one - low) for one in (source, synthetic))
    return [*panels, *(_panel(one, window, [largest]) for one in pair)]


def _panel(
    levels: np.ndarray | None, window: tuple[int, int, int, int], targets: Sequence[Component]
) -> Image.Image | None:
    """The window (left, top, right, bottom) of gray levels (H, W), where there are any, enlarged, with boxes."""
    if levels is None:
        return None
    left, top, right, bottom = window
    picture = Image.fromarray(np.clip(np.rint(levels[top:bottom, left:right]), 0, 255).astype(np.uint8))
    scale = PANEL_PX / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    picture = picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    for target in targets:
        corner = np.array([target.left - left, target.top - top])
        box = scale * np.concatenate([corner - BOX_MARGIN_PX, corner + (target.width, target.height) + BOX_MARGIN_PX])
        draw.rectangle(np.clip(box, 0, [size[0] - 1, size[1] - 1] * 2).tolist(), outline=BOX_COLOUR)
    return picture

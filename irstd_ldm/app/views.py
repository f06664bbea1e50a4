"""Pictures of the maps for the viewer: PNG, one picture pixel per pixel of the image."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from ..data.images import displayable
from .detection import DetectedFrame

MAX_SIDE_PX = 4096  # of a picture; larger images are shown reduced

# Dark to light at an even pace, as perceived: probability and uncertainty keep their order in gray and for the
# colour-blind.
_ANCHORS = ((0, 0, 4), (60, 15, 110), (145, 40, 125), (220, 70, 90), (250, 150, 90), (252, 253, 200))
COLOURS = np.stack(
    [
        np.interp(np.arange(256), np.linspace(0, 255, len(_ANCHORS)), channel)
        for channel in zip(*_ANCHORS, strict=True)
    ],
    axis=1,
).astype(np.uint8)  # (256, 3)


def picture_layers(frame: DetectedFrame) -> dict[str, Any]:
    """The pictures of one frame that no threshold changes, as data URLs, and the frame's size in pixels.

    Uncertainty is shown from 0 to the largest value of the frame, which `uncertainty_max` states.
    """
    height, width = frame.gray.shape
    layers = {"width": width, "height": height, "image": data_url(displayable(frame.gray))}
    layers["probability"] = data_url(COLOURS[np.rint(frame.probability * 255).astype(np.uint8)])
    if frame.uncertainty is not None:
        largest = float(frame.uncertainty.max())
        share = frame.uncertainty / largest if largest else frame.uncertainty
        layers |= {"uncertainty": data_url(COLOURS[np.rint(share * 255).astype(np.uint8)]), "uncertainty_max": largest}
    return layers


def data_url(pixels: np.ndarray) -> str:
    """Pixels (H, W) or (H, W, 3) uint8 as the address of a PNG, its longer side reduced to `MAX_SIDE_PX`."""
    image = Image.fromarray(pixels)
    longer = max(image.size)
    if longer > MAX_SIDE_PX:
        width, height = (max(1, round(side * MAX_SIDE_PX / longer)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=3)
    return file.getvalue()


def mask_image(mask: np.ndarray) -> Image.Image:
    """A mask (H, W) bool as an 8-bit image of 0 and 255."""
    return Image.fromarray(mask.astype(np.uint8) * 255)

"""One rule for masks, whoever reads them: it tells a target from its background in a picture of any kind."""

from os import PathLike

import numpy as np
from PIL import Image

from .images import to_gray
from .readers import read_stored

MASK_THRESHOLD = 128  # IRSTD-1k's masks have stray grey pixels (64) that are no target
ALLOWED = (
    f"a mask is gray with 0 and 255, cut at {MASK_THRESHOLD}, or has two values, palette entries or colours, the "
    "brighter of which is the target's and covers at most half of it"
)


def read_mask(path: str | PathLike[str]) -> np.ndarray:
    """The levels of a mask's file, see `mask_levels`; its targets are the pixels >= `MASK_THRESHOLD`.

    Raises:
        ImageReadError, ImportError, OSError: a file that cannot be read as one image.
        ValueError: see `mask_levels`.
    """
    return mask_levels(read_stored(path), f"'{path}'")


def mask_levels(stored: np.ndarray | Image.Image, name: str) -> np.ndarray:
    """The levels of a mask, (H, W) uint8: as stored where it is gray with 0 and 255, else 0 and 255.

    The brighter of two values, palette entries or colours becomes 255; a mask of 0 alone holds no target.

    Args:
        stored: an array (H, W) or (H, W, 3) of a type that `to_gray` takes, or a PIL image of any mode.
        name: how errors call the mask.

    Raises:
        ValueError: neither two values nor gray with 0 and 255, a target of more than half of the pixels, or one that
            is told from its background by transparency alone.
    """
    gray, num_values = to_gray(stored), _number_of_colours(stored)
    values = np.unique(gray)
    if num_values is None and values[0] == 0 and values[-1] == 255:
        levels = gray.astype(np.uint8)
    elif len(values) == (num_values or len(values)) <= 2:
        levels = np.where((gray == values[-1]) & (values[-1] != 0), 255, 0).astype(np.uint8)
    else:
        raise ValueError(f"mask {name} has {num_values or len(values)} values; {ALLOWED}")
    if len(values) == 1 and _is_drawn_in_alpha(stored):
        raise ValueError(f"mask {name} is of one colour and drawn in its transparency; {ALLOWED}")
    share = np.count_nonzero(levels >= MASK_THRESHOLD) / levels.size
    if share > 0.5:
        raise ValueError(f"mask {name} has its brighter value on {share:.0%} of its pixels; {ALLOWED}")
    return levels


def _number_of_colours(stored: np.ndarray | Image.Image) -> int | None:
    """How many colours an image has; None of a gray one."""
    if isinstance(stored, Image.Image):
        if stored.mode in ("1", "L", "LA", "I", "F") or stored.mode.startswith("I;16"):
            return None
        stored = np.asarray(stored.convert("RGB"))
    if stored.ndim == 2 or not np.any(stored != stored[..., :1]):
        return None
    return len(np.unique(stored.reshape(-1, stored.shape[-1]), axis=0))


def _is_drawn_in_alpha(stored: np.ndarray | Image.Image) -> bool:
    if not isinstance(stored, Image.Image) or not stored.has_transparency_data:
        return False
    low, high = stored.convert("RGBA").getchannel("A").getextrema()
    return low != high

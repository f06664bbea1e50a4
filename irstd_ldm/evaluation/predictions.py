"""Masks and probability maps that a detector, of whatever origin, wrote as image files."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

PREDICTION_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def read_prediction(path: str | Path) -> np.ndarray:
    """Reads a predicted mask or probability map.

    Args:
        path: a gray image of 1 bit, 8 bit (/255) or 16 bit (/65535), or RGB of 8 bit with equal channels.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be decoded, or holds another kind of image.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            mode = image.mode
            values = np.asarray(image)  # (H, W) or (H, W, 3)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    if mode == "RGB":
        if np.any(values != values[..., :1]):
            raise ValueError(f"{path} is a colour image: a prediction must be gray")
        values = values[..., 0]  # (H, W)
    elif mode not in ("1", "L", "I;16", "I;16B"):
        raise ValueError(f"{path} has Pillow mode {mode}: a prediction must be gray of 1, 8 or 16 bit")
    if mode == "1":
        return values.astype(np.float32)
    full_scale = 65535 if mode.startswith("I;16") else 255
    if values.max() == 1:
        logger.warning("%s: highest value 1 of %d, read as a probability of %.2g", path, full_scale, 1 / full_scale)
    return values.astype(np.float32) / np.float32(full_scale)


def find_predictions(root: str | Path, stems: Sequence[str]) -> dict[str, Path]:
    """Finds ROOT/stem.png (or .bmp, .tif, .tiff) for every stem.

    Returns:
        The files by stem, in the order of `stems`.

    Raises:
        ValueError: `root` is no folder, or stems have no file or several.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"`root` must be a folder of predictions, got {root}")
    files: dict[str, list[Path]] = {}
    for path in sorted(root.iterdir()):
        if path.suffix.lower() in PREDICTION_SUFFIXES:
            files.setdefault(path.stem, []).append(path)
    missing = [stem for stem in stems if stem not in files]
    if missing:
        raise ValueError(f"{root} has no prediction for {len(missing)} of {len(stems)} images: {_shorten(missing)}")
    several = [path.name for stem in stems if len(files[stem]) > 1 for path in files[stem]]
    if several:
        raise ValueError(f"{root} has several predictions of one image: {_shorten(several)}")
    return {stem: files[stem][0] for stem in stems}


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

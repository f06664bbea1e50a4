"""The ways published work resizes images and reads the truth, by name, and predictions that lie in a folder.

A protocol has an image side and a truth side: run the pipeline on `prepare_image(gray)` and score its probability
against `prepare_truth(mask)`. Scoring alone is not the protocol where the network would have seen another image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.masks import MASK_THRESHOLD, mask_levels
from ..data.readers import IMAGE_SUFFIXES, ImageReadError, read_stored

# Predicted maps of several values, all below it, may be numbers of targets in 8 bit; in 16 bit maps are as faint where
# a detector finds nothing, also of two values up to the other.
FAINT_8_BIT, FAINT_16_BIT = 8, 2


@dataclass(frozen=True)
class Truth:
    """The truth of one image as a protocol reads it, at the protocol's size.

    Attributes:
        mask: (H, W) bool, the pixels of the targets: intersection, components, Pd, Fa.
        union_mask: (H, W) bool, the pixels that count in the union of the IoU.
    """

    mask: np.ndarray
    union_mask: np.ndarray


@dataclass(frozen=True)
class Protocol:
    """How one line of published work prepares images and truth.

    Attributes:
        name: The key in `PROTOCOLS`.
        description: One line, printed beside every number.
        size: (height, width) in pixels that images and truth are resized to, None for native size.
        target_level: Lowest value of an 8-bit mask that makes a target pixel.
        union_level: Lowest value of an 8-bit mask that counts in the union of the IoU.
    """

    name: str
    description: str
    size: tuple[int, int] | None
    target_level: int
    union_level: int

    def prepare_image(self, gray: np.ndarray) -> np.ndarray:
        """The image the pipeline has to be run on.

        Args:
            gray: (H, W), uint8, uint16, int32 or float32.

        Returns:
            `gray` itself at native size. Otherwise resized, Pillow's bilinear filter (which averages when it
            shrinks) and the aspect ratio given up: uint8 stays uint8, rounded; other types become float32.
        """
        if self.size is None:
            return gray
        array = gray if gray.dtype == np.uint8 else gray.astype(np.float32)
        return _resize(array, self.size, Image.Resampling.BILINEAR)

    def prepare_truth(self, mask: np.ndarray) -> Truth:
        """The truth at the protocol's size, resized by nearest neighbour.

        Args:
            mask: (H, W) uint8 as stored, or bool (True is 255) where the protocol makes no difference between grey
                levels.

        Raises:
            TypeError: `mask` has another type, or is bool under a protocol that needs the grey levels.
            ValueError: `mask` is not two-dimensional.
        """
        if not isinstance(mask, np.ndarray) or mask.dtype not in (np.uint8, np.bool_):
            raise TypeError(f"`mask` must be uint8 or bool, got {getattr(mask, 'dtype', type(mask).__name__)}")
        if mask.ndim != 2:
            raise ValueError(f"`mask` must have shape (H, W), got {mask.shape}")
        if mask.dtype == np.bool_:
            if self.target_level != self.union_level:
                raise TypeError(f"`mask` must be the uint8 mask as stored under protocol {self.name!r}, got bool")
            mask = mask.astype(np.uint8) * np.uint8(255)
        if self.size is not None:
            mask = _resize(mask, self.size, Image.Resampling.NEAREST)
        return Truth(mask=mask >= self.target_level, union_mask=mask >= self.union_level)

    def prepare_probability(self, probability: np.ndarray) -> np.ndarray:
        """A probability map at the protocol's size.

        A map that already has that size is returned as it is. A map at the image's native size is resized by
        Pillow's bilinear filter in float32: this scores a detector that ran at native size on the small grid; it is
        not what published 256x256 numbers are, whose networks ran on `prepare_image`.

        Args:
            probability: (H, W) floating point in [0, 1].
        """
        if self.size is None or probability.shape == self.size:
            return probability
        return _resize(probability.astype(np.float32), self.size, Image.Resampling.BILINEAR)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("native", "native size, truth >= 128", size=None, target_level=128, union_level=128),
        # BasicIRSTD's metrics.py divides masks by 255 and never binarises them: a grey truth pixel >= .5 is in the
        # union and can never be in the intersection; only 255 makes targets.
        Protocol(
            "basicirstd", "native size, truth == 255 (IoU union: >= 128)", None, target_level=255, union_level=128
        ),
        # DNANet, MSHNet, LGLDNet.
        Protocol("resize256", "256x256, image bilinear, truth nearest and >= 128", (256, 256), 128, 128),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {', '.join(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name]


def _resize(array: np.ndarray, size: tuple[int, int], filter: Image.Resampling) -> np.ndarray:
    height, width = size
    return np.asarray(Image.fromarray(array).resize((width, height), filter))  # (height, width)


def read_prediction(path: str | Path) -> np.ndarray:
    """Reads a predicted mask or probability map.

    Args:
        path: A file that `read_image` reads: a mask of two values, palette entries or colours (`data.masks`), or a
            probability map, gray of 8 bit (/255) or 16 bit (/65535), or RGB of 8 bit with equal channels.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be decoded, holds another kind of image, or may be a mask as well as a map.
    """
    try:
        stored = read_stored(path)
    except ImageReadError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    values = np.asarray(stored)  # (H, W) or (H, W, channels)
    is_gray = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3 and not np.any(values != values[..., :1]))
    mode = stored.mode if isinstance(stored, Image.Image) else None
    if values.ndim == 3 and is_gray:
        values = values[..., 0]
    if not is_gray or mode == "P" or len(found := np.unique(values)) <= 2:
        if is_gray and values.dtype.itemsize == 2 and 0 < values.max() <= FAINT_16_BIT:
            raise ValueError(f"{path} may be a mask, or a map of nearly nothing: store a mask as 0 and 255")
        return (mask_levels(stored, f"'{path}'") >= MASK_THRESHOLD).astype(np.float32)
    if values.dtype.kind != "u" or values.dtype.itemsize > 2:
        kind = f"Pillow mode {mode}" if mode else f"values of the shape {values.shape} and type {values.dtype}"
        raise ValueError(f"{path} has {kind}: a prediction must be gray of 1, 8 or 16 bit")
    if values.dtype.itemsize == 1 and found[-1] < FAINT_8_BIT:
        raise ValueError(
            f"{path} has {len(found)} values of at most {found[-1]}, which may be numbers of targets: store a mask as "
            "0 and 255, or a probability map in 16 bit"
        )
    return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)


def find_predictions(root: str | Path, stems: Sequence[str]) -> dict[str, Path]:
    """Finds ROOT/stem.png, or with another suffix of `data.readers.IMAGE_SUFFIXES`, for every stem.

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
        if path.suffix.lower() in IMAGE_SUFFIXES:
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

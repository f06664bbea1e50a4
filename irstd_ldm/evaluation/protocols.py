"""Published ways of resizing images and reading the truth, by name, and predictions that lie in a folder.

A protocol has an image side and a truth side: run the pipeline on `prepare_image(gray)` and score its probability
against `prepare_truth(mask)`. Scoring alone is not the protocol where the network would have seen another image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.folder import files_by_stem
from ..data.masks import MASK_THRESHOLD, mask_levels
from ..data.readers import read_stored

ALLOWED = "a mask has 0 and its type's highest value, a probability map is gray of 8 or 16 bit, or in [0, 1]"


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
        # DNANet, MSHNet and LGLDNet resize to this size.
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
        path: A file that `read_stored` reads: gray of 8 bit (/255), of 16 bit (/65535) or floating point in [0, 1], or
            a mask of two values, palette entries or colours, as `mask_levels` tells them.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be decoded, or its values cannot be told: other ones, or 0 and 1 in integers.
    """
    stored = read_stored(path)
    values = np.asarray(stored)  # (H, W) or (H, W, channels)
    if values.ndim == 3 and values.shape[2] == 3 and not np.any(values != values[..., :1]):
        values = values[..., 0]
    is_gray = values.ndim == 2 and not (isinstance(stored, Image.Image) and stored.mode == "P")
    if is_gray and values.dtype.kind == "f" and 0 <= values.min() <= values.max() <= 1:
        return values.astype(np.float32)
    if is_gray and values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        if values.max() == 1:
            raise ValueError(
                f"{path} holds 0 and 1, a mask or probabilities up to 1/{np.iinfo(values.dtype).max}: {ALLOWED}"
            )
        if len(np.unique(values)) > 2:
            return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    levels = mask_levels(stored, f"'{path}'")
    if len(np.unique(levels)) > 2:
        raise ValueError(f"{path} holds probabilities beside a palette or transparency: {ALLOWED}")
    return (levels >= MASK_THRESHOLD).astype(np.float32)


def find_predictions(root: str | Path, stems: Sequence[str]) -> dict[str, Path]:
    """Finds ROOT/stem.png, or with another suffix of `data.readers.IMAGE_SUFFIXES`, for every stem.

    Returns:
        The files by stem, in the order of `stems`.

    Raises:
        ValueError: `root` is no folder, two files have one stem, or stems have no file.
    """
    files = files_by_stem(Path(root))
    missing = [stem for stem in stems if stem not in files]
    if missing:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(f"{root} has no prediction for {len(missing)} of {len(stems)} images: {names}")
    return {stem: files[stem] for stem in stems}

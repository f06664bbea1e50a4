"""Gray images from files, PIL images, arrays and tensors, and their normalisation to about [-1, 1]."""

import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from PIL import Image

from .polarity import BLACK_HOT, POLARITIES

if TYPE_CHECKING:
    import torch

ImageInput = Union[str, PathLike[str], Image.Image, np.ndarray, "torch.Tensor"]

# Formats that are read by Pillow alone; for others, such as EPS, it starts another program.
PILLOW_FORMATS = ("PNG", "BMP", "TIFF", "JPEG", "PPM", "JPEG2000", "WEBP", "GIF")
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, the weights of Pillow's convert("L")
LOW_PERCENTILE, HIGH_PERCENTILE = 0.1, 99.9
NORMALIZATIONS = ("range", "robust")  # the rules of `gray_range`, an entry of every checkpoint's config
# Shares of the pixels outside of the robust range on either side. A few per cent of odd pixels hardly move the first
# quantiles; where one gray level holds both of a pair, the next pair is taken.
ROBUST_SHARES = (0.05, 0.01, 0.001)
# Where at least this share of a frame's pixels have one value, and there are at least this many squares of 2x2 of them
# per pixel of it, these squares were not measured: a letterbox, the outside of a round field of view, a corner without
# data. Pixels of the scene that happen to have the same value count.
MIN_NO_DATA_SHARE, MIN_SOLID_SHARE = 0.005, 0.6
MIN_MEASURED_SHARE = 0.1  # if less is left, it is a bright object before an even sky, not a scene in a border
MAX_CHANNELS = 4  # an array (H, W, C) of more is no image of channels
# Two widths of the range below it on the compressed scale; how many of a dead pixel's neighbours may lie there too.
DEAD_LEVEL, MAX_DARK_AROUND = -2.1, 3
# Offsets of the eight neighbours in an array that is padded by one.
NEIGHBOURS = tuple((row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1))
SMALLEST_RANGE = 1e-30  # Difference of raw values; float32's largest, divided by it, stays finite in float64.
COUNTED_PX = 2**20  # bincount makes 8 bytes of every pixel that it is given


def to_gray(image: ImageInput) -> np.ndarray:
    """One gray image of any accepted input.

    Args:
        image: a path of a file of one frame that `data.readers` reads, a PIL image of any mode (alpha is ignored), an
            array (H, W), (H, W, 1) or (H, W, 3), or a tensor (H, W), (1, H, W) or (3, H, W). Arrays and tensors are
            uint8, uint16, int16, int32 or floating point. Masked pixels of a masked array were not measured: they get
            the median of the others.

    Returns:
        (H, W) array: uint8, uint16, int32 (also for int16) or float32 (any floating type). Values are not rescaled;
        colours become gray by the ITU-R 601-2 weights, for uint8 exactly as Pillow's `convert("L")`.

    Raises:
        TypeError: neither of these kinds, or another element type (bool among them).
        ValueError: another shape, no pixels, all of them masked, NaN or infinite values.
        ImageReadError: a file that is not an image, is truncated, holds several frames, NaN or infinite values, or is
            beyond the size limit.
        OSError: a path that is missing (FileNotFoundError), a folder, or not readable.
    """
    if isinstance(image, str | PathLike):
        return _read_path(Path(image))
    if isinstance(image, Image.Image):
        return _gray_from_pil(image)
    if isinstance(image, np.ma.MaskedArray):
        if np.ma.count(image) == 0:
            raise ValueError("`image` must have pixels that are not masked, got none")
        image = image.filled(np.median(image.compressed()).astype(image.dtype))
    if isinstance(image, np.ndarray):
        return _gray_from_array(np.asarray(image))
    loaded_torch = sys.modules.get("torch")  # a tensor comes from a caller that has imported it
    if loaded_torch is not None and isinstance(image, loaded_torch.Tensor):
        tensor = image.detach().cpu()
        return _gray_from_array((tensor.float() if tensor.is_floating_point() else tensor).numpy(), channel_axis=0)
    raise TypeError(f"`image` must be a path, a PIL image, an array or a tensor, got {type(image).__name__}")


def to_grays(image: ImageInput | Iterable[ImageInput]) -> list[np.ndarray]:
    """The gray images, N of (H, W), of one accepted input, of several in a list or an iterator, or of a batch.

    A batch is an array (N, H, W), (N, H, W, 1), (N, H, W, 3) or (N, 1, H, W), or a tensor (N, 1, H, W) or
    (N, 3, H, W).

    Raises:
        TypeError, ValueError, ImageReadError, OSError: as in `to_gray`; ValueError for none, too.
    """
    batch: Any = image
    shape: tuple[int, ...] = getattr(image, "shape", ())
    if isinstance(image, np.ndarray) and len(shape) == 4 and shape[1] == 1 and shape[3] not in (1, 3):
        batch = image[:, 0]
    is_stack = isinstance(image, np.ndarray) and len(shape) == 3 and shape[2] > MAX_CHANNELS
    is_several = is_stack or len(shape) == 4 or isinstance(image, list | tuple | Iterator)
    images: list[Any] = list(batch) if is_several else [image]
    if not images:
        raise ValueError("`image` must hold at least one image, got none")
    return [to_gray(one) for one in images]


def normalize_image(
    gray: np.ndarray, input_range: tuple[float, float] | None = None, normalization: str = "range"
) -> np.ndarray:
    """A gray image on the networks' scale: the values of `gray_range` map to -1 and 1.

    What lies outside [-1, 1] is compressed, see `soft_compress`; a constant frame maps to all zeros.

    Args:
        gray: (H, W), as `to_gray` returns it.
        input_range: (lo, hi), the values that map to -1 and 1. For networks that were trained with "robust" they are
            about the 5 and 95 per cent quantiles of a typical scene, and a sensor's whole range leaves hardly any
            contrast.
        normalization: "range" or "robust", see `gray_range`.

    Returns:
        (H, W) float32, about [-1, 1].

    Raises:
        ValueError: an unknown `normalization`, or `input_range` is not two finite numbers with lo < hi.
    """
    return scale_gray(gray, gray_range(gray, input_range, normalization))


def gray_range(
    gray: np.ndarray, input_range: tuple[float, float] | None = None, normalization: str = "range"
) -> tuple[float, float] | None:
    """The raw values that map to -1 and 1; equal for a constant frame, None = uint8's 0 and 255.

    "range" (the first checkpoints') is 0 and 255 of uint8 and the 0.1 and 99.9 percentiles of every other type, or its
    minimum and maximum where these coincide. "robust" is `robust_range` of any type. `input_range` replaces both.
    Arguments and errors are those of `normalize_image`.
    """
    check_normalization(normalization)
    if input_range is not None:
        return _check_input_range(input_range)
    if normalization == "robust":
        return robust_range(gray)
    return None if gray.dtype == np.uint8 else percentile_range(gray)


def check_normalization(normalization: str) -> None:
    """Raises ValueError unless the rule is one of `NORMALIZATIONS`."""
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"`normalization` must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")


def robust_range(gray: np.ndarray) -> tuple[float, float]:
    """The 5 and 95 per cent quantiles of the pixels that a sensor measured.

    A few per cent of dead or hot pixels, rows and columns, of telemetry or of pixels without data do not move them
    noticeably, and what is recognised as no measurement (`measured_pixels`) does not at all. For (lo, hi) of a frame
    (H, W) see `robust_range_of_values`.
    """
    return robust_range_of_values(measured_pixels(gray))


def robust_range_of_values(values: np.ndarray) -> tuple[float, float]:
    """The 5 and 95 per cent quantiles of pixels, of one frame or of several together.

    A gray level counts as spread evenly over the usual distance to its neighbours, so that a scene stored in 8 and in
    16 bits, with or without gaps between its levels, has the same range but for the unit, while a level far from all
    others (of hot pixels, say) draws nothing towards itself. A quantile that lies between two levels farther apart is
    the middle of the gap, so that mirrored values have mirrored quantiles.

    Args:
        values: (M,), of a type that `to_gray` returns.

    Returns:
        (lo, hi). Where one level holds both quantiles, the nearest wider ones that two levels hold; the one value of
        constant pixels twice.
    """
    levels, counts = _levels(values)
    if len(levels) == 1:
        return float(levels[0]), float(levels[0])
    ends = np.cumsum(counts)  # number of pixels up to each level
    for share in (*ROBUST_SHARES, 0.0):
        ranks = (share * len(values), (1 - share) * len(values))
        first, last = ends.searchsorted(ranks)
        if first < last:
            break
    step = _usual_step(levels, counts)
    lo, hi = (float(_quantile(rank, levels, counts, ends, step)) for rank in ranks)
    return lo, hi


def _quantile(rank: float, levels: np.ndarray, counts: np.ndarray, ends: np.ndarray, step: float) -> float:
    """The gray value below which `rank` pixels lie, each level spread over at most half a step on either side."""
    index = int(ends.searchsorted(rank))
    nearest = levels[max(index - 1, 0) : index + 2].astype(np.float64)
    here = float(levels[index])
    if rank == ends[index] < ends[-1]:
        return (here + nearest[-1]) / 2
    below = min(here - nearest[0] or step, step) / 2
    above = min(nearest[-1] - here or step, step) / 2
    return here - below + (rank - (ends[index] - counts[index])) / counts[index] * (below + above)


def _usual_step(levels: np.ndarray, counts: np.ndarray) -> float:
    """The median over pixels of the distance from their level to the nearest other one; 0 of a continuous quantity."""
    num_pixels = counts.sum()
    if levels.dtype.kind == "f" and len(counts) > num_pixels / 2:
        return 0.0
    gaps = np.diff(levels.astype(np.float64), prepend=-np.inf, append=np.inf)
    nearest = np.minimum(gaps[:-1], gaps[1:])  # (number of levels,)
    order = np.argsort(nearest)
    return float(nearest[order][np.searchsorted(np.cumsum(counts[order]), num_pixels / 2)])


def measured_pixels(gray: np.ndarray) -> np.ndarray:
    """The values (M,) of a frame (H, W) without those of pixels that were not measured.

    The extreme values and those of the four corners are looked at: see `MIN_NO_DATA_SHARE`. Where what is left would
    be less than `MIN_MEASURED_SHARE` of the frame, or all of one value, it is all of the frame.
    """
    measured = np.ones(gray.shape, bool)
    for value in {gray.min(), gray.max(), gray[0, 0], gray[0, -1], gray[-1, 0], gray[-1, -1]}:
        alike = gray == value
        count = np.count_nonzero(alike)
        if count < MIN_NO_DATA_SHARE * gray.size:
            continue
        squares = alike[:-1, :-1] & alike[1:, :-1] & alike[:-1, 1:] & alike[1:, 1:]  # (H - 1, W - 1)
        if np.count_nonzero(squares) >= MIN_SOLID_SHARE * count:
            np.logical_not(squares, out=squares)
            for corner in (measured[:-1, :-1], measured[1:, :-1], measured[:-1, 1:], measured[1:, 1:]):
                corner &= squares
    num_measured = np.count_nonzero(measured)
    if num_measured == gray.size or num_measured < MIN_MEASURED_SHARE * gray.size:
        return gray.reshape(-1)
    values = gray[measured]
    return gray.reshape(-1) if values.min() == values.max() else values


def _levels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values among pixels (M,), ascending, and how many pixels have each."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" or int(high) - int(low) >= 2**16:
        return np.unique(values, return_counts=True)
    counts = _counts(values, int(low), int(high))  # (high - low + 1,)
    occurring = np.flatnonzero(counts)
    return int(low) + occurring, counts[occurring]


def _counts(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """How often each value from `low` to `high` occurs in integers (M,)."""
    counts = np.zeros(high - low + 1, np.int64)
    for part in np.array_split(values, -(-values.size // COUNTED_PX)):
        counts += np.bincount(part - low, minlength=len(counts))
    return counts


def scale_gray(gray: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    """A frame (H, W), or a part of one, on the networks' scale, float32 of about [-1, 1], by the frame's `gray_range`.

    The values (lo, hi) of `value_range` map to -1 and 1; equal: all is 0; None: x / 127.5 - 1.
    """
    if value_range is None:
        return gray.astype(np.float32) / np.float32(127.5) - np.float32(1)
    lo, hi = value_range
    if lo == hi:
        return np.zeros(gray.shape, np.float32)
    if gray.dtype in (np.uint8, np.uint16) and gray.size > (levels := 2 ** (8 * gray.dtype.itemsize)):
        return scale_gray(np.arange(levels), value_range)[gray]
    scaled = (gray.astype(np.float64) - lo) * (2 / (hi - lo)) - 1
    return soft_compress(scaled).astype(np.float32)


def network_input(
    gray: np.ndarray, value_range: tuple[float, float] | None, normalization: str = "range"
) -> np.ndarray:
    """A frame (H, W), or a part of one, as the networks see it, float32 of about [-1, 1].

    It is `scale_gray` by the frame's `gray_range`, of "robust" `without_dead_pixels`.
    """
    scaled = scale_gray(gray, value_range)
    return without_dead_pixels(scaled) if normalization == "robust" else scaled


def without_dead_pixels(scaled: np.ndarray) -> np.ndarray:
    """A frame (H, W) on the networks' scale, its dead pixels replaced by the median of the neighbours that live.

    Dead is what lies two widths of the range below it and has at most three such neighbours of eight: pixels alone,
    pairs, and lines of one pixel's width. Beside a target they would hide it.
    """
    dark = scaled < DEAD_LEVEL
    if not dark.any():
        return scaled
    padded = np.pad(dark, 1, mode="reflect").view(np.uint8)
    height, width = scaled.shape
    dark_around = sum(padded[row : row + height, column : column + width] for row, column in NEIGHBOURS)
    dead = np.argwhere(dark & (dark_around <= MAX_DARK_AROUND))  # (M, 2)
    if not len(dead):
        return scaled
    around = np.pad(scaled, 1, mode="reflect")[tuple((dead[:, None] + NEIGHBOURS).T)]  # (8, M)
    mended = scaled.copy()
    mended[tuple(dead.T)] = np.nanmedian(np.where(around < DEAD_LEVEL, np.nan, around), axis=0)
    return mended


def invert_polarity(gray: np.ndarray, input_range: tuple[float, float] | None = None) -> np.ndarray:
    """The image with hot and cold exchanged, so that what `normalize_image` makes of it changes its sign.

    Args:
        gray: (H, W), as `to_gray` returns it.
        input_range: (lo, hi) that `normalize_image` is going to be given, None where it finds its own.

    Returns:
        (H, W): 255 - x for uint8, -x for float32 and minimum + maximum - x for other integers, of the type of `gray`;
        with `input_range` lo + hi - x, float32.

    Raises:
        ValueError: as in `normalize_image`.
    """
    if input_range is not None:
        lo, hi = _check_input_range(input_range)
        return (lo + hi - gray.astype(np.float64)).astype(np.float32)
    if gray.dtype == np.uint8:
        return 255 - gray
    if gray.dtype == np.float32:
        return -gray  # exact, also beside pixels at the end of float32
    return gray.max() - gray + gray.min()


def seen_image(gray: np.ndarray, polarity: str, input_range: tuple[float, float] | None = None) -> np.ndarray:
    """The image that a detector of bright targets is given: the frame (H, W), of "black-hot" its `invert_polarity`.

    Raises:
        ValueError: `polarity` is neither "white-hot" nor "black-hot"; as in `normalize_image`.
    """
    if polarity not in POLARITIES:
        raise ValueError(f"`polarity` must be one of {', '.join(POLARITIES)}, got {polarity!r}")
    return invert_polarity(gray, input_range) if polarity == BLACK_HOT else gray


def percentile_range(gray: np.ndarray) -> tuple[float, float]:
    """The 0.1 and 99.9 percentiles of (H, W), or its minimum and maximum where they coincide (equal if constant)."""
    percentiles = _percentiles_of_uint16 if gray.dtype == np.uint16 else np.percentile
    lo, hi = percentiles(gray, (LOW_PERCENTILE, HIGH_PERCENTILE))
    if lo == hi:
        lo, hi = gray.min(), gray.max()
    return float(lo), float(hi)


def _percentiles_of_uint16(gray: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    """The result of `np.percentile`, found by counting values instead of sorting a copy of the frame."""
    at_most = np.cumsum(_counts(gray.reshape(-1), 0, 2**16 - 1))  # (65536,), pixels of at most each value
    rank = (gray.size - 1) * (np.array(percentiles) / 100)
    low, high = np.searchsorted(at_most, np.floor(rank), "right"), np.searchsorted(at_most, np.ceil(rank), "right")
    return low + (high - low) * (rank % 1)


def displayable(gray: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """A frame (H, W) as an 8-bit picture for the eye, with `value_range` as black and white.

    None: uint8 as it is, other types between their 0.1 and 99.9 percentiles, constant frames black.
    """
    if value_range is None and gray.dtype == np.uint8:
        return gray
    lo, hi = value_range or percentile_range(gray)
    if lo == hi:
        return np.zeros(gray.shape, np.uint8)
    shown = np.empty(gray.shape, np.uint8)  # (H, W)
    for row, values in zip(shown, gray, strict=True):  # a whole frame in float64 takes eight bytes a pixel, twice
        row[:] = np.rint(np.clip((values.astype(np.float64) - lo) / (hi - lo), 0, 1) * 255)
    return shown


def soft_compress(values: np.ndarray) -> np.ndarray:
    """Identity in [-1, 1]; beyond, sign(y) * (1 + 0.5 * log1p(2 * (abs(y) - 1))): monotone, of continuous slope."""
    excess = np.maximum(np.abs(values) - 1, 0)
    return np.where(excess > 0, np.sign(values) * (1 + 0.5 * np.log1p(2 * excess)), values)


def is_coloured(pixels: np.ndarray | Image.Image) -> bool:
    """Whether at least a tenth of a decoded frame's pixels are in colours, as those of a false-colour picture are."""
    if isinstance(pixels, Image.Image):
        if pixels.mode not in ("P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"):
            return False
        pixels = np.asarray(pixels.convert("RGB"))
    return pixels.ndim == 3 and bool(np.mean(np.ptp(pixels, axis=2) > pixels.max() / 8) > 0.1)


def _check_input_range(input_range: tuple[float, float]) -> tuple[float, float]:
    if len(input_range) != 2 or not np.all(np.isfinite(input_range)) or not input_range[0] < input_range[1]:
        raise ValueError(f"`input_range` must be two finite numbers (lo, hi) with lo < hi, got {input_range}")
    lo, hi = float(input_range[0]), float(input_range[1])
    if not SMALLEST_RANGE < hi - lo < 1 / SMALLEST_RANGE:
        raise ValueError(f"`input_range` must span {SMALLEST_RANGE:g} to {1 / SMALLEST_RANGE:g}, got {input_range}")
    return lo, hi


def _read_path(path: Path) -> np.ndarray:
    """The image of a file; a checkpoint's remote code, without this package and its readers, opens it with Pillow."""
    try:
        readers = import_module("irstd_ldm.data.readers")
    except ModuleNotFoundError:
        with Image.open(path, formats=PILLOW_FORMATS) as image:
            return _gray_from_pil(image)
    return readers.read_image(path)


def _gray_from_pil(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        return _gray_from_array(np.asarray(image).astype(np.uint16))
    if image.mode not in ("L", "I", "F"):
        image = (image if image.mode in ("1", "LA") else image.convert("RGB")).convert("L")
    return _gray_from_array(np.array(image))


def _gray_from_array(array: np.ndarray, channel_axis: int = -1) -> np.ndarray:
    if array.dtype.kind == "f":
        given, array = array, array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError("`image` must be finite in float32, got NaN or infinite values")
        if array.dtype != given.dtype and array.size and array.min() == array.max() and given.min() != given.max():
            raise ValueError("`image` is constant in float32, though not as given: subtract its minimum")
    elif array.dtype.kind == "i" and array.dtype.itemsize in (2, 4):
        array = array.astype(np.int32)
    elif array.dtype.kind == "u" and array.dtype.itemsize in (1, 2):
        array = array.astype(array.dtype.newbyteorder("="))
    else:
        raise TypeError(f"`image` must be uint8, uint16, int16, int32 or floating point, got {array.dtype}")
    if array.ndim == 3 and array.shape[channel_axis] == 1:
        array = array.squeeze(channel_axis)
    if array.ndim == 3 and array.shape[channel_axis] == 3:
        array = _gray_from_colours(np.moveaxis(array, channel_axis, -1))
    if array.ndim != 2:
        allowed = "(H, W), (H, W, 1) or (H, W, 3)" if channel_axis == -1 else "(H, W), (1, H, W) or (3, H, W)"
        raise ValueError(f"`image` must have the shape {allowed}, got {array.shape}")
    if array.size == 0:
        raise ValueError(f"`image` must have at least one pixel, got the shape {array.shape}")
    return array


def _gray_from_colours(colours: np.ndarray) -> np.ndarray:
    if colours.dtype == np.uint8 and colours.size:
        return np.array(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))
    gray = colours.astype(np.float64) @ np.array(LUMA)  # (H, W)
    return gray.astype(np.float32) if colours.dtype == np.float32 else np.rint(gray).astype(colours.dtype)

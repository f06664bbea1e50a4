"""The tiles of images of any size: cut, padded and iterated over, then blended and fused over the ensemble's members.

Neither torch nor diffusers is needed, so that every runtime shares it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .targets import ConfidenceCalibration, Decision, Target, extract_targets

PAD_MULTIPLE = 32
MIN_PADDED_SIZE = 128
SMALLEST_WEIGHT = 1e-4  # of a tile's outermost rows and columns, beside 1 of the neighbour's
Window = tuple[slice, slice]  # rows and columns of an image

# STAPLE
MAX_ITERATIONS = 100
CONVERGED_CHANGE = 1e-6  # largest change of a pixel's probability between two iterations that counts as none
START_ERROR = 1e-5  # 1 - the performance that every member starts from
SMALLEST_RATE = 1e-10  # performances stay this far from 0 and 1, so that no probability is 0/0


@dataclass(frozen=True)
class SamplingSettings:
    """How a call samples, tiles and fuses, the checkpoint's defaults filled in."""

    num_inference_steps: int
    ensemble_size: int
    tile_size: int
    tile_overlap: int
    batch_size: int
    ensemble_fusion: str

    def windows(self, shape: tuple[int, ...]) -> list[Window]:
        """Windows of the tiles of an image of shape (H, W)."""
        return tile_windows(shape, self.tile_size or max(shape), self.tile_overlap)


def resolve_sampling(
    config: Mapping[str, Any],
    allowed_steps: range,
    *,
    num_inference_steps: int | None = None,
    ensemble_size: int | None = None,
    tile_size: int | None = None,
    tile_overlap: int | None = None,
    batch_size: int | None = None,
    ensemble_fusion: str = "mean",
) -> SamplingSettings:
    """The settings of a call; None = the checkpoint's default, and a batch of one.

    Args:
        config: A checkpoint's, with an entry `default_NAME` of the first four arguments.
        allowed_steps: Numbers of denoising steps that the detector can do.

    Raises:
        ValueError: An argument is out of range.
    """
    given = {
        "num_inference_steps": num_inference_steps,
        "ensemble_size": ensemble_size,
        "tile_size": tile_size,
        "tile_overlap": tile_overlap,
    }
    values = {name: config[f"default_{name}"] if value is None else value for name, value in given.items()}
    values["batch_size"] = 1 if batch_size is None else batch_size
    least = {"num_inference_steps": allowed_steps[0], "ensemble_size": 1, "batch_size": 1}
    for name, value in values.items():
        if not isinstance(value, int) or value < least.get(name, 0):
            raise ValueError(f"`{name}` must be an integer of at least {least.get(name, 0)}, got {value!r}")
    settings = SamplingSettings(**values, ensemble_fusion=ensemble_fusion)
    if settings.num_inference_steps > allowed_steps[-1]:
        raise ValueError(
            f"`num_inference_steps` must be at most {allowed_steps[-1]}, got {settings.num_inference_steps}"
        )
    if 0 < settings.tile_size < MIN_PADDED_SIZE:
        raise ValueError(f"`tile_size` must be 0 (no tiles) or at least {MIN_PADDED_SIZE}, got {settings.tile_size}")
    if settings.tile_size and settings.tile_overlap >= settings.tile_size:
        raise ValueError(
            f"`tile_overlap` must be less than `tile_size` ({settings.tile_size}), got {settings.tile_overlap}"
        )
    if ensemble_fusion not in FUSIONS:
        raise ValueError(f"`ensemble_fusion` must be one of {', '.join(FUSIONS)}, got {ensemble_fusion!r}")
    return settings


def image_seed(base: int, index: int) -> int:
    """Seed, 63 bits, of the image with an index in a call, whatever the batch."""
    return int(np.random.SeedSequence((base, index)).generate_state(1, np.uint64)[0] >> 1)


def pad_image(image: np.ndarray) -> np.ndarray:
    """Continues (H, W) by reflection at the bottom and right to (PH, PW), multiples of 32 and at least 128."""
    padding = [(0, max(-(-n // PAD_MULTIPLE) * PAD_MULTIPLE, MIN_PADDED_SIZE) - n) for n in image.shape]
    return np.pad(image, padding, mode="reflect")


def tile_spans(extent: int, tile_size: int, tile_overlap: int, multiple: int = PAD_MULTIPLE) -> list[slice]:
    """Spans of the fewest tiles of at most `tile_size` pixels that cover `extent` pixels, all of nearly one length.

    The length is a multiple of `multiple` where `tile_size` is, the least that keeps the overlap. The last tile ends
    at the border of the padded image, beyond the last pixel: networks then see the grid that they see in the whole.
    """
    if extent <= tile_size:
        return [slice(0, extent)]
    padded = -(-extent // multiple) * multiple
    count = -(-(padded - tile_overlap) // (tile_size - tile_overlap))
    side = -(-(padded + (count - 1) * tile_overlap) // (count * multiple)) * multiple
    side = min(max(side, MIN_PADDED_SIZE), tile_size)
    starts = [min(index * (side - tile_overlap), padded - side) for index in range(count)]
    return [slice(start, min(start + side, extent)) for start in starts]


def tile_windows(
    shape: tuple[int, ...], tile_size: int, tile_overlap: int, multiple: int = PAD_MULTIPLE
) -> list[Window]:
    """Windows (rows, columns) that cover an image of shape (H, W), in raster order; lengths as in [`tile_spans`]."""
    rows, columns = (tile_spans(extent, tile_size, tile_overlap, multiple) for extent in shape)
    return [(of_rows, of_columns) for of_rows in rows for of_columns in columns]


@dataclass(frozen=True, eq=False)
class Tile:
    """A part of an image."""

    index: int  # the image's number in the call
    window: Window
    pixels: np.ndarray  # (PH, PW) raw gray values, padded


def iterate_tiles(images: Sequence[np.ndarray], settings: SamplingSettings) -> Iterator[list[Tile]]:
    """The tiles of a call, in batches of one padded size, also of several images.

    The tiles of an image (H, W) come in raster order, as [`TileBlender`] takes them; no more than `batch_size` of each
    padded size are held.
    """
    waiting: dict[tuple[int, ...], list[Tile]] = {}  # key: padded size
    for index, image in enumerate(images):
        for window in settings.windows(image.shape):
            pixels = pad_image(image[window])
            tiles = waiting.setdefault(pixels.shape, [])
            tiles.append(Tile(index, window, pixels))
            if len(tiles) == settings.batch_size:
                yield waiting.pop(pixels.shape)
    yield from waiting.values()


def ramp_weight(extent: int, tile_overlap: int) -> np.ndarray:
    """Weight of a tile's rows or columns (extent,) float32: a linear ramp over the overlap's middle half, 1 inside.

    The outer quarter, where a network knows only one side of a pixel's surroundings, counts where no other tile does.
    """
    margin = tile_overlap // 4
    distance = np.minimum(np.arange(extent) + 1, np.arange(extent, 0, -1)) - margin
    return np.clip(distance / (tile_overlap - 2 * margin + 1), SMALLEST_WEIGHT, 1).astype(np.float32)


def blend_weight(height: int, width: int, tile_overlap: int) -> np.ndarray:
    """Weight of a tile's pixels (height, width) float32: the product of its rows' and its columns' weights."""
    return np.outer(ramp_weight(height, tile_overlap), ramp_weight(width, tile_overlap))


def staple(decisions: np.ndarray) -> np.ndarray:
    """Probability (H, W) of the hidden true mask, by what each of the members (E, H, W) misses and invents.

    STAPLE: Warfield, Zou, Wells, "Simultaneous truth and performance level estimation", IEEE TMI 23(7), 2004; the
    prior is the members' mean foreground share, one for all pixels. Expectation-maximisation, in float64.
    """
    flat = decisions.reshape(len(decisions), -1)  # (E, H*W)
    prior = flat.mean()
    if prior in (0, 1):
        return np.full(decisions.shape[1:], prior)
    marked = flat.any(axis=0)  # (H*W,)
    patterns, inverse, counts = np.unique(flat[:, marked], axis=1, return_inverse=True, return_counts=True)
    patterns = np.column_stack([patterns, np.zeros(len(flat), bool)])  # (E, P), the last one of the unmarked pixels
    counts = np.append(counts, np.count_nonzero(~marked))  # (P,)
    sensitivity = specificity = np.full((len(flat), 1), 1 - START_ERROR)  # (E, 1)
    truth = np.zeros(len(counts))  # (P,)
    for _ in range(MAX_ITERATIONS):
        for_foreground = np.log(np.where(patterns, sensitivity, 1 - sensitivity)).sum(axis=0)
        for_background = np.log(np.where(patterns, 1 - specificity, specificity)).sum(axis=0)
        log_odds = np.log(prior / (1 - prior)) + for_foreground - for_background  # (P,)
        before, truth = truth, 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))
        if np.abs(truth - before).max() < CONVERGED_CHANGE:
            break
        foreground, background = counts * truth, counts * (1 - truth)
        sensitivity = ((patterns * foreground).sum(axis=1) / max(foreground.sum(), SMALLEST_RATE))[:, None]
        specificity = ((~patterns * background).sum(axis=1) / max(background.sum(), SMALLEST_RATE))[:, None]
        sensitivity, specificity = (
            np.clip(rate, SMALLEST_RATE, 1 - SMALLEST_RATE) for rate in (sensitivity, specificity)
        )
    fused = np.full(flat.shape[1], truth[-1])
    fused[marked] = truth[inverse.ravel()]
    return fused.reshape(decisions.shape[1:])


# Members (E, H, W) in [0, 1] -> probability (H, W).
FUSIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda members: members.mean(axis=0, dtype=np.float32),
    "median": lambda members: np.median(members, axis=0),
    "staple": lambda members: staple(members > 0.5),
}


class TileBlender:
    """Blends one image's tiles and fuses its members; meanwhile it holds one row of tiles beside its results.

    Args:
        shape: (H, W) of the image.
        settings: The call's.

    Attributes:
        probability: (H, W) float32 in [0, 1].
        uncertainty: (H, W) float32, standard deviation over the members; None for one member.
    """

    def __init__(self, shape: tuple[int, ...], settings: SamplingSettings):
        self._settings = settings
        self._windows = settings.windows(shape)
        self._tops = sorted({rows.start for rows, _ in self._windows})
        self._strip: np.ndarray | None = None  # (E, rows of a tile, W), from the image's first tile to its last
        self.probability = np.empty(shape, np.float32)
        self.uncertainty = np.empty(shape, np.float32) if settings.ensemble_size > 1 else None
        # STAPLE weighs a member by all of its pixels.
        self._decisions = (
            np.empty((settings.ensemble_size, *shape), bool) if settings.ensemble_fusion == "staple" else None
        )

    def add(self, window: Window, members: np.ndarray) -> None:
        """Adds the members (E, PH, PW) of the next tile in raster order; ValueError where they are not finite."""
        if not np.isfinite(members).all():
            raise ValueError(
                "the detector gives NaN or infinite probabilities: its weights or its arithmetic are broken"
            )
        height, width = self.probability.shape
        rows, columns = (axis.stop - axis.start for axis in window)
        if len(self._windows) == 1:
            self._end_row(0, members[:, :rows, :columns])
            return
        ramp = self._settings.tile_overlap
        if self._strip is None:
            self._strip = np.zeros((len(members), rows, width), np.float32)
            self._blend = blend_weight(rows, columns, ramp)
            self._row_weight = _total_weight(height, self._tops, rows, ramp)  # (H,)
            lefts = sorted({of_window.start for _, of_window in self._windows})
            self._column_weight = _total_weight(width, lefts, columns, ramp)  # (W,)
        self._strip[:, :rows, window[1]] += members[:, :rows, :columns] * self._blend[:rows, :columns]
        if window[1] == self._windows[-1][1]:
            self._strip = self._end_row(window[0].start, self._strip)

    def _end_row(self, top: int, strip: np.ndarray) -> np.ndarray | None:
        """Fuses the rows that no later tile touches; returns the strip of the next row of tiles, None after all."""
        following = [start for start in self._tops if start > top]
        end = following[0] if following else len(self.probability)
        done = strip[:, : end - top]
        if len(self._windows) > 1:
            done /= np.outer(self._row_weight[top:end], self._column_weight)
            np.minimum(done, 1, out=done)  # members of 1 may add up to 1 and some rounding
        if self._decisions is None:
            self.probability[top:end] = FUSIONS[self._settings.ensemble_fusion](done)
        else:
            self._decisions[:, top:end] = done > 0.5
        if self.uncertainty is not None:
            self.uncertainty[top:end] = done.std(axis=0, dtype=np.float32)
        if following:
            kept = strip.shape[1] - (end - top)
            strip[:, :kept] = strip[:, end - top :].copy()
            strip[:, kept:] = 0
            return strip
        if self._decisions is not None:
            self.probability[:] = staple(self._decisions)
            self._decisions = None
        return None


def _total_weight(extent: int, starts: list[int], tile_extent: int, ramp: int) -> np.ndarray:
    """Sum of all tiles' weights along one axis (extent,) float32."""
    total = np.zeros(extent, np.float32)
    for start in starts:
        part = total[start : start + tile_extent]
        part += ramp_weight(tile_extent, ramp)[: len(part)]
    return total


def decide(
    blenders: Sequence[TileBlender],
    grays: Sequence[np.ndarray],
    decision: Decision,
    calibration: ConfidenceCalibration | None,
) -> tuple[Any, Any, Any, list[list[Target]]]:
    """The probability, mask, uncertainty and targets of N images, as in [`IRSTDPipelineOutput`].

    Args:
        blenders: N of them, to which all tiles were added.
        grays: N of (H, W), raw gray values.
        decision: Where masks end and which of their components are targets.
        calibration: As in `extract_targets`.
    """
    probabilities = [blender.probability[None] for blender in blenders]  # N of (1, H, W)
    uncertainties = [one.uncertainty[None] for one in blenders if one.uncertainty is not None] or None
    found = [
        extract_targets(probability[0], gray, decision, calibration)
        for probability, gray in zip(probabilities, grays, strict=True)
    ]
    masks = [mask[None] for mask, _ in found]
    return _stacked(probabilities), _stacked(masks), _stacked(uncertainties), [targets for _, targets in found]


def _stacked(maps: list[np.ndarray] | None) -> Any:
    """Maps (1, H, W) of one size as (N, 1, H, W); others stay a list, None stays None."""
    if maps is None or len({one.shape for one in maps}) > 1:
        return maps
    return maps[0][None] if len(maps) == 1 else np.stack(maps)  # a single one is not copied

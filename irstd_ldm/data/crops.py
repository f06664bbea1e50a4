"""Augmented training crops, each a pure function of the seed and its number."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch.utils.data import Dataset

from ..targets import EIGHT_CONNECTIVITY
from .defects import add_defects, compress_jpeg, hide_borders, interlace
from .folder import Sample
from .ggs import squeeze_with_targets
from .images import normalize_image, percentile_range, robust_range, scale_gray, soft_compress
from .implant import TargetBank, implant
from .synthetic import synthetic_scene

SYNTHETIC_MARGIN = 1.25  # sides of a synthetic scene per side of a crop
MIN_OWN_RANGE = 2 / 255  # of a crop: below, it has its frame's range
MIN_RANGE = 8 / 255  # narrower ranges are not stretched to the full one: that would amplify quantisation


@dataclass(frozen=True)
class CropSettings:
    """The training crops' recipe. Probabilities of the four kinds sum to 1; ranges are (low, high)."""

    size: int = 128  # pixels, both sides
    target_probability: float = 0.45  # around a random target of a training image
    image_probability: float = 0.15  # anywhere in a training image
    background_probability: float = 0.2  # anywhere in a background frame
    implant_probability: float = 0.2  # anywhere in either, with 1 to 3 implanted targets
    hard_negative_probability: float = 0.0  # of a background crop to lie around one of the hard negatives
    inversion_probability: float = 0.2  # of a frame without targets: the other polarity is clutter of another kind
    blend_probability: float = 0.0  # of a background crop to be a mixture of two: clutter that no sensor has seen
    negative_image_probability: float = 0.0  # of a background crop to be a training image's negative: no bright target
    synthetic_probability: float = 0.0  # of a background frame, implanted in or not, to be a new synthetic scene
    rescale_probability: float = 0.4
    rescale_range: tuple[float, float] = (0.6, 1.6)  # log-uniform factor
    background_rescale_range: tuple[float, float] = (0.6, 1.6)  # log-uniform factor of frames without targets
    gamma_probability: float = 0.4
    gamma_range: tuple[float, float] = (0.6, 1.6)  # log-uniform exponent
    gain_probability: float = 0.5  # of both, with "range"; with "robust" every crop has a gain and an offset
    gain_range: tuple[float, float] = (0.6, 1.5)  # log-uniform factor of the deviation from the crop's mean
    offset_range: tuple[float, float] = (-0.15, 0.15)  # of the full scale, or of the range's width with "robust"
    range_probability: float = 0.15  # percentiles as of 16-bit frames instead of gamma and gain; with "range" alone
    squeeze_probability: float = 0.0  # of the Gaussian Group Squeezer, before everything that varies the intensity
    blur_probability: float = 0.1
    blur_sigma_range_px: tuple[float, float] = (0.3, 1.0)
    noise_probability: float = 0.15
    noise_sigma_max: float = 0.03  # of the full scale, or of twice the range's width with "robust"
    column_noise_probability: float = 0.1
    column_noise_sigma_max: float = 0.02  # in the same units
    stuck_pixel_probability: float = 0.0  # of 1 to 10 pixels, none of a target's, to be hot, cold or at any level
    normalization: str = "range"  # the rule of `gray_range` that the detector is going to be used with
    # What follows is for "robust", whose range such pixels do not move.
    own_range_probability: float = 0.5  # the range is the crop's, as that of an image of this size, not its frame's
    quantise_probability: float = 0.2  # fewer gray levels: those of 8 bits after the contrast was lowered
    defect_probability: float = 0.15  # dead and hot pixels, rows and columns, a strip of telemetry
    border_probability: float = 0.05  # a letterbox, a round field of view, a corner without data
    interlace_probability: float = 0.03
    compress_probability: float = 0.08  # by JPEG, mildly

    def __post_init__(self):
        kinds = (
            self.target_probability,
            self.image_probability,
            self.background_probability,
            self.implant_probability,
        )
        if min(kinds) < 0 or abs(sum(kinds) - 1) > 1e-6:
            raise ValueError(f"the probabilities of the crops' four kinds must be >= 0 and sum to 1, got {kinds}")
        low, high = self.background_rescale_range
        if not 0 < low <= high:
            raise ValueError(f"`background_rescale_range` must be (low, high) with 0 < low <= high, got {(low, high)}")
        if self.size < 64:
            raise ValueError(f"`size` must be at least 64 pixels, got {self.size}")


class TrainingCrops(Dataset):
    """Crops of training images and background frames; everything is kept in memory.

    Item k is {"image": (1, S, S) float32, about [-1, 1], "mask": (1, S, S) float32 in {0, 1}}, a pure function of
    (seed, k) for every non-negative k: there is no length, and a resumed run goes on with the next k. Images smaller
    than a crop are continued by reflection, mask and all.

    Args:
        samples: labelled images, of one data set or of several.
        backgrounds: frames without targets, (H, W) as `to_gray` returns them; where there are none, their crops come
            from the samples.
        settings: the recipe.
        seed: of the whole sequence.
        shares: share of each data set among the crops of labelled images, of any sum; None = equal.

    Attributes:
        hard_negatives: (number of a background, its pixel (row, column)) of places that look like targets; none at
            first. Where there are any, they are part of what item k is a function of.

    Raises:
        ValueError: a data set without a target, or not as many shares as data sets.
    """

    def __init__(
        self,
        samples: Sequence[Sequence[Sample]],
        backgrounds: Sequence[np.ndarray],
        settings: CropSettings,
        seed: int,
        shares: Sequence[float] | None = None,
    ):
        self.settings, self.seed = settings, seed
        self.hard_negatives: list[tuple[int, np.ndarray]] = []
        weights = np.ones(len(samples)) if shares is None else np.array(shares, float)
        if len(weights) != len(samples) or weights.min() < 0 or not weights.sum():
            raise ValueError(f"`shares` must be one number >= 0 per data set ({len(samples)}), got {shares}")
        self._shares = np.cumsum(weights / weights.sum())
        self._sets: list[list[_Frame]] = []
        self._with_targets: list[list[_Frame]] = []
        for number, one_set in enumerate(samples):
            frames = [_Frame(sample.image, sample.mask, settings.normalization) for sample in one_set]
            self._sets.append(frames)
            self._with_targets.append([frame for frame in frames if len(frame.target_centers)])
            if not self._with_targets[-1]:
                raise ValueError(
                    f"`samples` must hold at least one target per data set, got none in the {len(frames)} images of "
                    f"number {number}"
                )
        self._backgrounds = [
            _Frame(image, np.zeros(image.shape, bool), settings.normalization) for image in backgrounds
        ] or [frame for frames in self._sets for frame in frames]
        self._bank = TargetBank(
            (frame.region() * 255, frame.mask) for frames in self._with_targets for frame in frames
        )

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, k))
        settings = self.settings
        kinds = np.cumsum([settings.target_probability, settings.image_probability, settings.background_probability])
        kind = int(np.searchsorted(kinds, rng.random(), side="right"))  # 3 = implanted targets
        inverted = False
        if kind == 0:
            frame = self._any_of(self._with_targets, rng)
            image, mask = self._crop(frame, frame.target_centers[rng.integers(len(frame.target_centers))], rng)
        elif kind == 1 or (kind == 3 and rng.random() < 0.5):
            frame = self._any_of(self._sets, rng)
            image, mask = self._crop(frame, None, rng)
        else:
            frame, image, mask, inverted = self._background_crop(kind == 2, rng)
        if not frame.target_centers.size and rng.random() < settings.inversion_probability:
            image, inverted = 1 - image, not inverted
        if kind == 3:
            image, mask = implant(image * 255, mask, self._bank, rng)
            image /= 255
        image, mask = _flip(image, mask, rng)
        if settings.squeeze_probability and rng.random() < settings.squeeze_probability:
            image, mask = _squeeze(image, mask, rng)
        if settings.normalization == "robust":
            image, mask = self._vary_sensor(image, mask, frame, inverted, rng)
        else:
            image = self._vary_intensity(image, mask, frame, inverted, rng)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image, np.float32))[None],  # (1, S, S)
            "mask": torch.from_numpy(mask.astype(np.float32))[None],  # (1, S, S)
        }

    def _any_of(self, sets: list[list["_Frame"]], rng: np.random.Generator) -> "_Frame":
        frames = sets[np.searchsorted(self._shares, rng.random(), side="right")]
        return frames[rng.integers(len(frames))]

    def _background_crop(self, plain: bool, rng: np.random.Generator) -> tuple["_Frame", np.ndarray, np.ndarray, bool]:
        """A frame, a crop of it, and whether that is its negative.

        A plain crop may be a negative, lie around a hard negative or be blended with another; plain or not, it may be
        of a synthetic scene.
        """
        settings = self.settings
        if plain and settings.negative_image_probability and rng.random() < settings.negative_image_probability:
            frame = self._any_of(self._sets, rng)
            image, mask = self._crop(frame, None, rng)
            return frame, 1 - image, np.zeros_like(mask), True
        if settings.synthetic_probability and rng.random() < settings.synthetic_probability:
            side = round(settings.size * SYNTHETIC_MARGIN)
            scene = synthetic_scene(side, side, num_targets=0, seed=int(rng.integers(2**63)))
            frame, anchor = _Frame(scene.image, scene.mask, settings.normalization), None
        elif plain and self.hard_negatives and rng.random() < settings.hard_negative_probability:
            number, anchor = self.hard_negatives[rng.integers(len(self.hard_negatives))]
            frame = self._backgrounds[number]
        else:
            frame, anchor = self._backgrounds[rng.integers(len(self._backgrounds))], None
        image, mask = self._crop(frame, anchor, rng)
        if plain and settings.blend_probability and rng.random() < settings.blend_probability:
            other, other_mask = self._crop(self._backgrounds[rng.integers(len(self._backgrounds))], None, rng)
            if not mask.any() and not other_mask.any():
                image = image + np.float32(rng.uniform(0.2, 0.8)) * (other - image)
        return frame, image, mask, False

    def _crop(
        self, frame: "_Frame", anchor: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A region of the frame, rescaled at times unless a target would vanish or merge.

        Args:
            frame: The frame.
            anchor: Pixel (row, column) that the region holds; None = anywhere.

        Returns:
            image (S, S) float32 on [0, 1] and mask (S, S) bool.
        """
        size = side = self.settings.size
        if rng.random() < self.settings.rescale_probability:
            settings = self.settings
            bounds = settings.rescale_range if frame.target_centers.size else settings.background_rescale_range
            side = max(round(size / _log_uniform(rng, bounds)), 16)
        if anchor is not None:
            margin = min(8, side // 4)  # pixels from the crop's border to the target's centroid
            corner = anchor - rng.integers(margin, side - margin, 2)
        else:
            spare = np.subtract(frame.shape, side)  # negative where the frame is smaller than the region
            corner = rng.integers(np.minimum(spare, 0), np.maximum(spare, 0) + 1)
            anchor = corner + side // 2
        image, mask = frame.crop(corner, side)
        if side == size:
            return image, mask
        image, scaled_mask = _resize(image, mask, size)
        if ndimage.label(scaled_mask, EIGHT_CONNECTIVITY)[1] < ndimage.label(mask, EIGHT_CONNECTIVITY)[1]:
            return frame.crop(anchor - (anchor - corner) * size // side, size)
        return image, scaled_mask

    def _vary_intensity(
        self, image: np.ndarray, mask: np.ndarray, frame: "_Frame", inverted: bool, rng: np.random.Generator
    ) -> np.ndarray:
        """(S, S) on [0, 1] -> (S, S) on about [-1, 1]; `inverted`: it is of the frame's negative."""
        settings = self.settings
        stretched = False
        if rng.random() < settings.range_probability:
            if rng.random() < 0.5:
                lo, hi = percentile_range(image)
            else:
                lo, hi = frame.percentiles if not inverted else 1 - np.flip(frame.percentiles)
            stretched = hi - lo >= MIN_RANGE
            if stretched:
                image = (soft_compress((image - lo) * (2 / (hi - lo)) - 1) + 1) / 2
        if not stretched:
            if rng.random() < settings.gamma_probability:
                exponent = _log_uniform(rng, settings.gamma_range)
                image = np.where((image > 0) & (image < 1), np.abs(image) ** exponent, image)
            if rng.random() < settings.gain_probability:
                mean = image.mean()
                image = mean + _log_uniform(rng, settings.gain_range) * (image - mean)
                image = image + rng.uniform(*settings.offset_range)
                if mask.any():
                    image = image + max(0.05 - image[mask].min(), 0)  # clipping must not hide a labelled target
                    image = image - max(image[mask].max() - 1, 0)
        if rng.random() < settings.blur_probability:
            image = ndimage.gaussian_filter(image, rng.uniform(*settings.blur_sigma_range_px))
        if rng.random() < settings.noise_probability:
            sigma = rng.uniform(0, settings.noise_sigma_max)
            image = image + sigma * rng.standard_normal(image.shape, np.float32)
        if rng.random() < settings.column_noise_probability:
            sigma = rng.uniform(0, settings.column_noise_sigma_max)
            image = image + sigma * rng.standard_normal(image.shape[1], np.float32)
        if settings.stuck_pixel_probability and rng.random() < settings.stuck_pixel_probability:
            image = _stick_pixels(image, mask, rng)
        if not stretched and frame.is_8_bit:
            image = np.clip(image, 0, 1)  # a sensor's saturation
        return image * 2 - 1

    def _vary_sensor(
        self, image: np.ndarray, mask: np.ndarray, frame: "_Frame", inverted: bool, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """What another camera, its defects and its files would have made of the crop, on the scale of "robust".

        Args:
            image: (S, S) on [0, 1].
            mask: (S, S) bool.
            frame: Where the crop is from.
            inverted: The crop is of the frame's negative.

        Returns:
            image (S, S) float32 on about [-1, 1], and the mask (S, S) bool without what is hidden.
        """
        settings = self.settings
        value_range = 1 - np.flip(frame.robust_range) if inverted else frame.robust_range  # (2,)
        if rng.random() < settings.gamma_probability:
            exponent = _log_uniform(rng, settings.gamma_range)
            image, value_range = np.clip(image, 0, 1) ** exponent, np.clip(value_range, 0, 1) ** exponent
        if rng.random() < settings.blur_probability:
            image = ndimage.gaussian_filter(image, rng.uniform(*settings.blur_sigma_range_px))
        scale = max(value_range[1] - value_range[0], MIN_RANGE)
        if rng.random() < settings.noise_probability:
            sigma = rng.uniform(0, settings.noise_sigma_max) * 2 * scale
            image = image + np.float32(sigma) * rng.standard_normal(image.shape, np.float32)
        if rng.random() < settings.column_noise_probability:
            sigma = rng.uniform(0, settings.column_noise_sigma_max) * 2 * scale
            image = image + np.float32(sigma) * rng.standard_normal(image.shape[1], np.float32)
        if rng.random() < settings.quantise_probability:
            gain = _log_uniform(rng, (0.2, 1.0))
            image = np.rint(np.clip(image, 0, 1) * (255 * gain)) / np.float32(255 * gain)
        if rng.random() < settings.interlace_probability:
            image, mask = interlace(image, mask, rng)
        if rng.random() < settings.compress_probability:
            image = compress_jpeg(image, rng)
        if rng.random() < settings.border_probability:
            image, mask = hide_borders(image, mask, rng)
        if settings.stuck_pixel_probability and rng.random() < settings.stuck_pixel_probability:
            image = _stick_pixels(image, mask, rng)
        if rng.random() < settings.defect_probability:
            image, mask = add_defects(image, mask, scale, rng)
        if rng.random() < settings.own_range_probability:
            own = robust_range(image)
            if own[1] - own[0] >= MIN_OWN_RANGE:
                value_range = np.array(own)
        width = max(value_range[1] - value_range[0], 1 / 255)
        center = value_range.mean() + rng.uniform(*settings.offset_range) * width
        half = width / 2 / _log_uniform(rng, settings.gain_range)
        return scale_gray(image.astype(np.float32), (center - half, center + half)), mask


class _Frame:
    """One image in memory, read in reflected crops."""

    def __init__(self, image: np.ndarray, mask: np.ndarray, normalization: str):
        self.is_8_bit = image.dtype == np.uint8
        self.mask = mask
        self.shape = image.shape
        if normalization == "robust":
            lo, hi = robust_range(image)
            # Of other types the range is the middle half of [0, 1], as that of an 8-bit frame often is.
            black, white = (0, 255) if self.is_8_bit else (lo - (hi - lo) / 2, hi + (hi - lo) / 2)
            self._image = image if self.is_8_bit else _stretched(image, black, white)
            self.robust_range = (_stretched(np.array([lo, hi]), black, white) + 1) / 2  # (2,) on [0, 1]
        else:
            self._image = image if self.is_8_bit else normalize_image(image)
            self.percentiles = percentile_range(self.region())
        labels, num_targets = ndimage.label(mask, structure=EIGHT_CONNECTIVITY)
        centers = ndimage.center_of_mass(mask, labels, range(1, num_targets + 1))
        self.target_centers = np.rint(np.reshape(centers, (num_targets, 2))).astype(int)  # (targets, 2): row, column

    def region(self, window: tuple | EllipsisType = ...) -> np.ndarray:
        """The pixels of an index expression, float32 on [0, 1]."""
        pixels = self._image[window]
        return pixels / np.float32(255) if self.is_8_bit else (pixels + np.float32(1)) / 2

    def crop(self, corner: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask of the square at `corner` (row, column), moved inside the frame as far as it fits."""
        window = np.ix_(*(_reflected(start, side, extent) for start, extent in zip(corner, self.shape, strict=True)))
        return self.region(window), self.mask[window]


def _stretched(values: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """float32 values of which `lo` and `hi` are -1 and 1, by the same factor beyond."""
    return ((values - np.float64(lo)) * (2 / max(hi - lo, 1e-6)) - 1).astype(np.float32)


def _reflected(start: int, length: int, extent: int) -> np.ndarray:
    """`length` indices from `start`, shifted to overhang [0, extent) as little as possible, the rest reflected."""
    start = int(np.clip(start, min(0, extent - length), max(0, extent - length)))
    period = max(2 * (extent - 1), 1)
    indices = np.arange(start, start + length) % period
    return np.minimum(indices, period - indices)


def _resize(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    resample = Image.Resampling.BICUBIC if image.shape[0] < size else Image.Resampling.BOX
    resized = Image.fromarray(image).resize((size, size), resample)
    coverage = Image.fromarray(mask.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    return np.array(resized), np.asarray(coverage) > 0.5


def _flip(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    upside_down, mirrored, transposed = rng.random(3) < 0.5
    if upside_down:
        image, mask = image[::-1], mask[::-1]
    if mirrored:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return (image.T, mask.T) if transposed else (image, mask)


def _squeeze(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]  # (1, S, S)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    squeezed = squeeze_with_targets(pixels, torch.from_numpy(np.ascontiguousarray(mask)), generator)
    return squeezed.image[0].numpy(), squeezed.mask.numpy()


def _stick_pixels(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image with single pixels outside targets hot, cold or at any level, as a detector array's defects are."""
    places = rng.integers(image.size, size=rng.integers(1, 11))
    places = places[~mask.ravel()[places]]
    stuck = image.copy()
    stuck.ravel()[places] = rng.choice([0, 1, rng.random()], len(places), p=[0.25, 0.5, 0.25])
    return stuck


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))

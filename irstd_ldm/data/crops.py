"""Augmented training crops, each a pure function of the seed and its number; every augmentation is at home here.

A new augmentation is a probability among `CropSettings`, 0 at first, and a line in `TrainingCrops` that asks `_chance`
for it: the trainers' flags, recipes and help follow, and crops of settings without it stay as they are.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch.utils.data import Dataset

from ..targets import EIGHT_CONNECTIVITY
from .folder import Sample
from .ggs import squeeze_with_targets
from .images import normalize_image, percentile_range, robust_range, scale_gray, soft_compress
from .planted_targets import cut_targets, implant
from .synthetic import synthetic_scene

KINDS = ("target", "image", "background", "implant")
# What changes a crop's pixels as another camera or file would, but for gain and offset.
VARIATIONS = (
    *("rescale", "gamma", "range", "blur", "noise", "column_noise", "own_range", "quantise", "stuck_pixel", "defect"),
    *("border", "interlace", "compress"),
)
SYNTHETIC_MARGIN = 1.25  # sides of a synthetic scene per side of a crop
MIN_OWN_RANGE = 2 / 255  # a crop whose own range is narrower gets its frame's range
MIN_RANGE = 8 / 255  # narrower ranges are not stretched to the full one: that would amplify quantisation


def setting(default: Any, help_text: str, **marks: Any) -> Any:
    """A field of a settings dataclass: default (MISSING = required), text that a command line shows, further marks."""
    return field(default=default, metadata={"help": help_text, **marks})


@dataclass(kw_only=True)
class CropSettings:
    """Settings of the training crops.

    The shares of the four kinds of crops sum to 1. Factors and exponents are drawn log-uniformly between their bounds.
    """

    target_probability: float = setting(0.5, "Share of crops around a target.")
    image_probability: float = setting(0.15, "Share of crops anywhere in a training image.")
    background_probability: float = setting(0.15, "Share of crops of frames without targets.")
    implant_probability: float = setting(0.2, "Share of crops of either with 1 to 3 implanted targets.")
    flip_probability: float = setting(
        0.5, "Probability of each of two mirrorings and a transposition of a crop with targets; 0.5 of others."
    )
    outline_free_flip_probability: float = setting(
        0.0, "Where flip_probability is 0: share of crops with targets flipped still, no loss counting outlines."
    )
    own_implant_probability: float = setting(
        0.0, "Share of targets implanted into labelled images that are of the same data set and as they lie there."
    )
    squeeze_probability: float = setting(0.0, "Share of crops that the Gaussian Group Squeezer quantises.")
    hard_negative_probability: float = setting(0.0, "Share of background crops around a detector's false alarms.")
    hard_image_probability: float = setting(0.0, "Share of crops anywhere in a training image, around a false alarm.")
    blend_probability: float = setting(0.0, "Share of background crops that are mixtures of two.")
    negative_image_probability: float = setting(0.0, "Share of background crops that are training images' negatives.")
    synthetic_probability: float = setting(0.0, "Share of frames without targets that are new synthetic scenes.")
    stuck_pixel_probability: float = setting(0.0, "Share of crops with 1 to 10 stuck pixels, none on a target.")
    background_rescale_min: float = setting(0.6, "Smallest factor by which background crops are rescaled.")
    background_rescale_max: float = setting(1.6, "Largest factor by which background crops are rescaled.")
    inversion_probability: float = setting(0.2, "Share of frames without targets that are inverted: other clutter.")
    rescale_probability: float = setting(0.4, "Share of crops that are rescaled.")
    rescale_min: float = setting(0.6, "Smallest factor by which crops of training images are rescaled.")
    rescale_max: float = setting(1.6, "Largest factor by which crops of training images are rescaled.")
    gamma_probability: float = setting(0.4, "Share of crops whose gray levels are raised to a power.")
    gamma_min: float = setting(0.6, "Smallest exponent.")
    gamma_max: float = setting(1.6, "Largest exponent.")
    gain_probability: float = setting(0.5, "Share of crops with a gain and an offset; all have them on robust ranges.")
    gain_min: float = setting(0.6, "Smallest gain.")
    gain_max: float = setting(1.5, "Largest gain.")
    offset_min: float = setting(-0.15, "Smallest offset, a part of the full scale or of a robust range's width.")
    offset_max: float = setting(0.15, "Largest offset, in the same units.")
    range_probability: float = setting(0.15, "Share of crops stretched between percentiles, not on robust ranges.")
    blur_probability: float = setting(0.1, "Share of crops that are blurred.")
    blur_sigma_min_px: float = setting(0.3, "Smallest standard deviation of the blur in pixels.")
    blur_sigma_max_px: float = setting(1.0, "Largest standard deviation of the blur in pixels.")
    noise_probability: float = setting(0.15, "Share of crops with additional noise.")
    noise_sigma_max: float = setting(0.03, "Its largest deviation, of the full scale or twice a robust range's width.")
    column_noise_probability: float = setting(0.1, "Share of crops with additional noise of whole columns.")
    column_noise_sigma_max: float = setting(0.02, "Its largest deviation, in the same units.")
    own_range_probability: float = setting(0.5, "Share of crops with their own robust range, not their frame's.")
    quantise_probability: float = setting(0.2, "Share of crops with fewer gray levels; robust ranges alone.")
    defect_probability: float = setting(0.15, "Share of crops with dead or hot pixels or lines; robust ranges alone.")
    border_probability: float = setting(0.05, "Share of crops with a border without data; robust ranges alone.")
    interlace_probability: float = setting(0.03, "Share of crops with interlaced rows; robust ranges alone.")
    compress_probability: float = setting(0.08, "Share of crops compressed mildly by JPEG; robust ranges alone.")

    def __post_init__(self):
        shares = [getattr(self, f"{kind}_probability") for kind in KINDS]
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                f"`{'_probability`, `'.join(KINDS)}_probability` must be >= 0 and sum to 1, got {tuple(shares)}"
            )
        for name in ("background_rescale", "rescale", "gamma", "gain"):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if not 0 < low <= high:
                raise ValueError(f"`{name}_min` and `{name}_max` must be 0 < min <= max, got {low} and {high}")


def _scaled(settings: CropSettings, factor: float) -> CropSettings:
    """The settings with the probabilities of all variations times a factor."""
    names = [f"{name}_probability" for name in VARIATIONS]
    return replace(settings, **{name: getattr(settings, name) * factor for name in names})


class TrainingCrops(Dataset):
    """Crops of training images and background frames; everything is kept in memory.

    Item k is {"image": (1, S, S) float32, about [-1, 1], "mask": (1, S, S) float32 in {0, 1}, "weight": the same, 0
    where losses do not count}, a pure function of (seed, k) for every non-negative k: there is no length, and a
    resumed run goes on with the next k. Images smaller than a crop are continued by reflection, mask and all.

    Args:
        samples: Labelled images, of one data set or of several.
        backgrounds: Frames without targets, (H, W) as `to_gray` returns them; where there are none, their crops come
            from the samples.
        settings: Kinds of crops and augmentations.
        seed: Seed of the whole sequence.
        shares: Share of each data set among the crops of labelled images, of any sum; None = equal.
        flip_probabilities: `flip_probability` of each data set's images; None = that of the settings for all.
        variation_factors: Factor in [0, 1] on the probabilities of `VARIATIONS` in crops of each data set; None = 1.
        size: Side S in pixels.
        normalization: The rule of `gray_range` that the detector is going to be used with.

    Attributes:
        hard_negatives: (index of a background, its pixel (row, column)) of what looks like a target there; none at
            first. Where there are any, they are part of what item k is a function of.
        hard_images: (index of a data set, of one of its images, its pixel) of the same in labelled images.

    Raises:
        ValueError: A data set has no target, there are not as many shares or probabilities as data sets, or `size` is
            less than 64.
    """

    def __init__(
        self,
        samples: Sequence[Sequence[Sample]],
        backgrounds: Sequence[np.ndarray],
        settings: CropSettings,
        seed: int,
        shares: Sequence[float] | None = None,
        flip_probabilities: Sequence[float] | None = None,
        variation_factors: Sequence[float] | None = None,
        *,
        size: int = 128,
        normalization: str = "range",
    ):
        if size < 64:
            raise ValueError(f"`size` must be at least 64 pixels, got {size}")
        self.settings, self.seed, self.size, self.normalization = settings, seed, size, normalization
        self.hard_negatives: list[tuple[int, np.ndarray]] = []
        self.hard_images: list[tuple[int, int, np.ndarray]] = []
        weights = np.ones(len(samples)) if shares is None else np.array(shares, float)
        if len(weights) != len(samples) or weights.min() < 0 or not weights.sum():
            raise ValueError(f"`shares` must be one number >= 0 per data set ({len(samples)}), got {shares}")
        self._flips = [settings.flip_probability] * len(samples) if flip_probabilities is None else flip_probabilities
        if len(self._flips) != len(samples):
            raise ValueError(f"`flip_probabilities` must be one per data set ({len(samples)}), got {self._flips}")
        factors = [1.0] * len(samples) if variation_factors is None else variation_factors
        if len(factors) != len(samples):
            raise ValueError(f"`variation_factors` must be one per data set ({len(samples)}), got {factors}")
        self._set_settings = [_scaled(settings, factor) for factor in factors]
        self._shares = np.cumsum(weights / weights.sum())
        self._sets = [
            [_Frame(sample.image, sample.mask, normalization, number) for sample in one_set]
            for number, one_set in enumerate(samples)
        ]
        self._with_targets = [[frame for frame in frames if len(frame.target_centers)] for frames in self._sets]
        for index, frames in enumerate(self._with_targets):
            if not frames:
                raise ValueError(
                    f"`samples` must hold at least one target per data set, got none in the {len(samples[index])} "
                    f"images of number {index}"
                )
        self._backgrounds = [_Frame(image, np.zeros(image.shape, bool), normalization) for image in backgrounds] or [
            frame for frames in self._sets for frame in frames
        ]
        self._banks = [cut_targets((one.region() * 255, one.mask) for one in frames) for frames in self._with_targets]
        self._bank = [patch for bank in self._banks for patch in bank]

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, k))
        settings = self.settings
        kinds = np.cumsum([settings.target_probability, settings.image_probability, settings.background_probability])
        kind = KINDS[int(np.searchsorted(kinds, rng.random(), side="right"))]
        inverted = False
        if kind == "target":
            frame = self._any_of(self._with_targets, rng)
            image, mask = self._crop(frame, frame.target_centers[rng.integers(len(frame.target_centers))], rng)
        elif kind == "image" and self.hard_images and _chance(rng, settings.hard_image_probability):
            number, index, anchor = self.hard_images[rng.integers(len(self.hard_images))]
            frame = self._sets[number][index]
            image, mask = self._crop(frame, anchor, rng)
        elif kind == "image" or (kind == "implant" and rng.random() < 0.5):
            frame = self._any_of(self._sets, rng)
            image, mask = self._crop(frame, None, rng)
        else:
            frame, image, mask, inverted = self._background_crop(kind == "background", rng)
        if not frame.target_centers.size and rng.random() < settings.inversion_probability:
            image, inverted = 1 - image, not inverted
        if kind == "implant":
            own_bank = [] if frame.data_set is None else self._banks[frame.data_set]
            image, mask = implant(image * 255, mask, self._bank, rng, own_bank, settings.own_implant_probability)
            image /= 255
        # A mask may lie on one side of its target, and a flipped outline would teach the other; an empty one has none.
        probability = settings.flip_probability if frame.data_set is None else self._flips[frame.data_set]
        outline_free = mask.any() and probability == 0 and _chance(rng, settings.outline_free_flip_probability)
        image, mask = _flip(image, mask, 0.5 if outline_free or not mask.any() else probability, rng)
        if _chance(rng, settings.squeeze_probability):
            image, mask = _squeeze(image, mask, rng)
        if self.normalization == "robust":
            image, mask = self._vary_sensor(image, mask, frame, inverted, rng)
        else:
            image = self._vary_intensity(image, mask, frame, inverted, rng)
        weight = ~_outlines(mask) if outline_free else np.ones_like(mask)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image, np.float32))[None],  # (1, S, S)
            "mask": torch.from_numpy(mask.astype(np.float32))[None],  # (1, S, S)
            "weight": torch.from_numpy(weight.astype(np.float32))[None],  # (1, S, S)
        }

    def _settings_of(self, frame: "_Frame") -> CropSettings:
        return self.settings if frame.data_set is None else self._set_settings[frame.data_set]

    def _any_of(self, sets: list[list["_Frame"]], rng: np.random.Generator) -> "_Frame":
        frames = sets[np.searchsorted(self._shares, rng.random(), side="right")]
        return frames[rng.integers(len(frames))]

    def _background_crop(self, plain: bool, rng: np.random.Generator) -> tuple["_Frame", np.ndarray, np.ndarray, bool]:
        """A frame, a crop of it with its mask, and whether that is the frame's negative.

        A plain crop, one without implanted targets, may be a negative, lie around a hard negative or be blended with
        another; plain or not, it may be of a synthetic scene.
        """
        settings = self.settings
        if plain and _chance(rng, settings.negative_image_probability):
            frame = self._any_of(self._sets, rng)
            image, mask = self._crop(frame, None, rng)
            return frame, 1 - image, np.zeros_like(mask), True
        if _chance(rng, settings.synthetic_probability):
            side = round(self.size * SYNTHETIC_MARGIN)
            scene = synthetic_scene(side, side, num_targets=0, seed=int(rng.integers(2**63)))
            frame, anchor = _Frame(scene.image, scene.mask, self.normalization), None
        elif plain and self.hard_negatives and rng.random() < settings.hard_negative_probability:
            index, anchor = self.hard_negatives[rng.integers(len(self.hard_negatives))]
            frame = self._backgrounds[index]
        else:
            frame, anchor = self._backgrounds[rng.integers(len(self._backgrounds))], None
        image, mask = self._crop(frame, anchor, rng)
        if plain and _chance(rng, settings.blend_probability):
            other, other_mask = self._crop(self._backgrounds[rng.integers(len(self._backgrounds))], None, rng)
            if not mask.any() and not other_mask.any():
                image = image + np.float32(rng.uniform(0.2, 0.8)) * (other - image)
        return frame, image, mask, False

    def _crop(
        self, frame: "_Frame", anchor: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A region that holds the pixel `anchor` (None: any), rescaled at times unless a target would vanish or merge.

        The image is (S, S) float32 on [0, 1], the mask (S, S) bool.
        """
        settings, size = self._settings_of(frame), self.size
        side = size
        if rng.random() < settings.rescale_probability:
            low, high = settings.rescale_min, settings.rescale_max
            if not frame.target_centers.size:
                low, high = settings.background_rescale_min, settings.background_rescale_max
            side = max(round(size / _log_uniform(rng, low, high)), 16)
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
        """Image (S, S) on [0, 1] -> (S, S) on about [-1, 1]; an `inverted` one is a crop of the frame's negative."""
        settings = self._settings_of(frame)
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
                exponent = _log_uniform(rng, settings.gamma_min, settings.gamma_max)
                image = np.where((image > 0) & (image < 1), np.abs(image) ** exponent, image)
            if rng.random() < settings.gain_probability:
                mean = image.mean()
                image = mean + _log_uniform(rng, settings.gain_min, settings.gain_max) * (image - mean)
                image = image + rng.uniform(settings.offset_min, settings.offset_max)
                if mask.any():
                    image = image + max(0.05 - image[mask].min(), 0)  # clipping must not hide a labelled target
                    image = image - max(image[mask].max() - 1, 0)
        image = _add_noise(_blur(image, settings, rng), 1.0, settings, rng)
        if _chance(rng, settings.stuck_pixel_probability):
            image = _stick_pixels(image, mask, rng)
        if not stretched and frame.is_8_bit:
            image = np.clip(image, 0, 1)  # an 8-bit sensor saturates
        return image * 2 - 1

    def _vary_sensor(
        self, image: np.ndarray, mask: np.ndarray, frame: "_Frame", inverted: bool, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The crop as another camera, its defects and its files would show it, on the scale of "robust".

        The image (S, S) on [0, 1] becomes float32 on about [-1, 1]; the mask loses what is hidden.
        """
        settings = self._settings_of(frame)
        value_range = 1 - np.flip(frame.robust_range) if inverted else frame.robust_range  # (2,)
        if rng.random() < settings.gamma_probability:
            exponent = _log_uniform(rng, settings.gamma_min, settings.gamma_max)
            image, value_range = np.clip(image, 0, 1) ** exponent, np.clip(value_range, 0, 1) ** exponent
        scale = max(value_range[1] - value_range[0], MIN_RANGE)
        image = _add_noise(_blur(image, settings, rng), 2 * scale, settings, rng)
        if rng.random() < settings.quantise_probability:
            gain = _log_uniform(rng, 0.2, 1.0)
            image = np.rint(np.clip(image, 0, 1) * (255 * gain)) / np.float32(255 * gain)
        if rng.random() < settings.interlace_probability:
            image, mask = interlace(image, mask, rng)
        if rng.random() < settings.compress_probability:
            image = compress_jpeg(image, rng)
        if rng.random() < settings.border_probability:
            image, mask = hide_borders(image, mask, rng)
        if _chance(rng, settings.stuck_pixel_probability):
            image = _stick_pixels(image, mask, rng)
        if rng.random() < settings.defect_probability:
            image, mask = add_defects(image, mask, scale, rng)
        if rng.random() < settings.own_range_probability:
            own = robust_range(image)
            if own[1] - own[0] >= MIN_OWN_RANGE:
                value_range = np.array(own)
        width = max(value_range[1] - value_range[0], 1 / 255)
        center = value_range.mean() + rng.uniform(settings.offset_min, settings.offset_max) * width
        half = width / 2 / _log_uniform(rng, settings.gain_min, settings.gain_max)
        return scale_gray(image.astype(np.float32), (center - half, center + half)), mask


class _Frame:
    """One image in memory, read in reflected crops; of a data set, by its number, or a frame without targets."""

    def __init__(self, image: np.ndarray, mask: np.ndarray, normalization: str, data_set: int | None = None):
        self.data_set = data_set
        self.is_8_bit = image.dtype == np.uint8
        self.mask = mask
        self.shape = image.shape
        if normalization == "robust":
            lo, hi = robust_range(image)
            # The range of other types is the middle half of [0, 1], as that of an 8-bit frame often is.
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
        """The pixels in a window, float32 on [0, 1]; `window` is any index of an array (H, W)."""
        pixels = self._image[window]
        return pixels / np.float32(255) if self.is_8_bit else (pixels + np.float32(1)) / 2

    def crop(self, corner: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask of the square at `corner` (row, column), moved inside the frame as far as it fits."""
        window = np.ix_(*(_reflected(start, side, extent) for start, extent in zip(corner, self.shape, strict=True)))
        return self.region(window), self.mask[window]


def _stretched(values: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """Values as float32 on a linear scale on which `lo` is -1 and `hi` is 1."""
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


def _flip(
    image: np.ndarray, mask: np.ndarray, probability: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    upside_down, mirrored, transposed = rng.random(3) < probability
    if upside_down:
        image, mask = image[::-1], mask[::-1]
    if mirrored:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return (image.T, mask.T) if transposed else (image, mask)


def _outlines(mask: np.ndarray) -> np.ndarray:
    """The pixels (H, W) bool of targets beside one that is not, and those beside targets."""
    return ndimage.binary_dilation(mask, EIGHT_CONNECTIVITY) & ndimage.binary_dilation(~mask, EIGHT_CONNECTIVITY)


def _squeeze(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]  # (1, S, S)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    squeezed = squeeze_with_targets(pixels, torch.from_numpy(np.ascontiguousarray(mask)), generator)
    return squeezed.image[0].numpy(), squeezed.mask.numpy()


def _blur(image: np.ndarray, settings: CropSettings, rng: np.random.Generator) -> np.ndarray:
    if rng.random() >= settings.blur_probability:
        return image
    return ndimage.gaussian_filter(image, rng.uniform(settings.blur_sigma_min_px, settings.blur_sigma_max_px))


def _add_noise(image: np.ndarray, unit: float, settings: CropSettings, rng: np.random.Generator) -> np.ndarray:
    """The image (S, S), at times with noise of pixels and of whole columns; settings count in `unit`."""
    for name, shape in (("noise", image.shape), ("column_noise", image.shape[1])):
        if rng.random() < getattr(settings, f"{name}_probability"):
            sigma = np.float32(rng.uniform(0, getattr(settings, f"{name}_sigma_max")) * unit)
            image = image + sigma * rng.standard_normal(shape, np.float32)
    return image


def _stick_pixels(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image with single pixels outside targets hot, cold or at any level, as a detector array's defects are."""
    pixels = rng.integers(image.size, size=rng.integers(1, 11))
    pixels = pixels[~mask.ravel()[pixels]]
    stuck = image.copy()
    stuck.ravel()[pixels] = rng.choice([0, 1, rng.random()], len(pixels), p=[0.25, 0.5, 0.25])
    return stuck


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _chance(rng: np.random.Generator, probability: float) -> bool:
    """True with this probability; at 0 nothing is drawn, so that the rest of a crop stays as it was."""
    return probability > 0 and rng.random() < probability


def add_defects(
    image: np.ndarray, mask: np.ndarray, scale: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The image with one or two kinds of dead or hot pixels, rows or columns, or a strip of telemetry.

    A defect lies up to hundreds of times the scene's contrast away from it, as a dead pixel of a 14-bit frame does;
    `scale` is the width of the scene's range. What it covers is no target any more.
    """
    shown = image.copy()
    for kind in rng.choice(4, rng.integers(1, 3), replace=False):
        level = image.mean() + rng.choice((-1, 1)) * scale * np.exp(rng.uniform(0, np.log(200)))
        if kind == 0:
            count = int(image.size * np.exp(rng.uniform(np.log(2e-5), np.log(1.5e-2)))) + 1
            pixels = rng.integers(image.size, size=count)
            shown.flat[pixels] = level if rng.random() < 0.7 else rng.uniform(image.min(), image.max(), count)
        elif kind == 1:
            shown[rng.integers(image.shape[0], size=rng.integers(1, 4))] = level
        elif kind == 2:
            shown[:, rng.integers(image.shape[1], size=rng.integers(1, 4))] = level
        else:
            rows, length = rng.integers(1, 5), rng.integers(image.shape[1] // 8, image.shape[1] + 1)
            strip = rng.choice((image.min(), level), (rows, length))
            shown[slice(rows) if rng.random() < 0.5 else slice(-rows, None), :length] = strip
    return shown, mask & (shown == image)


def hide_borders(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image with a letterbox, a round field of view or a corner without data, of one value and without targets."""
    height, width = image.shape
    rows, columns = np.ogrid[:height, :width]
    kind = rng.integers(3)
    if kind == 0:
        rows, extent = (rows, height) if rng.random() < 0.5 else (columns, width)
        first, last = rng.uniform(0, 0.25, 2) * extent
        hidden = np.broadcast_to((rows < first) | (rows >= extent - last), image.shape)
    elif kind == 1:
        radius = rng.uniform(0.4, 0.7) * min(height, width)
        y, x = rng.uniform(0.4, 0.6, 2) * image.shape
        hidden = (rows - y) ** 2 + (columns - x) ** 2 > radius**2
    else:
        y, x = rng.uniform(0.05, 0.4, 2) * image.shape
        rows = rows if rng.random() < 0.5 else height - 1 - rows
        columns = columns if rng.random() < 0.5 else width - 1 - columns
        hidden = rows / y + columns / x < 1
    low, high = image.min(), image.max()
    level = rng.choice((low, low - rng.uniform(0, 20) * (high - low), rng.uniform(low, high)), p=(0.5, 0.25, 0.25))
    return np.where(hidden, np.float32(level), image), mask & ~hidden


def interlace(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask (H, W) with every other row moved by a pixel or two, as fields of a moving camera are."""
    width = image.shape[1]
    columns = np.arange(width) + rng.choice((-2, -1, 1, 2))
    columns = np.minimum(np.abs(columns), 2 * (width - 1) - np.abs(columns))  # reflected at the borders
    image, mask = image.copy(), mask.copy()
    image[1::2], mask[1::2] = image[1::2, columns], mask[1::2, columns]
    return image, mask


def compress_jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image (H, W) on [0, 1] after 8-bit JPEG of a quality of 70 to 95."""
    file = io.BytesIO()
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(70, 96)))
    return np.asarray(Image.open(file), np.float32) / 255

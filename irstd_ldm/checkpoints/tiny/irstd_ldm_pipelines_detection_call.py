"""What a detector's call does around its networks, whichever runtime runs them: defaults, checks, tiles, targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . irstd_ldm_data_images import ImageInput, to_gray
from . irstd_ldm_evaluation_confidence import ConfidenceCalibration, calibration_from_dict
from . irstd_ldm_pipelines_fusion import FUSIONS
from . irstd_ldm_pipelines_seeds import image_seed
from . irstd_ldm_pipelines_target import Target
from . irstd_ldm_pipelines_targets import extract_targets
from . irstd_ldm_pipelines_tiled_prediction import predict_in_tiles
from . irstd_ldm_pipelines_tiling import MIN_PADDED_SIZE


@dataclass(frozen=True)
class CallSettings:
    """The arguments of a call, defaults filled in and checked."""

    num_inference_steps: int
    ensemble_size: int
    threshold: float
    tile_size: int
    tile_overlap: int
    input_range: tuple[float, float] | None
    batch_size: int
    ensemble_fusion: str


@dataclass(frozen=True)
class Detections:
    """What was found in N images: maps (1, H, W) and targets, one of each per image; no uncertainty for one member."""

    probability: list[np.ndarray]
    mask: list[np.ndarray]
    uncertainty: list[np.ndarray] | None
    targets: list[list[Target]]


class DetectionCall:
    """The call of a detector whose `config` holds the defaults and the normalisation of [`IRSTDLatentPipeline`]."""

    config: Any
    min_inference_steps = 1  # 0 where the detector has an answer without denoising

    @property
    def max_inference_steps(self) -> int:
        raise NotImplementedError

    def resolve_settings(
        self,
        *,
        num_inference_steps: int | None,
        ensemble_size: int | None,
        threshold: float | None,
        max_fa_per_million_px: float | None,
        tile_size: int | None,
        tile_overlap: int | None,
        input_range: tuple[float, float] | None,
        batch_size: int | None,
        ensemble_fusion: str,
    ) -> CallSettings:
        """The settings of a call, None = the checkpoint's default.

        Raises:
            ValueError: An argument out of range, or a budget that was never calibrated.
        """
        settings = CallSettings(
            num_inference_steps=self._default("num_inference_steps", num_inference_steps),
            ensemble_size=self._default("ensemble_size", ensemble_size),
            threshold=self.resolve_threshold(threshold, max_fa_per_million_px),
            tile_size=self._default("tile_size", tile_size),
            tile_overlap=self._default("tile_overlap", tile_overlap),
            input_range=input_range,
            batch_size=1 if batch_size is None else batch_size,
            ensemble_fusion=ensemble_fusion,
        )
        self._check(settings)
        return settings

    def resolve_threshold(self, threshold: float | None, max_fa_per_million_px: float | None) -> float:
        """The probability threshold of a call.

        Raises:
            ValueError: Both arguments are given, or the budget was never calibrated.
        """
        if max_fa_per_million_px is None:
            return self.config["default_threshold"] if threshold is None else threshold
        if threshold is not None:
            raise ValueError("`threshold` and `max_fa_per_million_px` exclude each other, got both")
        thresholds = (self.config["calibration"] or {}).get("thresholds", {})
        for budget, calibrated in thresholds.items():
            if float(budget) == max_fa_per_million_px:
                return calibrated
        stored = ", ".join(thresholds) or "none"
        raise ValueError(
            f"`max_fa_per_million_px` {max_fa_per_million_px!r} was never calibrated for this checkpoint; "
            f"stored: {stored}"
        )

    def confidence_calibration(self) -> ConfidenceCalibration | None:
        """What `irstd-ldm calibrate` stored of the targets' confidence, None where it has not run."""
        stored = (self.config["calibration"] or {}).get("confidence")
        return None if stored is None else calibration_from_dict(stored)

    def detect_images(
        self,
        image: ImageInput | Sequence[ImageInput],
        settings: CallSettings,
        draw_base_seed: Callable[[], int],
        predict: Callable[[np.ndarray, list[int]], np.ndarray],
    ) -> Detections:
        """Reads the images, runs their tiles, and finds the targets.

        Args:
            image: As in the call of [`IRSTDLatentPipeline`].
            settings: From `resolve_settings`.
            draw_base_seed: Draws the number that every image's seed is derived from, after the images are read.
            predict: From tiles (B, PH, PW) float32, about [-1, 1], and their images' seeds to the members'
                probabilities (B, E, PH, PW) float32.

        Raises:
            TypeError: An image of an unknown kind.
            ValueError: No image; an image without pixels or with NaN or infinite values.
        """
        images: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
        if not images:
            raise ValueError("`image` must hold at least one image, got an empty list")
        grays = [to_gray(one) for one in images]  # N of (H, W)
        base = draw_base_seed()
        seeds = [image_seed(base, place) for place in range(len(images))]
        fused = predict_in_tiles(
            grays,
            lambda tiles, places: predict(tiles, [seeds[place] for place in places]),
            ensemble_size=settings.ensemble_size,
            ensemble_fusion=settings.ensemble_fusion,
            tile_size=settings.tile_size,
            tile_overlap=settings.tile_overlap,
            input_range=settings.input_range,
            normalization=self.config["normalization"],
            batch_size=settings.batch_size,
        )
        probabilities = [of_image.probability[None] for of_image in fused]  # N of (1, H, W)
        masks = [probability > settings.threshold for probability in probabilities]
        calibration = self.confidence_calibration()
        return Detections(
            probability=probabilities,
            mask=masks,
            uncertainty=[one.uncertainty[None] for one in fused if one.uncertainty is not None] or None,
            targets=[
                extract_targets(p[0], m[0], g, calibration)
                for p, m, g in zip(probabilities, masks, grays, strict=True)
            ],
        )

    def _default(self, name: str, value: int | None) -> int:
        return self.config[f"default_{name}"] if value is None else value

    def _check(self, settings: CallSettings) -> None:
        for name, least in (
            ("num_inference_steps", self.min_inference_steps),
            ("ensemble_size", 1),
            ("batch_size", 1),
            ("tile_size", 0),
            ("tile_overlap", 0),
        ):
            value = getattr(settings, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
        if settings.num_inference_steps > self.max_inference_steps:
            raise ValueError(
                f"`num_inference_steps` must be at most {self.max_inference_steps}, got {settings.num_inference_steps}"
            )
        if not 0 <= settings.threshold <= 1:
            raise ValueError(f"`threshold` must lie in [0, 1], got {settings.threshold!r}")
        if settings.tile_size and settings.tile_size < MIN_PADDED_SIZE:
            raise ValueError(
                f"`tile_size` must be 0 (no tiles) or at least {MIN_PADDED_SIZE}, got {settings.tile_size!r}"
            )
        if settings.tile_size and settings.tile_overlap >= settings.tile_size:
            raise ValueError(
                f"`tile_overlap` must be less than `tile_size` ({settings.tile_size}), got {settings.tile_overlap!r}"
            )
        if settings.ensemble_fusion not in FUSIONS:
            raise ValueError(
                f"`ensemble_fusion` must be one of {', '.join(FUSIONS)}, got {settings.ensemble_fusion!r}"
            )


def stack_maps(maps: list[np.ndarray] | None) -> Any:
    """Maps (1, H, W) of one size as (N, 1, H, W); others stay a list, None stays None."""
    if maps is None or len({one.shape for one in maps}) > 1:
        return maps
    return maps[0][None] if len(maps) == 1 else np.stack(maps)  # a single one is not copied

"""What the pipelines that detect targets share: the call, its checks, tiles, thresholds and targets."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from . irstd_ldm_data_images import ImageInput, to_gray
from . irstd_ldm_evaluation_confidence import ConfidenceCalibration, calibration_from_dict
from . irstd_ldm_pipelines_fusion import FUSIONS
from . irstd_ldm_pipelines_irstd_pipeline_base import IRSTDPipelineBase
from . irstd_ldm_pipelines_output import IRSTDPipelineOutput
from . irstd_ldm_pipelines_seeds import image_seed
from . irstd_ldm_pipelines_targets import extract_targets
from . irstd_ldm_pipelines_tiled_prediction import predict_in_tiles
from . irstd_ldm_pipelines_tiling import MIN_PADDED_SIZE


class IRSTDDetectionPipeline(IRSTDPipelineBase):
    """Detects small targets in infrared images of any size, by a subclass's [`predict_probability`].

    A subclass registers its components and, with the names and meanings of [`IRSTDLatentPipeline`], the values
    `default_num_inference_steps`, `default_ensemble_size`, `default_threshold`, `default_tile_size`,
    `default_tile_overlap` and `calibration`.
    """

    min_inference_steps = 1  # 0 where the pipeline has an answer without denoising

    def predict_probability(
        self,
        image: np.ndarray,
        seeds: Sequence[int],
        num_inference_steps: int,
        ensemble_size: int,
        callback_on_step_end: Callable[..., dict | None] | None = None,
    ) -> np.ndarray:
        """Probabilities of the ensemble's members.

        Args:
            image: (B, PH, PW) float32, about [-1, 1].
            seeds: One seed per image.
            num_inference_steps: Denoising steps.
            ensemble_size: Members per image.
            callback_on_step_end: As in `__call__`.

        Returns:
            (B, E, PH, PW) float32 in [0, 1].
        """
        raise NotImplementedError

    def check_inputs(
        self,
        num_inference_steps: int,
        ensemble_size: int,
        threshold: float,
        tile_size: int,
        tile_overlap: int,
        batch_size: int,
        output_type: str,
        ensemble_fusion: str,
    ) -> None:
        for name, value, least in (
            ("num_inference_steps", num_inference_steps, self.min_inference_steps),
            ("ensemble_size", ensemble_size, 1),
            ("batch_size", batch_size, 1),
            ("tile_size", tile_size, 0),
            ("tile_overlap", tile_overlap, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
        if num_inference_steps > self.scheduler.config.num_train_timesteps:
            raise ValueError(
                f"`num_inference_steps` must be at most {self.scheduler.config.num_train_timesteps}, "
                f"got {num_inference_steps}"
            )
        if not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` must lie in [0, 1], got {threshold!r}")
        if tile_size and tile_size < MIN_PADDED_SIZE:
            raise ValueError(f"`tile_size` must be 0 (no tiles) or at least {MIN_PADDED_SIZE}, got {tile_size!r}")
        if tile_size and tile_overlap >= tile_size:
            raise ValueError(f"`tile_overlap` must be less than `tile_size` ({tile_size}), got {tile_overlap!r}")
        if output_type not in ("np", "pt"):
            raise ValueError(f"`output_type` must be 'np' or 'pt', got {output_type!r}")
        if ensemble_fusion not in FUSIONS:
            raise ValueError(f"`ensemble_fusion` must be one of {', '.join(FUSIONS)}, got {ensemble_fusion!r}")

    def resolve_threshold(self, threshold: float | None, max_fa_per_million_px: float | None) -> float:
        """The probability threshold of a call.

        Raises:
            ValueError: Both arguments are given, or the budget was never calibrated.
        """
        if max_fa_per_million_px is None:
            return self.config.default_threshold if threshold is None else threshold
        if threshold is not None:
            raise ValueError("`threshold` and `max_fa_per_million_px` exclude each other, got both")
        thresholds = (self.config.calibration or {}).get("thresholds", {})
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
        stored = (self.config.calibration or {}).get("confidence")
        return None if stored is None else calibration_from_dict(stored)

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        num_inference_steps: int | None = None,
        ensemble_size: int | None = None,
        threshold: float | None = None,
        max_fa_per_million_px: float | None = None,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        input_range: tuple[float, float] | None = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict | None] | None = None,
        ensemble_fusion: str = "mean",
    ) -> IRSTDPipelineOutput:
        """Detect the targets of one image or of a list of images.

        Args:
            image: A path, a PIL image, an array (H, W), (H, W, 1) or (H, W, 3), a tensor (H, W), (1, H, W) or
                (3, H, W), or a list of these; uint8, uint16, int32 or floating point.
            num_inference_steps: Denoising steps; None = the checkpoint's default.
            ensemble_size: Posterior samples whose probabilities are fused; None = the checkpoint's default.
            threshold: Pixels of a higher probability belong to targets; None = the checkpoint's default.
            max_fa_per_million_px: A false-alarm budget in pixels per million, instead of `threshold`; it must have
                been calibrated.
            tile_size: Images with a longer side run in overlapping tiles of this side, in pixels; 0 = never;
                None = the checkpoint's default.
            tile_overlap: Overlap of neighbouring tiles in pixels; None = the checkpoint's default.
            input_range: Raw values that map to -1 and 1; None = 0 and 255 for uint8, the frame's 0.1 and 99.9
                percentiles otherwise. Values outside are compressed, not clipped.
            batch_size: Images or tiles that run together; None = 1.
            generator: Source of the randomness; None = seed 0. Every image draws from its own generator, derived from
                this one and the image's place in the call, so that the batch size changes nothing.
            output_type: ``np`` or ``pt``.
            return_dict: Whether to return an [`IRSTDPipelineOutput`] instead of a tuple.
            callback_on_step_end: Called as ``callback(pipe, step, timestep, {"latents": latents})`` after each
                denoising step of each batch; may return a dict with new `latents`.
            ensemble_fusion: How members become one probability: ``mean``, ``median``, or ``staple``, which weighs the
                members' decisions (probability > 0.5) by how well each agrees with the consensus.

        Returns:
            [`IRSTDPipelineOutput`], or the tuple (probability, mask, uncertainty, targets).

        Raises:
            TypeError: An image of an unknown kind.
            ValueError: An argument out of range; an image without pixels or with NaN or infinite values; a budget that
                was never calibrated.
        """
        # 0. Resolve defaults and check.
        num_inference_steps = _default(num_inference_steps, self.config.default_num_inference_steps)
        ensemble_size = _default(ensemble_size, self.config.default_ensemble_size)
        tile_size = _default(tile_size, self.config.default_tile_size)
        tile_overlap = _default(tile_overlap, self.config.default_tile_overlap)
        batch_size = _default(batch_size, 1)
        threshold = self.resolve_threshold(threshold, max_fa_per_million_px)
        self.check_inputs(
            num_inference_steps,
            ensemble_size,
            threshold,
            tile_size,
            tile_overlap,
            batch_size,
            output_type,
            ensemble_fusion,
        )

        # 1. Read the images.
        images: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
        if not images:
            raise ValueError("`image` must hold at least one image, got an empty list")
        grays = [to_gray(one) for one in images]  # N of (H, W)

        # 2. One seed per image, whatever the batch.
        generator = generator or torch.Generator().manual_seed(0)
        base = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        seeds = [image_seed(base, place) for place in range(len(images))]

        # 3. Members' probabilities of each tile, blended and fused.
        def predict(tiles: np.ndarray, places: list[int]) -> np.ndarray:
            of_tiles = [seeds[place] for place in places]
            return self.predict_probability(
                tiles, of_tiles, num_inference_steps, ensemble_size, callback_on_step_end
            )  # (B, E, PH, PW)

        fused = predict_in_tiles(
            grays,
            predict,
            ensemble_size=ensemble_size,
            ensemble_fusion=ensemble_fusion,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            input_range=input_range,
            batch_size=batch_size,
        )
        probabilities = [f.probability[None] for f in fused]  # N of (1, H, W)
        uncertainties = [f.uncertainty[None] for f in fused if f.uncertainty is not None] or None

        # 4. Threshold, find the targets.
        masks = [p > threshold for p in probabilities]
        calibration = self.confidence_calibration()
        targets = [
            extract_targets(p[0], m[0], g, calibration) for p, m, g in zip(probabilities, masks, grays, strict=True)
        ]

        # 5. Stack images of one size, convert, offload.
        outputs = [_collect(maps, output_type) for maps in (probabilities, masks, uncertainties)]
        self.maybe_free_model_hooks()
        if not return_dict:
            return (*outputs, targets)  # type: ignore[return-value]
        return IRSTDPipelineOutput(probability=outputs[0], mask=outputs[1], uncertainty=outputs[2], targets=targets)

    @staticmethod
    def member_noise(like: torch.Tensor, ensemble_size: int, generators: list[torch.Generator]) -> torch.Tensor:
        """Standard normal noise shaped as `like` (B*E, C, h, w), from one generator per image."""
        shape = (ensemble_size, *like.shape[1:])
        noise = [randn_tensor(shape, generator=g, dtype=torch.float32) for g in generators]
        return torch.cat(noise).to(like)


def _default(value, default):
    return default if value is None else value


def _collect(maps: list[np.ndarray] | None, output_type: str):
    """Stack maps (1, H, W) of one size into (N, 1, H, W); leave others a list."""
    if maps is None:
        return None
    if len({m.shape for m in maps}) > 1:
        return [torch.from_numpy(m) for m in maps] if output_type == "pt" else maps
    stacked = maps[0][None] if len(maps) == 1 else np.stack(maps)  # a single one is not copied
    return torch.from_numpy(stacked) if output_type == "pt" else stacked

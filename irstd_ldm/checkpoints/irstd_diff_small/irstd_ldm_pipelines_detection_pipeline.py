"""What the pipelines that detect targets share: the call, by torch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from . irstd_ldm_data_images import ImageInput
from . irstd_ldm_pipelines_detection_call import DetectionCall, stack_maps
from . irstd_ldm_pipelines_irstd_pipeline_base import IRSTDPipelineBase
from . irstd_ldm_pipelines_output import IRSTDPipelineOutput


class IRSTDDetectionPipeline(DetectionCall, IRSTDPipelineBase):
    """Detects small targets in infrared images of any size, by a subclass's [`predict_probability`].

    A subclass registers its components and, with the names and meanings of [`IRSTDLatentPipeline`], the values
    `default_num_inference_steps`, `default_ensemble_size`, `default_threshold`, `default_tile_size`,
    `default_tile_overlap`, `calibration` and `normalization`.
    """

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

    @property
    def max_inference_steps(self) -> int:
        return self.scheduler.config.num_train_timesteps

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
            input_range: Raw values that map to -1 and 1; None = those of the checkpoint's `normalization`. Values
                outside are compressed, not clipped. With the normalisation ``robust`` they are about the 5 and 95 per
                cent quantiles of a typical scene: a sensor's whole range leaves hardly any contrast.
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
        if output_type not in ("np", "pt"):
            raise ValueError(f"`output_type` must be 'np' or 'pt', got {output_type!r}")
        settings = self.resolve_settings(
            num_inference_steps=num_inference_steps,
            ensemble_size=ensemble_size,
            threshold=threshold,
            max_fa_per_million_px=max_fa_per_million_px,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            input_range=input_range,
            batch_size=batch_size,
            ensemble_fusion=ensemble_fusion,
        )

        def predict(tiles: np.ndarray, seeds: list[int]) -> np.ndarray:
            return self.predict_probability(
                tiles, seeds, settings.num_inference_steps, settings.ensemble_size, callback_on_step_end
            )  # (B, E, PH, PW)

        found = self.detect_images(image, settings, partial(self.draw_base_seed, generator), predict)
        outputs = [_convert(maps, output_type) for maps in (found.probability, found.mask, found.uncertainty)]
        self.maybe_free_model_hooks()
        if not return_dict:
            return (*outputs, found.targets)  # type: ignore[return-value]
        return IRSTDPipelineOutput(
            probability=outputs[0], mask=outputs[1], uncertainty=outputs[2], targets=found.targets
        )

    @staticmethod
    def member_noise(like: torch.Tensor, ensemble_size: int, generators: list[torch.Generator]) -> torch.Tensor:
        """Standard normal noise shaped as `like` (B*E, C, h, w), from one generator per image."""
        shape = (ensemble_size, *like.shape[1:])
        noise = [randn_tensor(shape, generator=g, dtype=torch.float32) for g in generators]
        return torch.cat(noise).to(like)


def _convert(maps: list[np.ndarray] | None, output_type: str) -> Any:
    stacked = stack_maps(maps)
    if stacked is None or output_type == "np":
        return stacked
    return [torch.from_numpy(one) for one in stacked] if isinstance(stacked, list) else torch.from_numpy(stacked)

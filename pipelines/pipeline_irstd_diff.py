"""IRSTD-Diff's detector: the mask predicted from the infrared image by pixel diffusion."""

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import ModelMixin, SchedulerMixin, UNet2DModel

from ..data.images import check_normalization
from ..hub.format import FORMAT_VERSION
from .detection import SILENT, IRSTDDetectionPipeline, StepEnd, per_member, scheduler_of_call


class IRSTDDiffPipeline(IRSTDDetectionPipeline):
    """Detects small targets in infrared images of any size.

    The conditional encoder runs once per image, the denoiser once per step and ensemble member. ``0`` denoising steps
    give the conditional encoder's own detection, which is the same for every member. Targets are 1 and background -1
    in the diffusion; a pixel's probability is (x + 1) / 2, clipped.

    Example:
        ```py
        >>> from diffusers import DPMSolverMultistepScheduler
        >>> from irstd_ldm import IRSTDDiffPipeline

        >>> pipe = IRSTDDiffPipeline.from_pretrained("runs/irstd_diff_small")
        >>> output = pipe("frame.png", num_inference_steps=4, ensemble_size=5, ensemble_fusion="staple")
        >>> pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        ...     pipe.scheduler.config, thresholding=True, sample_max_value=1.0
        ... )
        ```

    Args:
        unet: An [`IRSTDUNet2DModel`], the denoiser of the mask.
        conditional_encoder: A [`ConditionalEncoder`] of the infrared image.
        scheduler: Any scheduler of noise, clean-sample or velocity prediction; few steps need trailing timesteps.
        format_version: Version of the checkpoint layout.
        default_num_inference_steps: Denoising steps where a call names none.
        default_ensemble_size: Ensemble members where a call names none.
        default_mask_threshold: Probability above which a pixel belongs to a target, where a call names none.
        default_score_threshold: Score above which a component is a target, where a call names none.
        default_tile_size: Side of the tiles in pixels where a call names none; 0 = no tiles.
        default_tile_overlap: Overlap of neighbouring tiles in pixels where a call names none.
        calibration, normalization: See [`IRSTDLatentPipeline`].
        default_threshold: Both thresholds in one, as older checkpoints have it.

    Raises:
        ValueError: An unknown `normalization`.
    """

    model_cpu_offload_seq = "conditional_encoder->unet"
    _callback_tensor_inputs = ["latents", "pixels"]
    min_inference_steps = 0

    def __init__(
        self,
        unet: UNet2DModel,
        conditional_encoder: ModelMixin,
        scheduler: SchedulerMixin,
        format_version: int = FORMAT_VERSION,
        default_num_inference_steps: int = 1,
        default_ensemble_size: int = 1,
        default_mask_threshold: float = 0.5,
        default_score_threshold: float = 0.5,
        default_tile_size: int = 256,
        default_tile_overlap: int = 32,
        calibration: dict | None = None,
        normalization: str = "range",
        default_threshold: float | None = None,
    ):
        super().__init__()
        check_normalization(normalization)
        self.register_modules(unet=unet, conditional_encoder=conditional_encoder, scheduler=scheduler)
        self.register_to_config(
            format_version=format_version,
            default_num_inference_steps=default_num_inference_steps,
            default_ensemble_size=default_ensemble_size,
            default_mask_threshold=default_mask_threshold if default_threshold is None else default_threshold,
            default_score_threshold=default_score_threshold if default_threshold is None else default_threshold,
            default_tile_size=default_tile_size,
            default_tile_overlap=default_tile_overlap,
            calibration=calibration,
            normalization=normalization,
        )

    def predict_probability(
        self,
        image: np.ndarray,
        seeds: Sequence[int],
        num_inference_steps: int,
        ensemble_size: int,
        step_end: StepEnd = SILENT,
    ) -> np.ndarray:
        """Encode once, then denoise each member from its own noise."""
        device, dtype = self._execution_device, self.unet.dtype

        # Model invocation: self.conditional_encoder, once per image.
        pixels = torch.from_numpy(image)[:, None].to(device, dtype)  # (B, 1, PH, PW)
        encoded = self.conditional_encoder(pixels)
        if num_inference_steps == 0:
            probability = per_member(encoded.logits.float().sigmoid(), ensemble_size)
            return self._by_member(probability, ensemble_size)

        # Every member sees its image, in all channels but the mask's.
        pixels, *residuals = (
            per_member(tensor, ensemble_size)
            for tensor in (self.unet.condition(pixels, encoded.logits), *encoded.residuals)
        )  # (B*E, in_channels - 1, PH, PW), (B*E, C, h, w), ...

        # Model invocation: self.unet, once per step. The sample stays in float32 whatever the networks' precision.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = self.member_noise(pixels[:, :1].float(), ensemble_size, generators)  # (B*E, 1, PH, PW)
        scheduler = scheduler_of_call(self.scheduler)
        scheduler.set_timesteps(num_inference_steps, device=device)
        latents = latents * scheduler.init_noise_sigma
        step_arguments = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            step_arguments["generator"] = [g for g in generators for _ in range(ensemble_size)]
        for step, timestep in enumerate(scheduler.timesteps):
            noisy = scheduler.scale_model_input(latents, timestep).to(dtype)
            predicted = self.unet(torch.cat([pixels, noisy], dim=1), timestep, residuals).sample.float()
            latents = scheduler.step(predicted, timestep, latents, **step_arguments).prev_sample
            latents, pixels = step_end(self, step, timestep, latents=latents, pixels=pixels)
        return self._by_member(((latents + 1) / 2).clamp(0, 1), ensemble_size)

    @staticmethod
    def _by_member(probability: torch.Tensor, ensemble_size: int) -> np.ndarray:
        """(B*E, 1, PH, PW) -> (B, E, PH, PW)."""
        return probability.unflatten(0, (-1, ensemble_size))[:, :, 0].cpu().numpy()

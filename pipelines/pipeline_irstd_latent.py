"""LGLDNet's detector: the mask's latent posterior predicted from the infrared image by diffusion, then decoded."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, ModelMixin, UNet2DConditionModel

from ..data.images import check_normalization
from ..hub.format import FORMAT_VERSION
from .detection import SILENT, IRSTDDetectionPipeline, StepEnd, per_member, scheduler_of_call


class IRSTDLatentPipeline(IRSTDDetectionPipeline):
    """Detects small targets in infrared images of any size.

    Example:
        ```py
        >>> from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint

        >>> pipe = IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())
        >>> for target in pipe("frame.png").targets[0]:
        ...     print(f"{target.x:.1f} {target.y:.1f} {target.confidence:.2f}")
        ```

    Args:
        vae: A [`MaskAutoencoderKL`] whose decoder sees the image's features.
        unet: An [`IRSTDUNet2DConditionModel`], the conditional denoiser of the posterior variables.
        image_encoder: An [`IRSTDImageEncoder`] of the infrared image.
        scheduler: A scheduler with ``prediction_type="sample"`` and trailing timesteps.
        format_version: Version of the checkpoint layout.
        default_num_inference_steps: Denoising steps where a call names none.
        default_ensemble_size: Ensemble members where a call names none.
        default_mask_threshold: Probability above which a pixel belongs to a target, where a call names none.
        default_score_threshold: Score above which a component is a target, where a call names none.
        default_tile_size: Side of the tiles in pixels where a call names none; 0 = no tiles.
        default_tile_overlap: Overlap of neighbouring tiles in pixels where a call names none.
        calibration: Result of `irstd-ldm calibrate`: ``{"data": NAME, "score_thresholds": {ARGUMENT: {BUDGET:
            THRESHOLD}}, "confidence": {"kind": KIND, ...}}``, the budgets written as text, by the name of the call's
            argument; the confidence's calibration applies to [`Target`]'s score. Older checkpoints have
            ``"thresholds": {BUDGET: THRESHOLD}``, of false-alarm pixels, which set both thresholds.
        normalization: Raw values the networks were trained to see as -1 and 1: ``range``, 0 and 255 of uint8 and
            a frame's 0.1 and 99.9 percentiles of other types (also of checkpoints that do not say), or ``robust``, of
            every type the 5 and 95 per cent quantiles of the pixels that were measured, which those of letterboxes and
            of corners without data are not.
        default_threshold: Both thresholds in one, as older checkpoints have it.

    Raises:
        ValueError: An unknown `normalization`.
    """

    model_cpu_offload_seq = "image_encoder->unet->vae"
    _callback_tensor_inputs = ["latents", "image_latent", "tokens"]

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        image_encoder: ModelMixin,
        scheduler: DDIMScheduler,
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
        self.register_modules(vae=vae, unet=unet, image_encoder=image_encoder, scheduler=scheduler)
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
        """Encode, denoise, decode; an ensemble samples the posterior, a single member decodes its mode."""
        device, dtype = self._execution_device, self.unet.dtype
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        # Model invocation: self.image_encoder, once per image.
        pixels = torch.from_numpy(image)[:, None].to(device, dtype)  # (B, 1, PH, PW)
        encoded = self.image_encoder(pixels)
        image_latent, tokens, *features = (
            per_member(tensor, ensemble_size) for tensor in (encoded.image_latent, encoded.tokens, *encoded.features)
        )  # (B*E, C, h, w), (B*E, M, D), ...

        # Model invocation: self.unet, once per step.
        variables = image_latent.new_empty(len(image_latent), self.unet.config.out_channels, *image_latent.shape[2:])
        latents = self.member_noise(variables, ensemble_size, generators)  # (B*E, 8, h, w)
        scheduler = scheduler_of_call(self.scheduler)
        scheduler.set_timesteps(num_inference_steps, device=device)
        latents = latents * scheduler.init_noise_sigma
        for step, timestep in enumerate(scheduler.timesteps):
            sample = torch.cat([scheduler.scale_model_input(latents, timestep), image_latent], dim=1)
            clean = self.unet(sample, timestep, tokens).sample  # (B*E, 8, h, w)
            latents = scheduler.step(clean, timestep, latents).prev_sample
            latents, image_latent, tokens = step_end(
                self, step, timestep, latents=latents, image_latent=image_latent, tokens=tokens
            )

        # Model invocation: self.vae.decode.
        posterior = self.vae.variables_to_posterior(latents.float())
        z = posterior.mode()  # (B*E, 4, h, w)
        if ensemble_size > 1:
            z = z + posterior.std * self.member_noise(z, ensemble_size, generators)
        logits = self.vae.decode(z.to(dtype), image_features=features).sample  # (B*E, 1, PH, PW)
        return logits.float().sigmoid().unflatten(0, (len(image), ensemble_size))[:, :, 0].cpu().numpy()

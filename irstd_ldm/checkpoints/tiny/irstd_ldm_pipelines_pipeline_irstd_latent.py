"""LGLDNet's detector: the mask's latent posterior predicted from the infrared image by diffusion, then decoded."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor

from . irstd_ldm_data_images import ImageInput, normalize_image, to_gray
from . irstd_ldm_models_image_encoder import IRSTDImageEncoder
from . irstd_ldm_models_mask_vae import MaskAutoencoderKL
from . irstd_ldm_models_unet import IRSTDUNet2DConditionModel
from . irstd_ldm_pipelines_irstd_pipeline_base import FORMAT_VERSION, IRSTDPipelineBase
from . irstd_ldm_pipelines_output import IRSTDPipelineOutput
from . irstd_ldm_pipelines_targets import extract_targets
from . irstd_ldm_pipelines_tiling import blend_weight, tile_windows

PAD_MULTIPLE = 32
MIN_PADDED_SIZE = 128


def pad_image(image: np.ndarray) -> np.ndarray:
    """Continue (H, W) by reflection at the bottom and right to (PH, PW), multiples of 32 and at least 128."""
    padding = [(0, max(-(-n // PAD_MULTIPLE) * PAD_MULTIPLE, MIN_PADDED_SIZE) - n) for n in image.shape]
    return np.pad(image, padding, mode="reflect")


def image_seed(base: int, place: int) -> int:
    """Seed of the image at a place in a call, 63 bits."""
    return int(np.random.SeedSequence((base, place)).generate_state(1, np.uint64)[0] >> 1)


class IRSTDLatentPipeline(IRSTDPipelineBase):
    """Detects small targets in infrared images of any size.

    Example:
        ```py
        >>> from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint

        >>> pipe = IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())
        >>> for target in pipe("frame.png").targets[0]:
        ...     print(f"{target.x:.1f} {target.y:.1f} {target.confidence:.2f}")
        ```

    Args:
        vae: Mask-VAE whose decoder sees the image's features.
        unet: Conditional denoiser of the posterior variables.
        image_encoder: Encoder of the infrared image.
        scheduler: A scheduler with ``prediction_type="sample"`` and trailing timesteps.
        format_version: Version of the checkpoint layout.
        default_num_inference_steps: Denoising steps where a call names none.
        default_ensemble_size: Ensemble members where a call names none.
        default_threshold: Probability above which a pixel belongs to a target, where a call names none.
        default_tile_size: Side of the tiles in pixels where a call names none; 0 = no tiles.
        default_tile_overlap: Overlap of neighbouring tiles in pixels where a call names none.
        calibration: Thresholds by false-alarm budget: ``{"data": NAME, "thresholds": {BUDGET: THRESHOLD}}``, the
            budgets in false-alarm pixels per million written as text.
    """

    model_cpu_offload_seq = "image_encoder->unet->vae"
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        vae: MaskAutoencoderKL,
        unet: IRSTDUNet2DConditionModel,
        image_encoder: IRSTDImageEncoder,
        scheduler: DDIMScheduler,
        format_version: int = FORMAT_VERSION,
        default_num_inference_steps: int = 1,
        default_ensemble_size: int = 1,
        default_threshold: float = 0.5,
        default_tile_size: int = 256,
        default_tile_overlap: int = 32,
        calibration: dict | None = None,
    ):
        super().__init__()
        self.register_modules(vae=vae, unet=unet, image_encoder=image_encoder, scheduler=scheduler)
        self.register_to_config(
            format_version=format_version,
            default_num_inference_steps=default_num_inference_steps,
            default_ensemble_size=default_ensemble_size,
            default_threshold=default_threshold,
            default_tile_size=default_tile_size,
            default_tile_overlap=default_tile_overlap,
            calibration=calibration,
        )

    def check_inputs(
        self,
        num_inference_steps: int,
        ensemble_size: int,
        threshold: float,
        tile_size: int,
        tile_overlap: int,
        batch_size: int,
        output_type: str,
    ) -> None:
        for name, value, least in (
            ("num_inference_steps", num_inference_steps, 1),
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
    ) -> IRSTDPipelineOutput:
        """Detect the targets of one image or of a list of images.

        Args:
            image: A path, a PIL image, an array (H, W), (H, W, 1) or (H, W, 3), a tensor (H, W), (1, H, W) or
                (3, H, W), or a list of these; uint8, uint16, int32 or floating point.
            num_inference_steps: Denoising steps; None = the checkpoint's default.
            ensemble_size: Posterior samples whose probabilities are averaged; 1 decodes the posterior's mode; None =
                the checkpoint's default.
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
            num_inference_steps, ensemble_size, threshold, tile_size, tile_overlap, batch_size, output_type
        )

        # 1. Read and normalise the images.
        images: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
        if not images:
            raise ValueError("`image` must hold at least one image, got an empty list")
        grays = [to_gray(one) for one in images]  # N of (H, W)
        normalized = [normalize_image(gray, input_range) for gray in grays]  # N of (H, W), about [-1, 1]

        # 2. One seed per image, whatever the batch.
        generator = generator or torch.Generator().manual_seed(0)
        base = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        seeds = [image_seed(base, place) for place in range(len(images))]

        # 3. Cut into tiles, padded; tiles of one padded size run together.
        windows = [tile_windows(gray.shape, tile_size or max(gray.shape), tile_overlap) for gray in grays]
        tiles = [(place, window) for place, of_image in enumerate(windows) for window in of_image]
        padded = [pad_image(normalized[place][window]) for place, window in tiles]
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, tile in enumerate(padded):
            by_size.setdefault(tile.shape, []).append(index)

        # 4. Members' probabilities of each tile, blended.
        total = [np.zeros((ensemble_size, *gray.shape), np.float32) for gray in grays]  # N of (E, H, W)
        weight = [np.zeros(gray.shape, np.float32) for gray in grays]  # N of (H, W)
        for indices in by_size.values():
            for start in range(0, len(indices), batch_size):
                chunk = indices[start : start + batch_size]
                probability = self.predict_probability(
                    np.stack([padded[index] for index in chunk]),
                    [seeds[tiles[index][0]] for index in chunk],
                    num_inference_steps,
                    ensemble_size,
                    callback_on_step_end,
                )  # (B, E, PH, PW)
                for index, members in zip(chunk, probability, strict=True):
                    place, window = tiles[index]
                    height, width = (axis.stop - axis.start for axis in window)
                    blend = blend_weight(height, width, tile_overlap if len(windows[place]) > 1 else 0)
                    total[place][:, window[0], window[1]] += members[:, :height, :width] * blend
                    weight[place][window] += blend
        members = [t / w for t, w in zip(total, weight, strict=True)]  # N of (E, H, W)

        # 5. Average, threshold, find the targets.
        probabilities = [m.mean(axis=0, dtype=np.float32)[None] for m in members]  # N of (1, H, W)
        masks = [p > threshold for p in probabilities]
        uncertainties = [m.std(axis=0, dtype=np.float32)[None] for m in members] if ensemble_size > 1 else None
        targets = [extract_targets(p[0], m[0], g) for p, m, g in zip(probabilities, masks, grays, strict=True)]

        # 6. Stack images of one size, convert, offload.
        outputs = [_collect(maps, output_type) for maps in (probabilities, masks, uncertainties)]
        self.maybe_free_model_hooks()
        if not return_dict:
            return (*outputs, targets)  # type: ignore[return-value]
        return IRSTDPipelineOutput(probability=outputs[0], mask=outputs[1], uncertainty=outputs[2], targets=targets)

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
            ensemble_size: Posterior samples; 1 decodes the mode.
            callback_on_step_end: As in `__call__`.

        Returns:
            (B, E, PH, PW) float32 in [0, 1].
        """
        device, dtype = self._execution_device, self.unet.dtype
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        # Model invocation: self.image_encoder, once per image.
        pixels = torch.from_numpy(image)[:, None].to(device, dtype)  # (B, 1, PH, PW)
        encoded = self.image_encoder(pixels)
        image_latent, tokens, *features = (
            tensor.repeat_interleave(ensemble_size, dim=0)
            for tensor in (encoded.image_latent, encoded.tokens, *encoded.features)
        )  # (B*E, 4, h, w), (B*E, h*w, D), ...

        # Model invocation: self.unet, once per step.
        latents = self.prepare_latents(image_latent, ensemble_size, generators)  # (B*E, 8, h, w)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        for step, timestep in enumerate(self.scheduler.timesteps):
            sample = torch.cat([self.scheduler.scale_model_input(latents, timestep), image_latent], dim=1)
            clean = self.unet(sample, timestep, tokens).sample  # (B*E, 8, h, w)
            latents = self.scheduler.step(clean, timestep, latents).prev_sample
            if callback_on_step_end is not None:
                replaced = callback_on_step_end(self, step, timestep, {"latents": latents}) or {}
                latents = replaced.get("latents", latents)

        # Model invocation: self.vae.decode.
        posterior = self.vae.variables_to_posterior(latents.float())
        z = posterior.mode()  # (B*E, 4, h, w)
        if ensemble_size > 1:
            z = z + posterior.std * self.member_noise(z, ensemble_size, generators)
        logits = self.vae.decode(z.to(dtype), image_features=features).sample  # (B*E, 1, PH, PW)
        return logits.float().sigmoid().unflatten(0, (len(image), ensemble_size))[:, :, 0].cpu().numpy()

    def prepare_latents(
        self, image_latent: torch.Tensor, ensemble_size: int, generators: list[torch.Generator]
    ) -> torch.Tensor:
        """Initial noise (B*E, 8, h, w) for an image latent (B*E, 4, h, w), from one generator per image."""
        variables = image_latent.new_empty(len(image_latent), self.unet.config.out_channels, *image_latent.shape[2:])
        noise = self.member_noise(variables, ensemble_size, generators)
        return noise * self.scheduler.init_noise_sigma

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
    stacked = np.stack(maps)
    return torch.from_numpy(stacked) if output_type == "pt" else stacked

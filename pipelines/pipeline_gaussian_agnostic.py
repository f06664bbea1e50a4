"""The Gaussian-agnostic data engine: realistic variants of labelled infrared images, by squeezing and two stages."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from os import PathLike
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, ModelMixin, SchedulerMixin, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from scipy import ndimage

from ..data.ggs import MIN_KEPT_CONTRAST, draw_num_groups, squeeze, target_contrasts
from ..data.images import ImageInput, to_grays
from ..hub.format import FORMAT_VERSION
from ..targets import label_components
from ..tiling import blend_weight, image_seed, pad_image, tile_windows
from .base import IRSTDPipelineBase
from .detection import SILENT, StepCallback, StepEnd, draw_base_seed, pipeline_class, scheduler_of_call

TILE_MULTIPLE = 32  # in pixels: every network halves at most five times
PASTED_PX = 5  # the optics' halo around targets is pasted with them
FEATHER_PX = 3  # over this distance what is pasted fades into the generated image
SURROUNDINGS_SIGMA_PX = 4
BINOMIAL = (1 / 16, 2 / 16, 1 / 16, 2 / 16, 4 / 16, 2 / 16, 1 / 16, 2 / 16, 1 / 16)
DILATIONS = (1, 2, 4, 8, 16)


def latent_scale(vae: AutoencoderKL) -> int:
    """Pixels per latent element and side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def encode_gray(vae: AutoencoderKL, image: torch.Tensor) -> DiagonalGaussianDistribution:
    """The posterior of (B, 1, H, W) images in [-1, 1]; a VAE of three channels sees the image in each."""
    return vae.encode(image.expand(-1, vae.config.in_channels, -1, -1)).latent_dist


def decode_gray(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Images (B, 1, H, W), about [-1, 1], of unscaled latents; the mean of a VAE's channels."""
    return vae.decode(latents).sample.mean(dim=1, keepdim=True)


def low_frequencies(image: torch.Tensor) -> torch.Tensor:
    """Five binomial 3x3 blurs (B, C, H, W) at dilations 1 to 16, border pixels repeated; a low pass of about 13 px."""
    channels = image.shape[1]
    kernel = image.new_tensor(BINOMIAL).view(1, 1, 3, 3).repeat(channels, 1, 1, 1)
    for dilation in DILATIONS:
        padded = F.pad(image, (dilation,) * 4, mode="replicate")
        image = F.conv2d(padded, kernel, dilation=dilation, groups=channels)
    return image


def wavelet_color_fix(generated: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The generated image's high frequencies on the reference's low ones; (B, C, H, W) each.

    A target of 3x3 px has less than 1 % of its amplitude in the low band: the fix does not touch small targets.
    """
    return generated + low_frequencies(reference - generated)


def adain_color_fix(generated: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The generated image with the mean and deviation of the reference, channel by channel; (B, C, H, W) each."""
    axes = (2, 3)
    std, mean = torch.std_mean(generated, axes, keepdim=True)
    reference_std, reference_mean = torch.std_mean(reference, axes, keepdim=True)
    return (generated - mean) / (std + 1e-5) * reference_std + reference_mean


# Large-scale brightness put right by a reference: the colour fixes of StableSR and DiffBIR.
COLOR_FIXES = {"wavelet": wavelet_color_fix, "adain": adain_color_fix}


@dataclass
class GaussianAgnosticPipelineOutput(BaseOutput):
    """Synthetic images; those of one input follow each other.

    Attributes:
        images: N * num_images_per_prompt arrays (H, W) float32 in [0, 1].
        masks: As many masks (H, W) bool, equal to the input's; None where no mask was given.
        num_groups: The number of groups that each image was squeezed into.
    """

    images: list[np.ndarray]
    masks: list[np.ndarray] | None
    num_groups: list[int]


class GaussianAgnosticPipeline(IRSTDPipelineBase):
    """Makes realistic images with the scene and the targets of a given one.

    The image's gray levels are squeezed into few groups, stage 1 rebuilds it coarsely, and stage 2, latent diffusion
    under the control of stage 1's latent, makes it realistic (arXiv 2507.18260).

    Example:
        ```py
        >>> from irstd_ldm import GaussianAgnosticPipeline

        >>> pipe = GaussianAgnosticPipeline.from_pretrained("gaussian_agnostic_small")
        >>> output = pipe("frame.png", mask=mask, num_images_per_prompt=4)
        ```

    Args:
        restoration: Stage 1, an [`IRSTDRestorationModel`].
        vae: VAE of infrared images, of one channel or three.
        unet: Base denoiser of the VAE's latents, frozen when `controlnet` is trained.
        controlnet: Control branch; its hint is stage 1's latent.
        prompt_embedding: A [`PromptEmbedding`], to which the denoiser cross-attends.
        scheduler: Any scheduler of noise prediction.
        format_version: Version of the checkpoint layout.
        default_num_inference_steps: Denoising steps where a call names none.
        default_strength: Share of the steps that are run where a call names none.
        default_tile_size: Side of the tiles in pixels where a call names none; 0 = no tiles.
        default_tile_overlap: Overlap of neighbouring tiles in pixels.
    """

    model_cpu_offload_seq = "restoration->vae->controlnet->unet"
    _callback_tensor_inputs = ["latents", "hint"]

    def __init__(
        self,
        restoration: ModelMixin,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        prompt_embedding: ModelMixin,
        scheduler: DDPMScheduler,
        format_version: int = FORMAT_VERSION,
        default_num_inference_steps: int = 50,
        default_strength: float = 1.0,
        default_tile_size: int = 512,
        default_tile_overlap: int = 64,
    ):
        super().__init__()
        self.register_modules(
            restoration=restoration,
            vae=vae,
            unet=unet,
            controlnet=controlnet,
            prompt_embedding=prompt_embedding,
            scheduler=scheduler,
        )
        self.register_to_config(
            format_version=format_version,
            default_num_inference_steps=default_num_inference_steps,
            default_strength=default_strength,
            default_tile_size=default_tile_size,
            default_tile_overlap=default_tile_overlap,
        )

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        mask: np.ndarray | Sequence[np.ndarray] | None = None,
        num_images_per_prompt: int = 1,
        batch_size: int = 1,
        num_inference_steps: int | None = None,
        strength: float | None = None,
        color_fix: str | None = "wavelet",
        paste_targets: bool = True,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> GaussianAgnosticPipelineOutput:
        """Make synthetic images.

        Args:
            image: A path, a PIL image, an array or a tensor as for [`IRSTDLatentPipeline`], or a list of these.
            mask: (H, W) bool, the image's targets, or a list of these; None = unlabelled.
            num_images_per_prompt: Synthetic images per image, each squeezed anew.
            batch_size: Synthetic images of one size that run through the networks together.
            num_inference_steps: Denoising steps; None = the checkpoint's default.
            strength: Share of the steps that are run: 1 starts from noise, less from stage 1's latent with noise; None
                is the checkpoint's default.
            color_fix: ``wavelet`` puts stage 1's low frequencies under the generated high ones, ``adain`` takes over
                its mean and deviation; None = neither.
            paste_targets: Whether the input's own target pixels, at the level of their new surroundings, replace the
                generated ones, with a feathered edge. Generated ones get the contrast of the input's.
            tile_size: Larger images run in overlapping tiles of this side, a multiple of 32 px; 0 = never; None = the
                checkpoint's default. The tiles' noise predictions are blended in every step.
            tile_overlap: Overlap of neighbouring tiles, a multiple of 32 px; None = the checkpoint's default.
            generator: Source of the randomness, or a list of one per image; None = seed 0. Every synthetic image draws
                from a generator of its own, whatever runs beside it.
            return_dict: Whether to return a [`GaussianAgnosticPipelineOutput`] instead of a tuple.
            callback_on_step_end: Called as ``callback(pipe, step, timestep, tensors)`` after each denoising step of
                each batch; may return a dict of tensors that replace these.
            callback_on_step_end_tensor_inputs: Names of the tensors that the callback gets.

        Returns:
            [`GaussianAgnosticPipelineOutput`], or the tuple (images, masks, num_groups). 0 and 255 of an 8-bit image
            map to 0 and 1, the minimum and maximum of a frame of another type do.

        Raises:
            TypeError: An image of an unknown kind.
            ValueError: An argument out of range, or a mask that does not fit its image.
        """
        # 0. Resolve defaults and check.
        step_end = StepEnd(callback_on_step_end, callback_on_step_end_tensor_inputs)
        step_end.check(self)
        num_inference_steps = num_inference_steps or self.config.default_num_inference_steps
        strength = self.config.default_strength if strength is None else strength
        tile_size = self.config.default_tile_size if tile_size is None else tile_size
        tile_overlap = self.config.default_tile_overlap if tile_overlap is None else tile_overlap
        grays = to_grays(image)
        masks: list[Any] | None = None
        if mask is not None:
            masks = list(mask) if isinstance(mask, list | tuple) else [mask]
            if len(masks) != len(grays):
                raise ValueError(f"`mask` must hold one mask per image, got {len(masks)} for {len(grays)}")
        for gray, one in zip(grays, masks or (), strict=False):
            if one.dtype != np.bool_ or one.shape != gray.shape:
                raise ValueError(
                    f"`mask` must be bool and of its image's shape {gray.shape}, got {one.dtype} {one.shape}"
                )
        counts = {
            "num_images_per_prompt": num_images_per_prompt,
            "batch_size": batch_size,
            "num_inference_steps": num_inference_steps,
        }
        for name, value in counts.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}")
        if not 0 < strength <= 1:
            raise ValueError(f"`strength` must lie in (0, 1], got {strength!r}")
        if color_fix is not None and color_fix not in COLOR_FIXES:
            raise ValueError(f"`color_fix` must be one of {', '.join(COLOR_FIXES)} or None, got {color_fix!r}")
        for name, value in {"tile_size": tile_size, "tile_overlap": tile_overlap}.items():
            if not isinstance(value, int) or value < 0 or value % TILE_MULTIPLE:
                raise ValueError(f"`{name}` must be a multiple of {TILE_MULTIPLE} px, got {value!r}")
        if tile_size and tile_overlap >= tile_size:
            raise ValueError(f"`tile_overlap` must be less than `tile_size` ({tile_size}), got {tile_overlap!r}")

        sources = list(generator) if isinstance(generator, list | tuple) else None
        if sources is not None and len(sources) != len(grays):
            raise ValueError(f"`generator` must hold one per image, got {len(sources)} for {len(grays)}")

        # 1. Synthetic images of one padded size together.
        copies = range(num_images_per_prompt)
        if sources is not None:
            seeds = [image_seed(base, copy) for base in map(draw_base_seed, sources) for copy in copies]
        else:
            base = draw_base_seed(generator)  # type: ignore[arg-type]
            seeds = [image_seed(base, k) for k in range(len(grays) * num_images_per_prompt)]
        inputs = [pad_image(unit_range(gray))[None] for gray in grays]  # (1, PH, PW) float32 in [0, 1] each
        images: list[np.ndarray] = [np.empty(0)] * len(seeds)
        groups = [0] * len(seeds)
        for batch in _batches([inputs[k // num_images_per_prompt].shape for k in range(len(seeds))], batch_size):
            generators = [torch.Generator().manual_seed(seeds[k]) for k in batch]
            squeezed, num_groups = self.squeeze([inputs[k // num_images_per_prompt] for k in batch], generators)
            restored = self.restore(squeezed, tile_size, tile_overlap)
            generated = self.refine(
                restored, generators, num_inference_steps, strength, tile_size, tile_overlap, step_end
            )
            if color_fix is not None:
                generated = COLOR_FIXES[color_fix](generated, restored)
            for k, one, n in zip(batch, generated[:, 0].clamp(0, 1).float().cpu().numpy(), num_groups, strict=True):
                index = k // num_images_per_prompt
                height, width = grays[index].shape
                images[k], groups[k] = one[:height, :width], n
                if masks is not None:
                    finish = paste if paste_targets else keep_contrasts
                    images[k] = finish(images[k], inputs[index][0, :height, :width], masks[index])

        repeated = None if masks is None else [one for one in masks for _ in range(num_images_per_prompt)]
        self.maybe_free_model_hooks()
        if not return_dict:
            return images, repeated, groups  # type: ignore[return-value]
        return GaussianAgnosticPipelineOutput(images=images, masks=repeated, num_groups=groups)

    def squeeze(
        self, pixels: Sequence[np.ndarray], generators: list[torch.Generator]
    ) -> tuple[torch.Tensor, list[int]]:
        """Squeezed copies (B, 1, PH, PW) of B images (1, PH, PW) in [0, 1], and their numbers of groups.

        The numbers are even: stage 1 was trained on odd ones.
        """
        num_groups = [draw_num_groups(one, generation=True) for one in generators]
        copies = [
            squeeze(torch.from_numpy(one), n, generator)
            for one, n, generator in zip(pixels, num_groups, generators, strict=True)
        ]
        return torch.stack(copies).to(self._execution_device, self.unet.dtype), num_groups

    def restore(self, squeezed: torch.Tensor, tile_size: int, tile_overlap: int) -> torch.Tensor:
        """Stage 1: (B, 1, PH, PW) in [0, 1] to the same."""
        restored = _tiled(lambda x: self.restoration(x).sample, squeezed, tile_size, tile_overlap)
        return restored.clamp(0, 1)

    def refine(
        self,
        restored: torch.Tensor,
        generators: list[torch.Generator],
        num_inference_steps: int,
        strength: float,
        tile_size: int,
        tile_overlap: int,
        step_end: StepEnd = SILENT,
    ) -> torch.Tensor:
        """Stage 2: stage 1's images (B, 1, PH, PW) in [0, 1] to realistic ones, about [0, 1]."""
        scale, factor = latent_scale(self.vae), self.vae.config.scaling_factor

        # Model invocation: self.vae.encode, for the hint.
        hint = _tiled(self.encode_hint, restored, tile_size, tile_overlap, down=scale)  # (B, C, h, w)

        # Model invocation: self.controlnet and self.unet, once per step and tile.
        scheduler = scheduler_of_call(self.scheduler)
        scheduler.set_timesteps(num_inference_steps, device=hint.device)
        latents, timesteps = self.prepare_latents(scheduler, hint, generators, strength)
        step_arguments: dict[str, Any] = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            step_arguments["generator"] = generators
        for step, timestep in enumerate(self.progress_bar(timesteps)):
            model_input = scheduler.scale_model_input(latents, timestep)
            pair = torch.cat([model_input, hint], dim=1)  # (B, 2C, h, w)

            def predict(pair: torch.Tensor, timestep: torch.Tensor = timestep) -> torch.Tensor:
                latents, hint = pair.chunk(2, dim=1)
                return self.predict_noise(latents, hint, timestep)

            noise = _tiled(predict, pair, tile_size // scale, tile_overlap // scale)
            latents = scheduler.step(noise, timestep, latents, **step_arguments).prev_sample
            latents, hint = step_end(self, step, timestep, latents=latents, hint=hint)

        decoded = _tiled(
            lambda x: decode_gray(self.vae, x / factor), latents, tile_size // scale, tile_overlap // scale, up=scale
        )
        return (decoded + 1) / 2

    def prepare_latents(
        self, scheduler: SchedulerMixin, hint: torch.Tensor, generators: list[torch.Generator], strength: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The latents (B, C, h, w) that the denoising starts from, and the timesteps that are left from there."""
        noise = torch.cat([randn_tensor((1, *hint.shape[1:]), generator=one) for one in generators]).to(hint)
        timesteps = scheduler.timesteps
        if strength == 1:
            return noise * scheduler.init_noise_sigma, timesteps
        skipped = min(int(round(len(timesteps) * (1 - strength))), len(timesteps) - 1)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)
        return scheduler.add_noise(hint, noise, timesteps[skipped : skipped + 1]), timesteps[skipped:]

    def encode_hint(self, restored: torch.Tensor) -> torch.Tensor:
        """The control branch's hint (B, C, h, w): the latent's mode of stage 1's images (B, 1, H, W) in [0, 1]."""
        return encode_gray(self.vae, restored * 2 - 1).mode() * self.vae.config.scaling_factor

    def predict_noise(self, latents: torch.Tensor, hint: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The denoiser's answer (B, C, h, w) under the control of `hint` (B, C, h, w)."""
        embedding = self.prompt_embedding(len(latents)).to(latents)
        down, middle = self.controlnet(latents, timestep, embedding, controlnet_cond=hint, return_dict=False)
        return self.unet(
            latents,
            timestep,
            embedding,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample


def generator_class(source: str | PathLike) -> type[GaussianAgnosticPipeline]:
    """The class that a model_index.json names; ValueError unless it is a generator's."""
    return pipeline_class(source, GaussianAgnosticPipeline, "generator")


def unit_range(gray: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [0, 1]: uint8 / 255, other types from the frame's minimum to its maximum (constant = 0)."""
    if gray.dtype == np.uint8:
        return gray / np.float32(255)
    low, high = float(gray.min()), float(gray.max())
    return ((gray - low) / (high - low if high > low else 1.0)).astype(np.float32)


def paste(generated: np.ndarray, original: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`generated` with the original's targets and all within 5 px of them, fading over 3 px; (H, W) each, in [0, 1].

    They are shifted by the difference of both images beyond, a Gaussian mean, each target as a whole: targets keep
    their contrast and their halo, and no ring shows where the surroundings are brighter or darker than they were.
    """
    distance = ndimage.distance_transform_edt(~mask)
    is_pasted = distance <= PASTED_PX
    if is_pasted.all() or not mask.any():  # there are no surroundings to fit it into, or nothing to fit
        return original if mask.any() else generated
    difference = np.where(is_pasted, 0, generated - original)
    weight = ndimage.gaussian_filter((~is_pasted).astype(np.float32), SURROUNDINGS_SIGMA_PX)
    mean = ndimage.gaussian_filter(difference, SURROUNDINGS_SIGMA_PX) / np.maximum(weight, 1e-6)
    nearest = ndimage.distance_transform_edt(is_pasted, return_distances=False, return_indices=True)
    shift = ndimage.gaussian_filter(mean[tuple(nearest)], SURROUNDINGS_SIGMA_PX)
    labels, components = label_components(mask)
    shift[mask] = ndimage.mean(shift, labels, np.arange(1, len(components) + 1))[labels[mask] - 1]
    share = np.clip(1 - (distance - PASTED_PX) / FEATHER_PX, 0, 1)
    return (generated + share * (np.clip(original + shift, 0, 1) - generated)).astype(np.float32)


def keep_contrasts(generated: np.ndarray, original: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What `paste` returns with the generated targets, as bright against the ring around them as in the original.

    One of less than a quarter of its contrast is no target any more: the original's pixels stay.
    """
    labels, components = label_components(mask)
    if not components:
        return generated
    pasted = paste(generated, original, mask)
    before, after, now = (target_contrasts(image, mask) for image in (original, generated, pasted))  # (targets,)
    of_targets = np.arange(1, len(components) + 1)
    old_ring = ndimage.mean(generated, labels, of_targets) - after  # (targets,) levels
    ring = ndimage.mean(pasted, labels, of_targets) - now
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = before / after
        is_kept = after / before >= MIN_KEPT_CONTRAST  # neither without a ring nor without contrast
    target = labels - 1  # -1 away from targets, where nothing is taken
    scaled = ring[target] + gain[target] * (generated - old_ring[target])
    return np.where(mask & is_kept[target], np.clip(scaled, 0, 1), pasted).astype(np.float32)


def _batches(shapes: Sequence[tuple[int, ...]], batch_size: int) -> Iterator[list[int]]:
    """Indices of equal shapes, at most `batch_size` at a time, shapes in the order of their first index."""
    for shape in dict.fromkeys(shapes):
        alike = [k for k, one in enumerate(shapes) if one == shape]
        for start in range(0, len(alike), batch_size):
            yield alike[start : start + batch_size]


def _tiled(
    function: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    tile_size: int,
    tile_overlap: int,
    up: int = 1,
    down: int = 1,
) -> torch.Tensor:
    """`function` of (B, C, H, W), which gives (B, C', H*up/down, W*up/down), on overlapping tiles, blended.

    Sizes are in elements of `x`. Up to `tile_size` on both sides, or for a `tile_size` of 0, there is one tile.
    """
    height, width = x.shape[2:]
    if not tile_size or max(height, width) <= tile_size:
        return function(x)
    total: torch.Tensor | None = None
    weight = np.zeros((height * up // down, width * up // down), np.float32)
    multiple = gcd(tile_size, tile_overlap)  # at whose multiples windows begin
    for rows, columns in tile_windows((height, width), tile_size, tile_overlap, multiple):
        part = function(x[:, :, rows, columns])  # (B, C', tile height, tile width)
        if total is None:
            total = part.new_zeros(*part.shape[:2], *weight.shape)
        blend = blend_weight(part.shape[2], part.shape[3], tile_overlap * up // down)
        target = tuple(slice(axis.start * up // down, axis.stop * up // down) for axis in (rows, columns))
        total[:, :, target[0], target[1]] += part * torch.from_numpy(blend).to(part)
        weight[target] += blend
    assert total is not None
    return total / torch.from_numpy(weight).to(total)

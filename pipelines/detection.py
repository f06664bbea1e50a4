"""The call that the detectors share, from images of any size to targets."""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from importlib import import_module
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from tqdm.auto import tqdm

from ..data.images import ImageInput, gray_range, network_input, seen_image, to_grays
from ..data.polarity import WHITE_HOT
from ..results import DetectionsMixin
from ..targets import Target, confidence_calibration, resolve_decision
from ..tiling import TileBlender, decide, image_seed, iterate_tiles, resolve_sampling
from .base import IRSTDPipelineBase

StepCallback = Callable[..., dict[str, torch.Tensor] | None]


def draw_base_seed(generator: torch.Generator | None) -> int:
    """The number, below 2**62, that a call's images derive their seeds from; None draws from seed 0."""
    source = generator or torch.Generator().manual_seed(0)
    return int(torch.randint(2**62, (1,), generator=source, device=source.device))


def per_member(tensor: torch.Tensor, ensemble_size: int) -> torch.Tensor:
    """(B, ...) -> (B*E, ...), an image's members beside each other; a view, of the same layout, for one member."""
    return tensor[:, None].expand(-1, ensemble_size, *tensor.shape[1:]).flatten(0, 1)


def scheduler_of_call(scheduler: SchedulerMixin) -> SchedulerMixin:
    """A copy with steps of its own, so that calls may run side by side; tensors, never written to, are shared."""
    own = copy(scheduler)
    vars(own).update({name: [*value] for name, value in vars(scheduler).items() if isinstance(value, list)})
    return own


@dataclass(frozen=True)
class StepEnd:
    """The end of each denoising step: a callback sees tensors and may replace them, and a progress bar moves.

    Attributes:
        callback: Called as ``callback(pipeline, step, timestep, tensors)``; None = no callback.
        tensor_inputs: Names of the tensors that it gets.
        progress_bar: None = no progress bar.
        num_tiles: Tiles of the batch, by which the bar moves.
    """

    callback: StepCallback | None = None
    tensor_inputs: Sequence[str] = ("latents",)
    progress_bar: tqdm | None = None
    num_tiles: int = 1

    def check(self, pipeline: DiffusionPipeline) -> None:
        """Raises ValueError where the callback asks for a tensor that the pipeline does not show."""
        shown = pipeline._callback_tensor_inputs
        if not set(self.tensor_inputs) <= set(shown):
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` must be among {', '.join(shown)}, got {[*self.tensor_inputs]}"
            )

    def __call__(
        self, pipeline: DiffusionPipeline, step: int, timestep: torch.Tensor, **tensors: torch.Tensor
    ) -> list[torch.Tensor]:
        """The tensors, in their order, some of them replaced."""
        if self.progress_bar is not None:
            self.progress_bar.update(self.num_tiles)
        if self.callback is not None:
            shown = {name: tensors[name] for name in self.tensor_inputs}
            replaced = self.callback(pipeline, step, timestep, shown) or {}
            tensors = {name: replaced.get(name, tensor) for name, tensor in tensors.items()}
        return list(tensors.values())


SILENT = StepEnd()


@dataclass
class IRSTDPipelineOutput(DetectionsMixin, BaseOutput):
    """Detections in N images: arrays, or tensors with ``output_type="pt"``.

    Images of different sizes give lists of (1, H, W) instead of stacked arrays.

    Attributes:
        probability: (N, 1, H, W) float32 in [0, 1], fused over the ensemble.
        mask: (N, 1, H, W) bool, the pixels of the targets.
        uncertainty: (N, 1, H, W) float32, standard deviation over the ensemble; None for an ensemble of one.
        targets: One list of [`Target`] per image, in raster order of the targets' first pixels.
        images: N of (H, W), the gray values as they were read.
    """

    probability: Any
    mask: Any
    uncertainty: Any
    targets: list[list[Target]]
    images: list[np.ndarray]


class IRSTDDetectionPipeline(IRSTDPipelineBase):
    """Detects small targets in infrared images of any size, by a subclass's [`predict_probability`].

    A subclass registers its components and, with the names and meanings of [`IRSTDLatentPipeline`], the values
    `default_num_inference_steps`, `default_ensemble_size`, `default_mask_threshold`, `default_score_threshold`,
    `default_tile_size`, `default_tile_overlap`, `calibration` and `normalization`.
    """

    _callback_tensor_inputs = ["latents"]
    min_inference_steps = 1  # 0 where the detector has an answer without denoising

    @property
    def max_inference_steps(self) -> int:
        return self.scheduler.config.num_train_timesteps

    def predict_probability(
        self,
        image: np.ndarray,
        seeds: Sequence[int],
        num_inference_steps: int,
        ensemble_size: int,
        step_end: StepEnd = SILENT,
    ) -> np.ndarray:
        """Probabilities of the ensemble's members.

        Args:
            image: (B, PH, PW) float32, about [-1, 1].
            seeds: One seed per image.
            num_inference_steps: Denoising steps.
            ensemble_size: Members per image.
            step_end: Called after every step.

        Returns:
            (B, E, PH, PW) float32 in [0, 1].
        """
        raise NotImplementedError

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | Iterable[ImageInput],
        num_inference_steps: int | None = None,
        ensemble_size: int | None = None,
        mask_threshold: float | None = None,
        score_threshold: float | None = None,
        max_false_targets_per_megapixel: float | None = None,
        max_fa_per_million_px: float | None = None,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        input_range: tuple[float, float] | None = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        ensemble_fusion: str = "mean",
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        threshold: float | None = None,
        seed: int | None = None,
        polarity: str = WHITE_HOT,
    ) -> IRSTDPipelineOutput:
        """Detect the targets of one image or of several.

        Several steps or tiles move a progress bar, which `set_progress_bar_config(disable=True)` hides.

        Args:
            image: A path, a PIL image, an array (H, W), (H, W, 1) or (H, W, 3), a tensor (H, W), (1, H, W) or
                (3, H, W); a list or an iterator of these; or a batch, an array (N, H, W) or (N, 1, H, W), a tensor
                (N, 1, H, W); uint8, uint16, int32 or floating point.
            num_inference_steps: Denoising steps; None = the checkpoint's default.
            ensemble_size: Posterior samples whose probabilities are fused; None = the checkpoint's default.
            mask_threshold: Pixels of a higher probability belong to targets, in [0, 1]; None = the checkpoint's.
            score_threshold: Components of a higher score (the mean probability of their pixels) are targets, in
                [0, 1]; None = the checkpoint's default.
            max_false_targets_per_megapixel: A budget of false targets per million pixels, instead of
                `score_threshold`; it must have been calibrated (`irstd-ldm calibrate`).
            max_fa_per_million_px: The same in false-alarm pixels per million.
            tile_size: Images with a longer side run in overlapping tiles of this side, in pixels; 0 = never;
                None = the checkpoint's default.
            tile_overlap: Overlap of neighbouring tiles in pixels; None = the checkpoint's default.
            input_range: Raw values that map to -1 and 1; None = those of the checkpoint's `normalization`. Values
                outside are compressed, not clipped. With the normalisation ``robust`` they are about the 5 and 95 per
                cent quantiles of a typical scene: a sensor's whole range leaves hardly any contrast.
            batch_size: Images or tiles that run together; None = 1.
            generator: Source of the randomness; None = seed 0. Every image draws from its own generator, derived from
                this one and the image's index in the call, so that the batch size changes nothing.
            output_type: ``np`` or ``pt``.
            return_dict: Whether to return an [`IRSTDPipelineOutput`] instead of a tuple.
            callback_on_step_end: Called as ``callback(pipe, step, timestep, tensors)`` after each denoising step of
                each batch; may return a dict of tensors that replace these.
            ensemble_fusion: How members become one probability: ``mean``, ``median``, or ``staple``, which weighs the
                members' decisions (probability > 0.5) by how well each agrees with the consensus.
            callback_on_step_end_tensor_inputs: Names of the tensors that the callback gets.
            threshold: The old name of both thresholds in one.
            seed: Instead of `generator`, the seed of one on the CPU.
            polarity: ``white-hot``, or ``black-hot`` where targets are darker than what is around them.

        Returns:
            [`IRSTDPipelineOutput`], or the tuple (probability, mask, uncertainty, targets).

        Raises:
            TypeError: An image of an unknown kind, a `generator` or `seed` of another type.
            ValueError: An argument out of range; an image without pixels or with NaN or infinite values; a budget that
                was never calibrated; arguments that exclude each other.
        """
        # 1. Check the inputs and fill in the checkpoint's defaults.
        if output_type not in ("np", "pt"):
            raise ValueError(f"`output_type` must be 'np' or 'pt', got {output_type!r}")
        if seed is not None:
            if generator is not None:
                raise ValueError("`generator` and `seed` exclude each other, got both")
            if not isinstance(seed, Integral):
                raise TypeError(f"`seed` must be an integer, got {seed!r}")
            generator = torch.Generator().manual_seed(seed)
        if not isinstance(generator, torch.Generator | None):
            raise TypeError(f"`generator` must be one torch.Generator for all images, got {type(generator).__name__}")
        step_end = StepEnd(callback_on_step_end, callback_on_step_end_tensor_inputs)
        step_end.check(self)
        settings = resolve_sampling(
            self.config,
            range(self.min_inference_steps, self.max_inference_steps + 1),
            num_inference_steps=num_inference_steps,
            ensemble_size=ensemble_size,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            batch_size=batch_size,
            ensemble_fusion=ensemble_fusion,
        )
        budgets = max_false_targets_per_megapixel, max_fa_per_million_px
        decision = resolve_decision(self.config, threshold, mask_threshold, score_threshold, *budgets)

        # 2. Read the images, and draw a seed for each.
        images = to_grays(image)  # N of (H, W)
        grays = [seen_image(one, polarity, input_range) for one in images]
        normalization = self.config.normalization
        ranges = [gray_range(gray, input_range, normalization) for gray in grays]
        base_seed = draw_base_seed(generator)
        seeds = [image_seed(base_seed, index) for index in range(len(grays))]

        # 3. Cut tiles; an image that is no larger than a tile is one.
        blenders = [TileBlender(gray.shape, settings) for gray in grays]
        num_passes = max(settings.num_inference_steps, 1) * sum(len(settings.windows(gray.shape)) for gray in grays)
        with self.progress_bar(total=num_passes) if num_passes > 1 else tqdm(disable=True) as progress_bar:
            for tiles in iterate_tiles(grays, settings):
                pixels = [network_input(tile.pixels, ranges[tile.index], normalization) for tile in tiles]
                # 4. Predict the members' probabilities, (B, E, PH, PW).
                members = self.predict_probability(
                    np.stack(pixels),  # (B, PH, PW)
                    [seeds[tile.index] for tile in tiles],
                    settings.num_inference_steps,
                    settings.ensemble_size,
                    replace(step_end, progress_bar=progress_bar, num_tiles=len(tiles)),
                )
                if settings.num_inference_steps == 0:
                    progress_bar.update(len(tiles))

                # 5. Blend the tiles and fuse the members.
                for tile, of_tile in zip(tiles, members, strict=True):
                    blenders[tile.index].add(tile.window, of_tile)

        # 6. Decide, and find the targets.
        *maps, targets = decide(blenders, grays, decision, confidence_calibration(self.config))

        # 7. Convert and offload.
        if output_type == "pt":
            maps = [_to_tensors(of_images) for of_images in maps]
        self.maybe_free_model_hooks()
        if not return_dict:
            return (*maps, targets)  # type: ignore[return-value]
        return IRSTDPipelineOutput(
            probability=maps[0], mask=maps[1], uncertainty=maps[2], targets=targets, images=images
        )

    @staticmethod
    def member_noise(like: torch.Tensor, ensemble_size: int, generators: list[torch.Generator]) -> torch.Tensor:
        """Standard normal noise shaped as `like` (B*E, C, h, w), from one generator per image."""
        shape = (ensemble_size, *like.shape[1:])
        noise = [randn_tensor(shape, generator=g, dtype=torch.float32) for g in generators]
        return torch.cat(noise).to(like)


def _to_tensors(maps: Any) -> Any:
    if maps is None:
        return None
    return [torch.from_numpy(one) for one in maps] if isinstance(maps, list) else torch.from_numpy(maps)


def detector_class(source: str | PathLike) -> type[IRSTDDetectionPipeline]:
    """The detector's class that the model_index.json of a folder, of a bundled checkpoint or on the Hub names.

    Raises:
        ValueError: The class is no detector of this package.
        OSError: There is no such file, or it cannot be read.
    """
    return pipeline_class(source, IRSTDDetectionPipeline, "detector")


def pipeline_class(
    source: str | PathLike, kind: type[IRSTDPipelineBase], called: str = "pipeline"
) -> type[IRSTDPipelineBase]:
    """The class, of a kind that a message calls `called`, that a model_index.json names.

    Raises:
        ValueError: The class is of another kind.
        OSError: There is no such file, or it cannot be read.
    """
    from .. import PUBLIC
    from ..hub.upload import explain

    try:
        name = IRSTDDetectionPipeline.load_config(source)["_class_name"]
    except OSError as error:
        raise OSError(str(error) if Path(source).is_dir() else explain(error, str(source))) from error
    found = getattr(import_module(f".{PUBLIC[name]}", __package__), name) if name in PUBLIC else None
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ValueError(f"model_index.json names {name}, which is no {called} of this package")
    return found

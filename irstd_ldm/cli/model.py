"""Loading a detector for a command, and running it so that a file's result does not depend on its neighbours.

torch is imported only where it runs the networks.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import targets
from ..bundled import is_default, resolve_model
from ..data.images import seen_image
from ..data.readers import is_sequence
from ..data.readers.frame import Frame, FrameError, FrameSource, checked_frames
from ..data.readers.sequence_range import sequence_range
from ..runtime import exported
from ..runtime.detector import ExportedDetectorRunner
from ..runtime.exported import ENGINES
from ..stream import WAITING, ahead, decide_fused, model_sha256
from ..tiling import resolve_sampling
from ..tracking import EvidenceFilter
from . import EXIT_USAGE, CommandError, Failure, InputFile, describe
from .outputs import Record

if TYPE_CHECKING:
    import torch

    from ..pipelines.detection import IRSTDDetectionPipeline

    Detector = IRSTDDetectionPipeline | ExportedDetectorRunner

Result = tuple[Frame, np.ndarray, Record]  # a frame, its probability (H, W), its record

BUNDLED = "bundled"
HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
SAMPLING = ("num_inference_steps", "ensemble_size", "tile_size", "tile_overlap")


def model_name(args: argparse.Namespace) -> str:
    """What the outputs call the model: the argument, or "bundled"."""
    return BUNDLED if args.model is None else args.model


def model_folder(args: argparse.Namespace) -> Path | None:
    """The folder that `--model` names (default: the bundled checkpoint), None for a Hub id."""
    folder = Path(resolve_model(args.model))
    return folder if folder.is_dir() else None


def resolve_runtime(args: argparse.Namespace) -> str:
    """The runtime of a command: `--runtime`, or for auto what is fast."""
    if args.runtime != "auto":
        return args.runtime
    return exported.fastest_runtime(args.model, args.num_inference_steps, args.device)


def load_detector(args: argparse.Namespace, device: torch.device | None) -> Detector:
    """The detector that `--model` names (default: the bundled checkpoint) for `--runtime`, on `device` with torch."""
    if args.runtime in ENGINES:
        if not is_default(args.model) and not exported.is_exported(args.model):
            raise CommandError(
                f"--runtime {args.runtime} needs as --model a folder that `export` wrote, got {args.model}", EXIT_USAGE
            )
        try:
            return ExportedDetectorRunner(args.model, args.runtime)
        except Exception as error:  # an exported model is foreign input, read by a library with errors of its own
            failed = f"--model {model_name(args)}: {args.runtime} cannot load it: {error}"
            raise CommandError(failed, EXIT_USAGE) from error
    pipeline = load_pipeline(args, device)
    if args.runtime == "compile":
        compile_networks(pipeline)
    return pipeline


def load_pipeline(
    args: argparse.Namespace, device: torch.device | None = None, class_of: Callable[[str], Any] | None = None
) -> Any:
    """The pipeline that `--model` names (default: the bundled checkpoint), on `device`: by default a detector.

    `class_of` names its class, as `detector_class` does, and refuses others by a ValueError.
    """
    source = str(resolve_model(args.model))
    import diffusers
    import transformers

    from ..pipelines.detection import detector_class

    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    is_folder = Path(source).is_dir()
    if not is_folder and HUB_ID.fullmatch(source) is None:
        raise CommandError(f"--model {source}: no such folder, and not a Hub id (OWNER/NAME)", EXIT_USAGE)
    try:
        pipeline = (class_of or detector_class)(source).from_pretrained(source)
    except Exception as error:  # a checkpoint is foreign input: a folder, a file or a server may be wrong in any way
        if exported.is_exported(source):
            raise CommandError(
                f"--model {source}: an exported detector, which `detect --runtime` runs", EXIT_USAGE
            ) from error
        reason = str(error).strip().splitlines() or [type(error).__name__]
        kind = "folder" if is_folder else "Hub repository (there is no folder of this name)"
        raise CommandError(f"--model {source}: cannot load this {kind}: {reason[0]}", EXIT_USAGE) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline if device is None else pipeline.to(device)


def compile_networks(pipeline: IRSTDDetectionPipeline) -> None:
    """Compiles each network by `torch.compile` at its first call, and again at the first call of another size."""
    import torch

    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.compile()
    if "vae" in pipeline.components:
        pipeline.vae.decoder.compile()  # `decode` passes the module's own call by


def resolve_device(name: str | None, runtime: str = "torch") -> torch.device | None:
    """The device that `--device` names; default: CUDA where there is one, else the CPU; None without torch."""
    if runtime in ENGINES:
        if name not in (None, "cpu"):
            raise CommandError(f"--device {name}: --runtime {runtime} runs on the cpu", EXIT_USAGE)
        return None
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CommandError(f"--device {name}: {str(error).splitlines()[0]}", EXIT_USAGE) from error
    return device


def predict(
    pipeline: Detector,
    image: np.ndarray,
    args: argparse.Namespace,
    decision: targets.Decision | None = None,
    input_range: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray, list[targets.Target]]:
    """Detects targets in one image (H, W), in a call of its own: probability, mask (H, W) each, and the targets.

    The pipeline derives an image's noise from the seed and the image's index in the call. Alone in its call, a file
    has the same result whichever files stand beside it; `--batch-size` is for the tiles of a large image.
    """
    randomness: dict[str, Any] = {"seed": args.seed}
    if not isinstance(pipeline, ExportedDetectorRunner):
        import torch

        randomness = {"generator": torch.Generator().manual_seed(args.seed)}
    probability, mask, _, found = pipeline(
        image,
        **{name: getattr(args, name) for name in SAMPLING},
        **({} if decision is None else vars(decision)),
        input_range=input_range,
        batch_size=args.batch_size,
        return_dict=False,
        **randomness,
    )  # (1, 1, H, W) twice
    return probability[0, 0], mask[0, 0], found[0]


class FrameDetector:
    """Detects targets in frames, each in a call of its own, with a command's range of gray values and polarity."""

    def __init__(
        self,
        pipeline: Detector,
        args: argparse.Namespace,
        decision: targets.Decision,
        fail: Callable[[Failure], None] = lambda failure: None,
    ):
        self._pipeline, self._args, self._decision, self._fail = pipeline, args, decision, fail
        self._normalization = pipeline.config["normalization"]

    @cached_property
    def sha256(self) -> str:
        """Digest of the detector's weights and settings, wherever it was loaded from."""
        return model_sha256(self._pipeline)

    def value_range(self, source: FrameSource) -> tuple[float, float] | None:
        """The raw values that map to -1 and 1 in every frame of a file, None = each frame's own."""
        asked = self._args.input_range
        if isinstance(asked, tuple):
            return asked
        if asked == "frame" or not is_sequence(source) or source.is_live:
            return None
        return sequence_range(source, normalization=self._normalization)

    def shown_range(self, value_range: tuple[float, float] | None) -> tuple[float, float] | None:
        """Black and white of the pictures of a file's frames with this range.

        With "robust" a tenth of a frame's pixels lie outside, so pictures show twice its width, of normally
        distributed gray values what 0.1 and 99.9 percentiles enclose.
        """
        if value_range is None or self._normalization == "range":
            return value_range
        lo, hi = value_range
        return lo - (hi - lo) / 2, hi + (hi - lo) / 2

    def frames(
        self, source: FrameSource, item: InputFile, input_range: tuple[float, float] | None, first: int = 0
    ) -> Generator[Result, None, None]:
        """The frames from `first` on, each with its probability (H, W) and its record.

        Those of a sequence are read, and detected, while the caller works; one that cannot be is given to `fail`.
        """
        frames = checked_frames(source.frames(first))
        results = partial(self._results, source=source, item=item, input_range=input_range)
        if not is_sequence(source):
            return results(frames)
        return _ahead(frames, results, drop=source.is_live and not self._args.keep_frames)

    def summary(self) -> str:
        """How many frames the last source gave, and how many of them were dropped, damaged or named as failures."""
        return f"{self._num_frames} frames, {self._num_frames - self._num_done} of them left out"

    def _results(
        self,
        frames: Iterator[Frame | FrameError],
        source: FrameSource,
        item: InputFile,
        input_range: tuple[float, float] | None,
    ) -> Generator[Result, None, None]:
        has_index = is_sequence(source)
        self._num_frames = self._num_done = 0
        evidence = EvidenceFilter() if has_index and self._args.fuse_frames else None
        for frame in frames:
            self._num_frames = frame.index + 1
            if isinstance(frame, FrameError):
                self._fail(describe(item.path, frame))
                continue
            seen = seen_image(frame.image, self._args.polarity, input_range)
            probability, mask, found = predict(self._pipeline, seen, self._args, self._decision, input_range)
            if evidence is not None:
                probability = evidence.update(probability, frame.index, frame.time_s)
                mask, found = decide_fused(probability, seen, self._pipeline.config, **vars(self._decision))
            height, width = mask.shape
            index = frame.index if has_index else None
            self._num_done += 1
            record = Record(str(item.path), item.name, width, height, found, mask, index, frame.time_s)
            yield frame, probability, record


def _ahead(
    frames: Iterator[Frame | FrameError],
    results: Callable[[Iterator[Frame | FrameError]], Generator[Result, None, None]],
    drop: bool,
) -> Generator[Result, None, None]:
    """The results of frames, of which one thread reads and another detects while the caller works."""
    with (
        closing(ahead(frames, 1 if drop else WAITING, drop)) as read,
        closing(ahead(results(read))) as done,
    ):
        yield from done


def resolve_decision(args: argparse.Namespace, config: Mapping[str, Any]) -> targets.Decision:
    """The thresholds that the command names, by themselves or by a budget; default: those of the config."""
    try:
        return targets.resolve_decision(config, **{name: getattr(args, name) for name in targets.DECIDING})
    except ValueError as error:
        raise CommandError(f"--model {model_name(args)}: {error}", EXIT_USAGE) from error


def sampling(args: argparse.Namespace, pipeline: Detector) -> dict[str, int]:
    """Denoising steps, ensemble size and tiles, the checkpoint's own defaults filled in."""
    try:
        called = resolve_sampling(
            pipeline.config,
            range(pipeline.min_inference_steps, pipeline.max_inference_steps + 1),
            **{name: getattr(args, name) for name in SAMPLING},
            batch_size=args.batch_size,
        )
    except ValueError as error:
        raise CommandError(f"--model {model_name(args)}: {error}", EXIT_USAGE) from error
    return {name: getattr(called, name) for name in SAMPLING}


def settings(args: argparse.Namespace, pipeline: Detector, decision: targets.Decision) -> dict[str, Any]:
    """The settings that the outputs record, the checkpoint's own defaults filled in."""
    return {
        **sampling(args, pipeline),
        **vars(decision),
        "max_false_targets_per_megapixel": args.max_false_targets_per_megapixel,
        "max_fa_per_million_px": args.max_fa_per_million_px,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "runtime": args.runtime,
        "device": str(pipeline.device),
    }

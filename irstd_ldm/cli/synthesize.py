"""`irstd-ldm synthesize`: more training images from those of a training list, or from frames without targets."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tqdm import tqdm

from ..data.folder import IRSTDFolder, Sample, held_out_stems, read_backgrounds
from ..data.ggs import squeeze_with_targets
from ..data.planted_targets import TargetModel, plant_targets
from ..pipelines.pipeline_gaussian_agnostic import GaussianAgnosticPipeline, unit_range
from ..targets import label_components
from ..tiling import image_seed
from . import EXIT_DONE, EXIT_USAGE, CommandError, one_line
from .model import resolve_device
from .synthesis_folder import Provenance, SynthesisFolder

SIXTEEN_BIT_MAX = 65535


class Maker(Protocol):
    """Makes the synthetic image of one source."""

    kind: str

    def make(self, source: str, seed: int) -> tuple[np.ndarray, np.ndarray, int | None]:
        """Image (H, W) uint8 or uint16, mask (H, W) bool and number of groups, a function of the arguments alone."""


class Generator:
    """Both stages of the Gaussian-agnostic engine, the targets' own pixels pasted."""

    kind = "generated"

    def __init__(self, args: argparse.Namespace, samples: dict[str, Sample]):
        try:
            self.pipeline = GaussianAgnosticPipeline.from_pretrained(args.model)
        except (
            Exception
        ) as error:  # a checkpoint is foreign input: a folder, a file or a server may be wrong in any way
            raise CommandError(f"--model {args.model}: {one_line(error)}", EXIT_USAGE) from error
        self.pipeline.to(resolve_device(args.device)).set_progress_bar_config(disable=True)
        self.samples = samples
        self.arguments = {
            "num_inference_steps": args.num_inference_steps,
            "strength": args.strength,
            "color_fix": None if args.color_fix == "none" else args.color_fix,
            "paste_targets": args.paste_targets,
        }

    def make(self, source: str, seed: int) -> tuple[np.ndarray, np.ndarray, int | None]:
        sample = self.samples[source]
        made = self.pipeline(
            sample.image, mask=sample.mask, generator=torch.Generator().manual_seed(seed), **self.arguments
        )
        return quantised(made.images[0], sample.image.dtype), sample.mask, made.num_groups[0]


class Squeezer:
    """The Gaussian Group Squeezer alone."""

    kind = "squeezed"

    def __init__(self, samples: dict[str, Sample]):
        self.samples = samples

    def make(self, source: str, seed: int) -> tuple[np.ndarray, np.ndarray, int | None]:
        sample = self.samples[source]
        pixels = torch.from_numpy(unit_range(sample.image))[None]  # (1, H, W)
        generator = torch.Generator().manual_seed(seed)
        squeezed = squeeze_with_targets(pixels, torch.from_numpy(sample.mask), generator, generation=True)
        return quantised(squeezed.image[0].numpy(), sample.image.dtype), squeezed.mask.numpy(), squeezed.num_groups


class Planter:
    """Modelled targets on frames without any."""

    kind = "planted"

    def __init__(self, frames: dict[str, np.ndarray], model: TargetModel):
        self.frames, self.model = frames, model

    def make(self, source: str, seed: int) -> tuple[np.ndarray, np.ndarray, int | None]:
        frame = self.frames[source]
        frame = frame if frame.dtype == np.uint8 else quantised(unit_range(frame), frame.dtype)
        planted = plant_targets(frame, self.model, np.random.default_rng(seed))
        return planted.image, planted.mask, None


def run(args: argparse.Namespace) -> int:
    """Writes the data set and returns the exit code."""
    if args.data is None and (args.originals or args.mode != "planted"):
        raise CommandError(f"--mode {args.mode}{' --originals' * args.originals} needs --data ROOT", EXIT_USAGE)
    samples = _read_samples(args) if args.data is not None else {}
    maker = _make_maker(args, samples)
    sources = list(maker.frames if isinstance(maker, Planter) else samples)
    folder = SynthesisFolder(args.output, _settings(args, sources))
    stems = []
    if args.originals:
        for stem, sample in samples.items():
            stems.append(stem)
            if stem not in folder.done:
                image = sample.image if sample.image.dtype == np.uint8 else _sixteen_bit(unit_range(sample.image))
                folder.add(image, sample.mask, _provenance(stem, stem, "original", None, sample.mask, None))
    for k, source in enumerate(tqdm(_order(sources, args.count, args.seed), total=args.count, disable=None)):
        name = f"{source}_{maker.kind}_{k:05d}"
        stems.append(name)
        if name not in folder.done:
            seed = image_seed(args.seed, k)
            image, mask, num_groups = maker.make(source, seed)
            folder.add(image, mask, _provenance(name, source, maker.kind, num_groups, mask, seed))
    folder.finish(stems)
    print(f"{args.output}: {len(stems)} images, {args.count} of them {maker.kind}")
    return EXIT_DONE


def quantised(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """(H, W) in [0, 1] as uint8 where the source is uint8, else as uint16."""
    if dtype == np.uint8:
        return np.rint(image * 255).astype(np.uint8)
    return _sixteen_bit(image)


def _sixteen_bit(image: np.ndarray) -> np.ndarray:
    return np.rint(image * SIXTEEN_BIT_MAX).astype(np.uint16)


def _read_samples(args: argparse.Namespace) -> dict[str, Sample]:
    try:
        folder = IRSTDFolder(args.data, split="train", list_file=args.list)
        leaked = sorted(held_out_stems(args.data) & set(folder.stems))
        if leaked:
            raise ValueError(f"{len(leaked)} images of a test list, such as {leaked[0]}, are on the list")
        return {sample.stem: sample for sample in folder}
    except (OSError, ValueError) as error:
        raise CommandError(f"--data {args.data}: {one_line(error)}", EXIT_USAGE) from error


def _make_maker(args: argparse.Namespace, samples: dict[str, Sample]) -> Maker:
    if args.mode == "planted":
        if args.backgrounds is None:
            raise CommandError("--mode planted needs --backgrounds ROOT", EXIT_USAGE)
        try:
            frames = read_backgrounds(args.backgrounds, args.exclude or ())
            model = TargetModel(scr_range=tuple(args.scr), sigma_range_px=tuple(args.sigma_px))
        except (OSError, ValueError) as error:
            raise CommandError(f"--backgrounds {args.backgrounds}: {one_line(error)}", EXIT_USAGE) from error
        if not frames:
            raise CommandError(f"--backgrounds {args.backgrounds}: no frame is left", EXIT_USAGE)
        return Planter(frames, model)
    if args.mode == "squeezed":
        return Squeezer(samples)
    if args.model is None:
        raise CommandError("--mode generated needs --model PATH_OR_HUB_ID", EXIT_USAGE)
    return Generator(args, samples)


def _settings(args: argparse.Namespace, sources: list[str]) -> dict:
    free = ("command", "output", "device", "count")  # a folder may grow, on any device
    named = {name: value for name, value in vars(args).items() if name not in free}
    return {name: str(value) if isinstance(value, Path) else value for name, value in named.items()} | {
        "sources": sources
    }


def _order(sources: list[str], count: int, seed: int) -> Iterator[str]:
    """`count` sources: each once in a random order, then again in another."""
    for k in range(count):
        turn, place = divmod(k, len(sources))
        if place == 0:
            order = np.random.default_rng((seed, turn)).permutation(len(sources))
        yield sources[order[place]]


def _provenance(
    name: str, source: str, kind: str, num_groups: int | None, mask: np.ndarray, seed: int | None
) -> Provenance:
    return Provenance(name, source, kind, num_groups, len(label_components(mask)[1]), seed)

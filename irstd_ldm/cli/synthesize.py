"""`irstd-ldm synthesize`: more training images from those of a training list, or from frames without targets."""

import argparse
import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..bundled import GENERATOR, resolve_model
from ..data.folder import IRSTDFolder, Sample, read_backgrounds, refuse_held_out, write_stem_list
from ..data.ggs import squeeze_with_targets
from ..data.planted_targets import TargetModel, plant_targets
from ..files import csv_line, csv_text, write_json, write_text
from ..hub.format import digests
from ..pipelines.pipeline_gaussian_agnostic import generator_class, unit_range
from ..targets import label_components
from ..tiling import image_seed
from . import EXIT_DONE, EXIT_USAGE, CommandError, one_line
from .model import load_pipeline, resolve_device
from .outputs import held, make_folder, save_png

SETTINGS, PROVENANCE, TRAIN_LIST = "synthesis.json", "provenance.csv", "train.txt"

COLUMNS = ("name", "source", "kind", "num_groups", "num_targets", "seed")  # the columns of provenance.csv

Samples = dict[str, Sample]  # stem -> sample
Frames = dict[str, np.ndarray]  # stem -> (H, W)
Made = tuple[np.ndarray, np.ndarray, int | None]  # image (H, W) uint8 or uint16, mask (H, W) bool, number of groups
Job = tuple[str, int]  # a source, and the seed of its copy
Maker = Callable[[Sequence[Job]], list[Made]]  # each image is a function of its job, and of nothing else


def run(args: argparse.Namespace) -> int:
    """Writes the data set and returns the exit code."""
    if args.data is None and (args.originals or args.mode != "planted"):
        raise CommandError(f"--mode {args.mode}{' --originals' * args.originals} needs --data ROOT", EXIT_USAGE)
    samples = _read_samples(args) if args.data is not None else {}
    if args.mode == "generated":
        args.model = args.model or GENERATOR
    sources, make = _planter(args) if args.mode == "planted" else (samples, _sample_maker(args, samples))
    settings = _settings(args, samples, sources)
    SynthesisFolder.check(args.output, settings)
    make_folder(args.output)
    with held(args.output, "synthesize"):
        return _synthesize(args, SynthesisFolder(args.output, settings), samples, sources, make)


def _synthesize(
    args: argparse.Namespace, folder: "SynthesisFolder", samples: Samples, sources: Samples | Frames, make: Maker
) -> int:
    stems = []
    if args.originals:
        for stem, sample in samples.items():
            stems.append(stem)
            if not folder.holds(stem):
                folder.add(stem, (_shallow(sample.image), sample.mask, None), stem, "original", None)
    alike: dict[tuple[int, ...], list[tuple[str, Job]]] = {}  # shape -> names and jobs of sources of that shape
    for k, source in enumerate(_order(list(sources), args.count, args.seed)):
        name = f"{source}_{args.mode}_{k:05d}"
        stems.append(name)
        alike.setdefault(_image(sources[source]).shape, []).append((name, (source, image_seed(args.seed, k))))
    left = [[job for job in jobs if not folder.holds(job[0])] for jobs in alike.values()]
    count = sum(map(len, left))
    with tqdm(total=args.count, initial=args.count - count, unit="image", disable=None) as progress:
        begun, done = perf_counter(), 0
        for batch in (jobs[i : i + args.batch_size] for jobs in left for i in range(0, len(jobs), args.batch_size)):
            for (name, (source, seed)), made in zip(batch, make([job for _, job in batch]), strict=True):
                folder.add(name, made, source, args.mode, seed)
            done += len(batch)
            progress.update(len(batch))
            progress.set_postfix_str(f"{60 * done / (perf_counter() - begun):.0f} images/min")
    write_stem_list(args.output / TRAIN_LIST, stems)  # with its list the folder is a data set
    print(f"{args.output}: {len(stems)} images, {args.count} of them {args.mode}")
    return EXIT_DONE


class SynthesisFolder:
    """DIR of `synthesize --output`: images/, masks/, provenance.csv and synthesis.json; nothing is overwritten.

    A row of provenance.csv is written after its image and mask, so that what has a row is complete. DIR is absent,
    empty, or what an interrupted run of the same settings left; another content is a CommandError.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        self.check(folder, settings)
        if not (folder / SETTINGS).exists():
            write_json(folder / SETTINGS, settings)
        for made in (folder / "images", folder / "masks"):
            make_folder(made)
        try:
            self._done = self._read_provenance()
        except (ValueError, IndexError, csv.Error) as error:
            raise CommandError(f"{folder / PROVENANCE}: is not what `synthesize` writes", EXIT_USAGE) from error

    @staticmethod
    def check(folder: Path, settings: Mapping[str, Any]) -> None:
        """Refuses a folder with files of another origin or of other settings."""
        if not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir()):
            return
        try:
            found = dict(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            message = f"--output {folder}: holds files that `synthesize` did not write; name another"
            raise CommandError(message, EXIT_USAGE) from error
        for name, value in settings.items():
            if found.get(name) != json.loads(json.dumps(value)):
                message = f"--output {folder}: was begun with another {name} ({found.get(name)}); "
                raise CommandError(message + "repeat that, or name another folder", EXIT_USAGE)

    def holds(self, name: str) -> bool:
        """Whether an image is there, whole."""
        return csv_text(name) in self._done

    def _read_provenance(self) -> set[str]:
        path = self.folder / PROVENANCE
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        complete = text[: text.rfind("\n") + 1] or csv_line(COLUMNS)  # a kill may have cut the last row
        if complete != text:
            write_text(path, complete)
        head, *rows = csv.reader(complete.splitlines())
        if tuple(head) != COLUMNS:
            raise ValueError(f"`{path}` must have the columns {', '.join(COLUMNS)}, got {', '.join(head)}")
        return {row[0] for row in rows}

    def _append(self, row: Sequence[Any]) -> None:
        with (self.folder / PROVENANCE).open("a", newline="", encoding="utf-8") as file:
            file.write(csv_line(row))

    def add(self, name: str, made: Made, source: str, kind: str, seed: int | None) -> None:
        """Writes one image and its mask, then its row."""
        image, mask, num_groups = made
        for inside in ("images", "masks"):
            (self.folder / inside / name).parent.mkdir(parents=True, exist_ok=True)  # a stem may hold folders
        save_png(self.folder / "images" / f"{name}.png", Image.fromarray(image))
        save_png(self.folder / "masks" / f"{name}.png", Image.fromarray(mask.astype(np.uint8) * 255))
        self._append((name, source, kind, num_groups, len(label_components(mask)[1]), seed))


def _sample_maker(args: argparse.Namespace, samples: dict[str, Sample]) -> Maker:
    """Squeezes samples, or runs both stages of the Gaussian-agnostic engine, the targets' own pixels pasted."""

    def squeeze(job: Job) -> Made:
        source, seed = job
        sample = samples[source]
        pixels = torch.from_numpy(unit_range(sample.image))[None]  # (1, H, W)
        generator = torch.Generator().manual_seed(seed)
        squeezed = squeeze_with_targets(pixels, torch.from_numpy(sample.mask), generator, generation=True)
        return _quantised(squeezed.image[0].numpy(), sample.image.dtype), squeezed.mask.numpy(), squeezed.num_groups

    if args.mode == "squeezed":
        return lambda jobs: [*map(squeeze, jobs)]
    pipeline = load_pipeline(args, resolve_device(args.device), generator_class)
    # What the folder's settings hold, the checkpoint's defaults filled in.
    args.num_inference_steps = args.num_inference_steps or pipeline.config.default_num_inference_steps
    args.strength = pipeline.config.default_strength if args.strength is None else args.strength

    def generate(jobs: Sequence[Job]) -> list[Made]:
        chosen = [samples[source] for source, _ in jobs]
        made = pipeline(
            [sample.image for sample in chosen],
            mask=[sample.mask for sample in chosen],
            generator=[torch.Generator().manual_seed(seed) for _, seed in jobs],
            batch_size=len(jobs),
            num_inference_steps=args.num_inference_steps,
            strength=args.strength,
            color_fix=None if args.color_fix == "none" else args.color_fix,
            paste_targets=args.paste_targets,
        )
        return [
            (_quantised(image, sample.image.dtype), sample.mask, num_groups)
            for image, sample, num_groups in zip(made.images, chosen, made.num_groups, strict=True)
        ]

    return generate


def _planter(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], Maker]:
    """Frames without targets, and the function that plants modelled ones on them."""
    if args.backgrounds is None:
        raise CommandError("--mode planted needs --backgrounds ROOT", EXIT_USAGE)
    try:
        frames = read_backgrounds(args.backgrounds, args.exclude or ())
        model = TargetModel(scr_range=tuple(args.scr), sigma_range_px=tuple(args.sigma_px))
    except (OSError, ValueError) as error:
        raise CommandError(f"--backgrounds {args.backgrounds}: {one_line(error)}", EXIT_USAGE) from error
    if not frames:
        raise CommandError(f"--backgrounds {args.backgrounds}: no frame is left", EXIT_USAGE)

    def plant(job: Job) -> Made:
        source, seed = job
        planted = plant_targets(_shallow(frames[source]), model, np.random.default_rng(seed))
        return planted.image, planted.mask, None

    return frames, lambda jobs: [*map(plant, jobs)]


def _image(source: Sample | np.ndarray) -> np.ndarray:
    return source.image if isinstance(source, Sample) else source


def _shallow(image: np.ndarray) -> np.ndarray:
    """An image (H, W) of any depth as uint8, or uint16 of its range."""
    return image if image.dtype == np.uint8 else _quantised(unit_range(image), image.dtype)


def _quantised(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """(H, W) in [0, 1] as uint8 where the source is uint8, else as uint16."""
    stored = np.uint8 if dtype == np.uint8 else np.uint16
    return np.rint(image * np.iinfo(stored).max).astype(stored)


def _read_samples(args: argparse.Namespace) -> dict[str, Sample]:
    try:
        folder = IRSTDFolder(args.data, split="train", list_file=args.list)
        refuse_held_out(args.data, folder.stems, "the list")
        return {sample.stem: sample for sample in folder}
    except (OSError, ValueError) as error:
        raise CommandError(f"--data {args.data}: {one_line(error)}", EXIT_USAGE) from error


def _settings(args: argparse.Namespace, samples: Samples, sources: Samples | Frames) -> dict[str, Any]:
    free = ("command", "output", "device", "count", "batch_size")  # these may differ when a folder is continued
    named = {name: value for name, value in vars(args).items() if name not in free}
    named = {name: str(value) if isinstance(value, Path) else value for name, value in named.items()}
    folder = None if args.model is None else Path(resolve_model(args.model))
    weights = digests(folder) if folder is not None and folder.is_dir() else None
    return {**named, "sources": list(sources), "data_sha256": _sha256(samples, sources), "weights_sha256": weights}


def _sha256(*sets: Samples | Frames) -> str:
    """Digest of images and masks, under their names."""
    digest = hashlib.sha256()
    for name, one in (pair for of_set in sets for pair in of_set.items()):
        for array in (one.image, one.mask) if isinstance(one, Sample) else (one,):
            digest.update(f"{name} {array.dtype} {array.shape}".encode(errors="surrogateescape"))
            digest.update(array.tobytes())
    return digest.hexdigest()


def _order(sources: list[str], count: int, seed: int) -> Iterator[str]:
    """`count` sources: each once in a random order, then again in another."""
    for k in range(count):
        turn, index = divmod(k, len(sources))
        if index == 0:
            order = np.random.default_rng((seed, turn)).permutation(len(sources))
        yield sources[order[index]]

"""`irstd-ldm evaluate`: a model, or a folder of predictions, scored on a data set."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from tqdm import tqdm

from .. import __version__
from ..data.folder import IRSTDFolder, files_by_stem
from ..data.images import to_gray
from ..evaluation.protocols import get_protocol
from ..evaluation.report import EvaluationResult, evaluate_probabilities, find_predictions, read_prediction
from ..pipelines.pipeline_irstd_latent import IRSTDLatentPipeline
from . import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, CommandError
from .inputs import IMAGE_ERRORS, describe
from .model import load_pipeline, model_folder, model_name, predict, resolve_device, settings
from .outputs import make_folder, save_json

Pair = tuple[str, np.ndarray, np.ndarray]  # stem, probability (H, W), mask (H, W)


def run(args: argparse.Namespace) -> int:
    """Evaluates, prints the table, writes metrics.json and returns the exit code."""
    try:
        images = ImageSet(args)
    except (OSError, ValueError) as error:
        raise CommandError(str(describe(args.data, error)), EXIT_USAGE) from error
    make_folder(args.output)
    header: dict[str, Any] = {"version": __version__, "data": str(args.data), "images": images.description}
    if args.predictions is None:
        pipeline = load_pipeline(args, resolve_device(args.device))
        header |= {"model": model_name(args), "settings": settings(args, pipeline)}
        pairs = _predicted_pairs(images, pipeline, args)
    else:
        try:
            files = find_predictions(args.predictions, list(images.paths))
        except ValueError as error:
            raise CommandError(f"--predictions {args.predictions}: {error}", EXIT_USAGE) from error
        header |= {"predictions": str(args.predictions)}
        pairs = ((stem, read_prediction(path), images.read(stem)[1]) for stem, path in files.items())
    path = args.output / "metrics.json"
    try:
        result = evaluate_probabilities(
            tqdm(pairs, total=len(images.paths), unit="image", disable=None),
            threshold=args.threshold,
            protocol=args.protocol,
            matching=args.matching,
            legacy_false_alarms=args.legacy_fa,
        )
    except IMAGE_ERRORS as error:
        raise CommandError(str(describe(args.data, error)), EXIT_FAILED) from error
    try:
        save_json(path, {**header, **result.summary(), "per_image": _per_image(result)})
    except OSError as error:
        raise CommandError(f"{path}: {describe('', error).error}") from error
    print(", ".join(f"{key} {value}" for key, value in header.items() if isinstance(value, str)))
    print(result.table())
    print(f"written: {path}")
    return EXIT_DONE


class ImageSet:
    """The images of `--data` that are evaluated, and their masks.

    Attributes:
        paths: stem -> image file, in the order of evaluation.
        description: which images these are.

    Raises:
        OSError: a list that cannot be read.
        ValueError: no such folder or image, no list of the split, or two images of one stem.
    """

    def __init__(self, args: argparse.Namespace):
        self._folder: IRSTDFolder | None = None
        protocol = get_protocol(args.protocol)
        self._stored_masks = protocol.target_level != protocol.union_level
        if args.no_targets:
            frames = args.data / "images" if (args.data / "images").is_dir() else args.data
            self.description = "frames without targets"
            self.paths = files_by_stem(frames)
        else:
            self._folder, self.description = _open_folder(args)
            self.paths = {stem: self._folder.image_path(stem) for stem in self._folder.stems}
        if args.include is not None:
            self.description += f" like {args.include}"
            self.paths = {stem: path for stem, path in self.paths.items() if fnmatchcase(stem, args.include)}
        if not self.paths:
            raise ValueError(f"no image to evaluate under '{args.data}': {self.description}")
        self._index = {stem: index for index, stem in enumerate(self._folder.stems)} if self._folder else {}

    def read(self, stem: str) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W) and mask (H, W): bool, or uint8 as stored where the protocol tells grey levels apart."""
        if self._folder is None:
            image = to_gray(self.paths[stem])
            return image, np.zeros(image.shape, np.uint8)
        sample = self._folder[self._index[stem]]
        return sample.image, to_gray(self._folder.mask_path(stem)) if self._stored_masks else sample.mask


def _open_folder(args: argparse.Namespace) -> tuple[IRSTDFolder, str]:
    if args.list is not None:
        return IRSTDFolder(args.data, list_file=args.list), f"list {args.list}"
    split = args.split or "test"
    if split == "val" and args.predictions is None:
        folder = model_folder(args)
        if folder is None:
            raise ValueError("--split val needs a model folder; name a list with --list")
        list_file = folder / "val.txt"
        if not list_file.is_file():
            raise ValueError(f"the model has no validation list '{list_file}'; name a list with --list")
        return IRSTDFolder(args.data, list_file=list_file), "split val"
    return IRSTDFolder(args.data, split), f"split {split}"


def _predicted_pairs(images: ImageSet, pipeline: IRSTDLatentPipeline, args: argparse.Namespace) -> Iterator[Pair]:
    for stem in images.paths:
        image, mask = images.read(stem)
        probability, _, _ = predict(pipeline, get_protocol(args.protocol).prepare_image(image), args)
        yield stem, probability, mask


def _per_image(result: EvaluationResult) -> list[dict[str, object]]:
    return [{"stem": image.stem, **asdict(image.counts)} for image in result.per_image]

"""`irstd-ldm evaluate`: models, or folders of predictions, scored on data sets."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from .. import __version__
from ..data.folder import validation_list
from ..data.readers.frame import IMAGE_ERRORS
from ..evaluation.metrics import METRICS, metrics_of, number_text
from ..evaluation.protocols import find_predictions, get_protocol, read_prediction
from ..evaluation.report.outcomes import NamedEvaluation, WorstImages, file_stem
from ..evaluation.report.paper import sentences
from ..evaluation.report.write import write_report
from ..evaluation.result import EvaluationResult, Pair, evaluate_probabilities
from ..extras import install_command
from ..files import write_json
from ..hub.format import read_json
from ..pipelines.detection import IRSTDDetectionPipeline
from ..runtime.detector import ExportedDetectorRunner
from ..runtime.exported import ENGINES
from ..targets import confidence_calibration
from . import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, CommandError, describe
from .image_set import ImageSet
from .model import (
    load_detector,
    model_folder,
    model_name,
    predict,
    resolve_decision,
    resolve_device,
    resolve_runtime,
    settings,
)
from .outputs import held, make_folder, writing

WRITTEN = ("metrics.json", "cross_dataset.json", "report.html", "per_image.csv")
Detector = IRSTDDetectionPipeline | ExportedDetectorRunner
LOWEST_PEAK = 1 / 16  # a folder whose predictions all stay below it holds numbers of classes, not probabilities
# The thresholds of stored probabilities, where the command names none.
PREDICTIONS = {"default_mask_threshold": 0.5, "default_score_threshold": 0.5, "calibration": None}


def run(args: argparse.Namespace) -> int:
    """Evaluates every detector on every data set, prints, writes metrics.json and returns the exit code."""
    state = PartialState(cpu=not torch.cuda.is_available())
    try:
        _run(args, state)
    finally:
        state.destroy_process_group()  # a process that ends inside a group may abort in gloo's threads
    return EXIT_DONE


def _run(args: argparse.Namespace, state: PartialState) -> None:
    one_at_a_time = [
        argparse.Namespace(**{**vars(args), "data": data, "model": model, "label": label, "predictions": predictions})
        for model in args.model or [None]
        for label, predictions in args.predictions or [("", None)]
        for data in args.data
    ]
    for one in one_at_a_time:
        one.runtime = resolve_runtime(one)
    detectors = short_names([one.label or str(one.predictions or model_name(one)) for one in one_at_a_time])
    data = short_names([str(one.data) for one in one_at_a_time])
    if len(set(zip(detectors, data, strict=True))) < len(one_at_a_time):
        raise CommandError("a data set, a model or a folder of predictions is named twice", EXIT_USAGE)
    image_sets = [_open(one) for one in one_at_a_time]
    make_folder(args.output)
    _refuse_foreign(args.output)
    with held(args.output, "evaluate") if state.is_main_process else nullcontext():
        _evaluate_all(args, state, zip(one_at_a_time, image_sets, detectors, data, strict=True))


def _refuse_foreign(output: Path) -> None:
    """Refuses a folder with files of the names that are written and without the numbers of an earlier evaluation."""
    found = [path for path in map(output.joinpath, WRITTEN) if path.is_file()]
    for path in found[:2]:
        with suppress(ValueError):
            if path.suffix == ".json" and {"protocol", "rows"} & set(read_json(path)):
                return
    if found:
        message = f"--output {output}: its {found[0].name} was not written by `evaluate`; name another"
        raise CommandError(message, EXIT_USAGE)


def _evaluate_all(
    args: argparse.Namespace, state: PartialState, runs: Iterable[tuple[argparse.Namespace, ImageSet, str, str]]
) -> None:
    evaluations: list[NamedEvaluation] = []
    pipeline, loaded = None, None
    for one, images, detector, name in runs:
        if one.predictions is None and (pipeline is None or loaded != one.model):
            pipeline, loaded = load_detector(one, _device(one, state)), one.model
        header, result, worst = _evaluate(one, images, pipeline, state)
        calibration = None if pipeline is None else confidence_calibration(pipeline.config)
        evaluations.append(
            NamedEvaluation(detector, name, header, result, worst.images, images.files, calibration, crops=worst.crops)
        )
    if state.is_main_process:
        _write(args.output, evaluations)
        if args.report:
            _write_report(args.output, evaluations, args.paper)


def short_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path; the whole of it where different paths share that part."""
    whole: dict[str, set[str]] = {}
    for path in paths:
        whole.setdefault(Path(path).name, set()).add(path)
    return [Path(path).name if len(whole[Path(path).name]) == 1 else path for path in paths]


def _device(args: argparse.Namespace, state: PartialState) -> torch.device | None:
    """The device that `--device` names; default: this process's own; None where torch runs nothing."""
    own = None if args.runtime in ENGINES else str(state.device)
    return resolve_device(own if args.device is None else args.device, args.runtime)


def _open(args: argparse.Namespace) -> ImageSet:
    try:
        split, list_file = args.split, args.list
        if args.no_targets and split is not None:
            raise CommandError("--no-targets: frames are on no split's list, name one with --list", EXIT_USAGE)
        if list_file is None and not args.no_targets:
            split = split or "test"
            if split == "val" and args.predictions is None:
                folder = model_folder(args)
                if folder is None:
                    raise ValueError("--split val needs a model folder; name a list with --list")
                list_file = validation_list(folder, args.data)
        return ImageSet(
            args.data,
            split=split,
            list_file=list_file,
            no_targets=args.no_targets,
            include=args.include,
            protocol=args.protocol,
        )
    except (ImportError, OSError, ValueError) as error:
        raise CommandError(str(describe(args.data, error)), EXIT_USAGE) from error


def _evaluate(
    args: argparse.Namespace, images: ImageSet, pipeline: Detector | None, state: PartialState
) -> tuple[dict[str, Any], EvaluationResult, WorstImages]:
    """The settings of the numbers, the numbers, and the worst images."""
    peaks: list[float] = []  # the highest value of each prediction
    header: dict[str, Any] = {"version": __version__, "data": str(args.data), "images": images.description}
    stems = images.stems[state.process_index :: state.num_processes]
    if not stems:
        too_many = f"{len(images)} images for {state.num_processes} processes; use fewer"
        raise CommandError(f"{args.data}: {too_many}", EXIT_USAGE)
    if pipeline is not None:
        decision = resolve_decision(args, pipeline.config)
        header |= {"model": model_name(args), "settings": settings(args, pipeline, decision)}
        prepare = get_protocol(args.protocol).prepare_image
        read = ((stem, *images.read(stem)) for stem in stems)
        pairs: Iterator[Pair] = (
            (stem, predict(pipeline, prepare(image), args)[0], mask, image) for stem, image, mask in read
        )
    else:
        decision = resolve_decision(args, PREDICTIONS)
        try:
            files = find_predictions(args.predictions, stems)
        except ValueError as error:
            raise CommandError(f"--predictions {args.predictions}: {error}", EXIT_USAGE) from error
        header |= {"predictions": str(args.predictions)}

        def read_one(path: Path) -> np.ndarray:
            probability = read_prediction(path)
            peaks.append(float(probability.max()))
            return probability

        pairs = ((stem, read_one(path), *reversed(images.read(stem))) for stem, path in files.items())
    worst = WorstImages(keep_crops=args.paper)
    progress = tqdm(pairs, total=len(stems), unit="image", disable=None if state.is_main_process else True)
    try:
        result = evaluate_probabilities(
            progress,
            **vars(decision),
            protocol=args.protocol,
            matching=args.matching,
            legacy_false_alarms=args.legacy_fa,
            observe=worst.observe,
        )
    except IMAGE_ERRORS as error:
        raise CommandError(str(describe(args.data, error)), EXIT_FAILED) from error
    if state.num_processes > 1:
        peaks = gather_object(peaks)
        by_stem = {image.stem: image for image in gather_object(result.per_image)}
        result = replace(result, per_image=[by_stem[stem] for stem in images.stems])
        images, crops = gather_object(worst.images), gather_object(list(worst.crops.items()))
        worst = WorstImages()
        worst.add(*images)
        worst.crops = dict(crops)
    if 0 < max(peaks, default=0) < LOWEST_PEAK:
        told = f"no prediction is above {max(peaks):.2g}; masks have 0 and 255, probability maps all of their range"
        raise CommandError(f"--predictions {args.predictions}: {told}", EXIT_FAILED)
    if state.is_main_process and not args.no_targets and not any(one.counts.targets for one in result.per_image):
        told = f"none of the {len(images)} masks holds a target: Pd and IoU say nothing"
        print(f"irstd-ldm evaluate: {args.data}: {told}; frames without targets are --no-targets", file=sys.stderr)
    return header, result, worst


def _write(output: Path, evaluations: list[NamedEvaluation]) -> None:
    """Prints every table and writes every metrics.json; for several, the cross-dataset table too."""
    several = len(evaluations) > 1
    for evaluation in evaluations:
        folder = output / file_stem(evaluation.name) if several else output
        make_folder(folder)
        per_image = [{"stem": image.stem, **asdict(image.counts)} for image in evaluation.result.per_image]
        with writing(folder / "metrics.json"):
            content = {**evaluation.settings, **evaluation.result.summary(), "per_image": per_image}
            write_json(folder / "metrics.json", content)
        print(", ".join(f"{key} {value}" for key, value in evaluation.settings.items() if isinstance(value, str)))
        print(evaluation.result.table())
        print(f"written: {folder / 'metrics.json'}")
        if several:
            print()
    if several:
        rows = [_cross_row(evaluation) for evaluation in evaluations]
        with writing(output / "cross_dataset.json"):
            write_json(output / "cross_dataset.json", {"rows": rows})
        for sentence in sentences(evaluations):
            print(sentence)
        print(_cross_table(rows))
        print(f"written: {output / 'cross_dataset.json'}")


def _write_report(output: Path, evaluations: list[NamedEvaluation], paper: bool) -> None:
    try:
        with writing(output):
            print(f"written: {write_report(output, evaluations, paper)}")
    except ModuleNotFoundError as error:
        print(f"irstd-ldm evaluate: no report.html: {error}: {install_command('eval')}", file=sys.stderr)


def _cross_row(evaluation: NamedEvaluation) -> dict[str, Any]:
    summary = evaluation.result.summary()
    names = [key for key in METRICS if key in summary]
    names += ["intervals_95", "mask_threshold", "score_threshold", "protocol"]
    return {
        "detector": evaluation.detector,
        "data": evaluation.data,
        "images": evaluation.settings["images"],
        **{name: summary[name] for name in (*names, "num_images", "num_targets")},
    }


def _cross_table(rows: list[dict[str, Any]]) -> str:
    metrics = metrics_of("cross")
    table = [["detector", "data", "images", "targets", *(metric.heading for metric in metrics)]]
    for row in rows:
        values = [number_text(row[metric.key], metric.decimals) for metric in metrics]
        table.append([row["detector"], row["data"], str(row["num_images"]), str(row["num_targets"]), *values])
    columns = []
    for index, column in enumerate(zip(*table, strict=True)):
        width = max(map(len, column))
        columns.append([cell.ljust(width) if index < 2 else cell.rjust(width) for cell in column])
    return "\n".join(map("  ".join, zip(*columns, strict=True)))

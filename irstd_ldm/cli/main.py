"""The `irstd-ldm` command line: all arguments are defined here, a command's module is imported when it is chosen."""

import argparse
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..bundled import DEFAULT, GENERATOR, bundled_names
from ..data.polarity import POLARITIES, WHITE_HOT
from ..data.readers import FRAME_SUFFIXES
from ..data.readers.frame import MAX_PIXELS, RawFormat
from . import DEFAULT_KINDS, EXIT_INTERRUPTED, EXIT_USAGE, KINDS, CommandError, drop_standard_output

# What an install without torch lacks; commands that run networks in torch, or talk to the Hub, need it.
CORE = ("accelerate", "diffusers", "huggingface_hub", "pywt", "safetensors", "torch", "transformers", "yaml")
TRAINERS = ("mask_vae", "latent", "pixel", "restoration", "image_unet", "controlnet")
MODEL_HELP = f"a bundled model ({', '.join(bundled_names())}), a folder or a Hub id OWNER/NAME; default: {DEFAULT}"
DEFAULT_OUTPUT = Path("irstd-ldm-output")

RUNTIMES = ("onnxruntime", "openvino", "openvino-bf16")

_FORMATS = textwrap.fill(
    f"Read are {', '.join(FRAME_SUFFIXES)}, raw frames (--raw), and images of other names by their first bytes. "
    "What EXIF and TIFF say of the orientation is ignored: positions are those of the stored pixels.",
    119,
    break_on_hyphens=False,
)
DETECT_HELP = f"""\
Detects infrared small targets.

INPUT is a file, a folder (its images and videos, without its subfolders), a quoted glob ('frames/**/*.png'), a network
address (rtsp, rtsps, udp, http or https://...) or a camera (/dev/video0). A file that is named more than once is done
once. Without INPUT a synthetic scene is made and detected. A folder whose files are still images of numbered names is
one sequence where --tracks, --annotated-video, --fuse-frames or --input-range sequence ask for one.
{_FORMATS}

written to DIR, as --write chooses:
  masks/STEM.png      8-bit, 0 or 255, of the input's size
  overlays/STEM.png   the image with boxes and confidences; small images are enlarged by a whole factor
  detections.csv      a row per target
  detections.json     always: model, settings and, per image: file, name, width, height, targets with every field
  images/synthetic.png  the synthetic scene, where no INPUT is given
and on demand:
  probability/STEM.png    16-bit, probability * 65535
  detections.jsonl        a line per image as soon as it is done; failed inputs in the end
  yolo/STEM.txt           class, centre and size of each box, in shares of the image
  detections_coco.json    COCO, masks as run lengths (extra coco)
  detections.geojson      targets of GeoTIFF images in longitude and latitude (extra geo)
An input of several frames (video, pages, stacks) has a folder of its own: DIR/STEM/detections.jsonl, detections.csv,
sequence.json; where --write names pictures, DIR/STEM/masks/FRAME.png and so on, FRAME from 000000; no coco or geojson.
--output - writes the lines of detections.jsonl on the standard output, and nothing else there or on the disk.

STEM is the input's name without suffix. A second input of the same stem is called STEM-2, a third STEM-3, in the order
of the inputs (a folder and a glob are sorted); detections.json holds the name beside the file.
A file's result depends on the file, the model and the settings, not on the files beside it.
"""

ARCHIVE_LINE = "targets in millions of frames, on a cluster, as Parquet"
ARCHIVE_HELP = """\
Detects targets in every frame of an archive, by workers of a Ray cluster. Needs the extra scale.

SOURCE is a file, a folder or a prefix of URIs with all below it, a quoted pattern ('s3://camera/2026-*/**/*.png'), or
a manifest: a .txt file of a URI per line, or a .parquet file with a column `uri`. URIs are local paths, file://, s3://,
gs:// and hf://; files are what `detect` reads (images, stacks, videos), .tar shards of those (WebDataset) and .parquet
tables with a column `image` (Hugging Face data sets).

written below URI:
  detections/PART.parquet  a row per frame: uri, frame, time_s, width, height, targets, mask, model, settings
  errors/PART.parquet      uri, frame and reason of what could not be read
  _SUCCESS                 the counts, once no part is missing
The same command does what is missing, after whatever interruption, and files that are new. A result is that of
`detect` with the same runtime.
"""

EVALUATE_HELP = """\
Evaluates a model, or a folder of predictions, on a data set in the field's layout (ROOT/images, ROOT/masks, split
lists), prints the table and writes DIR/metrics.json and, where matplotlib is installed, DIR/report.html. An image that
cannot be evaluated ends the command: the numbers are those of the whole list or none.

Several models or data sets: DIR/MODEL-on-DATA/metrics.json each, and the cross-dataset table in
DIR/cross_dataset.json. A data set hf:FOLDER or hf:OWNER/NAME is read by Hugging Face datasets, with image columns
`image` and `mask`. Several processes share the images, with the numbers of one:
  torchrun --nproc_per_node 2 -m irstd_ldm.cli evaluate ...
"""

CALIBRATE_LINE = "score thresholds that keep false-alarm budgets, stored in a checkpoint"
CALIBRATE_HELP = """\
Finds the lowest score threshold that keeps each false-alarm budget on validation images and frames without targets,
and stores it in DIR/model_index.json with the data's names. `detect`, `evaluate` and a pipeline take it by the name of
the budget. Says up to which rate the images bound the false alarms with 95 % certainty, and which budgets they do not
resolve: A megapixels without a false target promise 3 / A per megapixel. Fits the confidence of targets too, by
Platt's method on all components of the masks. Images that a model was trained on, or is to be judged by, are no
validation images.
"""

SYNTHESIZE_LINE = "more training images: generated, squeezed, or with planted targets"
SYNTHESIZE_HELP = """\
Makes training images and writes a data set in the field's layout.

generated  the Gaussian-agnostic engine: images of the training list squeezed, rebuilt and made realistic by --model;
           the targets keep their own pixels, the masks stay
squeezed   the Gaussian Group Squeezer alone; targets that merge into their background leave the mask
planted    modelled targets on frames of --backgrounds

written to DIR:
  images/NAME.png, masks/NAME.png   NAME is SOURCE_MODE_NUMBER; 8-bit, or 16-bit where the source has more than 8 bits
  provenance.csv                    name, source, kind, number of groups, targets and seed of every image
  synthesis.json                    the settings
  train.txt                         the list of all images, when all are there

The same command goes on where it was interrupted, and with a larger --count where it ended; nothing is overwritten.
Images of a test list of ROOT are refused.
"""

TRAIN_HELP = """\
Trains one part of a system with the settings of a recipe, a YAML file or the name of one that comes with the package,
and of flags that override it: `irstd-ldm train TRAINER --help` lists them.

  irstd-ldm train mask_vae --config lgldnet_small_mask_vae --train_data_dir DATA --output_dir runs/mask_vae
  irstd-ldm train latent --config lgldnet_small_latent --train_data_dir DATA --mask_vae runs/mask_vae --output_dir new
  irstd-ldm train latent --config finetune --pretrained_model_name_or_path tiny --train_data_dir DATA --output_dir mine

The same command goes on where it was interrupted. On several devices or machines:
`accelerate launch -m irstd_ldm.training.train_latent ...`, with the same settings.
"""

EXPORT_HELP = """\
Writes a detector's networks for onnxruntime or OpenVINO, which run them without torch: image encoder, denoiser,
posterior and decoder as one graph for images of any size.

written to DIR, which must be absent or empty:
  model.onnx, or model.xml and model.bin   float32, or int8 convolutions with --int8
  detector.json                            defaults, calibration, steps and what else `detect` needs

  irstd-ldm detect --runtime openvino --model DIR frame.png
"""

CARD_HELP = """\
Writes DIR/README.md and DIR/example.png. Its numbers are read from the JSON files named.
"""

PUSH_HELP = """\
Checks a checkpoint and uploads its files, and no others, in one commit. The login is that of `hf auth login`.
"""

PULL_HELP = """\
Fetches a checkpoint's safe files (no pickles), checks them and puts them into DIR, which must be absent or empty.
"""

APP_HELP = """\
Serves the page until Ctrl-C. Needs gradio. Uploads are kept in a temporary folder of this
process and deleted within the hour. There is no login: whoever reaches the address can use the page.
"""

EXIT_HELP = "exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 130 interrupted (what is written stays)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `irstd-ldm` with `argv` (default: the process's arguments) and returns its exit code."""
    args = build_parser().parse_args(list(_joined(sys.argv[1:] if argv is None else argv)))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be encodable
    try:
        module, function = COMMANDS[args.command][0].split(".")
        return getattr(importlib.import_module(f".{module}", __package__), function)(args)
    except CommandError as error:
        print(f"irstd-ldm {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"irstd-ldm {args.command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        if error.name not in CORE:
            raise
        print(f"irstd-ldm {args.command}: needs {error.name}: pip install irstd-ldm", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:  # the reader of the output has left
        drop_standard_output()
        return EXIT_INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="irstd-ldm", description="Infrared small target detection with diffusion models.", epilog=EXIT_HELP
    )
    parser.add_argument("--version", action="version", version=f"irstd-ldm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, help_line, description, add_arguments) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=help_line,
            description=description,
            epilog=EXIT_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(command)
    return parser


def _number(kind: type, allowed: str, is_allowed: Callable[[Any], bool]) -> Callable[[str], Any]:
    """The type of an argument: a number of this kind that `is_allowed`, which the error puts in words."""

    def number(text: str) -> Any:
        value = kind(text)
        if not is_allowed(value):
            raise argparse.ArgumentTypeError(f"must be {allowed}, got {text}")
        return value

    return number


_count = _number(int, "at least 0", lambda value: value >= 0)
_positive_int = _number(int, "at least 1", lambda value: value >= 1)
_positive_float = _number(float, "positive", lambda value: 0 < value < float("inf"))
_gpus = _number(float, "at least 0", lambda value: 0 <= value < float("inf"))
_unit_interval = _number(float, "in [0, 1]", lambda value: 0 <= value <= 1)
_seed = _number(int, "in [0, 2**63)", lambda value: 0 <= value < 2**63)
_port = _number(int, "in [0, 65535]", lambda value: 0 <= value < 2**16)


def _megapixels(text: str) -> int:
    return round(_positive_float(text) * 1e6)


def _output_kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    if not set(kinds) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"must be of {', '.join(KINDS)}, with commas between, got {text!r}")
    return kinds


def _options(text: str) -> dict[str, str]:
    options = dict(part.partition("=")[::2] for part in text.split(","))
    if not all(key and value for key, value in options.items()):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, with commas between, got {text!r}")
    return options


def _raw_format(text: str) -> RawFormat:
    try:
        return RawFormat.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _input_range(text: str) -> str | tuple[float, float]:
    if text in ("frame", "sequence"):
        return text
    try:
        lo, hi = map(float, text.split(","))
    except ValueError:
        lo = hi = 0.0
    if not -float("inf") < lo < hi < float("inf"):
        raise argparse.ArgumentTypeError(f"must be frame, sequence or LO,HI with LO < HI, got {text!r}")
    return lo, hi


def _limits(text: str) -> tuple[float, float]:
    limits = _input_range(text)
    if isinstance(limits, str):
        raise argparse.ArgumentTypeError(f"must be LO,HI with LO < HI, got {text!r}")
    return limits


def _joined(arguments: Sequence[str]) -> Iterator[str]:
    """`--input-range -20,60` with an equals sign: argparse would take the range for another option."""
    words = iter(arguments)
    for word in words:
        value = next(words, None) if word == "--input-range" else None
        yield word if value is None else f"{word}={value}"


def _labelled(text: str) -> tuple[str, Path]:
    """The name and the folder of `NAME=DIR`, the name empty where there is none; an existing folder is one itself."""
    name, separator, folder = text.partition("=")
    return ("", Path(text)) if not separator or Path(text).is_dir() else (name, Path(folder))


def _add_detect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="file, folder or quoted glob")
    _add_output(parser, "- = JSON lines on the standard output")
    parser.add_argument(
        "--write",
        type=_output_kinds,
        metavar="KIND,...",
        help=f"outputs, from {', '.join(KINDS)}; default: {','.join(DEFAULT_KINDS)}",
    )
    _add_model(parser)
    _add_runtime(parser)
    _add_decision(parser)
    _add_sampling(parser)
    _add_device(parser)
    _add_reading(parser)
    add_for_sequences = parser.add_argument_group("inputs of several frames").add_argument
    add_for_sequences("--tracks", action="store_true", help="follow targets from frame to frame: DIR/NAME/tracks.csv")
    add_for_sequences(
        "--annotated-video", action="store_true", help="the frames with targets and tracks: DIR/NAME/annotated.mp4"
    )
    add_for_sequences(
        "--fuse-frames", action="store_true", help="the frames before count too: weak targets that persist are found"
    )
    add_for_sequences(
        "--keep-frames", action="store_true", help="of addresses and cameras every frame; default: the newest one"
    )
    add_for_sequences(
        "--stream-options",
        type=_options,
        metavar="KEY=VALUE,...",
        help="FFmpeg's options for addresses and cameras, such as rtsp_transport=udp",
    )
    add_for_sequences(
        "--timeout-s", type=_positive_float, metavar="S", help="longest wait for a frame of an address; default: 10"
    )
    add_for_sequences("--resume", action="store_true", help="go on after the last frame in DIR/NAME/detections.jsonl")


def _add_archive(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="file, folder, prefix, pattern or manifest")
    add("--output", required=True, metavar="URI", help="a folder that all workers reach")
    add("--address", metavar="A", help="a Ray cluster: auto, ray://HEAD:10001; default: one of this machine")
    add("--concurrency", type=_positive_int, metavar="N", help="workers of a CPU each; default: the cluster's CPUs")
    add("--gpus-per-worker", type=_gpus, default=0.0, metavar="G", help="0.25 = four workers a GPU; default: 0")
    add("--part-size", type=_positive_int, default=1000, metavar="N", help="files of a part; default: 1000")
    add("--masks", action="store_true", help="a column of the masks as COCO run lengths")
    add("--input-range", type=_limits, metavar="LO,HI", help="gray values that map to -1 and 1; default: as `detect`")
    _add_polarity(add)
    _add_model(parser)
    add("--runtime", choices=("auto", "torch", *RUNTIMES), default="auto", help="as of `detect`")
    _add_decision(parser)
    _add_sampling(parser)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, nargs="+", required=True, metavar="ROOT", help="the data sets' folders")
    _add_list(
        parser,
        ("train", "test", "val", "validation"),
        "which list; val is MODEL/val_ROOT.txt or MODEL/val.txt (with --predictions: ROOT's); default: test",
    )
    add(
        "--no-targets",
        action="store_true",
        help="ROOT/images (or ROOT) holds frames without any target: no masks are read, all detections are false; "
        "--list names some of the frames",
    )
    add("--include", metavar="GLOB", help="only the stems that match, such as 'S7*'")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", nargs="+", metavar="NAME", help=f"one model or several: {MODEL_HELP}")
    source.add_argument(
        "--predictions",
        type=_labelled,
        nargs="+",
        metavar="[NAME=]DIR",
        help="evaluate DIR/STEM.png (8-bit / 255, 16-bit / 65535 are probabilities) instead of a model; NAME is its "
        "name in tables",
    )
    _add_output(parser, "where metrics.json goes")
    _add_decision(parser)
    add("--protocol", choices=("native", "basicirstd", "resize256"), default="native", help="default: native")
    add("--matching", choices=("greedy", "optimal", "opdc"), default="greedy", help="rule of pairs; default: greedy")
    report = parser.add_mutually_exclusive_group()
    report.add_argument(
        "--no-report", dest="report", action="store_false", help="no report.html, per_image.csv and plots/"
    )
    report.add_argument(
        "--paper", action="store_true", help="with the report paper/: plots as PDF and SVG, tables as LaTeX"
    )
    add("--legacy-fa", action="store_true", help="Fa that forgives a false alarm of a matched component's area")
    _add_sampling(parser)
    _add_device(parser)
    _add_runtime(parser)


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, metavar="DIR", help="the checkpoint, which is written to")
    add("--data", type=Path, nargs="+", default=[], metavar="ROOT", help="the folders of one data set or several")
    _add_list(parser, ("train", "val"), "which list; val is DIR/val_ROOT.txt or DIR/val.txt; default: val", "val")
    add("--backgrounds", type=Path, metavar="ROOT", help="frames without targets: those on DIR/val_backgrounds.txt")
    add("--frames", type=Path, metavar="ROOT", help="frames without targets or labels: every detection is false")
    budgets: dict[str, Any] = {"type": _positive_float, "nargs": "+", "default": []}
    add("--max-false-targets-per-megapixel", **budgets, metavar="NUMBER", help="budgets of false targets")
    add("--max-fa-per-million-px", **budgets, metavar="FA", help="budgets of false-alarm pixels")
    _add_sampling(parser)
    _add_device(parser)


def _add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_model(parser)
    add("--format", choices=("onnx", "openvino"), required=True)
    add("--output", type=Path, required=True, metavar="DIR", help="absent or empty")
    add("--num-inference-steps", type=_positive_int, metavar="N", help="denoising steps; default: the checkpoint's")
    add("--int8", action="store_true", help="int8 convolutions; needs --calibration")
    add(
        "--calibration",
        type=Path,
        metavar="ROOT",
        help="a data set's folder: 64 images of its training list set the int8 ranges",
    )


def _add_card(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="the checkpoint")
    add(
        "--metrics",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="metrics.json files that `irstd-ldm evaluate --model DIR` wrote; a row of the results each",
    )
    add("--name", metavar="OWNER/NAME", help="name that the usage snippet loads; default: DIR")
    add("--run", type=Path, metavar="RUN", help="the trainer's output_dir (run.json, settings.yaml)")
    add("--notes", type=Path, metavar="FILE", help="Markdown on limitations and history; model_cards/TEMPLATE.md")


def _add_push(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="the checkpoint, a trainer's output_dir for example")
    add("repo_id", metavar="REPO_ID", help="OWNER/NAME, made if absent")
    add("--private", action="store_true", help="make a new repository private")
    add("--revision", metavar="BRANCH", help="made if absent; default: main")


def _add_pull(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("repo_id", metavar="REPO_ID", help="OWNER/NAME")
    add("folder", type=Path, metavar="DIR")
    add("--revision", metavar="R", help="branch, tag or commit; default: main")


def _add_synthesize(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, metavar="ROOT", help="the labelled data set's folder")
    _add_list(parser, ("train",), "which list of ROOT; default: train", "train")
    add("--count", type=_positive_int, required=True, metavar="N", help="synthetic images")
    add("--output", type=Path, required=True, metavar="DIR", help="absent, empty, or begun before")
    add("--mode", choices=("generated", "squeezed", "planted"), default="generated")
    add("--originals", action="store_true", help="the source images too, first on the list")
    add("--model", metavar="NAME", help=f"generated: a folder or a Hub id; default: the bundled {GENERATOR}")
    add("--batch-size", type=_positive_int, default=4, metavar="N", help="generated: images at a time; default: 4")
    add("--num-inference-steps", type=_positive_int, metavar="N", help="generated; default: the checkpoint's")
    add(
        "--strength", type=_unit_interval, metavar="S", help="generated: share of the steps; default: the checkpoint's"
    )
    add("--color-fix", choices=("wavelet", "adain", "none"), default="wavelet", help="generated; default: wavelet")
    add("--no-paste-targets", dest="paste_targets", action="store_false", help="generated: targets as generated")
    add("--backgrounds", type=Path, metavar="ROOT", help="planted: frames without targets, images/")
    add("--exclude", nargs="*", metavar="GLOB", help="planted: stems of frames to leave out")
    limits: dict[str, Any] = {"type": _positive_float, "nargs": 2, "metavar": ("LOW", "HIGH")}
    add("--scr", default=[3.0, 12.0], help="planted: signal-to-clutter ratio of targets", **limits)
    add("--sigma-px", default=[0.6, 2.0], help="planted: standard deviation of the point spread", **limits)
    add("--seed", type=_seed, default=0, metavar="S", help="seed of everything random; default: 0")
    _add_device(parser)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trainer", choices=TRAINERS, metavar="TRAINER", help=f"one of {', '.join(TRAINERS)}")
    parser.add_argument("settings", nargs=argparse.REMAINDER, metavar="...", help="its settings")


def _add_app(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_model(parser)
    _add_device(parser)
    add("--host", default="127.0.0.1", metavar="A", help="default: 127.0.0.1, this machine alone")
    add("--port", type=_port, default=7860, metavar="N", help="0 = any free one; default: 7860")
    add("--max-file-mb", type=_positive_int, default=64, metavar="MB", help="largest upload, 10^6 bytes; default: 64")


def _add_output(parser: argparse.ArgumentParser, use: str) -> None:
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help=f"{use}; default: {DEFAULT_OUTPUT}"
    )


def _add_list(parser: argparse.ArgumentParser, splits: Sequence[str], which: str, default: str | None = None) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--split", choices=splits, default=default, help=which)
    group.add_argument("--list", type=Path, metavar="FILE", help="a text file of stems, instead of a split's list")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help=MODEL_HELP)


def _add_runtime(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime",
        choices=("auto", "torch", "compile", *RUNTIMES),
        default="auto",
        help="what runs the networks: torch, torch.compile (a minute or more to start), or, with the bundled model or "
        "one that `export` wrote, onnxruntime, openvino, or openvino-bf16, which rounds to bfloat16 and takes half to "
        "two thirds of the time where the processor has it; auto: the faster of onnxruntime and openvino that is "
        "installed, else, for other models and steps and on CUDA, torch; default: auto",
    )


def _add_decision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mask-threshold",
        type=_unit_interval,
        metavar="P",
        help="where masks end: foreground is probability > P; default: the checkpoint's, or 0.5",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--score-threshold",
        type=_unit_interval,
        metavar="P",
        help="which components are targets: those of a mean probability > P; default: the checkpoint's, or 0.5",
    )
    group.add_argument(
        "--max-false-targets-per-megapixel",
        type=_positive_float,
        metavar="NUMBER",
        help="the score threshold that `calibrate` found for this budget of false targets per million pixels",
    )
    group.add_argument(
        "--max-fa-per-million-px",
        type=_positive_float,
        metavar="FA",
        help="the same for a budget of false-alarm pixels per million",
    )
    group.add_argument("--threshold", type=_unit_interval, metavar="P", help="both thresholds, the old name")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--num-inference-steps",
        type=_count,
        metavar="N",
        help="denoising steps; 0 = IRSTD-Diff's conditional encoder alone; default: the checkpoint's",
    )
    add("--ensemble-size", type=_positive_int, metavar="E", help="predictions per image; default: the checkpoint's")
    add(
        "--tile-size",
        type=_count,
        metavar="PX",
        help="images with a longer side run in overlapping tiles of this side, at least 128; 0 = no tiles; "
        "default: the checkpoint's",
    )
    add("--tile-overlap", type=_count, metavar="PX", help="overlap of neighbouring tiles; default: the checkpoint's")
    add(
        "--batch-size",
        type=_positive_int,
        default=1,
        metavar="B",
        help="tiles of a large image that run together; files run one by one; default: 1",
    )
    add("--seed", type=_seed, default=0, metavar="S", help="seed of every image's noise; default: 0")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ...; default: cuda where there is one")


def _add_polarity(add: Callable[..., Any]) -> None:
    add("--polarity", choices=POLARITIES, default=WHITE_HOT, help=f"default: {WHITE_HOT}")
    add(
        "--max-megapixels",
        dest="max_pixels",
        type=_megapixels,
        default=MAX_PIXELS,
        metavar="MP",
        help=f"refuse larger frames before they are decoded; default: {MAX_PIXELS // 10**6}",
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how files are read").add_argument
    add(
        "--raw",
        type=_raw_format,
        metavar="WIDTHxHEIGHT:TYPE[:offset=BYTES]",
        help="files of other suffixes are raw frames, such as 640x512:uint16le or, behind a header, "
        "640x512:uint12be:offset=512; folders give their .raw, .bin and .y16 too",
    )
    add("--band", type=_positive_int, metavar="N", help="the band, from 1, of TIFF files that hold several")
    add(
        "--input-range",
        type=_input_range,
        metavar="RANGE",
        help="gray values that map to -1 and 1: frame = the 0.1 and 99.9 percentiles of each frame, sequence = those "
        "of frames all over the file, or LO,HI; default: sequence for several frames, else frame; 8-bit: 0 and 255; "
        "the 5 and 95 per cent quantiles, of 8 bits too, where the model's normalization is robust",
    )
    _add_polarity(add)


# Command -> the function that runs it, its line in the list of commands, its description, its arguments.
COMMANDS: dict[str, tuple[str, str, str | None, Callable[[argparse.ArgumentParser], None]]] = {
    "detect": ("detect.run", "targets in files, folders, globs, or in a synthetic scene", DETECT_HELP, _add_detect),
    "detect-archive": ("archive.run", ARCHIVE_LINE, ARCHIVE_HELP, _add_archive),
    "evaluate": ("evaluate.run", "IoU, nIoU, Pd, Fa on a data set", EVALUATE_HELP, _add_evaluate),
    "calibrate": ("calibrate.run", CALIBRATE_LINE, CALIBRATE_HELP, _add_calibrate),
    "info": ("info.run", "a model's components, sizes and defaults, and versions", None, _add_model),
    "export": ("export.run", "write a detector for onnxruntime or OpenVINO", EXPORT_HELP, _add_export),
    "card": ("card.run", "write a checkpoint's model card", CARD_HELP, _add_card),
    "push": ("transfer.push", "upload a checkpoint to the Hugging Face Hub", PUSH_HELP, _add_push),
    "pull": ("transfer.pull", "download a checkpoint from the Hugging Face Hub", PULL_HELP, _add_pull),
    "synthesize": ("synthesize.run", SYNTHESIZE_LINE, SYNTHESIZE_HELP, _add_synthesize),
    "train": ("train.run", "train a detector, or the engine that makes more images", TRAIN_HELP, _add_train),
    "app": ("app.run", "a page in the browser: images or short videos in, targets out", APP_HELP, _add_app),
}

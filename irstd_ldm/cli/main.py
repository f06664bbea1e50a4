"""The `irstd-ldm` command line: all arguments are defined here, a command's module is imported when it is chosen."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from . import EXIT_INTERRUPTED, CommandError

DEFAULT_OUTPUT = Path("irstd-ldm-output")

DETECT_HELP = """\
Detects infrared small targets.

INPUT is a file, a folder (its images, without its subfolders) or a quoted glob ('frames/**/*.png'). A file that is
named more than once is done once. Without INPUT a synthetic scene is made and detected.

written to DIR:
  masks/STEM.png      8-bit, 0 or 255, of the input's size
  overlays/STEM.png   the image with boxes and confidences; small images are enlarged by a whole factor
  detections.json     model, settings and, per image: file, name, width, height, targets with every field
  detections.csv      a row per target
  images/synthetic.png  the synthetic scene, where no INPUT is given

STEM is the input's name without suffix. A second input of the same stem is called STEM-2, a third STEM-3, in the order
of the inputs (a folder and a glob are sorted); detections.json holds the name beside the file.
A file's result depends on the file, the model and the settings, not on the files beside it.
"""

EVALUATE_HELP = """\
Evaluates a model, or a folder of predictions, on a data set in the field's layout (ROOT/images, ROOT/masks, split
lists), prints the table and writes DIR/metrics.json. An image that cannot be evaluated ends the command: the numbers
are those of the whole list or none.
"""

EXIT_HELP = "exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 130 interrupted (what is written stays)"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `irstd-ldm` with `argv` (default: the process's arguments) and returns its exit code."""
    args = build_parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be encodable
    try:
        return importlib.import_module(f".{args.command}", __package__).run(args)
    except CommandError as error:
        print(f"irstd-ldm {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"irstd-ldm {args.command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; the exit flush stays silent
        return EXIT_INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="irstd-ldm", description="Infrared small target detection with diffusion models.", epilog=EXIT_HELP
    )
    parser.add_argument("--version", action="version", version=f"irstd-ldm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_detect(commands)
    _add_evaluate(commands)
    _add_info(commands)
    return parser


def _add_detect(commands) -> None:
    parser = commands.add_parser(
        "detect",
        help="targets in files, folders, globs, or in a synthetic scene",
        description=DETECT_HELP,
        epilog=EXIT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="file, folder or quoted glob")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help=f"default: {DEFAULT_OUTPUT}"
    )
    _add_model(parser)
    parser.add_argument(
        "--threshold",
        type=_unit_interval,
        metavar="P",
        help="foreground is probability > P; default: the checkpoint's",
    )
    _add_sampling(parser)


def _add_evaluate(commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="IoU, nIoU, Pd, Fa on a data set",
        description=EVALUATE_HELP,
        epilog=EXIT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="the data set's folder")
    images = parser.add_mutually_exclusive_group()
    images.add_argument(
        "--split",
        choices=("train", "test", "val"),
        help="which list; val is MODEL/val.txt (with --predictions: ROOT's); default: test",
    )
    images.add_argument("--list", type=Path, metavar="FILE", help="a text file of stems, instead of a split's list")
    images.add_argument(
        "--no-targets",
        action="store_true",
        help="ROOT/images (or ROOT) holds frames without any target: no masks are read, all detections are false",
    )
    parser.add_argument("--include", metavar="GLOB", help="only the stems that match, such as 'S7*'")
    source = parser.add_mutually_exclusive_group()
    _add_model(source)
    source.add_argument(
        "--predictions",
        type=Path,
        metavar="DIR",
        help="evaluate DIR/STEM.png (8-bit / 255, 16-bit / 65535 are probabilities) instead of a model",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="DIR",
        help=f"where metrics.json goes; default: {DEFAULT_OUTPUT}",
    )
    parser.add_argument(
        "--threshold",
        type=_unit_interval,
        default=0.5,
        metavar="P",
        help="foreground is probability > P; default: 0.5",
    )
    parser.add_argument(
        "--protocol", choices=("native", "basicirstd", "resize256"), default="native", help="default: native"
    )
    parser.add_argument(
        "--matching", choices=("greedy", "optimal", "opdc"), default="greedy", help="of centroids; default: greedy"
    )
    parser.add_argument(
        "--legacy-fa", action="store_true", help="Fa that forgives a false alarm of a matched component's area"
    )
    _add_sampling(parser)


def _add_info(commands) -> None:
    parser = commands.add_parser("info", help="a model's components, sizes and defaults, and versions")
    _add_model(parser)


def _add_model(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--model", metavar="PATH_OR_HUB_ID", help="default: the bundled checkpoint")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-inference-steps", type=_positive_int, metavar="N", help="denoising steps; default: the checkpoint's"
    )
    parser.add_argument(
        "--ensemble-size", type=_positive_int, metavar="E", help="predictions per image; default: the checkpoint's"
    )
    parser.add_argument(
        "--batch-size",
        type=_positive_int,
        default=1,
        metavar="B",
        help="tiles of a large image that run together; files run one by one; default: 1",
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="S", help="of every image's noise; default: 0")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ...; default: cuda where there is one")


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be in [0, 2**63), got {text}")
    return value


def _unit_interval(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1], got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())

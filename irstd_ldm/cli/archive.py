"""`irstd-ldm detect-archive`: the frames of an archive, on a Ray cluster; Parquet files out."""

import argparse
import logging
import os

from tqdm import tqdm

from ..extras import required
from ..targets import DECIDING
from . import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, CommandError, describe
from .model import SAMPLING, model_name
from .outputs import say

CALLED = (*DECIDING, *SAMPLING, "batch_size", "seed")


def run(args: argparse.Namespace) -> int:
    """Detects targets in every frame of the archive and returns the exit code."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        required("ray.data", "scale")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        from .. import archive
    except ModuleNotFoundError as error:
        raise CommandError(str(error), EXIT_USAGE) from error
    called = {name: getattr(args, name) for name in CALLED if getattr(args, name) is not None}
    try:
        counts = archive.run(
            args.sources,
            args.output,
            address=args.address,
            concurrency=args.concurrency,
            num_gpus=args.gpus_per_worker,
            part_size=args.part_size,
            progress=lambda parts, total: tqdm(parts, total=total, unit="part", disable=None),
            model=args.model,
            runtime=args.runtime,
            input_range=args.input_range,
            polarity=args.polarity,
            max_pixels=args.max_pixels,
            masks=args.masks,
            **called,
        )
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on with the parts that {args.output} lacks")
        return EXIT_INTERRUPTED
    except Exception as error:  # a cluster and object stores are foreign, and fail in ways of their own
        code = EXIT_USAGE if isinstance(error, OSError | TypeError | ValueError) else EXIT_FAILED
        raise CommandError(str(describe(args.output, error)), code) from error
    say(
        f"{args.output}: frames: {counts['frames']}, targets: {counts['targets']}, errors: {counts['errors']}, "
        f"parts: {counts['parts']}, computed now: {counts['computed']} frames; model: {model_name(args)}"
    )
    if counts["missing"]:
        say(f"{counts['missing']} parts are missing, whose workers or stores failed; the same command does them")
    return EXIT_FAILED if counts["errors"] or counts["missing"] else EXIT_DONE

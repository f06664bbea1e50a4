"""`irstd-ldm train`: a trainer of the package in this process; of several processes `accelerate launch` makes one."""

import argparse
from importlib import import_module

from . import EXIT_DONE, EXIT_USAGE, CommandError, plain


def run(args: argparse.Namespace) -> int:
    """Trains and returns the exit code."""
    trainer = import_module(f"irstd_ldm.training.train_{args.trainer}")
    try:
        trainer.main(args.settings)
    except (OSError, ValueError) as error:
        raise CommandError(plain(error), EXIT_USAGE) from error
    return EXIT_DONE

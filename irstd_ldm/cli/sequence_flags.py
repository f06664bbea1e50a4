"""Flags of `detect` that fit sequences alone, or stills alone: told before a model is loaded or a file is written."""

import argparse
import sys
from collections.abc import Sequence

from ..data.readers import is_sequence, open_frames
from . import EXIT_USAGE, CommandError
from .inputs import IMAGE_ERRORS, InputFile
from .quiet import readers_are_quiet

SEQUENCE_FLAGS = ("tracks", "annotated_video", "resume")
STILL_KINDS = ("coco", "geojson")


def check_flags(inputs: Sequence[InputFile], args: argparse.Namespace) -> None:
    """Looks at the heads of the inputs where a flag asks for it; where only some fit, a note says so.

    Args:
        inputs: Those that were found; none = the synthetic scene, where `args.inputs` is empty too.
        args: Of `detect`.

    Raises:
        CommandError: A flag fits no input, or coco or geojson is asked for a sequence; wrong usage.
    """
    of_sequences = ["--" + name.replace("_", "-") for name in SEQUENCE_FLAGS if getattr(args, name)]
    of_stills = [kind for kind in args.write or () if kind in STILL_KINDS]
    if not of_sequences and not of_stills:
        return
    sequences, num_stills = _sort(inputs, args)
    if of_stills and sequences:
        raise CommandError(
            f"--write {','.join(of_stills)}: not for inputs of several frames, such as {sequences[0].path}", EXIT_USAGE
        )
    named = ", ".join(of_sequences)
    if of_sequences and not sequences and (num_stills or not args.inputs):
        raise CommandError(f"{named}: for inputs of several frames, and there is none", EXIT_USAGE)
    if of_sequences and sequences and num_stills:
        of_all = f"{len(sequences)} of {len(inputs)} inputs that have several frames"
        print(f"irstd-ldm detect: {named}: for the {of_all}", file=sys.stderr)


def _sort(inputs: Sequence[InputFile], args: argparse.Namespace) -> tuple[list[InputFile], int]:
    """The sequences, and the number of stills; what cannot be read is neither and fails in its turn."""
    sequences, num_stills = [], 0
    with readers_are_quiet():
        for item in inputs:
            try:
                source = open_frames(item.path, args.raw, args.max_pixels)
            except IMAGE_ERRORS:
                continue
            if is_sequence(source):
                sequences.append(item)
            else:
                num_stills += 1
    return sequences, num_stills

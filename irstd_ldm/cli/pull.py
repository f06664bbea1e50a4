"""`irstd-ldm pull`: a checkpoint comes from the Hugging Face Hub into a folder."""

import argparse
import os
import shutil
import uuid

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from ..hub.format import SAFE_PATTERNS, checkpoint_files
from ..hub.upload import HUB_ERRORS, explain
from . import EXIT_DONE, EXIT_USAGE, CommandError, plain


def run(args: argparse.Namespace) -> int:
    """Fetches, checks and only then names the folder; returns the exit code."""
    folder = args.folder.absolute()
    try:
        validate_repo_id(args.repo_id)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{args.folder}: exists and is not an empty folder; nothing is overwritten")
        folder.parent.mkdir(parents=True, exist_ok=True)
    except (HFValidationError, OSError, ValueError) as error:
        raise CommandError(plain(error), EXIT_USAGE) from error
    disable_progress_bars()
    unfinished = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    try:
        snapshot_download(
            args.repo_id, revision=args.revision, local_dir=unfinished, allow_patterns=list(SAFE_PATTERNS)
        )
        shutil.rmtree(unfinished / ".cache", ignore_errors=True)  # the client's notes on the download
        files = checkpoint_files(unfinished)
        os.replace(unfinished, folder)  # fails where something has come to lie in `folder` meanwhile
    except ValueError as error:
        raise CommandError(f"{args.repo_id}: {error}".replace(f"{unfinished}{os.sep}", "")) from error
    except HUB_ERRORS as error:
        raise CommandError(explain(error, args.repo_id).replace(f"{unfinished}{os.sep}", "")) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{len(files)} files: {args.folder}")
    return EXIT_DONE

"""`irstd-ldm push` and `irstd-ldm pull`: a checkpoint goes to the Hugging Face Hub, or comes from it."""

import argparse
import os
import shutil
import uuid

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from ..hub.format import SAFE_PATTERNS, checkpoint_files
from ..hub.upload import HUB_ERRORS, explain, upload, upload_contents
from . import EXIT_DONE, EXIT_USAGE, CommandError, plain


def push(args: argparse.Namespace) -> int:
    """Checks the checkpoint, uploads its files in one commit and returns the exit code."""
    try:
        validate_repo_id(args.repo_id)
        files = checkpoint_files(args.folder)
        contents = upload_contents(args.folder, files)
    except (HFValidationError, OSError, ValueError) as error:
        raise CommandError(plain(error), EXIT_USAGE) from error
    sent = {file.parts[0] for file in files}
    left_out = sorted(path.name for path in args.folder.iterdir() if path.name not in sent)
    if left_out:
        print(f"left out, no part of a checkpoint: {', '.join(left_out)}")
    disable_progress_bars()
    message = f"Upload {args.folder.resolve().name}"
    try:
        address = upload(args.folder, contents, args.repo_id, message, args.private or None, args.revision)
    except HUB_ERRORS as error:
        raise CommandError(explain(error, args.repo_id)) from error
    sizes = [len(one) if isinstance(one, bytes) else one.stat().st_size for one in contents.values()]
    print(f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB: {address}")
    return EXIT_DONE


def pull(args: argparse.Namespace) -> int:
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
        patterns = list(SAFE_PATTERNS)
        snapshot_download(args.repo_id, revision=args.revision, local_dir=unfinished, allow_patterns=patterns)
        shutil.rmtree(unfinished / ".cache", ignore_errors=True)  # the client's notes on the download
        files = checkpoint_files(unfinished)
        os.replace(unfinished, folder)  # fails where something has come to lie in `folder` meanwhile
    except (ValueError, *HUB_ERRORS) as error:
        reason = f"{args.repo_id}: {error}" if isinstance(error, ValueError) else explain(error, args.repo_id)
        raise CommandError(reason.replace(f"{unfinished}{os.sep}", "")) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{len(files)} files: {args.folder}")
    return EXIT_DONE

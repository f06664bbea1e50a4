"""`irstd-ldm push`: a checkpoint goes to the Hugging Face Hub."""

import argparse

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from ..hub.format import checkpoint_files
from ..hub.upload import HUB_ERRORS, explain, upload, upload_contents
from . import EXIT_DONE, EXIT_USAGE, CommandError, plain


def run(args: argparse.Namespace) -> int:
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

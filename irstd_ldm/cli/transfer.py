"""`irstd-ldm push` and `irstd-ldm pull`: a checkpoint goes to the Hugging Face Hub, or comes from it."""

import argparse
import glob
import os
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from ..files import is_free, unfinished_folder
from ..hub.format import INDEX, NAMED_FILES, checkpoint_files, read_json
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
    """Fetches what the checkpoint names, checks it and only then names the folder; returns the exit code."""
    folder = args.folder.absolute()
    try:
        validate_repo_id(args.repo_id)
        if not is_free(folder):
            raise ValueError(f"{args.folder}: exists and is not an empty folder; nothing is overwritten")
        folder.parent.mkdir(parents=True, exist_ok=True)
    except (HFValidationError, OSError, ValueError) as error:
        raise CommandError(plain(error), EXIT_USAGE) from error
    disable_progress_bars()
    with unfinished_folder(folder) as unfinished:
        try:
            repository = HfApi().model_info(args.repo_id, revision=args.revision)
            commit = repository.sha
            _fetch(args.repo_id, commit, unfinished, [INDEX])
            index = read_json(unfinished / INDEX)
            files_there = [sibling.rfilename for sibling in repository.siblings or ()]
            _fetch(args.repo_id, commit, unfinished, [name for name in files_there if _is_named(name, index)])
            checked = HfApi().verify_repo_checksums(args.repo_id, revision=commit, local_dir=unfinished)
            if checked.mismatches:
                raise ValueError(f"{checked.mismatches[0]['path']} is not what the Hub announces: its digest differs")
            files = checkpoint_files(unfinished)
            os.replace(unfinished, folder)  # fails where something has come to lie in `folder` meanwhile
        except (ValueError, *HUB_ERRORS) as error:
            reason = f"{args.repo_id}: {error}" if isinstance(error, ValueError) else explain(error, args.repo_id)
            raise CommandError(reason.replace(f"{unfinished}{os.sep}", "")) from error
    print(f"{len(files)} files: {args.folder}")
    return EXIT_DONE


def _fetch(repo_id: str, commit: str | None, folder: Path, files: list[str]) -> None:
    snapshot_download(repo_id, revision=commit, local_dir=folder, allow_patterns=[*map(glob.escape, files)])
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's notes on the download


def _is_named(path: str, index: dict[str, Any]) -> bool:
    """Whether a file is the checkpoint's: index, card, lists, its code, configs and weights of its components."""
    component, _, name = path.rpartition("/")
    if not component and any(fnmatchcase(name, pattern) for pattern in NAMED_FILES):
        return True
    entry = index.get(component or "_class_name")
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    return name == f"{entry[0]}.py" or bool(component) and name.endswith((".json", ".safetensors"))

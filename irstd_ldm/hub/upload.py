"""The Hugging Face Hub: uploading a checkpoint (its own files and no others, in one commit, with a card), errors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

from .format import CARD, checkpoint_files, weights_variant
from .model_card import make_card
from .remote_code import remote_code

# Errors of the Hub's client where the Hub refuses, does not answer, or breaks off an upload.
HUB_ERRORS = (HTTPError, OSError, RuntimeError)


def upload_checkpoint(folder: Path, repo_id: str, *, commit_message: str | None = None, **kwargs: Any) -> str:
    """Uploads a checkpoint, with remote code, to the Hub; nothing is sent unless all of it is sound.

    Args:
        folder: The checkpoint. A folder without a card keeps the repository's, and gives it one if it has none.
        repo_id, kwargs: See `upload`.
        commit_message: None = "Upload " and the folder's name.

    Returns:
        Address of the commit.

    Raises:
        OSError: If a file of the checkpoint is missing or cannot be read, or the Hub refuses or does not answer.
        ValueError: If the folder is no checkpoint, or holds pickles or broken weights.
    """
    contents = upload_contents(folder, checkpoint_files(folder))
    return upload(folder, contents, repo_id, commit_message or f"Upload {folder.name}", **kwargs)


def upload_contents(folder: Path, files: Sequence[Path]) -> dict[str, Path | bytes]:
    """The files that an upload of `files` of `folder` makes: path in the repository -> file, or generated content.

    Raises:
        ValueError: If the checkpoint's code cannot be generated.
    """
    code = remote_code(folder)
    rewritten = {path.parent for path in code if path.suffix == ".py"}  # folders whose own code would be older
    kept = [path for path in files if path.suffix != ".py" or path.parent not in rewritten]
    contents: dict[str, Path | bytes] = {path.as_posix(): folder / path for path in kept}
    return contents | {path.as_posix(): content for path, content in code.items()}


def upload(
    folder: Path,
    contents: Mapping[str, Path | bytes],
    repo_id: str,
    commit_message: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    create_pr: bool = False,
    subfolder: str | None = None,
) -> str:
    """Uploads the `contents` made of `folder` in one commit, and returns its address.

    The commit removes weights of the same variants in the same folders: parts of an earlier upload would be loaded.

    Args:
        repo_id: "OWNER/NAME", made if absent; "NAME" is the login's own.
        private: Whether a new repository is; None = the owner's default.
        revision: Branch, made if absent; None = main.
        token: None = the standard login.
        create_pr: Whether to open a pull request instead.
        subfolder: Folder of the repository that gets the files, without a card of its own; None = the root.
    """
    hub = HfApi(token=token)
    repo_id = hub.create_repo(repo_id, exist_ok=True, private=private).repo_id
    if revision is not None:
        hub.create_branch(repo_id, branch=revision, exist_ok=True)
    prefix = f"{subfolder}/" if subfolder else ""
    operations: list[Any] = [CommitOperationAdd(prefix + name, content) for name, content in contents.items()]
    if not subfolder and CARD not in contents and not hub.file_exists(repo_id, CARD, revision=revision):
        operations.append(CommitOperationAdd(CARD, str(make_card(folder, repo_id)).encode()))
    sent = {prefix + name for name in contents}
    replaced = {_weights_of(name) for name in sent} - {None}
    for name in hub.list_repo_files(repo_id, revision=revision):
        if name not in sent and _weights_of(name) in replaced:
            operations.append(CommitOperationDelete(name))
    commit = hub.create_commit(
        repo_id, operations, commit_message=commit_message, revision=revision, create_pr=create_pr
    )
    return commit.commit_url


def _weights_of(name: str) -> tuple[str, str] | None:
    """Folder and variant of a repository's file of weights or of the index of their parts."""
    folder, _, file = name.rpartition("/")
    variant = weights_variant(file)
    return None if variant is None else (folder, variant)


def explain(error: BaseException, repo_id: str) -> str:
    """One line on why the Hub's client failed; its own messages have several, and name the cause last."""
    causes = [cause for cause in (error, error.__cause__, error.__context__) if cause is not None]
    for cause in causes:
        if isinstance(cause, RevisionNotFoundError):
            return f"{repo_id}: the repository has no such revision"
        if isinstance(cause, RepositoryNotFoundError):
            hidden = "it is private and this login (`hf auth login`) may not read it"
            return f"{repo_id}: the Hub has no such repository, or {hidden}"
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403):
            reason = cause.server_message or cause.response.reason_phrase
            return f"{repo_id}: the Hub refuses this login (`hf auth login`): {reason}"
    cause = causes[-1] if isinstance(error, RuntimeError) else error  # a RuntimeError wraps a broken upload's
    return f"{repo_id}: {' '.join(str(cause).split()) or type(cause).__name__}"

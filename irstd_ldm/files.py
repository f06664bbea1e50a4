"""Files that appear whole or not at all: written under a temporary name beside their own, then renamed."""

import csv
import ctypes
import glob
import hashlib
import io
import json
import os
import platform
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TextIO

try:
    import fcntl
except ImportError:  # Windows, where nobody is kept out of a folder and killed processes leave hidden ones
    fcntl = None  # type: ignore[assignment]

LOCK = ".irstd-ldm.lock"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Constants of renameat2(2).


class FolderInUseError(OSError):
    """Another process writes to the folder."""


def is_free(folder: Path) -> bool:
    """Whether a folder is absent or empty."""
    return not folder.exists() or folder.is_dir() and not any(folder.iterdir())


def part_path(path: Path) -> Path:
    """The temporary name of `path`, hidden, in the same folder."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The temporary path to write to; it takes the place of `path` at the end, or is removed where writing failed."""
    part = part_path(path)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """An empty hidden folder beside `folder`, to be renamed or emptied; what is left of it at the end is removed.

    So are those that killed processes have left there: the living hold a lock on theirs.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    dead = f".{glob.escape(folder.name)}.{32 * '[0-9a-f]'}"
    for left in folder.parent.glob(dead) if fcntl else ():
        with suppress(BlockingIOError, FileNotFoundError), _locked_folder(left):
            shutil.rmtree(left, ignore_errors=True)
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    unlocked = unfinished.with_name(f"{unfinished.name}.new")
    unlocked.mkdir()
    with _locked_folder(unlocked) if fcntl else nullcontext():
        os.replace(unlocked, unfinished)
        try:
            yield unfinished
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """A lock on the folder itself, whatever its name becomes; BlockingIOError where another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def replacing_folder(folder: Path, last: str, is_stale: Callable[[Path], bool]) -> Iterator[Path]:
    """An empty folder to write to, whose files take the place of those in `folder` together, or not where it failed.

    Where the file system can exchange two names (Linux, but for network file systems and mount points), a kill at any
    moment leaves the old content or the new. Elsewhere the files are moved one by one, the file `last` at the end, and
    a kill leaves a folder without `last`.

    Args:
        folder: Made if absent.
        last: Name of the file that makes the rest valid.
        is_stale: Whether a file of `folder`, a path relative to it, goes; others stay unless they are written anew.
    """
    folder = Path(os.path.realpath(folder))
    with unfinished_folder(folder) as unfinished:
        yield unfinished
        if not folder.exists():
            os.replace(unfinished, folder)
        elif not _exchange_with_rest(unfinished, folder, is_stale):
            _move_files(unfinished, folder, last, is_stale)


def _exchange_with_rest(unfinished: Path, folder: Path, is_stale: Callable[[Path], bool]) -> bool:
    """Swaps the names of two folders, the new one completed by links to what stays; False where that cannot be."""
    try:
        working = os.getcwd()
        for path in [path for path in sorted(folder.rglob("*")) if not is_stale(path.relative_to(folder))]:
            link = unfinished / path.relative_to(folder)
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    link.mkdir(parents=True, exist_ok=True)
            elif not os.path.lexists(link):
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, link, follow_symlinks=False)
        shutil.copymode(folder, unfinished)
        libc = ctypes.CDLL(None)
        if libc.renameat2(_AT_FDCWD, os.fsencode(unfinished), _AT_FDCWD, os.fsencode(folder), _RENAME_EXCHANGE):
            return False
    except (AttributeError, OSError, TypeError):  # another system, or a file system without links
        return False
    os.chdir(working)  # may be the folder, which has become another one
    return True


def _move_files(unfinished: Path, folder: Path, last: str, is_stale: Callable[[Path], bool]) -> None:
    (folder / last).unlink(missing_ok=True)
    for path in [path for path in folder.rglob("*") if path.is_file() and is_stale(path.relative_to(folder))]:
        path.unlink()
    paths = [path for path in sorted(unfinished.rglob("*")) if path.is_file()]
    for path in sorted(paths, key=lambda path: path == unfinished / last):
        (folder / path.relative_to(unfinished)).parent.mkdir(parents=True, exist_ok=True)
        path.replace(folder / path.relative_to(unfinished))


@contextmanager
def only_writer(folder: Path, name: str) -> Iterator[None]:
    """Keeps other processes of this package out of `folder`, which must exist, until the end or this process's death.

    Args:
        folder: What this process is about to write.
        name: What the others are told of this process, beside its number and its machine.

    Raises:
        FolderInUseError: Another process holds it; the message names that one.
        OSError: The lock's file cannot be written.
    """
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    file = _held(path)
    try:
        file.truncate(0)
        file.write(f"{name}, process {os.getpid()} on {platform.node()}")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _held(path: Path) -> TextIO:
    """The lock's file, locked, under its name: a holder removes it before it lets go."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise FolderInUseError(f"{path.parent} is being written by {holder}") from error
        except FileNotFoundError:
            pass
        file.close()


def file_sha256(path: Path) -> str:
    """The digest of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def csv_line(values: Sequence[Any]) -> str:
    """A line of CSV; its texts are those of `csv_text`."""
    line = io.StringIO()
    cells = [csv_text(value) if isinstance(value, str) else value for value in values]
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def csv_text(text: str) -> str:
    """A text that no spreadsheet takes for a formula, by an apostrophe before it, and without control characters."""
    return f"'{printable(text)}" if text.startswith(tuple("=+-@\t\r")) else printable(text)


def printable(text: str) -> str:
    """A text that moves no cursor and changes no colour: control characters as escapes, bytes of names as they are."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in text)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text with the line ends that it holds."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes strict JSON, see `finite`."""
    write_text(path, json.dumps(finite(content), indent=2, allow_nan=False) + "\n")


def finite(content: Any) -> Any:
    """The same content for strict JSON: NaN and infinities become null, numpy's numbers Python's."""
    text = json.dumps(content, default=lambda number: number.item())
    return json.loads(text, parse_constant=lambda _: None)

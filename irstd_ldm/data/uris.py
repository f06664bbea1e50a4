"""Files of archives by their URIs: folders and object stores, patterns, manifests, shards and tables of many files.

URIs are local paths, file://, s3://, gs:// or hf://, taken literally: nothing in them is percent-decoded. Stores are
reached by pyarrow (the extra `scale`), with the credentials and endpoints of the environment.
"""

import logging
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

from ..extras import required
from .readers import FRAME_SUFFIXES

fs, pq = required("pyarrow.fs", "scale"), required("pyarrow.parquet", "scale")

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

SHARD, TABLE, LINES = ".tar", ".parquet", ".txt"  # WebDataset's shards, Hugging Face's tables, manifests
ATTEMPTS, FIRST_WAIT_S = 3, 1.0  # A transfer from an object store is tried again; the wait doubles.
REFUSED = ("ACCESS_DENIED", "INVALID_OBJECT_STATE", "InvalidObjectState")  # Words of S3 for one object's fault.


class StoreError(Exception):
    """An object store that did not answer, after all attempts: no fault of the file that was asked for."""


@cache
def _store_of(scheme: str, bucket: str) -> Any:
    if scheme == "hf":
        from huggingface_hub import HfFileSystem

        return fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem()))
    return fs.LocalFileSystem() if scheme == "file" else fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]


def filesystem_of(uri: str) -> tuple[Any, str]:
    """The pyarrow file system of a URI, and its path there.

    Raises:
        ValueError: An unknown scheme.
    """
    uri = absolute(uri)
    scheme, separator, path = uri.partition("://")
    if not separator:
        return _store_of("file", ""), uri
    return _store_of(scheme, "" if scheme == "hf" else path.partition("/")[0]), path.rstrip("/")


def absolute(uri: str) -> str:
    """A URI, or a local path from the root: the workers of a cluster have other working directories."""
    scheme, separator, path = uri.partition("://")
    return uri if separator and scheme != "file" else os.path.abspath(path or scheme)


def listing(sources: Iterable[str]) -> list[str]:
    """The URIs of an archive's files, each once, source by source, those of a folder sorted.

    A source is a file; a folder or prefix, with all below it but what lies in folders whose names begin with a dot or
    an underscore; a pattern of files, in which `*` and `?` stay in a folder and `**` crosses folders; or a manifest, a
    .txt file of a URI per line or a .parquet file with a column `uri`. A shard (.tar) and a table (.parquet with a
    column `image` of bytes, as Hugging Face data sets have) count as one file. Links to one local file are one,
    broken links none.

    Raises:
        ValueError: A source without any file that is read, or a manifest or a pattern that is none.
        OSError: A source that cannot be reached.
    """
    found: dict[str, str] = {}  # resolved -> as named
    for source in sources:
        files = list(_files_of(source))
        if not files:
            raise ValueError(f"{source}: no image, video, shard or table there")
        for file in files:
            found.setdefault(file if "://" in file else os.path.realpath(file), file)
    return list(found.values())


def _files_of(source: str) -> Iterator[str]:
    store, path = filesystem_of(source)
    scheme = "" if isinstance(store, fs.LocalFileSystem) else source.partition("://")[0] + "://"
    info = store.get_file_info(path)
    if info.is_file:
        yield from _manifest(store, path, f"{scheme}{path}")
        return
    is_pattern = info.type is not fs.FileType.Directory and re.search(r"[*?\[]", path)
    base = re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0] if is_pattern else path
    try:
        chosen = re.compile(_pattern(path) if is_pattern else ".*", re.DOTALL)
        entries = store.get_file_info(fs.FileSelector(base, recursive=True))
    except (re.error, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: {error}") from error
    for file in sorted(one.path for one in entries if one.is_file):
        below = PurePosixPath(file.removeprefix(base))
        is_hidden = any(part.startswith((".", "_")) for part in below.parts[:-1]) or below.name.startswith(".")
        if chosen.fullmatch(file) and not is_hidden and is_read(file):
            yield f"{scheme}{file}"


def is_read(path: str) -> bool:
    """Whether a file's suffix is that of an image, a video, a shard or a table."""
    return suffix_of(path) in (*FRAME_SUFFIXES, SHARD, TABLE)


def suffix_of(path: str) -> str:
    """The suffix of a path or a URI, in small letters."""
    return PurePosixPath(path).suffix.lower()


def _pattern(path: str) -> str:
    """The regular expression of a pattern of paths."""
    regular = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", path)
    return "".join(regular.get(part) or _characters(part) for part in parts)


def _characters(part: str) -> str:
    """A set of characters, [abc] or [!abc], or a plain text."""
    if not part.startswith("[") or not part.endswith("]"):
        return re.escape(part)
    negated, characters = part[1] == "!", part[1:-1].removeprefix("!")
    return "[" + "^" * negated + re.sub(r"([\\^\[\]])", r"\\\1", characters) + "]"


def _manifest(store: Any, path: str, uri: str) -> Iterator[str]:
    """The URIs that a manifest holds, or that of a file which is none."""
    if suffix_of(path) == LINES:
        with store.open_input_stream(path) as file:
            lines: list[Any] = file.read().decode("utf-8-sig").split("\n")
        named = [line.strip() for line in lines if line.strip()]
    elif suffix_of(path) == TABLE and "uri" in pq.read_schema(path, filesystem=store).names:
        named = pq.read_table(path, columns=["uri"], filesystem=store)["uri"].to_pylist()
    else:
        named = [uri]
    if not all(isinstance(one, str) for one in named):
        raise ValueError(f"{uri}: its column `uri` does not hold texts alone")
    yield from map(absolute, named)


def _retried(what: str, call: Callable[[], Result], is_there: Callable[[], bool], attempts: int = ATTEMPTS) -> Result:
    """What a call to a store returns, after some attempts; the error of an object that the store refuses by itself."""
    try:
        return call()
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except OSError as error:
        if any(word in str(error) for word in REFUSED):
            raise
        if attempts == 1:
            if is_there():
                raise
            raise StoreError(f"{what}: {error}") from error
        logger.warning("%s: attempts left: %d, after %s", what, attempts - 1, error)
        time.sleep(FIRST_WAIT_S * 2 ** (ATTEMPTS - attempts))
        return _retried(what, call, is_there, attempts - 1)


@contextmanager
def local_file(uri: str, content: bytes | None = None) -> Iterator[Path]:
    """A file's path on this machine: its own, or that of a copy, of the content if given, that ends with the context.

    Raises:
        StoreError: The object store did not answer.
        OSError, ValueError: There is no such file.
    """
    store: Any = None
    path = uri
    if content is None:
        store, path = filesystem_of(uri)
    if isinstance(store, fs.LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"content{_known_suffix(path)}"

        def fetch() -> None:
            with store.open_input_stream(path) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)

        def is_there() -> bool:
            try:
                return store.get_file_info(path).is_file
            except OSError:
                return False

        if content is None:
            _retried(uri, fetch, is_there)
        else:
            copy.write_bytes(content)
        yield copy


def _known_suffix(path: str) -> str:
    """A suffix that says how a file is read, else none: content without one tells by its first bytes."""
    return suffix_of(path) if is_read(path) else ""


def members(uri: str, path: Path) -> Iterator[tuple[str, Path | Exception]]:
    """The files that a shard or a table holds, as URI#NAME or URI#ROW, or the file itself; or why one cannot be had.

    A member's file lasts until the next one is asked for.

    Raises:
        OSError, ValueError, tarfile.TarError: The shard or the table cannot be read, or not to its end.
    """
    if suffix_of(path.name) not in (SHARD, TABLE):
        yield uri, path
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, kind, content in (_of_shard if suffix_of(path.name) == SHARD else _of_table)(path):
            member = Path(folder) / f"content{_known_suffix(kind)}"
            if isinstance(content, bytes):
                member.write_bytes(content)
            yield f"{uri}#{name}", member if isinstance(content, bytes) else content


def _of_shard(path: Path) -> Iterator[tuple[str, str, bytes | Exception]]:
    with tarfile.open(path, "r:") as shard:
        for member in shard:
            name = PurePosixPath(member.name).name
            if suffix_of(name) not in FRAME_SUFFIXES or name.startswith(".") or member.isdir():
                continue
            try:
                opened = shard.extractfile(member)
                content: bytes | Exception = ValueError("is no file") if opened is None else opened.read()
            except KeyError as error:  # a link to what is not there
                content = error
            yield member.name, member.name, content
        # A damaged header ends the iteration as the end does; that is a block of zeros.
        file = cast(BinaryIO, shard.fileobj)
        file.seek(shard.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("ends early, or a header is damaged: members behind it are lost")


def _of_table(path: Path) -> Iterator[tuple[str, str, bytes | Exception]]:
    with pq.ParquetFile(path) as table:
        if "image" not in table.schema_arrow.names:
            raise ValueError(f"a table without a column `image`: {', '.join(table.schema_arrow.names)}")
        index = 0
        for batch in table.iter_batches(16, columns=["image"]):
            for image in batch["image"].to_pylist():
                fields = image if isinstance(image, dict) else {"bytes": image}
                content = fields.get("bytes")
                found = content if isinstance(content, bytes) else ValueError("holds no bytes of an image")
                yield str(index), str(fields.get("path") or ""), found
                index += 1

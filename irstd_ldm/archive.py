"""Detection over archives of millions of frames on a Ray cluster: URIs in, rows or Parquet files out.

    import ray
    from irstd_ldm import archive

    frames = ray.data.from_items([{"uri": uri} for uri in archive.listing(["s3://camera/night"])])
    archive.detect(frames, concurrency=8).write_parquet("s3://results/night")

[`run`] is what `irstd-ldm detect-archive` does: the same in parts, each written once, whatever is killed meanwhile.
"""

import dataclasses
import errno
import json
import logging
import tarfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from .bundled import resolve_model
from .data.images import seen_image
from .data.polarity import WHITE_HOT
from .data.readers import is_sequence, open_frames
from .data.readers.frame import IMAGE_ERRORS, MAX_PIXELS, Frame, FrameError, checked_frames
from .data.readers.sequence_range import sequence_range
from .data.readers.still import quiet_readers
from .data.uris import SHARD, TABLE, StoreError, absolute, filesystem_of, listing, local_file, members, suffix_of
from .extras import required
from .files import only_writer
from .results import run_lengths
from .stream import load_detector, model_sha256
from .targets import Target

pa, fs, pq = (required(name, "scale") for name in ("pyarrow", "pyarrow.fs", "pyarrow.parquet"))

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)
# Errors of the machine, which say nothing of the file that is at hand.
OF_MACHINE = {errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ENOSPC, errno.ESTALE}
BEGINNINGS = 3  # Times that a part is begun: Ray gives it to another worker where one is lost, without end.
ROWS = 1000  # Frames that a worker holds before it writes them.
COUNTED = ("frames", "targets", "errors")
COUNTS = b"irstd_ldm.counts"  # Key of a part's counts in the metadata of its file.
# Readers of a folder of Parquet pass over such names.
SUCCESS, HEADER, LISTING, TEMPORARY = "_SUCCESS", "_archive.json", "_listing", "_temporary"
TARGET = pa.struct(
    [(field.name, pa.int32() if field.type is int else pa.float64()) for field in dataclasses.fields(Target)]
)
SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("frame", pa.int32()),  # index in a sequence, null for a still
        ("time_s", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("targets", pa.list_(TARGET)),
        ("mask", pa.list_(pa.int32())),  # COCO's uncompressed run lengths, null where they are not asked for
        ("error", pa.string()),  # why there is no result, else null
        ("model", pa.string()),
        ("settings", pa.string()),
    ]
)
DETECTIONS = SCHEMA.remove(SCHEMA.get_field_index("error"))
ERRORS = pa.schema([("uri", pa.string()), ("frame", pa.int32()), ("reason", pa.string())])
PART = pa.schema([("part", pa.string()), ("uri", pa.string())])


class WorkerError(Exception):
    """A worker that cannot do its part, through no fault of the file at hand."""


def detect(
    ds: "Dataset",
    *,
    concurrency: int | tuple[int, int] = 1,
    num_gpus: float = 0.0,
    batch_size: int | None = 16,
    **options: Any,
) -> "Dataset":
    """Detects targets in the frames of a data set's files.

    Args:
        ds: A column `uri`; a column `bytes` holds the files' content where it is not to be read from there.
        concurrency: Workers, or the fewest and the most of them; each loads the detector once and has one CPU.
        num_gpus: GPUs of a worker; fractions share one.
        batch_size: Files of a call of a worker; results do not depend on it.
        options: Of [`FrameRows`].

    Returns:
        A row per frame, of `SCHEMA`; a file or frame that cannot be read is a row whose `error` says why. An object
        store that does not answer, and faults of a machine, are errors of the data set ([`WorkerError`]).
    """
    return ds.map_batches(
        _FrameTables,
        fn_constructor_kwargs=options,
        batch_size=batch_size,
        batch_format="pyarrow",
        **_resources(concurrency, num_gpus),
    )


def run(
    sources: Sequence[str],
    output: str,
    *,
    address: str | None = None,
    concurrency: int | None = None,
    num_gpus: float = 0.0,
    part_size: int = ROWS,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda parts, total: parts,
    **options: Any,
) -> dict[str, int]:
    """Detects targets in an archive and writes OUTPUT/detections and OUTPUT/errors, a Parquet file each per part.

    The same call goes on where it was interrupted: parts that are written are not computed again, and files that have
    come to the sources meanwhile become parts of their own. `_SUCCESS` with the counts is written when no part is
    missing.

    Args:
        sources: As of `irstd_ldm.data.uris.listing`.
        output: A folder's URI; all workers must reach it.
        address: A Ray cluster, such as "auto" or "ray://head:10001"; None = one that begins and ends with the call,
            unless this process has one.
        concurrency: Workers; None = as many as the cluster has CPUs.
        num_gpus: GPUs of a worker; fractions share one.
        part_size: Files of a part. A shard or a table is a part of its own.
        progress: Shows how the parts (an iterable, and its length) go by.
        options: Of [`FrameRows`].

    Returns:
        Counts of `parts`, `frames`, `targets`, `errors`, of what was `computed` now, and of parts `missing` in the
        end: those whose worker was lost too often, or whose object store did not answer.

    Raises:
        ValueError: OUTPUT was made with other settings or by another model, or a source holds nothing.
        OSError: A source or OUTPUT cannot be reached.
    """
    output = absolute(output)
    store, root = filesystem_of(output)
    header = FrameRows(**options).header
    found = [uri for uri in listing(sources) if not _lies_in(uri, store, root)]
    options |= {"model": _reachable(options.get("model")), "runtime": json.loads(header["settings"])["runtime"]}
    is_local = isinstance(store, fs.LocalFileSystem)
    store.create_dir(root, recursive=True)
    with only_writer(Path(root), "irstd-ldm detect-archive") if is_local else nullcontext():
        _check_header(store, f"{root}/{HEADER}", header)
        parts = _parts(store, root, found, part_size)
        written = _written(store, root)
        missing = {part: files for part, files in parts.items() if part not in written}
        computed = 0
        if missing:
            _forget_success(store, root)
            _empty_temporary(store, root)
            writer = {"output": output, "header": header, **options}
            computed = _compute(missing, writer, address, concurrency, num_gpus, progress)
            written = _written(store, root)
        done = [part for part in parts if part in written]
        with ThreadPoolExecutor() as pool:
            counted = list(pool.map(lambda part: _counts(store, root, part), done))
        total = {"parts": len(done)} | {name: sum(one[name] for one in counted) for name in COUNTED}
        if len(done) == len(parts):
            _write_text(store, f"{root}/{SUCCESS}", json.dumps(total) + "\n")
            _empty_temporary(store, root)
    return total | {"computed": computed, "missing": len(parts) - len(done)}


def _compute(
    parts: Mapping[str, Sequence[str]],
    writer: Mapping[str, Any],
    address: str | None,
    concurrency: int | None,
    num_gpus: float,
    progress: Callable[[Iterable[Any], int], Iterable[Any]],
) -> int:
    """Has the parts done; returns the number of their frames and errors."""
    import ray

    with _cluster(address):
        if ray.util.client.ray.is_connected():  # Ray Data wants to be called from within the cluster.
            far = ray.remote(num_cpus=0)(_compute_inside).remote(parts, writer, concurrency, num_gpus, lambda p, _: p)
            return ray.get(far)
        return _compute_inside(parts, writer, concurrency, num_gpus, progress)


def _compute_inside(
    parts: Mapping[str, Sequence[str]],
    writer: Mapping[str, Any],
    concurrency: int | None,
    num_gpus: float,
    progress: Callable[[Iterable[Any], int], Iterable[Any]],
) -> int:
    import ray.data

    resources = ray.cluster_resources()
    if num_gpus > resources.get("GPU", 0):
        logger.warning("the cluster has %g GPUs now: workers wait for theirs", resources.get("GPU", 0))
    rows = [{"part": part, "uris": files} for part, files in parts.items()]
    workers = min(concurrency or max(int(resources.get("CPU", 1)), 1), len(rows))
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars, context.max_errored_blocks
    context.enable_progress_bars, context.max_errored_blocks = False, -1  # a part that fails is missing, no more
    try:
        counts = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _PartWriter,
            fn_constructor_kwargs=dict(writer),
            batch_size=1,
            batch_format="pyarrow",
            **_resources((1, workers), num_gpus),
        )
        return sum(row["frames"] + row["errors"] for row in progress(counts.iter_rows(), len(rows)))
    finally:
        context.enable_progress_bars, context.max_errored_blocks = before


def _lies_in(uri: str, store: Any, root: str) -> bool:
    other, path = filesystem_of(uri)
    return other is store and path.startswith(f"{root}/")


def _reachable(model: str | None) -> str | None:
    """A model's name, or its folder from the root: workers have other working directories."""
    source = Path(resolve_model(model))
    return str(source.absolute()) if model is not None and source.is_dir() else model


class FrameRows:
    """A detector of the frames of whole files, each as `irstd-ldm detect` does it.

    Args:
        model: A bundled model's name, a folder or a Hub id, which every worker must reach; None = the bundled one.
        runtime: As of [`StreamDetector`].
        num_threads: Threads of onnxruntime or OpenVINO.
        input_range: Raw values (lo, hi) that map to -1 and 1; None = those of a file that holds a sequence, or of the
            frame.
        polarity: As of [`IRSTDLatentPipeline`].
        max_pixels: Larger frames are refused.
        masks: Whether rows hold the mask.
        settings: Arguments of every call, such as `max_fa_per_million_px`.

    Raises:
        ValueError, TypeError, OSError, ModuleNotFoundError: As [`StreamDetector`] or a call of its detector.
    """

    def __init__(
        self,
        model: str | None = None,
        runtime: str = "auto",
        num_threads: int | None = 1,
        *,
        input_range: tuple[float, float] | None = None,
        polarity: str = WHITE_HOT,
        max_pixels: int = MAX_PIXELS,
        masks: bool = False,
        **settings: Any,
    ):
        self._detector = load_detector(model, runtime, num_threads, settings.get("num_inference_steps"))
        self._input_range, self._polarity, self._max_pixels, self._masks = input_range, polarity, max_pixels, masks
        self._settings = settings
        self._detector(np.zeros((32, 32), np.uint8), input_range=input_range, **settings)  # refuses wrong settings
        recorded = {"runtime": getattr(self._detector, "runtime", "torch"), "input_range": input_range}
        recorded |= {"polarity": polarity, "max_pixels": max_pixels, "masks": masks, **settings}
        recorded.pop("batch_size", None)  # results do not depend on it
        self.header = {"model": model_sha256(self._detector), "settings": json.dumps(recorded, sort_keys=True)}

    def rows(self, uri: str, content: bytes | None = None) -> Iterator[dict[str, Any]]:
        """The rows of a file's frames, of `SCHEMA`; the content is read from the URI where it is not given.

        Raises:
            WorkerError: The object store did not answer, the disk is full, a package is missing or the like.
        """
        try:
            with quiet_readers(), local_file(uri, content) as path:
                for name, file in members(uri, path):
                    if isinstance(file, Exception):
                        yield self._failed(name, None, file)
                    else:
                        yield from self._rows_of_file(name, file)
        except (*IMAGE_ERRORS, tarfile.TarError, StoreError) as error:
            yield self._failed(uri, None, error)

    def _rows_of_file(self, uri: str, path: Path) -> Iterator[dict[str, Any]]:
        try:
            source = open_frames(path, max_pixels=self._max_pixels)
            several, value_range = is_sequence(source), self._input_range
            if several and value_range is None:
                value_range = sequence_range(source, normalization=self._detector.config["normalization"])
            for frame in checked_frames(source.frames()):
                index = frame.index if several else None
                if isinstance(frame, FrameError):
                    yield self._failed(uri, index, frame, path)
                else:
                    yield self._row(uri, index, frame, value_range)
        except IMAGE_ERRORS as error:
            yield self._failed(uri, None, error, path)

    def _row(
        self, uri: str, index: int | None, frame: Frame, value_range: tuple[float, float] | None
    ) -> dict[str, Any]:
        seen = seen_image(frame.image, self._polarity, value_range)
        try:
            found = self._detector(seen, input_range=value_range, **self._settings)
        except RuntimeError as error:  # The libraries that run the networks raise it.
            raise WorkerError(f"{uri}: {error}") from error
        mask = found.mask[0, 0]
        height, width = mask.shape
        return {
            "uri": _text(uri),
            "frame": index,
            "time_s": frame.time_s,
            "width": width,
            "height": height,
            "targets": [dataclasses.asdict(target) for target in found.targets[0]],
            "mask": run_lengths(mask) if self._masks else None,
            **self.header,
        }

    def _failed(self, uri: str, index: int | None, error: Exception, path: Path | None = None) -> dict[str, Any]:
        """The row of what cannot be read; a WorkerError where the machine or a store is at fault."""
        of_machine = isinstance(error, OSError) and error.errno in OF_MACHINE
        if of_machine or isinstance(error, ImportError | StoreError):
            raise WorkerError(f"{uri}: {error}") from error
        reason = " ".join((str(error) or type(error).__name__).split())
        named = reason if path is None else reason.replace(str(path), uri)
        return {"uri": _text(uri), "frame": index, "error": _text(named), **self.header}


def _text(text: str) -> str:
    """A text that UTF-8 can hold: bytes of names that are none become escapes."""
    return text.encode(errors="backslashreplace").decode()


class _FrameTables(FrameRows):
    """[`FrameRows`] of batches of files, in a worker."""

    def __call__(self, batch: Any) -> Iterator[Any]:
        contents = batch["bytes"].to_pylist() if "bytes" in batch.column_names else [None] * len(batch)
        for uri, content in zip(batch["uri"].to_pylist(), contents, strict=True):
            yield pa.Table.from_pylist(list(self.rows(uri or "", content)), SCHEMA)


class _PartWriter(FrameRows):
    """[`FrameRows`] of parts, in a worker: it writes a part's files and answers with its counts."""

    def __init__(self, output: str, header: Mapping[str, str], **options: Any):
        super().__init__(**options)
        if self.header != header:
            raise ValueError(f"a worker has {self.header}, the archive is made with {header}")
        self._store, self._root = filesystem_of(output)

    def __call__(self, batch: Any) -> Any:
        return pa.Table.from_pylist([self._write(**part) for part in batch.to_pylist()])

    def _write(self, part: str, uris: list[str]) -> dict[str, Any]:
        counts, failed, waiting = dict.fromkeys(COUNTED, 0), [], []
        if self._begin(part) > BEGINNINGS:
            logger.error("%s: %d workers were lost on it", part, BEGINNINGS)
            return {"part": part, **counts}
        with _replacing(self._store, self._root, f"detections/{part}{TABLE}") as path:
            with pq.ParquetWriter(path, DETECTIONS, filesystem=self._store, compression="zstd") as writer:
                for row in (row for uri in uris for row in self.rows(uri)):
                    if "error" in row:
                        failed.append({"uri": row["uri"], "frame": row["frame"], "reason": row["error"]})
                        continue
                    waiting.append(row)
                    counts["targets"] += len(row["targets"])
                    if len(waiting) == ROWS:
                        writer.write_table(pa.Table.from_pylist(waiting, DETECTIONS))
                        counts["frames"] += len(waiting)
                        waiting = []
                writer.write_table(pa.Table.from_pylist(waiting, DETECTIONS))
                counts |= {"frames": counts["frames"] + len(waiting), "errors": len(failed)}
                writer.add_key_value_metadata({COUNTS: json.dumps(counts).encode()})
            self._write_errors(part, failed)  # before the detections, whose file says that the part is done
        return {"part": part, **counts}

    def _begin(self, part: str) -> int:
        """Notes that a worker begins with a part; returns how many have, this one too."""
        folder = f"{self._root}/{TEMPORARY}/{part}"
        self._store.create_dir(folder, recursive=True)
        with self._store.open_output_stream(f"{folder}/{uuid.uuid4().hex}"):
            pass
        return sum(file.is_file for file in self._store.get_file_info(fs.FileSelector(folder)))

    def _write_errors(self, part: str, failed: list[dict[str, Any]]) -> None:
        name = f"errors/{part}{TABLE}"
        if failed:
            with _replacing(self._store, self._root, name) as path:
                pq.write_table(pa.Table.from_pylist(failed, ERRORS), path, filesystem=self._store)
        elif self._store.get_file_info(f"{self._root}/{name}").is_file:  # A worker that was lost left it.
            self._store.delete_file(f"{self._root}/{name}")


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A connection to a cluster; one that is begun for this ends with it, before the process does."""
    import ray

    was_there = ray.is_initialized()
    if not was_there:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        if not was_there:
            ray.shutdown()


def _resources(concurrency: int | tuple[int, int], num_gpus: float) -> dict[str, Any]:
    from ray.data import ActorPoolStrategy

    least, most = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    return {
        "compute": ActorPoolStrategy(min_size=least, max_size=most),
        "num_cpus": 1,
        "num_gpus": num_gpus,
    }


@contextmanager
def _replacing(store: Any, root: str, name: str) -> Iterator[str]:
    """A path of its own to write to, that takes the place of ROOT/NAME in the end."""
    part = f"{root}/{TEMPORARY}/{uuid.uuid4().hex}"
    for folder in {PurePosixPath(part).parent, PurePosixPath(f"{root}/{name}").parent}:
        store.create_dir(str(folder), recursive=True)
    yield part
    store.move(part, f"{root}/{name}")


def _empty_temporary(store: Any, root: str) -> None:
    """Removes what lost workers have left, and the notes of which parts they had begun."""
    store.create_dir(f"{root}/{TEMPORARY}", recursive=True)
    store.delete_dir(f"{root}/{TEMPORARY}")


def _forget_success(store: Any, root: str) -> None:
    if store.get_file_info(f"{root}/{SUCCESS}").is_file:
        store.delete_file(f"{root}/{SUCCESS}")


def _write_text(store: Any, path: str, text: str) -> None:
    root, _, name = path.rpartition("/")
    with _replacing(store, root, name) as part, store.open_output_stream(part) as file:
        file.write(text.encode())


def _check_header(store: Any, path: str, header: Mapping[str, str]) -> None:
    """Writes what the archive is made with, or compares it with that of an earlier run."""
    if store.get_file_info(path).type is fs.FileType.NotFound:
        _write_text(store, path, json.dumps(header, indent=2) + "\n")
        return
    with store.open_input_stream(path) as file:
        try:
            earlier = dict(json.loads(file.read()))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: remove it") from error
    for name, value in header.items():
        if earlier.get(name) != value:
            raise ValueError(f"{path.rpartition('/')[0]} was made with {name} {earlier.get(name)}, now it is {value}")


def _parts(store: Any, root: str, uris: Sequence[str], part_size: int) -> dict[str, list[str]]:
    """Name of a part -> its files: the parts that an earlier run has listed, and those of files that are new."""
    parts: dict[str, list[str]] = {}
    folder = f"{root}/{LISTING}"
    store.create_dir(folder, recursive=True)
    earlier = sorted(file.path for file in store.get_file_info(fs.FileSelector(folder)) if file.is_file)
    for file in earlier:
        for row in pq.read_table(file, filesystem=store).to_pylist():
            parts.setdefault(row["part"], []).append(row["uri"])
    known = {uri for files in parts.values() for uri in files}
    new: dict[str, list[str]] = {}
    open_part: list[str] = []
    for uri in (uri for uri in uris if uri not in known):
        alone = suffix_of(uri) in (SHARD, TABLE)
        if alone or not open_part or len(open_part) == part_size:
            files = new.setdefault(f"part-{len(parts) + len(new):06}", [])
            open_part = open_part if alone else files
        else:
            files = open_part
        files.append(uri)
    if new:
        _forget_success(store, root)
        rows = [{"part": part, "uri": uri} for part, files in new.items() for uri in files]
        with _replacing(store, root, f"{LISTING}/{len(earlier):06}{TABLE}") as path:
            pq.write_table(pa.Table.from_pylist(rows, PART), path, filesystem=store)
    return parts | new


def _written(store: Any, root: str) -> set[str]:
    """The names of the parts whose detections are there."""
    selector = fs.FileSelector(f"{root}/detections", allow_not_found=True)
    return {PurePosixPath(file.path).stem for file in store.get_file_info(selector) if suffix_of(file.path) == TABLE}


def _counts(store: Any, root: str, part: str) -> dict[str, int]:
    path = f"{root}/detections/{part}{TABLE}"
    try:
        return json.loads(pq.read_metadata(path, filesystem=store).metadata[COUNTS])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or not written by this command: remove it") from error

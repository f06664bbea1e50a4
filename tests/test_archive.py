"""`irstd_ldm.archive` and `irstd-ldm detect-archive`: a real Ray cluster, and an S3 server that is not ours."""

import errno
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs

from irstd_ldm import archive
from irstd_ldm.cli.main import main
from irstd_ldm.data import uris
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.files import FolderInUseError, only_writer

pytest.importorskip("ray.data")
COMMAND = [sys.executable, "-m", "irstd_ldm", "detect-archive", "--runtime", "onnxruntime"]


def write_frames(folder: Path, count: int, num_broken: int = 0) -> Path:
    """PNG files of 96x128 pixels; some of them end after their head."""
    folder.mkdir(parents=True)
    scenes = [synthetic_scene(96, 128, num_targets=1, scr=10.0, seed=seed).image for seed in range(min(count, 50))]
    broken = set(random.Random(0).sample(range(count), num_broken))
    for index in range(count):
        path = folder / f"{index:06}.png"
        # A shift makes every frame another one.
        Image.fromarray(np.roll(scenes[index % len(scenes)], index // len(scenes), axis=1)).save(path)
        if index in broken:
            path.write_bytes(path.read_bytes()[:60])
    return folder


def rows_of(folder: str | Path, kind: str = "detections") -> list[dict]:
    return pq.read_table(f"{folder}/{kind}").to_pylist()


def detected(folder: Path, output: Path) -> dict[str, list[dict]]:
    """File -> its targets, of `irstd-ldm detect`."""
    command = ["detect", str(folder), "--output", str(output), "--write", "json", "--runtime", "onnxruntime"]
    assert main(command) in (0, 1)
    images = json.loads((output / "detections.json").read_text())["images"]
    return {image["file"]: image["targets"] for image in images}


def targets_of(rows: list[dict]) -> dict[str, list[dict]]:
    """URI -> targets, as JSON has them; a URI that comes twice is an error."""
    assert len({row["uri"] for row in rows}) == len(rows)
    finite = [
        {**row, "targets": [{k: v if v == v else None for k, v in t.items()} for t in row["targets"]]} for row in rows
    ]
    return {row["uri"]: row["targets"] for row in finite}


@pytest.fixture
def s3(monkeypatch) -> Iterator[fs.FileSystem]:
    """An empty bucket `archive` of a server of this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    boto3.client("s3").create_bucket(Bucket="archive")
    uris._store_of.cache_clear()
    yield fs.FileSystem.from_uri("s3://archive")[0]
    server.stop()


# The listing.


def test_sources_are_files_folders_patterns_and_manifests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("a/1.png", "a/b/2.TIF", "a/b/3.mp4", "a/shard.TAR", "c/4.npy")
    for name in (*names, "a/.hidden.png", "a/notes.md", "a/_made/5.png", "a/.cache/6.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    full = [str(tmp_path / name) for name in names]
    listing = uris.listing
    assert listing(["a"]) == full[:4]
    assert listing(["a/*.png"]) == full[:1]
    assert listing(["a/**/*.[Tm][Ip]*"]) == full[1:3]
    assert listing(["a/b/[!3].*"]) == listing(["a/b/[]2].*"]) == full[1:2]
    assert listing(["?/**/*.*"]) == full
    # One file, however it is named.
    assert listing(["c/4.npy", "c", "c/../c/4.npy", f"file://{tmp_path}/c", "a/1.png"]) == [full[4], full[0]]
    (tmp_path / "c" / "link.npy").symlink_to("4.npy")
    (tmp_path / "c" / "loop").symlink_to(".")
    (tmp_path / "c" / "lost.npy").symlink_to("missing.npy")
    assert listing(["c"]) == [full[4]]
    (tmp_path / "night [1]?").mkdir()
    (tmp_path / "night [1]?" / "7 #%20.png").touch()
    assert listing(["night [1]?"]) == [str(tmp_path / "night [1]?" / "7 #%20.png")]
    (tmp_path / "list.TXT").write_bytes("\ufeffs3://x/1 %20.png\r\n\r\nfile:///y/2\u2028.png\n".encode())
    pq.write_table(pa.table({"uri": ["z.png"], "camera": [1]}), tmp_path / "list.parquet")
    assert listing(["list.TXT", "list.parquet"]) == ["s3://x/1 %20.png", "/y/2\u2028.png", str(tmp_path / "z.png")]
    pq.write_table(pa.table({"uri": ["z.png", None]}), tmp_path / "nulls.parquet")
    (tmp_path / "nothing").mkdir()
    for source, message in {
        "nothing": "no image",
        "nothing/*": "no image",
        "nulls.parquet": "texts",
        "[z-a]": "bad",
    }.items():
        with pytest.raises(ValueError, match=message):
            listing([source])
    with pytest.raises(FileNotFoundError):
        listing(["missing"])


def test_parts_stay_and_new_files_become_parts(tmp_path):
    store, root = archive.filesystem_of(str(tmp_path))
    first = archive._parts(store, root, ["a.png", "t.tar", "b.png", "c.png"], 2)
    assert first == {"part-000000": ["a.png", "b.png"], "part-000001": ["t.tar"], "part-000002": ["c.png"]}
    again = archive._parts(store, root, ["0.png", "a.png", "b.png", "c.png", "d.png", "t.tar"], 2)
    assert again == first | {"part-000003": ["0.png", "d.png"]}
    assert archive._parts(store, root, [], 5) == again


# Rows of files.


@pytest.fixture(scope="module")
def detector() -> archive.FrameRows:
    return archive.FrameRows(runtime="onnxruntime", masks=True)


@pytest.fixture(scope="module")
def picture() -> bytes:
    """A PNG file of 96x128 pixels with a target."""
    file = io.BytesIO()
    Image.fromarray(synthetic_scene(96, 128, num_targets=1, scr=10.0, seed=0).image).save(file, "PNG")
    return file.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    return path


def test_rows_of_stills_and_sequences(tmp_path, detector, picture):
    (tmp_path / "still.png").write_bytes(picture)
    scene = np.array(Image.open(io.BytesIO(picture)))
    np.save(tmp_path / "stack.npy", np.stack([scene, scene[:, ::-1]]))
    [still] = detector.rows(str(tmp_path / "still.png"))
    assert (still["frame"], still["width"], still["height"]) == (None, 128, 96) and len(still["targets"]) == 1
    assert sum(still["mask"]) == 96 * 128 and sum(still["mask"][1::2]) == still["targets"][0]["area_px"]
    assert [row["frame"] for row in detector.rows(str(tmp_path / "stack.npy"))] == [0, 1]
    [missing] = detector.rows(str(tmp_path / "missing.png"))
    assert "missing.png" in missing["error"]
    [given] = detector.rows("camera://7", picture)
    assert given["targets"] == still["targets"] and given["uri"] == "camera://7"


def test_a_broken_member_costs_a_shard_nothing_else(tmp_path, detector, picture):
    shard = write_shard(
        tmp_path / "s.TAR",
        {"x/0.png": picture, "0.json": b"{}", "x/1.png": b"?", "._2.png": b"", "\udcff.PNG": picture},
    )
    with tarfile.open(shard, "a") as opened:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "missing.png"
        opened.addfile(link)
    rows = list(detector.rows(f"file://{shard}"))
    assert [row["uri"].partition("#")[2] for row in rows] == ["x/0.png", "x/1.png", "\\udcff.PNG", "link.png"]
    assert ["error" in row for row in rows] == [False, True, False, True] and "x/1.png" in rows[1]["error"]


@pytest.mark.parametrize("damage", ("cut between members", "cut in a header", "header overwritten", "cut in data"))
def test_a_shard_that_ends_early_says_so(tmp_path, detector, picture, damage):
    shard = write_shard(tmp_path / "s.tar", {f"{index}.png": picture for index in range(3)})
    size = 512 + -(-len(picture) // 512) * 512
    data = bytearray(shard.read_bytes())
    if damage == "header overwritten":
        data[size : size + 512] = bytes(range(256)) * 2
    else:
        del data[2 * size + {"cut between members": 0, "cut in a header": 100, "cut in data": 600}[damage] :]
    shard.write_bytes(data)
    rows = list(detector.rows(str(shard)))
    assert "error" in rows[-1] and all("error" not in row for row in rows[:-1])
    assert len(rows) == (2 if damage == "header overwritten" else 3)


def test_a_broken_row_costs_a_table_nothing_else(tmp_path, detector, picture):
    images = [
        {"bytes": picture, "path": "a.png"},
        None,
        {"bytes": None, "path": "b.png"},
        {"bytes": picture, "path": 300 * "x"},
    ]
    pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
    rows = list(detector.rows(str(tmp_path / "t.parquet")))
    assert [row["uri"].partition("#")[2] for row in rows] == ["0", "1", "2", "3"]
    assert ["error" in row for row in rows] == [False, True, True, False]
    pq.write_table(pa.table({"image": [picture]}), tmp_path / "bytes.parquet")
    assert [row["targets"] for row in detector.rows(str(tmp_path / "bytes.parquet"))] == [rows[0]["targets"]]
    pq.write_table(pa.table({"file": ["a.png"]}), tmp_path / "other.parquet")
    [other] = detector.rows(str(tmp_path / "other.parquet"))
    assert "without a column `image`: file" in other["error"]


def test_faults_of_stores_and_machines_are_none_of_files(monkeypatch, caplog, detector, tmp_path, picture):
    monkeypatch.setattr(uris, "FIRST_WAIT_S", 0.0)
    calls = []

    def fails(error):
        calls.append(error)
        raise error

    with pytest.raises(uris.StoreError, match="s3://x: no answer"):
        uris._retried("s3://x", lambda: fails(OSError("no answer")), lambda: False)
    assert len(calls) == uris.ATTEMPTS and len(caplog.records) == uris.ATTEMPTS - 1
    with pytest.raises(OSError, match="archived"):  # the store answers, this object does not come
        uris._retried("s3://x", lambda: fails(OSError("archived")), lambda: True)
    for refusal in (FileNotFoundError("x"), OSError("AWS Error ACCESS_DENIED")):
        calls.clear()
        with pytest.raises(OSError):
            uris._retried("s3://x", lambda error=refusal: fails(error), lambda: False)
        assert len(calls) == 1
    (tmp_path / "a.png").write_bytes(picture)
    for error in (OSError(errno.ENOSPC, "No space left on device"), ImportError("av"), uris.StoreError("gone")):
        monkeypatch.setattr(archive, "open_frames", lambda *_, error=error, **__: fails(error))
        with pytest.raises((archive.WorkerError, uris.StoreError)):
            list(detector.rows(str(tmp_path / "a.png")))


@pytest.mark.parametrize("settings", ({"max_fa_per_million_px": 3.3}, {"tile_size": 64}, {"score_treshold": 0.3}))
def test_wrong_settings_are_refused_before_any_file(settings, tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises((ValueError, TypeError)):
        archive.run([str(tmp_path)], str(tmp_path / "out"), runtime="onnxruntime", **settings)
    assert not (tmp_path / "out").exists()


def test_a_worker_of_another_runtime_is_refused(tmp_path, detector):
    with pytest.raises(ValueError, match="a worker has"):
        archive._PartWriter(str(tmp_path), detector.header, runtime="onnxruntime", score_threshold=0.9)


# Whole jobs.


def test_an_archive_in_s3_is_detected_once_and_as_by_detect(tmp_path, s3):
    folder = write_frames(tmp_path / "frames", 200, num_broken=4)
    fs.copy_files(str(folder), "archive/frames", source_filesystem=fs.LocalFileSystem(), destination_filesystem=s3)
    command = [*COMMAND, "s3://archive/frames", "--output", "s3://archive/out", "--part-size", "50"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 1, first.stderr
    assert "frames: 196, targets: " in first.stdout and "errors: 4, parts: 4, computed now: 200" in first.stdout
    found = pq.read_table("archive/out/detections", filesystem=s3).to_pylist()
    by_name = {uri.rpartition("/")[2]: targets for uri, targets in targets_of(found).items()}
    alone = detected(folder, tmp_path / "alone")
    assert by_name == {Path(file).name: targets for file, targets in alone.items()}
    assert len({row["model"] for row in found}) == 1 and json.loads(found[0]["settings"])["seed"] == 0
    errors = pq.read_table("archive/out/errors", filesystem=s3).to_pylist()
    assert len(errors) == 4 and all(row["uri"] in row["reason"] for row in errors)
    with s3.open_input_stream("archive/out/_SUCCESS") as file:
        assert json.loads(file.read()) == {
            "parts": 4,
            "frames": 196,
            "targets": sum(map(len, by_name.values())),
            "errors": 4,
        }
    # Again: nothing is computed, and no cluster started. A part that is lost is made anew, and only that.
    start = time.monotonic()
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 1 and "computed now: 0" in second.stdout and time.monotonic() - start < 20
    s3.delete_file("archive/out/detections/part-000002.parquet")
    third = subprocess.run(command, capture_output=True, text=True)
    assert "computed now: 50" in third.stdout, third.stderr
    assert pq.read_table("archive/out/detections", filesystem=s3).to_pylist() == found
    other = subprocess.run([*command, "--threshold", "0.3"], capture_output=True, text=True)
    assert other.returncode == 2 and "was made with settings" in other.stderr


def test_a_part_that_kills_its_workers_is_left_missing(tmp_path, ray_cluster, monkeypatch):
    write_frames(tmp_path / "frames", 3)
    output, options = str(tmp_path / "out"), {"runtime": "onnxruntime", "part_size": 1}
    monkeypatch.setattr(archive, "BEGINNINGS", 0)
    begun = archive._PartWriter(output, archive.FrameRows(runtime="onnxruntime").header, runtime="onnxruntime")
    assert begun._write("part-000001", ["x"]) == {"part": "part-000001", "frames": 0, "targets": 0, "errors": 0}
    assert not (tmp_path / "out" / "detections").exists()
    monkeypatch.undo()
    counts = archive.run([str(tmp_path / "frames")], output, **options)
    assert (counts["frames"], counts["missing"]) == (3, 0)
    assert not (tmp_path / "out" / "_temporary").exists()


def test_what_it_writes_is_no_source_and_others_settings_stay(tmp_path, ray_cluster, monkeypatch):
    import ray

    folder = write_frames(tmp_path / "frames", 2)
    monkeypatch.chdir(folder)
    for _ in range(2):
        counts = archive.run(["."], "out", runtime="onnxruntime")
        assert (counts["frames"], counts["errors"], counts["parts"]) == (2, 0, 1)
    assert ray.data.DataContext.get_current().max_errored_blocks != -1
    (folder / "out" / "detections" / "part-000000.bak").write_bytes(b"")
    (folder / "out" / "detections" / "part-000000.parquet").write_bytes(b"cut")
    with pytest.raises(ValueError, match="part-000000.parquet is damaged"):
        archive.run(["."], "out", runtime="onnxruntime")
    with only_writer(folder / "out", "another"), pytest.raises(FolderInUseError, match="another"):
        archive.run(["."], "out", runtime="onnxruntime")


def test_a_data_set_of_others_is_detected(ray_cluster, tmp_path):
    import ray

    folder = write_frames(tmp_path / "frames", 4, num_broken=1)
    files = [{"uri": path.name, "bytes": path.read_bytes()} for path in sorted(folder.iterdir())]
    found = archive.detect(ray.data.from_items(files), runtime="onnxruntime", score_threshold=0.4)
    assert found.schema().names == archive.SCHEMA.names
    rows = sorted(found.take_all(), key=lambda row: row["uri"])
    assert [row["uri"] for row in rows] == [file["uri"] for file in files]
    assert sum(row["error"] is not None for row in rows) == 1
    assert '"score_threshold": 0.4' in rows[0]["settings"]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    import ray

    ray.shutdown()
    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture
def two_nodes():
    """A cluster of two nodes of a CPU each, on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster, second
    cluster.shutdown()


def parts_in(output: Path) -> int:
    return len(list((output / "detections").glob("*.parquet")))


@pytest.mark.slow
def test_a_node_that_dies_loses_and_doubles_nothing(tmp_path, two_nodes):
    cluster, second = two_nodes
    folder, output = write_frames(tmp_path / "frames", 2000, num_broken=40), tmp_path / "out"
    command = [*COMMAND, str(folder), "--output", str(output), "--part-size", "50", "--address", cluster.address]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while parts_in(output) < 6 and job.poll() is None:
        time.sleep(0.1)
    [raylet] = second.all_processes["raylet"]
    os.kill(raylet.process.pid, signal.SIGKILL)
    printed, told = job.communicate()
    assert job.returncode == 1 and "frames: 1960" in printed and "errors: 40" in printed, told
    assert targets_of(rows_of(output)) == detected(folder, tmp_path / "alone")
    assert len({row["uri"] for row in rows_of(output, "errors")}) == 40
    start = time.monotonic()
    again = subprocess.run(command, capture_output=True, text=True)
    assert "computed now: 0" in again.stdout and time.monotonic() - start < 20


@pytest.mark.slow
def test_a_cluster_is_reached_by_rays_client(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "ray_client_server_port": port})
    folder, output = write_frames(tmp_path / "frames", 20), tmp_path / "out"
    command = [*COMMAND, str(folder), "--output", str(output), "--address", f"ray://127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    cluster.shutdown()
    assert done.returncode == 0 and "computed now: 20" in done.stdout, done.stderr
    assert targets_of(rows_of(output)) == detected(folder, tmp_path / "alone")


@pytest.mark.slow
def test_interruptions_at_random_moments_leave_the_whole(tmp_path):
    folder, output = write_frames(tmp_path / "frames", 600), tmp_path / "out"
    command = [*COMMAND, str(folder), "--output", str(output), "--part-size", "20"]
    moments = random.Random(1)
    for kind in 5 * (signal.SIGINT, signal.SIGKILL):
        job = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            job.wait(moments.uniform(4, 14))
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, kind) if kind == signal.SIGKILL else job.send_signal(kind)
            job.communicate()
            assert job.returncode in (130, -signal.SIGKILL)
    last = subprocess.run(command, capture_output=True, text=True)
    assert last.returncode == 0 and "frames: 600" in last.stdout, last.stderr
    assert targets_of(rows_of(output)) == detected(folder, tmp_path / "alone")


@pytest.mark.slow
def test_memory_of_the_driver_does_not_grow_with_the_frames(ray_cluster, tmp_path, monkeypatch):
    """100,000 frames of a stub; what grows is the listing alone."""
    import psutil

    class Stub(archive._PartWriter):
        def __init__(self, output, header=None, **options):
            self._store, self._root = archive.filesystem_of(output)
            self.header = {"model": "stub", "settings": '{"runtime": "stub"}'}

        def rows(self, uri, content=None):
            yield {"uri": uri, "frame": None, "time_s": None, "width": 1, "height": 1, "targets": [], **self.header}

    monkeypatch.setattr(archive, "_PartWriter", Stub)
    monkeypatch.setattr(archive, "FrameRows", lambda **options: Stub(str(tmp_path / "stub")))
    peaks = []

    def progress(parts, total):
        for part in parts:
            peaks.append(psutil.Process().memory_info().rss / 2**20)
            yield part

    (tmp_path / "list.txt").write_text("".join(f"/frames/{index:09}.png\n" for index in range(100_000)))
    counts = archive.run([str(tmp_path / "list.txt")], str(tmp_path / "out"), part_size=500, progress=progress)
    assert counts["frames"] == 100_000 and counts["missing"] == 0
    assert max(peaks[100:]) - max(peaks[:50]) < 50

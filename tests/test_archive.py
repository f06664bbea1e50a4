"""`irstd_ldm.archive` and `irstd-ldm detect-archive`: a real Ray cluster, and an S3 server that is not ours."""

import io
import json
import os
import random
import signal
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
from irstd_ldm.data.synthetic import synthetic_scene

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
    archive._store_of.cache_clear()
    yield fs.FileSystem.from_uri("s3://archive")[0]
    server.stop()


# The listing.


def test_sources_are_files_folders_patterns_and_manifests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "a/b/2.TIF", "a/b/3.mp4", "a/.hidden.png", "a/notes.md", "a/shard.tar", "c/4.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    full = [str(tmp_path / name) for name in ("a/1.png", "a/b/2.TIF", "a/b/3.mp4", "a/shard.tar", "c/4.npy")]
    assert archive.listing(["a"]) == full[:4]
    assert archive.listing(["a/*.png"]) == full[:1]
    assert archive.listing(["a/**/*.[Tm][Ip]*"]) == full[1:3]
    assert archive.listing(["?/**/*.*"]) == full
    assert archive.listing(["c/4.npy", "c", "a/1.png"]) == [full[4], full[0]]
    (tmp_path / "list.txt").write_text("s3://x/1 %20.png\n\nfile:///y/2.png\n")
    pq.write_table(pa.table({"uri": ["z.png"], "camera": [1]}), tmp_path / "list.parquet")
    assert archive.listing(["list.txt", "list.parquet"]) == ["s3://x/1 %20.png", "file:///y/2.png", str(tmp_path / "z.png")]
    with pytest.raises(ValueError, match="nothing/\\*: no image"):
        (tmp_path / "nothing").mkdir()
        archive.listing(["nothing/*"])
    with pytest.raises(FileNotFoundError):
        archive.listing(["missing"])


def test_parts_stay_and_new_files_become_parts(tmp_path):
    store, root = archive.filesystem_of(str(tmp_path))
    first = archive._parts(store, root, ["a.png", "t.tar", "b.png", "c.png"], 2)
    assert first == {"part-000000": ["a.png", "b.png"], "part-000001": ["t.tar"], "part-000002": ["c.png"]}
    again = archive._parts(store, root, ["0.png", "a.png", "b.png", "c.png", "d.png", "t.tar"], 2)
    assert again == first | {"part-000003": ["0.png", "d.png"]}
    assert archive._parts(store, root, [], 5) == again


# Rows of files.


def test_rows_of_stills_sequences_shards_tables_and_broken_files(tmp_path):
    scene = synthetic_scene(96, 128, num_targets=1, scr=10.0, seed=0).image
    picture = io.BytesIO()
    Image.fromarray(scene).save(picture, "PNG")
    (tmp_path / "still.png").write_bytes(picture.getvalue())
    np.save(tmp_path / "stack.npy", np.stack([scene, scene[:, ::-1]]))
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for name, data in (("x/0.png", picture.getvalue()), ("x/0.json", b"{}"), ("x/1.png", b"broken")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    images = [{"bytes": picture.getvalue(), "path": "a.png"}, {"bytes": picture.getvalue(), "path": None}]
    pq.write_table(pa.table({"image": images}), tmp_path / "table.parquet")
    detector = archive.FrameRows(runtime="onnxruntime", masks=True)
    [still] = detector.rows(str(tmp_path / "still.png"))
    assert (still["frame"], still["width"], still["height"]) == (None, 128, 96) and len(still["targets"]) == 1
    assert sum(still["mask"]) == 96 * 128 and sum(still["mask"][1::2]) == still["targets"][0]["area_px"]
    assert [row["frame"] for row in detector.rows(str(tmp_path / "stack.npy"))] == [0, 1]
    shard_rows = list(detector.rows(f"file://{tmp_path}/shard.tar"))
    assert [row["uri"].partition("#")[2] for row in shard_rows] == ["x/0.png", "x/1.png"]
    assert shard_rows[0]["targets"] == still["targets"] and "x/1.png" in shard_rows[1]["error"]
    table_rows = list(detector.rows(str(tmp_path / "table.parquet")))
    assert [row["targets"] for row in table_rows] == 2 * [still["targets"]]
    assert [row["uri"].partition("#")[2] for row in table_rows] == ["0", "1"]
    [missing] = detector.rows(str(tmp_path / "missing.png"))
    assert "missing.png" in missing["error"]
    [given] = detector.rows("camera://7", picture.getvalue())
    assert given["targets"] == still["targets"] and given["uri"] == "camera://7"


def test_a_store_that_does_not_answer_is_no_fault_of_its_file(monkeypatch, caplog):
    monkeypatch.setattr(archive, "FIRST_WAIT_S", 0.0)
    calls = []

    def fails(kind):
        calls.append(kind)
        raise kind("no answer")

    with pytest.raises(archive.TransferError, match="s3://x: no answer"):
        archive._retried("s3://x", lambda: fails(OSError))
    assert len(calls) == archive.ATTEMPTS and len(caplog.records) == archive.ATTEMPTS - 1
    with pytest.raises(FileNotFoundError):
        archive._retried("s3://x", lambda: fails(FileNotFoundError))
    assert len(calls) == archive.ATTEMPTS + 1


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
    begun = archive._PartWriter(output, runtime="onnxruntime")
    assert begun._write("part-000001", ["x"]) == {"part": "part-000001", "frames": 0, "targets": 0, "errors": 0}
    assert not (tmp_path / "out" / "detections").exists()
    monkeypatch.undo()
    counts = archive.run([str(tmp_path / "frames")], output, **options)
    assert (counts["frames"], counts["missing"]) == (3, 0)
    assert not (tmp_path / "out" / "_temporary").exists()


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
            subprocess.run(["ray", "stop", "--force"], capture_output=True)
            assert job.returncode in (130, -signal.SIGKILL)
    last = subprocess.run(command, capture_output=True, text=True)
    assert last.returncode == 0 and "frames: 600" in last.stdout, last.stderr
    assert targets_of(rows_of(output)) == detected(folder, tmp_path / "alone")


@pytest.mark.slow
def test_memory_of_the_driver_does_not_grow_with_the_frames(ray_cluster, tmp_path, monkeypatch):
    """100,000 frames of a stub; what grows is the listing alone."""
    import psutil

    class Stub(archive._PartWriter):
        def __init__(self, output, **options):
            self._store, self._root = archive.filesystem_of(output)
            self.header = {"model": "stub", "settings": "{}"}

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

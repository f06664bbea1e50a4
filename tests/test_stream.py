"""Streams: threads, drops, errors, tracks; addresses on loopback, with a publisher in a second process.

python -m pytest -m slow -s tests/test_stream.py
"""

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from irstd_ldm import IRSTDLatentPipeline, StreamDetector
from irstd_ldm.cli.main import main
from irstd_ldm.data import Address, Frame, ImageReadError
from irstd_ldm.runtime import exported
from irstd_ldm.runtime.detector import ExportedDetectorRunner
from irstd_ldm.runtime.exported import ExportedDetector

TESTS = Path(__file__).parent
CONFIG = {
    "default_num_inference_steps": 1,
    "default_ensemble_size": 1,
    "default_threshold": 0.5,
    "default_tile_size": 0,
    "default_tile_overlap": 0,
    "calibration": None,
    "normalization": "range",
}


NOISE = {"noise": [8, 8], "posterior_noise": [4, 8]}


@pytest.fixture(scope="session")
def bright_spots(tmp_path_factory) -> Path:
    """An exported detector of two operations: pixels above 191 of 255 are a target's."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    shapes = {"image": 1, "noise": 8, "posterior_noise": 4, "probability": 1}
    values = {name: helper.make_tensor_value_info(name, floats, [None, c, None, None]) for name, c in shapes.items()}
    nodes = [
        helper.make_node("Mul", ["image", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = [helper.make_tensor(name, floats, [], [value]) for name, value in (("gain", 20), ("offset", -10))]
    output = values.pop("probability")
    graph = helper.make_graph(nodes, "bright_spots", list(values.values()), [output], constants)
    folder = tmp_path_factory.mktemp("exported") / "bright_spots"
    folder.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    (folder / "detector.json").write_text(ExportedDetector("onnx", 1, NOISE, CONFIG, "bright", "0").to_json())
    return folder


@pytest.fixture
def detector(bright_spots) -> StreamDetector:
    return StreamDetector(bright_spots, "onnxruntime", num_threads=1)


def moving(num_frames: int, height: int = 48, width: int = 64) -> Iterator[np.ndarray]:
    noise = np.random.default_rng(0).integers(50, 70, (height, width)).astype(np.uint8)
    for number in range(num_frames):
        image = noise.copy()
        left = 5 + 2 * number % (width - 10)
        image[20:23, left : left + 3] = 230
        yield image


def test_results_come_in_order_with_tracks_and_numbers(detector):
    results = list(detector.stream(moving(12)))
    assert [result.index for result in results] == list(range(12)) and not any(r.num_dropped for r in results)
    assert [(round(r.targets[0].x), round(r.targets[0].y)) for r in results] == [(6 + 2 * n, 21) for n in range(12)]
    assert [[track.id for track in r.tracks] for r in results] == [[]] * 2 + [[1]] * 10
    assert results[5].image.shape == results[5].mask.shape == results[5].probability.shape == (48, 64)
    assert all(0 < r.latency_s < 10 for r in results) and results[-1].frames_per_second > 1
    single = detector(next(moving(1)))
    assert single.targets == results[0].targets and single.tracks is None


def test_frames_that_cannot_be_done_are_named_and_the_rest_goes_on(detector):
    frames: list = list(moving(6))
    frames[2], frames[4] = frames[2][:10], np.full((48, 64), np.nan)
    results = list(detector.stream(frames))
    assert [bool(result.error) for result in results] == [False, False, True, False, True, False]
    assert results[2].error == "frame 2 has 64x10 pixels, the first one 64x48" and "finite" in results[4].error
    assert [track.id for track in results[5].tracks] == [1]


def test_what_an_iterable_raises_comes_after_its_results(detector):
    def unplugged():
        yield from moving(3)
        raise OSError("unplugged")

    stream = detector.stream(unplugged())
    assert [next(stream).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="unplugged"):
        next(stream)


def test_slow_inference_drops_or_keeps_as_asked(detector):
    def camera():
        for image in moving(40, width=128):
            time.sleep(0.005)
            yield image

    def slow(drop):
        for result in detector.stream(camera(), drop=drop):
            time.sleep(0.03)
            yield result

    kept, newest = list(slow(False)), list(slow(True))
    assert len(kept) == 40 and len(newest) < 30
    assert newest[-1].index == 39 and newest[-1].num_dropped == 40 - len(newest)
    assert [track.id for track in newest[-1].tracks] == [1]  # it moves by 2 px a frame, whatever is dropped


def test_time_stamps_bridge_a_gap(detector):
    frames = [Frame(n, image, n / 25) for n, image in enumerate(moving(25)) if n not in range(10, 15)]
    ids = {track.id for result in detector.stream(frames) for track in result.tracks}
    assert ids == {1}
    renumbered = [Frame(n, frame.image, frame.time_s) for n, frame in enumerate(frames)]
    assert {track.id for result in detector.stream(renumbered) for track in result.tracks} == {1}


def test_threads_and_copies(detector):
    frames = list(moving(20))
    expected = [result.targets for result in detector.stream(frames)]
    with ThreadPoolExecutor(3) as pool:
        streams = pool.map(lambda _: [r.targets for r in detector.stream(frames)], range(3))
        assert list(streams) == [expected] * 3
        assert [r.targets for r in pool.map(detector, frames)] == expected
    again = pickle.loads(pickle.dumps(detector))
    assert [result.targets for result in again.stream(frames)] == expected


def test_a_stream_that_is_left_ends_its_threads(detector):
    import threading

    before = threading.active_count()
    stream = detector.stream(moving(10_000))
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_it_needs_no_torch(bright_spots):
    code = (
        "import sys\nfor name in ('torch', 'diffusers', 'transformers', 'huggingface_hub'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np\nfrom irstd_ldm import StreamDetector\n"
        f"results = StreamDetector({str(bright_spots)!r}).stream([np.zeros((48, 64), np.uint8)] * 3)\n"
        "print(len(list(results)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_a_checkpoint_runs_by_torch(tiny_checkpoint):
    results = list(StreamDetector(tiny_checkpoint, threshold=1.0).stream(moving(2, 128, 128)))
    assert [(r.error, r.targets) for r in results] == [(None, [])] * 2
    with pytest.raises(ValueError, match="`runtime` 'onnxruntime' needs as `model` a folder that .* got .*tiny"):
        StreamDetector(tiny_checkpoint, "onnxruntime")
    with pytest.raises(ValueError, match="`runtime` must be auto, torch, .*, got 'tensorrt'"):
        StreamDetector(tiny_checkpoint, "tensorrt")


def test_the_bundled_detector_runs_by_torch_where_no_runtime_is_installed(monkeypatch):
    assert isinstance(StreamDetector().detector, ExportedDetectorRunner)
    assert isinstance(StreamDetector(num_inference_steps=2).detector, IRSTDLatentPipeline)  # the graph has one
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    assert isinstance(StreamDetector().detector, IRSTDLatentPipeline)


# Addresses


def test_addresses_are_typed_with_their_scheme(tmp_path, monkeypatch):
    address = Address.parse("rtsp://me:secret@10.0.0.2:554/live/1?token=t")
    assert str(address) == "rtsp://10.0.0.2:554/live/1" and address.stem == "10_0_0_2_554_live_1"
    assert Address.parse("rtsp:clip.mkv") is None and Address.parse("file:///etc/passwd") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "udp:" / "camera").mkdir(parents=True)
    (tmp_path / "udp:" / "camera" / "clip.mkv").touch()
    assert Address.parse("udp://camera/clip.mkv") is None
    assert Address.parse("udp://camera/other.mkv") is not None


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def publishing(url: str, format: str, num_frames: int, dies_after: int = -1, **options: str) -> Iterator[None]:
    words = [url, format, str(num_frames), str(dies_after), *(f"{name}={value}" for name, value in options.items())]
    publisher = subprocess.Popen([sys.executable, str(TESTS / "publish.py"), *words])
    try:
        yield
    finally:
        publisher.kill()
        publisher.wait()


@pytest.fixture
def udp() -> str:
    pytest.importorskip("av")
    return f"udp://127.0.0.1:{free_port()}"


LISTEN = {"rtsp_flags": "listen", "listen_timeout": "20"}


def test_udp(detector, udp):
    """Until the publisher is killed."""
    results = []
    with publishing(udp, "mpegts", 500, dies_after=75):
        with pytest.raises(ImageReadError, match=rf"'{udp}': broke off after \d+ frames: nothing came for 1.5 s"):
            for result in detector.stream(udp, drop=False, timeout_s=1.5):
                results.append(result)
    assert len(results) > 20 and not any(result.error for result in results)
    assert results[0].time_s == 0 and np.diff([r.time_s for r in results]) == pytest.approx(0.04, abs=0.002)
    assert {track.id for result in results for track in result.tracks} == {1}
    assert np.diff([result.targets[0].x for result in results[:20]]) == pytest.approx(2, abs=0.5)


def test_rtsp_that_listens(detector):
    pytest.importorskip("av")
    url = f"rtsp://127.0.0.1:{free_port()}/camera"
    with publishing(url, "rtsp", 30, rtsp_transport="tcp"):
        results = list(detector.stream(url, drop=False, options=LISTEN, timeout_s=20))
    assert 20 < len(results) <= 30 and {track.id for r in results for track in r.tracks} == {1}


def test_the_command_goes_on_behind_a_publisher_that_dies(bright_spots, udp, tmp_path, capsys):
    np.save(tmp_path / "still.npy", next(moving(1)))
    flags = ["--runtime", "onnxruntime", "--model", str(bright_spots), "--tracks", "--output", str(tmp_path / "out")]
    with publishing(udp, "mpegts", 500, dies_after=60):
        code = main(["detect", udp, str(tmp_path / "still.npy"), *flags, "--timeout-s", "1.5", "--keep-frames"])
    error = capsys.readouterr().err
    assert code == 1 and "nothing came for 1.5 s" in error and "1 of 2 inputs failed" in error
    table = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(table["images"]) == 1 and table["sequences"][0]["num_frames"] > 10
    assert (tmp_path / "out" / udp[6:].replace(".", "_").replace(":", "_") / "tracks.csv").stat().st_size > 500


def test_the_reader_killed_and_started_again(bright_spots, detector, udp):
    """The command prints a line per frame as it goes; what a SIGKILL leaves is whole, and the address is free."""
    command = [sys.executable, "-m", "irstd_ldm.cli", "detect", udp, "--runtime", "onnxruntime", "--tracks"]
    command += ["--model", str(bright_spots), "--output", "-"]
    with publishing(udp, "mpegts", 5000):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as reader:
            lines = [json.loads(line) for line in islice(reader.stdout, 8)]
            os.kill(reader.pid, signal.SIGKILL)
        assert [line["frame"] for line in lines] == sorted({line["frame"] for line in lines})
        assert all("tracks" in line and line["file"] == udp for line in lines)
        assert len(list(islice(detector.stream(udp), 3))) == 3


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Files by HTTP."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def write_ts(path: Path, frames) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mpegts") as container:
        first, *others = frames
        stream = container.add_stream("mpeg2video", rate=25, width=first.shape[1], height=first.shape[0])
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for image in (first, *others):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())
    return path


def test_http_gives_video_and_no_files(detector, tmp_path):
    write_ts(tmp_path / "clip.ts", moving(20))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.8,\nfile://{tmp_path / 'clip.ts'}\n#EXT-X-ENDLIST\n"
    (tmp_path / "evil.m3u8").write_text(playlist)
    with serving(tmp_path) as address:
        assert len(list(detector.stream(f"{address}/clip.ts", drop=False))) == 20
        for name in ("evil.m3u8", "absent.ts"):
            with pytest.raises(ImageReadError, match=f"cannot read video '{address}/{name}': "):
                list(detector.stream(f"{address}/{name}"))


def test_what_does_not_answer_is_named(bright_spots, capsys):
    pytest.importorskip("av")
    address = f"rtsp://user:secret@127.0.0.1:{free_port()}/camera"
    flags = ["--runtime", "onnxruntime", "--model", str(bright_spots), "--output", "-"]
    assert main(["detect", address, *flags]) == 1
    printed = capsys.readouterr()
    assert "cannot be opened: Connection refused" in printed.err and "secret" not in printed.err + printed.out
    if Path("/dev/null").is_char_device():
        assert main(["detect", "/dev/null", *flags]) == 1
        assert "cannot read video '/dev/null': cannot be opened: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    (
        (["udp://127.0.0.1:9", "--resume"], "--resume: not for network addresses and devices, such as udp://"),
        (["udp://127.0.0.1:9", "--input-range", "sequence"], "--input-range sequence: not for network addresses"),
        (["a.npy", "--keep-frames"], "--keep-frames: for network addresses and devices, and there is none"),
        (["a.npy", "--input-range", "sequence"], "--input-range sequence: for inputs of several frames, and there is"),
    ),
)
def test_flags_without_effect_are_refused(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", next(moving(1)))
    assert main(["detect", *words, "--model", "/no/model"]) == 2
    assert told in capsys.readouterr().err


def test_a_video_goes_on_behind_frames_of_another_size(bright_spots, tmp_path, capsys):
    parts = [write_ts(tmp_path / f"{side}.ts", moving(8, side, side)).read_bytes() for side in (64, 96, 64)]
    (tmp_path / "clip.ts").write_bytes(b"".join(parts))
    flags = ["--runtime", "onnxruntime", "--model", str(bright_spots), "--tracks", "--output", str(tmp_path / "out")]
    assert main(["detect", str(tmp_path / "clip.ts"), *flags]) == 1
    error = capsys.readouterr().err
    named = {int(number) for number in re.findall(r"frame (\d+) has 96x96 pixels, the first one 64x64", error)}
    assert len(named) >= 7 and "1 of 1 inputs failed" in error
    lines = [json.loads(line) for line in (tmp_path / "out/clip/detections.jsonl").read_text().splitlines()]
    frames = [line["frame"] for line in lines]
    assert len(frames) >= 14 and frames[0] < min(named) < max(named) < frames[-1]
    assert sorted({*frames, *named}) == list(range(frames[-1] + 1)) and not named & {*frames}
    before = (tmp_path / "out/clip/detections.jsonl").read_bytes()
    (tmp_path / "out/clip/detections.jsonl").write_bytes(b"".join(before.splitlines(True)[:10]))
    assert main(["detect", str(tmp_path / "clip.ts"), *flags, "--resume"]) in (0, 1)
    assert (tmp_path / "out/clip/detections.jsonl").read_bytes() == before


def test_a_folder_of_numbered_frames_is_a_sequence_on_request(bright_spots, tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    for number, image in enumerate(moving(12)):
        np.save(tmp_path / "frames" / f"{number}.npy", image)
    (tmp_path / "frames" / "7.npy").write_bytes(b"broken")
    flags = ["--runtime", "onnxruntime", "--model", str(bright_spots), "--output"]
    assert main(["detect", str(tmp_path / "frames"), *flags, str(tmp_path / "out"), "--tracks"]) == 1
    assert "7.npy" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "out/frames/detections.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [n for n in range(12) if n != 7]
    assert [round(line["targets"][0]["x"]) for line in lines] == [6 + 2 * n for n in range(12) if n != 7]
    assert {track["id"] for line in lines for track in line["tracks"]} == {1}
    assert main(["detect", str(tmp_path / "frames"), *flags, str(tmp_path / "stills")]) == 1
    assert len(json.loads((tmp_path / "stills/detections.json").read_text())["images"]) == 11


@pytest.mark.slow
def test_ten_thousand_frames_in_constant_memory(detector):
    page_mib = os.sysconf("SC_PAGE_SIZE") / 2**20
    noted = []
    for result in detector.stream(moving(10_000)):
        if result.index % 1000 == 999:
            noted.append(int(Path("/proc/self/statm").read_text().split()[1]) * page_mib)
    print("resident MiB:", *(f"{mib:.0f}" for mib in noted))
    assert len(noted) == 10 and noted[-1] - noted[0] < 16


@pytest.mark.slow
def test_a_real_server_of_rtsp(detector, tmp_path):
    """DESCRIBE, SETUP, PLAY; needs `pip install aio-rtsp-toolkit`."""
    pytest.importorskip("aio_rtsp_toolkit", reason="no server: pip install aio-rtsp-toolkit")
    av, port = pytest.importorskip("av"), free_port()
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=64, height=48, options={"g": "10"})
        stream.pix_fmt = "yuv420p"
        for image in moving(50):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())
    serve = f"asyncio.run(server.serve({str(tmp_path)!r}, '127.0.0.1', {port}, control_port={free_port()}))"
    with subprocess.Popen(
        [sys.executable, "-c", f"import asyncio, aio_rtsp_toolkit.server as server; {serve}"]
    ) as server:
        time.sleep(3)
        results = list(detector.stream(f"rtsp://127.0.0.1:{port}/clip.mp4", drop=False))
        server.kill()
    assert len(results) > 40 and {track.id for r in results for track in r.tracks} == {1}

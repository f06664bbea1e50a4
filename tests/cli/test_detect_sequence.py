"""Sequences: a line per frame as it comes, tracks, resuming, what stays after an interruption, the annotated video."""

import argparse
import csv
import gc
import io
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.cli import CommandError, InputFile, outputs
from irstd_ldm.cli.main import main
from irstd_ldm.cli.model import FrameDetector, predict
from irstd_ldm.cli.outputs import Record
from irstd_ldm.cli.sequence import SequenceResult, detect_sequence
from irstd_ldm.cli.video import AnnotatedVideo
from irstd_ldm.data.images import displayable, robust_range_of_values
from irstd_ldm.data.readers import open_frames
from irstd_ldm.data.readers.frame import Frame, ImageReadError
from irstd_ldm.data.readers.sequence_range import SAMPLED_FRAMES, sequence_range
from irstd_ldm.files import finite
from irstd_ldm.results import draw_overlay
from irstd_ldm.targets import Decision
from irstd_ldm.tracking import Tracker

HEADER = {"version": "0", "model": "tiny", "settings": {"seed": 0}}
RESULTS: dict[Path, SequenceResult | None] = {}  # of the last run into each folder, also where it raised


def arguments(**changed) -> argparse.Namespace:
    values = {
        "num_inference_steps": None,
        "ensemble_size": None,
        "tile_size": None,
        "tile_overlap": None,
        "batch_size": 1,
        "seed": 0,
        "write": None,
        "input_range": None,
        "polarity": "white-hot",
        "raw": None,
        "tracks": False,
        "annotated_video": False,
        "fuse_frames": False,
        "resume": False,
    }
    return argparse.Namespace(**values | changed)


def run_sequence(source, name, pipeline, args, threshold, folder, header) -> SequenceResult:
    ends: list[SequenceResult] = []
    detector = FrameDetector(pipeline, args, Decision(threshold, threshold))
    try:
        detect_sequence(source, InputFile(source.path, name), detector, args, folder, header, ends.append)
    finally:
        RESULTS[folder / name] = ends[-1] if ends else None
    return ends[0]


def moving_target(num_frames: int = 8, dtype: type = np.uint8, bright: int = 200) -> np.ndarray:
    """A square of 3 px that moves by 2 px a frame over noise, (N, 48, 64)."""
    frames = np.random.default_rng(0).integers(20, 40, (num_frames, 48, 64)).astype(dtype)
    for time, image in enumerate(frames):
        left = 5 + 2 * time % 50
        image[20:23, left : left + 3] = bright
    return frames


@dataclass(frozen=True)
class Interrupted:
    """A source that fails after some frames, as Ctrl-C and broken files do."""

    whole: object
    after: int
    error: BaseException

    def __getattr__(self, name):
        return getattr(self.whole, name)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        for frame in self.whole.frames(start):
            if frame.index == self.after:
                raise self.error
            yield frame


@pytest.fixture
def stack(tmp_path):
    path = tmp_path / "stack.npy"
    np.save(path, moving_target())
    return open_frames(path)


@pytest.fixture
def threshold(tiny_pipeline) -> float:
    """Some two of a hundred pixels of the random networks are foreground."""
    return float(np.quantile(tiny_pipeline(moving_target()[0]).probability, 0.98))


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]


def test_a_frame_gives_what_it_gives_as_a_single_image(tiny_pipeline, stack, threshold, tmp_path):
    result = run_sequence(stack, "one", tiny_pipeline, arguments(), threshold, tmp_path, HEADER)
    lines = lines_of(tmp_path / "one")
    assert [line["frame"] for line in lines] == list(range(8)) and "tracks" not in lines[0]
    for line, image in zip(lines, moving_target(), strict=True):
        targets = predict(tiny_pipeline, image, arguments(), Decision(threshold, threshold))[2]
        assert targets and line["targets"] == [finite(asdict(target)) for target in targets]
    num_targets = sum(len(line["targets"]) for line in lines)
    assert result == SequenceResult(8, num_targets, 0, complete=True, error=None)
    summary = json.loads((tmp_path / "one" / "sequence.json").read_text())
    assert summary["complete"] and summary["error"] is None and summary["num_frames"] == 8
    with (tmp_path / "one" / "detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == num_targets and "track" not in rows[0]
    assert float(rows[0]["x"]) == lines[0]["targets"][0]["x"]


def test_tracks_are_those_of_the_tracker(tiny_pipeline, stack, threshold, tmp_path):
    run_sequence(stack, "one", tiny_pipeline, arguments(tracks=True), threshold, tmp_path, HEADER)
    tracker, expected = Tracker(), []
    for line in lines_of(tmp_path / "one"):
        expected.append(tracker.update(np.array([(t["x"], t["y"]) for t in line["targets"]]).reshape(-1, 2)))
        assert line["tracks"] == [asdict(track) for track in expected[-1]]
    assert any(expected)
    with (tmp_path / "one" / "tracks.csv").open() as file:
        assert [int(row["id"]) for row in csv.DictReader(file)] == [t.id for tracks in expected for t in tracks]
    with (tmp_path / "one" / "detections.csv").open() as file:
        followed = [(int(row["frame"]), int(row["track"])) for row in csv.DictReader(file) if row["track"]]
    seen = [(frame, t) for frame, tracks in enumerate(expected) for t in tracks if t.target is not None]
    assert followed == [(frame, t.id) for frame, t in sorted(seen, key=lambda pair: (pair[0], pair[1].target))]


@pytest.mark.parametrize(("after", "video"), ((1, False), (5, True)))
def test_a_resumed_run_ends_as_an_uninterrupted_one(tiny_pipeline, stack, threshold, tmp_path, after, video):
    if video:
        pytest.importorskip("av")
    asked = arguments(tracks=True, annotated_video=video)
    run_sequence(stack, "whole", tiny_pipeline, asked, threshold, tmp_path, HEADER)
    with pytest.raises(KeyboardInterrupt):
        stopped = Interrupted(stack, after, KeyboardInterrupt())
        run_sequence(stopped, "parts", tiny_pipeline, asked, threshold, tmp_path, HEADER)
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    assert len(lines_of(parts)) == after
    assert json.loads((parts / "sequence.json").read_text())["complete"] is False
    kept = RESULTS[parts]
    assert (kept.num_frames, kept.complete, kept.error) == (after, False, None)
    assert kept.num_targets == sum(len(line["targets"]) for line in lines_of(parts)) > 0
    with (parts / "detections.jsonl").open("a") as file:
        file.write('{"file": "stack.npy", "targ')  # what a kill leaves
    calls, run = [], tiny_pipeline.predict_probability
    tiny_pipeline.predict_probability = lambda *given: calls.append(1) or run(*given)
    again = argparse.Namespace(**vars(asked) | {"resume": True})
    result = run_sequence(stack, "parts", tiny_pipeline, again, threshold, tmp_path, HEADER)
    assert len(calls) == 8 - after and result.num_frames == 8
    for path in whole.iterdir():
        found = (parts / path.name).read_bytes().replace(b'"name": "parts"', b'"name": "whole"')
        assert found == path.read_bytes(), path.name
    assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}


def test_without_resume_it_begins_anew(tiny_pipeline, stack, threshold, tmp_path):
    for _ in range(2):
        run_sequence(stack, "one", tiny_pipeline, arguments(), threshold, tmp_path, HEADER)
    assert len(lines_of(tmp_path / "one")) == 8


def test_a_shorter_sequence_leaves_nothing_of_the_one_before(tiny_pipeline, stack, threshold, tmp_path):
    pytest.importorskip("av")
    asked = arguments(write=("masks", "overlays"), tracks=True, annotated_video=True)
    run_sequence(stack, "one", tiny_pipeline, asked, threshold, tmp_path, HEADER)
    (tmp_path / "one" / "notes.txt").write_text("mine")
    np.save(tmp_path / "short.npy", moving_target(3))
    short = open_frames(tmp_path / "short.npy")
    run_sequence(short, "one", tiny_pipeline, arguments(write=("masks",)), threshold, tmp_path, HEADER)
    run_sequence(short, "new", tiny_pipeline, arguments(write=("masks",)), threshold, tmp_path, HEADER)
    assert pictures_of(tmp_path / "one") == pictures_of(tmp_path / "new")
    left = {path.name for path in (tmp_path / "one").iterdir()} - {path.name for path in (tmp_path / "new").iterdir()}
    assert left == {"notes.txt", "overlays"}


def test_the_range_is_that_of_the_frames_before_a_damaged_one(tmp_path):
    frames = np.tile(np.linspace(10, 20, 64, dtype=np.float32), (100, 48, 1))
    frames[-1] = np.nan
    np.save(tmp_path / "stack.npy", frames)
    assert sequence_range(open_frames(tmp_path / "stack.npy")) == pytest.approx((10, 20), abs=0.2)
    frames[0] = np.nan
    np.save(tmp_path / "stack.npy", frames)
    with pytest.raises(ImageReadError):
        sequence_range(open_frames(tmp_path / "stack.npy"))


def test_a_run_with_other_settings_is_not_resumed(tiny_pipeline, stack, threshold, tmp_path):
    run_sequence(stack, "one", tiny_pipeline, arguments(), threshold, tmp_path, HEADER)
    before = (tmp_path / "one" / "detections.jsonl").read_bytes()
    with pytest.raises(CommandError, match="--resume: .* was made with settings .*0.*, now it is .*1"):
        changed = {**HEADER, "settings": {"seed": 1}}
        run_sequence(stack, "one", tiny_pipeline, arguments(resume=True), threshold, tmp_path, changed)
    assert (tmp_path / "one" / "detections.jsonl").read_bytes() == before
    (tmp_path / "one" / "sequence.json").write_text("[]")
    with pytest.raises(CommandError, match="is not what `detect` writes"):
        run_sequence(stack, "one", tiny_pipeline, arguments(resume=True), threshold, tmp_path, HEADER)


def test_frames_before_a_broken_one_are_kept(tiny_pipeline, stack, threshold, tmp_path):
    broken = Interrupted(stack, 3, ImageReadError("cannot read video 'stack.npy': frame 3 is damaged"))
    with pytest.raises(ImageReadError, match="frame 3"):
        run_sequence(broken, "one", tiny_pipeline, arguments(), threshold, tmp_path, HEADER)
    assert len(lines_of(tmp_path / "one")) == 3
    summary = json.loads((tmp_path / "one" / "sequence.json").read_text())
    assert not summary["complete"] and "frame 3 is damaged" in summary["error"]
    kept = RESULTS[tmp_path / "one"]
    assert (kept.num_frames, kept.complete) == (3, False) and "frame 3 is damaged" in kept.error


def test_a_full_disk_leaves_whole_lines(tiny_pipeline, stack, threshold, tmp_path, monkeypatch):
    written = []

    class Filling(io.FileIO):
        def write(self, data):
            written.append(bytes(data))
            if len(written) == 6:
                super().write(data[:9])
                raise OSError(28, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(outputs.io, "FileIO", Filling)
    with pytest.raises(OSError, match="No space left"):
        run_sequence(stack, "one", tiny_pipeline, arguments(), threshold, tmp_path, HEADER)
    assert (tmp_path / "one" / "detections.jsonl").read_bytes() == b"".join(written[:5])
    assert len(lines_of(tmp_path / "one")) == 5


def pictures_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_pictures_are_those_of_the_frames_as_single_images(tiny_pipeline, threshold, tmp_path):
    frames = moving_target(dtype=np.uint16, bright=60) + 8000
    np.save(tmp_path / "stack.npy", frames)
    source = open_frames(tmp_path / "stack.npy")
    run_sequence(source, "none", tiny_pipeline, arguments(), threshold, tmp_path, HEADER)
    assert not pictures_of(tmp_path / "none")
    asked = arguments(write=("masks", "overlays", "probability", "csv"))
    run_sequence(source, "one", tiny_pipeline, asked, threshold, tmp_path, HEADER)
    names = [f"{kind}/{frame:06}.png" for kind in ("masks", "overlays", "probability") for frame in range(8)]
    assert list(pictures_of(tmp_path / "one")) == names
    for number, image in enumerate(frames):
        probability, mask, targets = predict(
            tiny_pipeline, image, asked, Decision(threshold, threshold), sequence_range(source)
        )
        paths = {kind: tmp_path / "one" / kind / f"{number:06}.png" for kind in ("masks", "overlays", "probability")}
        shown = {kind: np.asarray(Image.open(path)) for kind, path in paths.items()}
        np.testing.assert_array_equal(shown["masks"], mask * np.uint8(255))
        np.testing.assert_allclose(shown["probability"] / 65535, probability, atol=0.501 / 65535)
        expected = draw_overlay(displayable(image, sequence_range(source)), targets)
        np.testing.assert_array_equal(shown["overlays"], np.asarray(expected))


def test_pictures_of_a_resumed_run_are_those_of_an_uninterrupted_one(tiny_pipeline, stack, threshold, tmp_path):
    asked = arguments(write=("masks", "overlays"))
    run_sequence(stack, "whole", tiny_pipeline, asked, threshold, tmp_path, HEADER)
    with pytest.raises(KeyboardInterrupt):
        stopped = Interrupted(stack, 5, KeyboardInterrupt())
        run_sequence(stopped, "parts", tiny_pipeline, asked, threshold, tmp_path, HEADER)
    assert len(pictures_of(tmp_path / "parts")) == 2 * 5
    with pytest.raises(CommandError, match="was made with pictures .*masks.*, now it is .*probability"):
        others = arguments(write=("probability",), resume=True)
        run_sequence(stack, "parts", tiny_pipeline, others, threshold, tmp_path, HEADER)
    again = argparse.Namespace(**vars(asked) | {"resume": True})
    run_sequence(stack, "parts", tiny_pipeline, again, threshold, tmp_path, HEADER)
    assert pictures_of(tmp_path / "parts") == pictures_of(tmp_path / "whole")


def test_pictures_of_other_origin_are_not_overwritten(tiny_pipeline, stack, threshold, tmp_path):
    (tmp_path / "set" / "masks").mkdir(parents=True)
    (tmp_path / "set" / "masks" / "000000.png").write_bytes(b"truth")
    with pytest.raises(CommandError, match="set: its masks/ holds files that `detect` did not write"):
        run_sequence(stack, "set", tiny_pipeline, arguments(write=("masks",)), threshold, tmp_path, HEADER)
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["masks"]
    for _ in range(2):
        run_sequence(stack, "own", tiny_pipeline, arguments(write=("masks",)), threshold, tmp_path, HEADER)


def test_black_hot_frames_are_mirrored(tiny_pipeline, stack, threshold, tmp_path):
    run_sequence(stack, "white", tiny_pipeline, arguments(), threshold, tmp_path, HEADER)
    np.save(tmp_path / "mirrored.npy", 255 - moving_target())
    mirrored, black = open_frames(tmp_path / "mirrored.npy"), arguments(polarity="black-hot")
    run_sequence(mirrored, "black", tiny_pipeline, black, threshold, tmp_path, HEADER)
    white, black = (lines_of(tmp_path / name) for name in ("white", "black"))
    assert [[t["x"] for t in line["targets"]] for line in white] == [
        [t["x"] for t in line["targets"]] for line in black
    ]


def test_one_range_for_all_frames_of_16_bits(tiny_pipeline, threshold, tmp_path):
    """Frame 3 alone holds a hot spot: taken by itself it is another image, in the sequence's range it is not."""
    frames = moving_target(dtype=np.uint16, bright=60) + 8000
    frames[3, 40:44, 40:60] = 12000
    np.save(tmp_path / "stack.npy", frames)
    source = open_frames(tmp_path / "stack.npy")
    expected = tuple(np.percentile(frames, (0.1, 99.9)))
    assert sequence_range(source) == pytest.approx(expected)
    run_sequence(source, "one", tiny_pipeline, arguments(), threshold, tmp_path, HEADER)
    header = json.loads((tmp_path / "one" / "sequence.json").read_text())["header"]
    assert header["input_range"] == "sequence" and header["value_range"] == pytest.approx(expected)
    for name, asked, used in (("two", "frame", None), ("three", (7900, 8100), (7900, 8100)), ("one", None, expected)):
        changed = arguments(input_range=asked)
        run_sequence(source, name, tiny_pipeline, changed, threshold, tmp_path, HEADER)
        targets = predict(tiny_pipeline, frames[0], changed, Decision(threshold, threshold), used)[2]
        assert lines_of(tmp_path / name)[0]["targets"] == [finite(asdict(target)) for target in targets]


def test_the_range_of_bytes_is_fixed_and_long_sequences_are_sampled(tmp_path):
    np.save(tmp_path / "bytes.npy", moving_target())
    assert sequence_range(open_frames(tmp_path / "bytes.npy")) is None
    np.save(tmp_path / "constant.npy", np.full((3, 4, 5), 7, np.uint16))
    assert sequence_range(open_frames(tmp_path / "constant.npy")) is None
    ramp = np.repeat(np.arange(100, dtype=np.uint16), 20).reshape(100, 4, 5)
    np.save(tmp_path / "ramp.npy", ramp)
    assert sequence_range(open_frames(tmp_path / "ramp.npy")) == (0, 99)
    assert len(np.unique(np.linspace(0, 99, SAMPLED_FRAMES).round())) == 32


def test_a_robust_range_is_that_of_the_measured_pixels_of_all_frames(tmp_path):
    """Each frame has a letterbox of its own."""
    for dtype in (np.uint8, np.uint16):
        frames = np.random.default_rng(0).integers(50, 200, (80, 40, 64)).astype(dtype)
        frames[40:] //= 2
        frames[:, :10] = np.arange(170, 250, dtype=dtype)[:, None, None]
        np.save(tmp_path / "stack.npy", frames)
        source = open_frames(tmp_path / "stack.npy")
        sampled = frames[np.unique(np.linspace(0, 79, SAMPLED_FRAMES).round().astype(int)), 10:]
        assert sequence_range(source, None, "robust") == robust_range_of_values(sampled.ravel())
        first = robust_range_of_values(frames[0, 10:].ravel())
        assert sequence_range(source, 1, "robust") == first
    np.save(tmp_path / "constant.npy", np.full((3, 40, 50), 7, np.uint8))
    assert sequence_range(open_frames(tmp_path / "constant.npy"), None, "robust") is None
    with pytest.raises(ValueError, match="`normalization`"):
        sequence_range(source, None, "minmax")


def write_video(path: Path, frames: np.ndarray) -> None:
    """(N, H, W) uint8, without loss."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=frames.shape[2], height=frames.shape[1])
        stream.pix_fmt = "gray"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())


@pytest.mark.parametrize("name", ["stack.npy", "clip.mkv"])
def test_a_robust_checkpoint_has_one_range_for_frames_of_8_bits(tiny_pipeline, tmp_path, name):
    tiny_pipeline.register_to_config(normalization="robust")
    tiny_pipeline.save_pretrained(tmp_path / "model")
    frames = moving_target()
    frames[4:] += 30
    path = tmp_path / name
    write_video(path, frames) if name == "clip.mkv" else np.save(path, frames)
    lo, hi = robust_range_of_values(frames.ravel())
    for asked, used in (("sequence", (lo, hi)), ("frame", None)):
        threshold = float(np.quantile(tiny_pipeline(frames[0], input_range=used).probability, 0.98))
        flags = ["--model", str(tmp_path / "model"), "--input-range", asked, "--threshold", str(threshold)]
        folder = tmp_path / asked
        assert main(["detect", str(path), *flags, "--write", "overlays", "--output", str(folder)]) == 0
        header = json.loads((folder / path.stem / "sequence.json").read_text())["header"]
        assert header["value_range"] == (None if used is None else pytest.approx(used))
        for image, line in zip(frames, lines_of(folder / path.stem), strict=True):
            targets = predict(tiny_pipeline, image, arguments(), Decision(threshold, threshold), used)[2]
            assert line["targets"] == [finite(asdict(target)) for target in targets]
        shown = np.asarray(Image.open(folder / path.stem / "overlays" / "000007.png"))
        twice = None if used is None else (lo - (hi - lo) / 2, hi + (hi - lo) / 2)
        np.testing.assert_array_equal(shown, np.asarray(draw_overlay(displayable(frames[7], twice), targets)))


def test_the_range_of_a_video_is_sampled_in_one_pass(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=16, height=16)
        stream.pix_fmt = "gray16le"
        for value in range(200):
            image = np.full((16, 16), value, np.uint16)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray16le")))
        container.mux(stream.encode())
    lo, hi = sequence_range(open_frames(tmp_path / "clip.mkv"))
    assert lo == 0 and 190 <= hi <= 199


def test_the_annotated_video_shows_the_targets(tiny_pipeline, threshold, tmp_path):
    av = pytest.importorskip("av")
    np.save(tmp_path / "odd.npy", moving_target()[:, :47, :63])
    source, asked = open_frames(tmp_path / "odd.npy"), arguments(tracks=True, annotated_video=True)
    run_sequence(source, "one", tiny_pipeline, asked, threshold, tmp_path, HEADER)
    with av.open(str(tmp_path / "one" / "annotated.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(shown) == 8 and all(side % 2 == 0 for side in shown[0].shape[:2])
    assert max(shown[0].shape) >= 640
    for image, line in zip(shown, lines_of(tmp_path / "one"), strict=True):
        red = (image[..., 0] > image[..., 1] + 80) & (image[..., 0] > image[..., 2] + 80)
        assert red.any() and line["targets"]
    assert not list((tmp_path / "one").glob(".*"))


def test_frames_that_cannot_be_encoded_are_an_error_with_a_reason(tmp_path):
    pytest.importorskip("av")
    video = AnnotatedVideo(tmp_path / "annotated.mp4", 25)
    for encode in (lambda: video.add(np.zeros((8, 17000), np.uint8), [], []), video.close):
        with pytest.raises(RuntimeError, match=r"annotated\.mp4 cannot be encoded: "):
            encode()
    assert not (tmp_path / "annotated.mp4").exists()


def test_what_a_kill_leaves_of_the_annotated_video_can_be_played(tmp_path):
    av = pytest.importorskip("av")
    video = AnnotatedVideo(tmp_path / "annotated.mp4", 25)
    for image in moving_target(60):
        video.add(image, [], [])
    shutil.copy(tmp_path / ".annotated.mp4.part", tmp_path / "left.mp4")
    video.close()
    with av.open(str(tmp_path / "left.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 25
    with av.open(str(tmp_path / "annotated.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 60


@dataclass(frozen=True)
class Watched:
    """A source that notes what `measure` gives at every n-th frame."""

    whole: object
    every: int
    measure: Callable[[], float]
    noted: list[float] = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.whole, name)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        for frame in self.whole.frames(start):
            if frame.index % self.every == self.every - 1:
                self.noted.append(self.measure())
            yield frame


def traced_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def few_targets(pipeline) -> float:
    """A threshold above which one of a thousand pixels lies."""
    return float(np.quantile(pipeline(moving_target()[0]).probability, 0.999))


def test_memory_does_not_grow_with_the_frames(tiny_pipeline, tmp_path):
    threshold = few_targets(tiny_pipeline)
    np.save(tmp_path / "stack.npy", moving_target(400))
    source = Watched(open_frames(tmp_path / "stack.npy"), 10, traced_bytes)
    tracemalloc.start()
    asked = arguments(tracks=True, write=("masks", "probability"))
    run_sequence(source, "one", tiny_pipeline, asked, threshold, tmp_path, HEADER)
    tracemalloc.stop()
    assert len(source.noted) == 40
    # The halves lie 553 KB of frames and 2.2 MB of their probabilities apart. What is on its way at a moment differs
    # by up to 250 KB, the most of it in 20 moments hardly.
    assert max(source.noted[20:]) - max(source.noted[:20]) < 150_000


def write_long_video(path: Path, num_frames: int) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=64, height=48)
        stream.pix_fmt = "gray"
        frames = moving_target(100)
        for number in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[number % 100], format="gray")))
        container.mux(stream.encode())
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_ten_thousand_frames_in_constant_memory(tiny_pipeline, tmp_path):
    threshold = few_targets(tiny_pipeline)
    source = Watched(open_frames(write_long_video(tmp_path / "long.mkv", 10_000)), 1000, resident_mib)
    asked = arguments(tracks=True, annotated_video=True)
    result = run_sequence(source, "long", tiny_pipeline, asked, threshold, tmp_path, HEADER)
    assert result.num_frames == 10_000
    print("resident MiB:", *(f"{mib:.0f}" for mib in source.noted))
    assert source.noted[-1] - source.noted[0] < 16


def test_a_record_survives_its_line(tiny_pipeline, threshold):
    _, mask, targets = predict(tiny_pipeline, moving_target()[0], arguments(), Decision(threshold, threshold))
    odd = [replace(targets[0], scr=float("nan")), *targets[1:]]
    tracks = Tracker().update(np.array([(target.x, target.y) for target in targets]))
    record = Record("a.npy", "a", 64, 48, odd, mask, 3, 0.12, tracks)
    again = Record.from_json(record.to_json())
    np.testing.assert_array_equal(again.mask, mask)
    assert again.tracks == tracks and (again.frame, again.time_s) == (3, 0.12)
    assert np.isnan(again.targets[0].scr)
    assert again.to_json() == record.to_json() and again.targets[1:] == record.targets[1:]

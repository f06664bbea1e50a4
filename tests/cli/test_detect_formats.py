"""What `irstd-ldm detect` reads and how: ranges, polarity, raw frames, sequences, sizes; the standard output."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from irstd_ldm import IRSTDDiffPipeline, IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.cli.main import main
from irstd_ldm.data.images import invert_polarity
from irstd_ldm.data.planted_targets import SyntheticScene
from irstd_ldm.data.synthetic import synthetic_scene

RNG = np.random.default_rng(0)
ONE_RANGE = ("--input-range", "7900,8500")


@pytest.fixture
def detect(tiny_checkpoint, tmp_path):
    """Runs the command into tmp_path/NAME; returns exit code and folder."""

    def run(*arguments, name: str = "out") -> tuple[int, Path]:
        command = ["detect", *map(str, arguments), "--model", str(tiny_checkpoint), "--device", "cpu"]
        return main([*command, "--output", str(tmp_path / name)]), tmp_path / name

    return run


@pytest.fixture
def frame16() -> np.ndarray:
    """14-bit, (48, 64), with a target."""
    image = RNG.normal(8000, 20, (48, 64))
    image[20:23, 30:33] += 400
    return image.astype(np.uint16)


@pytest.fixture
def threshold(tiny_checkpoint, frame16) -> float:
    """Leaves some targets of the random network on the frame, in `ONE_RANGE`."""
    pipeline = IRSTDLatentPipeline.from_pretrained(tiny_checkpoint)
    return float(np.quantile(pipeline(frame16, input_range=(7900, 8500)).probability, 0.99))


def probability(folder: Path, name: str) -> np.ndarray:
    with Image.open(folder / "probability" / f"{name}.png") as picture:
        return np.asarray(picture) / 65535


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_range_of_gray_values_is_the_pipelines_argument(detect, tiny_checkpoint, frame16, tmp_path):
    Image.fromarray(frame16).save(tmp_path / "a.png")
    pipeline = IRSTDLatentPipeline.from_pretrained(tiny_checkpoint)
    found = {}
    for given, input_range in ((None, None), ("frame", None), ("7000,9000", (7000, 9000))):
        flags = [] if given is None else ["--input-range", given]
        code, out = detect(tmp_path / "a.png", "--write", "probability", *flags, name=f"{given}")
        assert code == 0
        found[given] = probability(out, "a")
        expected = pipeline(frame16, input_range=input_range).probability[0, 0]
        np.testing.assert_allclose(found[given], expected, atol=1e-4)
        header = json.loads((out / "detections.json").read_text())
        assert header["input_range"] == (list(input_range) if input_range else given)
    assert np.abs(found["7000,9000"] - found[None]).max() > 1e-3


def test_black_hot_frames_are_mirrored_and_drawn_as_they_are(detect, frame16, tmp_path):
    for name, image in (("white", frame16), ("black", invert_polarity(frame16))):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    for flags in ([], ["--input-range", "7000,9000"]):
        _, black = detect(tmp_path / "black.png", "--polarity", "black-hot", "--write", "probability,overlays", *flags)
        if flags:
            mirrored = invert_polarity(invert_polarity(frame16), (7000, 9000))
            Image.fromarray(mirrored).save(tmp_path / "white.tif")
        white_file = tmp_path / ("white.tif" if flags else "white.png")
        _, white = detect(white_file, "--write", "probability", *flags, name="w")
        np.testing.assert_allclose(probability(black, "black"), probability(white, "white"), atol=2e-4)
    _, drawn = detect(tmp_path / "black.png", "--write", "overlays", "--threshold", 1, name="d")
    overlays = [np.asarray(Image.open(folder / "overlays" / "black.png")) for folder in (black, drawn)]
    assert abs(np.median(overlays[0]) - np.median(overlays[1])) < 10  # boxes cover some pixels of one of them


def test_a_band_of_a_tiff_is_chosen(detect, frame16, tmp_path, capsys):
    bands = np.stack([frame16[::-1], frame16], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", bands, photometric="minisblack", planarconfig="contig")
    Image.fromarray(frame16).save(tmp_path / "alone.png")
    code, _ = detect(tmp_path / "a.tif")
    assert code == 1 and "choose it by `band` (`--band N`, from 1)" in capsys.readouterr().err
    code, out = detect(tmp_path / "a.tif", "--band", 2, "--write", "probability")
    _, alone = detect(tmp_path / "alone.png", "--write", "probability", name="alone")
    assert code == 0 and json.loads((out / "detections.json").read_text())["band"] == 2
    np.testing.assert_array_equal(probability(out, "a"), probability(alone, "alone"))
    stack = np.stack([bands, bands])
    tifffile.imwrite(tmp_path / "two.tif", stack, photometric="minisblack", planarconfig="contig")
    code, out = detect(tmp_path / "two.tif", "--band", 2, name="two")
    header = json.loads((out / "two" / "sequence.json").read_text())["header"]
    assert code == 0 and header["band"] == 2 and header["value_range"] is not None


def test_raw_frames_of_a_folder(detect, frame16, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    frame16.astype(">u2").tofile(folder / "one.raw")
    np.stack([frame16, frame16]).astype(">u2").tofile(folder / "two.bin")
    Image.fromarray(frame16).save(folder / "same.png")
    code, out = detect(folder, "--raw", "64x48:uint16be", "--write", "probability")
    content = json.loads((out / "detections.json").read_text())
    assert code == 0
    assert [image["name"] for image in content["images"]] == ["one", "same"]
    assert [(s["name"], s["num_frames"]) for s in content["sequences"]] == [("two", 2)]
    np.testing.assert_array_equal(probability(out, "one"), probability(out, "same"))
    code, out = detect(folder, name="without")
    assert [image["name"] for image in json.loads((out / "detections.json").read_text())["images"]] == ["same"]


def test_an_input_of_several_frames_has_a_folder_of_its_own(detect, frame16, threshold, tmp_path, capsys):
    np.save(tmp_path / "stack.npy", np.stack([frame16] * 3))
    Image.fromarray(frame16).save(tmp_path / "a.png")
    code, out = detect(tmp_path / "stack.npy", tmp_path / "a.png", "--threshold", threshold, *ONE_RANGE)
    assert code == 0
    frames = lines((out / "stack" / "detections.jsonl").read_text())
    content = json.loads((out / "detections.json").read_text())
    assert [frame["frame"] for frame in frames] == [0, 1, 2]
    assert frames[0]["targets"] == content["images"][0]["targets"] != []
    num_targets = 3 * len(frames[0]["targets"])
    assert content["sequences"] == [
        {
            "file": str(tmp_path / "stack.npy"),
            "name": "stack",
            "num_frames": 3,
            "num_targets": num_targets,
            "num_tracks": 0,
            "num_left_out": 0,
            "complete": True,
            "error": None,
        }
    ]
    assert content["complete"] is True
    total = num_targets + num_targets // 3
    assert f"images: 1, sequences: 1, targets: {total}; " in capsys.readouterr().out


def test_a_broken_sequence_is_one_line_and_the_others_are_done(detect, frame16, tmp_path, capsys):
    pages = [Image.fromarray(frame16)] * 3
    pages[0].save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=pages[1:])
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[-300:-200] = bytes(100)  # of the last page
    (tmp_path / "a.tif").write_bytes(content)
    pages[0].save(tmp_path / "b.png")
    code, out = detect(tmp_path / "a.tif", tmp_path / "b.png", *ONE_RANGE)
    assert code == 1
    first, last = capsys.readouterr().err.splitlines()[-2:]
    assert "a.tif" in first and last == "irstd-ldm detect: 1 of 2 inputs failed"
    content = json.loads((out / "detections.json").read_text())
    assert [image["name"] for image in content["images"]] == ["b"]
    (sequence,) = content["sequences"]
    assert (sequence["num_frames"], sequence["complete"]) == (2, False) and "a.tif" in sequence["error"]
    assert content["complete"] is True


def test_the_limit_of_megapixels(detect, frame16, tmp_path, capsys):
    Image.fromarray(frame16).save(tmp_path / "a.png")
    assert detect(tmp_path / "a.png", "--max-megapixels", 0.003)[0] == 1
    assert "64x48 is more than the limit of 0.003 megapixels" in capsys.readouterr().err
    assert detect(tmp_path / "a.png", "--max-megapixels", 0.004)[0] == 0


def test_pillows_own_limit_gives_way_to_the_commands(detect, frame16, tmp_path, monkeypatch, capsys):
    Image.fromarray(frame16).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert detect(tmp_path / "a.png")[0] == 0
    assert Image.MAX_IMAGE_PIXELS == 100
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "flags",
    [
        ["--write", "masks,pngs"],
        ["--raw", "640x512"],
        ["--input-range", "9,3"],
        ["--input-range", "wide"],
        ["--input-range", "0,inf"],
        ["--polarity", "hot"],
        ["--max-megapixels", "0"],
    ],
)
def test_wrong_flags_are_wrong_usage(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["detect", *flags])
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


def start(*arguments, **keywords) -> subprocess.Popen:
    command = [sys.executable, "-m", "irstd_ldm.cli", "detect", *map(str, arguments), "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords)


def test_the_standard_output_holds_lines_of_json_alone(tiny_checkpoint, frame16, threshold, tmp_path):
    Image.fromarray(frame16).save(tmp_path / "a.png")
    np.save(tmp_path / "stack.npy", np.stack([frame16] * 2))
    (tmp_path / "broken.tif").write_bytes(b"II*\0....")
    arguments = [tmp_path / name for name in ("a.png", "broken.tif", "stack.npy")]
    work = tmp_path / "work"
    work.mkdir()
    flags = ["--threshold", threshold, *ONE_RANGE, "--model", tiny_checkpoint, "--output", "-"]
    process = start(*arguments, *flags, cwd=work)
    out, err = process.communicate(timeout=120)
    first, frame_0, frame_1, failed = lines(out)
    assert first["name"] == "a" and first["targets"] == frame_0["targets"] == frame_1["targets"] != []
    assert (frame_0["frame"], frame_1["frame"], frame_1["name"]) == (0, 1, "stack")
    assert list(first) == ["file", "name", "width", "height", "targets", "mask"]
    assert list(frame_0) == ["file", "name", "width", "height", "targets", "frame", "mask"]
    assert failed["file"] == str(tmp_path / "broken.tif") and "TIFF" in failed["error"]
    assert err.splitlines() == [
        f"irstd-ldm detect: {failed['error']}",
        "irstd-ldm detect: 1 of 3 inputs failed",
    ]
    assert process.returncode == 1
    assert list(work.iterdir()) == []


def test_failures_are_lines_where_no_input_is_left(tmp_path, capsys):
    assert main(["detect", str(tmp_path / "none*.png"), "--output", "-"]) == 1
    (failed,) = lines(capsys.readouterr().out)
    assert failed == {"file": str(tmp_path / "none*.png"), "error": "no file matches"}


def test_a_refused_sequence_is_one_failure_and_the_others_are_done(detect, frame16, tmp_path, capsys):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.stack([frame16] * 2))
    inputs = (tmp_path / "a.npy", tmp_path / "b.npy")
    assert detect(*inputs)[0] == 0
    np.save(tmp_path / "a.npy", np.stack([frame16] * 3))
    code, out = detect(*inputs, "--resume")
    assert code == 1
    assert f"{tmp_path / 'a.npy'}: --resume: {out / 'a'} was made with file_bytes" in capsys.readouterr().err
    content = json.loads((out / "detections.json").read_text())
    assert [sequence["name"] for sequence in content["sequences"]] == ["b"] and content["complete"] is True
    assert [failure["file"] for failure in content["failed"]] == [str(tmp_path / "a.npy")]
    assert len((out / "a" / "detections.jsonl").read_text().splitlines()) == 2


def test_results_of_a_sequence_that_cannot_be_written_are_its_failure(detect, frame16, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.stack([frame16] * 2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("a file")
    assert detect(tmp_path / "a.npy")[0] == 1
    place = tmp_path / "out" / "a"
    assert f"{tmp_path / 'a.npy'}: cannot write its results: {place}: File exists" in capsys.readouterr().err


def test_a_range_may_begin_below_zero(detect, frame16, tmp_path):
    celsius = (frame16.astype(np.float32) - 8000) / 10
    Image.fromarray(celsius).save(tmp_path / "a.tif")
    (apart, first), (joined, second) = (
        detect(tmp_path / "a.tif", *words, "--write", "probability", name=name)
        for name, words in {"apart": ("--input-range", "-20,40"), "joined": ("--input-range=-20,40",)}.items()
    )
    assert apart == joined == 0
    assert json.loads((first / "detections.json").read_text())["input_range"] == [-20, 40]
    np.testing.assert_array_equal(probability(first, "a"), probability(second, "a"))


@pytest.mark.parametrize(
    "flags", [[], *([flag, "a.png"] for flag in ("--annotated-video", "--resume", "--write=csv"))]
)
def test_what_needs_files_does_not_go_to_the_standard_output(flags, capsys):
    assert main(["detect", *flags, "--output", "-"]) == 2
    assert capsys.readouterr().err.startswith("irstd-ldm detect: --output -: not with ")


def test_a_full_disk_behind_the_standard_output_is_one_line(tiny_checkpoint, frame16, tmp_path):
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("needs /dev/full (Linux)")
    Image.fromarray(frame16).save(tmp_path / "a.png")
    np.save(tmp_path / "stack.npy", np.stack([frame16] * 2))
    flags = ["--model", str(tiny_checkpoint), "--device", "cpu"]

    def run(*names: str, output: str) -> list[str]:
        inputs = [str(tmp_path / name) for name in names]
        command = [sys.executable, "-m", "irstd_ldm.cli", "detect", *inputs, *flags, "--output", output]
        with full.open("w") as out:
            done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        return done.stderr.splitlines()

    told = "irstd-ldm detect: cannot write to the standard output: No space left on device"
    assert run("stack.npy", output="-") == [told]
    missing, *others = run("missing.png", "a.png", output="-")
    assert "missing.png" in missing and others == [told]
    assert run("a.png", output=str(tmp_path / "out")) == [told]
    assert json.loads((tmp_path / "out" / "detections.json").read_text())["complete"] is True


def test_a_reader_that_leaves_ends_the_command(tiny_checkpoint, frame16, tmp_path):
    for index in range(50):
        Image.fromarray(frame16).save(tmp_path / f"{index:02}.png")
    process = start(tmp_path, "--threshold", 1, "--model", tiny_checkpoint, "--output", "-")
    json.loads(process.stdout.readline())
    process.stdout.close()
    assert process.wait(timeout=120) == 130
    assert process.stderr.read() == ""


def test_ctrl_c_leaves_whole_lines(tiny_checkpoint, frame16, tmp_path):
    np.save(tmp_path / "stack.npy", np.stack([frame16] * 300))

    def heed_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    arguments = [tmp_path / "stack.npy", "--threshold", 1, "--model", tiny_checkpoint, "--output", "-"]
    process = start(*arguments, preexec_fn=heed_ctrl_c)
    first = process.stdout.readline()
    os.kill(process.pid, signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    frames = lines(first + rest)
    assert [frame["frame"] for frame in frames] == list(range(len(frames)))
    assert len(frames) < 300
    assert process.returncode == 130
    assert err.splitlines() == ["irstd-ldm detect: interrupted; what is written stays"]


def test_ctrl_c_in_a_sequence_tells_what_is_kept(tiny_checkpoint, frame16, tmp_path):
    np.save(tmp_path / "stack.npy", np.stack([frame16] * 300))
    out = tmp_path / "out"

    def heed_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    arguments = [tmp_path / "stack.npy", "--threshold", 0, "--model", tiny_checkpoint, "--output", out]
    process = start(*arguments, preexec_fn=heed_ctrl_c)
    written, deadline = out / "stack" / "detections.jsonl", time.monotonic() + 120
    while not (written.exists() and written.read_bytes().count(b"\n") > 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 130
    frames = lines(written.read_text())
    assert 2 < len(frames) < 300
    content = json.loads((out / "detections.json").read_text())
    (sequence,) = content["sequences"]
    assert (sequence["num_frames"], sequence["complete"], sequence["error"]) == (len(frames), False, None)
    assert sequence["num_targets"] == sum(len(frame["targets"]) for frame in frames) > 0
    assert content["complete"] is False
    assert f"sequences: 1 (1 in part), targets: {sequence['num_targets']}; " in printed
    assert err.splitlines() == [
        f"irstd-ldm detect: interrupted; what is written stays; --resume goes on after the {len(frames)} frames "
        f"of {tmp_path / 'stack.npy'}"
    ]


# Scenes of SCR 8 in the lowest 2 % of a 14-bit range, 327 of 16383 values.
KINDS = ("sky", "ground", "sea", "horizon")
SCENES = [synthetic_scene(kind=KINDS[seed % 4], num_targets=2, scr=8.0, seed=seed) for seed in range(10)]
LARGEST = 16383
DIM_RANGE = (0, 0.02 * LARGEST)
RANGE_MODEL = ("--model", "irstd_diff_small", "--device", "cpu")  # its normalization is "range"


def dim_frame(scene: SyntheticScene, num_saturated: int) -> np.ndarray:
    """(256, 256) uint16; the saturated pixels lie side by side in the corner that is farthest from the targets."""
    frame = np.rint(scene.image / 255 * DIM_RANGE[1]).astype(np.uint16)
    corners = [(x, y, frame[:: 1 - 2 * (y > 0), :: 1 - 2 * (x > 0)]) for x in (0, 255) for y in (0, 255)]  # views
    *_, corner = max(corners, key=lambda c: min(np.hypot(t.x - c[0], t.y - c[1]) for t in scene.targets))
    for index in range(num_saturated):
        corner[divmod(index, 26)] = LARGEST
    return frame


def found(scene: SyntheticScene, places: list[tuple[float, float]]) -> list[bool]:
    """Of each planted target, whether one of the places is within 3 px of it."""
    return [any(np.hypot(x - planted.x, y - planted.y) < 3 for x, y in places) for planted in scene.targets]


def test_dim_targets_in_the_lowest_part_of_a_14_bit_range_are_found_as_in_8_bits():
    """Also beside saturated pixels, as long as they are at most 0.1 % of the frame: 65 of 65536."""
    pipeline = IRSTDDiffPipeline.from_pretrained(bundled_checkpoint("irstd_diff_small"))

    def found_in(scene: SyntheticScene, image: np.ndarray) -> list[bool]:
        return found(scene, [(target.x, target.y) for target in pipeline(image).targets[0]])

    for scene in SCENES:
        assert dim_frame(scene, 0).max() <= 328
        in_8_bits = found_in(scene, scene.image)
        assert in_8_bits == [True, True]
        for num_saturated in (0, 50, 65):
            assert found_in(scene, dim_frame(scene, num_saturated)) == in_8_bits
    scaled_by_type = (dim_frame(SCENES[0], 0) / LARGEST * 255).astype(np.uint8)
    assert found_in(SCENES[0], scaled_by_type) == [False, False]


@pytest.mark.parametrize("num_saturated", [66, 131])  # 0.1007 %, 0.2 %
def test_a_range_finds_dim_targets_again_beside_many_saturated_pixels(tmp_path, num_saturated):
    """More than 0.1 % raise the 99.9 percentile to the largest value, and hide every dim target."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, scene in enumerate(SCENES):
        Image.fromarray(dim_frame(scene, num_saturated)).save(folder / f"{seed}.png")
    for flags, seen in (([], False), (["--input-range", "{},{}".format(*DIM_RANGE)], True)):
        out = tmp_path / f"out{seen}"
        assert main(["detect", str(folder), *RANGE_MODEL, *flags, "--write", "csv", "--output", str(out)]) == 0
        images = json.loads((out / "detections.json").read_text())["images"]
        assert len(images) == len(SCENES)
        for image, scene in zip(images, SCENES, strict=True):
            places = [(target["x"], target["y"]) for target in image["targets"]]
            assert found(scene, places) == [seen, seen], (image["name"], flags)


def test_one_range_of_a_sequence_finds_dim_targets_of_a_frame_with_many_saturated_pixels(tmp_path):
    """0.2 % of one frame of four are 0.05 % of them together."""
    scene = SCENES[0]
    np.save(tmp_path / "stack.npy", np.stack([dim_frame(scene, number) for number in (0, 0, 131, 0)]))
    for kind, seen in (("frame", False), ("sequence", True)):
        flags = [*RANGE_MODEL, "--input-range", kind, "--output", str(tmp_path / kind)]
        assert main(["detect", str(tmp_path / "stack.npy"), *flags]) == 0
        frames = lines((tmp_path / kind / "stack" / "detections.jsonl").read_text())
        places = [(target["x"], target["y"]) for target in frames[2]["targets"]]
        assert found(scene, places) == [seen, seen]


@pytest.mark.parametrize("num_saturated", [0, 50, 131])  # 131 are 0.2 % of the frame
def test_dim_targets_are_found_beside_saturated_pixels_by_the_robust_range(num_saturated):
    """Also beside saturated pixels, which do not move the robust range."""
    pipeline = IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())
    for scene in SCENES:
        frame = dim_frame(scene, num_saturated)
        assert frame[frame < LARGEST].max() <= 328
        for image in (scene.image, frame):
            assert found(scene, [(target.x, target.y) for target in pipeline(image).targets[0]]) == [True, True]


def test_one_range_of_a_sequence_finds_dim_targets_as_each_frames_own(tmp_path):
    scene = SCENES[0]
    np.save(tmp_path / "stack.npy", np.stack([dim_frame(scene, number) for number in (0, 0, 131, 0)]))
    for kind in ("frame", "sequence"):
        flags = ["--device", "cpu", "--input-range", kind, "--output", str(tmp_path / kind)]
        assert main(["detect", str(tmp_path / "stack.npy"), *flags]) == 0
        frames = lines((tmp_path / kind / "stack" / "detections.jsonl").read_text())
        places = [(target["x"], target["y"]) for target in frames[2]["targets"]]
        assert found(scene, places) == [True, True]

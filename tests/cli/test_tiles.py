"""`--tile-size` and `--tile-overlap`: what the pipeline makes of them, where they are recorded, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.cli.main import main

RNG = np.random.default_rng(0)


@pytest.fixture
def image(tmp_path) -> np.ndarray:
    """Larger than the tiles of 128 px below, (140, 300)."""
    image = RNG.integers(0, 256, (140, 300), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    return image


def detect(
    folder: Path, model: Path, *arguments: object, source: str = "a.png", name: str = "out"
) -> tuple[int, Path]:
    words = ["detect", folder / source, "--model", model, "--device", "cpu", "--output", folder / name, *arguments]
    return main([str(word) for word in words]), folder / name


@pytest.mark.parametrize(
    ("flags", "tile_size", "tile_overlap"),
    [
        ([], 256, 32),
        (["--tile-size", 0], 0, 32),
        (["--tile-size", 128, "--tile-overlap", 0], 128, 0),
        (["--tile-size", 160], 160, 32),
    ],
)
def test_stills_are_those_of_the_pipelines_arguments(image, tiny_checkpoint, tmp_path, flags, tile_size, tile_overlap):
    code, out = detect(tmp_path, tiny_checkpoint, *flags, "--write", "probability")
    assert code == 0
    pipeline = IRSTDLatentPipeline.from_pretrained(tiny_checkpoint)
    expected = pipeline(image, tile_size=tile_size, tile_overlap=tile_overlap).probability[0, 0]
    found = np.asarray(Image.open(out / "probability" / "a.png")) / 65535
    np.testing.assert_allclose(found, expected, atol=1e-4)
    settings = json.loads((out / "detections.json").read_text())["settings"]
    assert (settings["tile_size"], settings["tile_overlap"]) == (tile_size, tile_overlap)


def test_a_sequence_is_not_resumed_with_other_tiles(image, tiny_checkpoint, tmp_path, capsys):
    np.save(tmp_path / "stack.npy", np.stack([image] * 2))
    whole = ["--write", "probability", "--tile-size", 0]
    code, out = detect(tmp_path, tiny_checkpoint, *whole, source="stack.npy")
    assert code == 0
    pipeline = IRSTDLatentPipeline.from_pretrained(tiny_checkpoint)
    found = np.asarray(Image.open(out / "stack" / "probability" / "000001.png")) / 65535
    np.testing.assert_allclose(found, pipeline(image, tile_size=0).probability[0, 0], atol=1e-4)
    header = json.loads((out / "stack" / "sequence.json").read_text())["header"]
    assert (header["settings"]["tile_size"], header["settings"]["tile_overlap"]) == (0, 32)
    assert detect(tmp_path, tiny_checkpoint, *whole, "--resume", source="stack.npy")[0] == 0
    capsys.readouterr()
    assert detect(tmp_path, tiny_checkpoint, *whole[:2], "--resume", source="stack.npy")[0] == 1
    line, _ = capsys.readouterr().err.splitlines()
    assert "was made with settings" in line and "'tile_size': 0" in line and "'tile_size': 256" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tile-size", 64], "`tile_size` must be 0 (no tiles) or at least 128, got 64"),
        (["--tile-overlap", 256], "`tile_overlap` must be less than `tile_size` (256), got 256"),
        (["--num-inference-steps", 2000], "`num_inference_steps` must be at most 1000, got 2000"),
    ],
)
def test_values_out_of_range_are_one_line(image, tiny_checkpoint, tmp_path, capsys, flags, message):
    code, out = detect(tmp_path, tiny_checkpoint, *flags)
    assert code == 2
    assert capsys.readouterr().err == f"irstd-ldm detect: --model {tiny_checkpoint}: {message}\n"
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_evaluate_and_calibrate_take_them(image, tiny_checkpoint, tmp_path, capsys):
    mask = np.zeros(image.shape, np.uint8)
    mask[60:63, 125:132] = 255
    for folder, array in (("images", image), ("masks", mask)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / "set" / folder / "a.png")
    (tmp_path / "set" / "test.txt").write_text("a\n")
    common = ["--data", str(tmp_path / "set"), "--model", str(tiny_checkpoint), "--device", "cpu"]
    found = {}
    for tile_size in (0, 128):
        out = tmp_path / f"tiles{tile_size}"
        flags = ["--tile-size", str(tile_size), "--threshold", "0.4", "--no-report", "--output", str(out)]
        assert main(["evaluate", *common, *flags]) == 0
        found[tile_size] = json.loads((out / "metrics.json").read_text())
        assert found[tile_size]["settings"]["tile_size"] == tile_size
    pipeline = IRSTDLatentPipeline.from_pretrained(tiny_checkpoint)
    predicted = pipeline(image, tile_size=128, threshold=0.4).mask[0, 0]
    assert found[128]["tp_px"] == (predicted & (mask > 0)).sum()
    capsys.readouterr()
    for command in (["evaluate"], ["calibrate", "--max-fa-per-million-px", "10", "--list", str(tmp_path / "list")]):
        (tmp_path / "list").write_text("a\n")
        assert main([*command, *common, "--tile-size", "100"]) == 2
        assert "`tile_size` must be 0 (no tiles) or at least 128, got 100" in capsys.readouterr().err

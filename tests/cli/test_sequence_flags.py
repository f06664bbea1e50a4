"""Flags that fit sequences alone, or stills alone: none is ignored without a word."""

import json

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.cli.main import main


@pytest.fixture
def detect(tiny_checkpoint, tmp_path):
    """Runs the command on files of tmp_path into tmp_path/out."""
    image = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    np.save(tmp_path / "stack.npy", np.stack([image] * 3))
    (tmp_path / "broken.png").write_bytes(b"no image")

    def run(*names: str, model: str = str(tiny_checkpoint)) -> int:
        words = [word if word.startswith("-") else str(tmp_path / word) for word in names]
        flags = ["--threshold", "1", "--model", model, "--device", "cpu", "--output", str(tmp_path / "out")]
        return main(["detect", *words, *flags])

    return run


@pytest.mark.parametrize("flag", ["--tracks", "--annotated-video", "--resume", "--input-range=sequence"])
def test_stills_alone_are_refused_before_anything_is_written(detect, tmp_path, capsys, flag):
    assert detect("a.png", "broken.png", flag, model="/no/model") == 2
    line = f"irstd-ldm detect: {flag.replace('=', ' ')}: for inputs of several frames, and there is none\n"
    assert capsys.readouterr().err == line
    assert detect(flag, model="/no/model") == 2  # the synthetic scene
    assert capsys.readouterr().err == line
    assert not (tmp_path / "out").exists()


def test_of_stills_and_sequences_the_flags_are_for_the_sequences(detect, tmp_path, capsys):
    assert detect("a.png", "stack.npy", "--tracks", "--resume") == 0
    note = "irstd-ldm detect: --tracks, --resume: for the 1 of 2 inputs that have several frames"
    assert capsys.readouterr().err.splitlines() == [note]
    assert (tmp_path / "out" / "stack" / "tracks.csv").exists()
    assert detect("stack.npy", "--tracks") == 0
    assert capsys.readouterr().err == ""


def test_what_cannot_be_read_is_told_in_its_turn(detect, capsys):
    assert detect("broken.png", "--tracks") == 1
    first, last = capsys.readouterr().err.splitlines()
    assert "broken.png" in first and last == "irstd-ldm detect: 1 of 1 inputs failed"


@pytest.mark.parametrize("kind", ["coco", "geojson"])
def test_tables_of_stills_are_refused_for_sequences(detect, tmp_path, capsys, kind):
    assert detect("a.png", "stack.npy", f"--write=masks,{kind}", model="/no/model") == 2
    assert capsys.readouterr().err == (
        f"irstd-ldm detect: --write {kind}: not for inputs of several frames, such as {tmp_path / 'stack.npy'}\n"
    )
    assert not (tmp_path / "out").exists()


def test_pictures_of_frames_are_written_where_they_are_asked_for(detect, tmp_path):
    assert detect("a.png", "stack.npy") == 0
    out = tmp_path / "out"
    assert (out / "masks" / "a.png").exists() and not list((out / "stack").rglob("*.png"))
    assert detect("a.png", "stack.npy", "--write=masks,probability") == 0
    assert sorted(path.name for path in (out / "stack" / "masks").glob("*.png")) == [f"{n:06}.png" for n in range(3)]
    assert len(list((out / "stack" / "probability").glob("*.png"))) == 3 and not (out / "stack" / "overlays").exists()
    assert json.loads((out / "stack" / "sequence.json").read_text())["header"]["pictures"] == ["masks", "probability"]

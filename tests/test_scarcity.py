"""scripts/scarcity.py from a data set to its table, at a tiny setting: the whole chain in one process."""

import json
import shutil
from pathlib import Path

import make_file_list
import pytest
import scarcity
import torch
from PIL import Image

from irstd_ldm.data.folder import IRSTDFolder, read_stem_list, write_stem_list
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.models.configurations import GENERATOR_CONFIGURATIONS

from .conftest import write_scenes

BEGIN, END = "<!-- table of scripts/scarcity.py -->", "<!-- end of the table -->"
NARROW = {
    "restoration": {"embed_dim": 8, "depths": (1,), "num_heads": (2,), "window_size": 4},
    "vae": {"block_out_channels": (8, 8, 8), "norm_num_groups": 4},
    "unet": {"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "cross_attention_dim": 8},
}


@pytest.fixture(autouse=True)
def threads():
    """Trainings set the number of threads of the process."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.fixture
def roots(tmp_path) -> tuple[Path, Path]:
    data, backgrounds = tmp_path / "DATA", tmp_path / "frames"
    (backgrounds / "images").mkdir(parents=True)
    stems = [f"s{seed}" for seed in range(8)]
    scenes = [synthetic_scene(96, 96, num_targets=1, scr=8.0, seed=seed) for seed in range(8)]
    write_scenes(data, dict(zip(stems, scenes, strict=True)))
    write_stem_list(data / "train.txt", stems[:6])
    write_stem_list(data / "test.txt", stems[6:])
    for seed in range(2):
        scene = synthetic_scene(96, 96, num_targets=0, seed=50 + seed)
        Image.fromarray(scene.image).save(backgrounds / "images" / f"S2_{seed}.png")
    return data, backgrounds


def test_the_whole_chain(roots, tmp_path, monkeypatch, capsys):
    small = GENERATOR_CONFIGURATIONS["gaussian_agnostic_small"]
    narrow = {part: small[part] | NARROW[part] for part in small}
    monkeypatch.setitem(GENERATOR_CONFIGURATIONS, "gaussian_agnostic_small", narrow)
    data, backgrounds = roots
    document, out = tmp_path / "scarcity.md", tmp_path / "out"
    document.write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    lists = tmp_path / "lists"
    make_file_list.main([str(data), "--output", str(lists), "--val-fraction", "0.2"])
    command = ["--data", data, "--backgrounds", backgrounds, "--output", out, "--fractions", 0.6, "--seeds", 0]
    command += ["--list", lists / "train.list"]
    command += ["--max-train-steps", 2, "--mask-vae-steps", 1, "--generator-steps", 1, "--num-inference-steps", 1]
    command += ["--resolution", 64, "--train-batch-size", 2, "--num-cpu-threads", 1]
    command += ["--document", document]
    plot = tmp_path / "plot.svg"
    command += ["--plot", plot]
    scarcity.main([str(part) for part in command])
    text = document.read_text()
    assert text.startswith("# Before\n") and text.endswith("\nafter\n") and "old" not in text
    lines = [line for line in text.splitlines() if line.startswith("| 60 % (3)")]
    assert [line.split(" | ")[1] for line in lines] == list(scarcity.ARMS)

    assert all(f"<!-- {word} -->" in plot.read_text() for word in (*scarcity.ARMS, "labelled images"))

    share = out / "share-0.6"
    stems = read_stem_list(share / "train.list")
    test = set(IRSTDFolder(data, split="test").stems)
    assert len(stems) == 3 and test.isdisjoint(stems)
    for part in ("restoration", "image_unet", "generator", "mask_vae", "originals-0"):
        assert sorted(read_stem_list(share / part / "train.txt")) == sorted(stems)
    for mode in ("generated", "planted"):
        made = read_stem_list(share / f"data-{mode}" / "train.txt")
        assert made[:3] == stems and len(made) == 6
    counts = json.loads((share / "squeezed-0" / "counts-DATA.json").read_text())
    assert [one["targets"] for one in counts] == [1, 1] and sum(one["area_px"] for one in counts) == 2 * 96 * 96

    scarcity.main([str(part) for part in (*command[:-4], "--arms", "originals", "--test-list", lists / "val.list")])
    counts = json.loads((share / "originals-0" / "counts-DATA-val.json").read_text())
    assert len(counts) == len(read_stem_list(lists / "val.list")) == 1
    other = shutil.copytree(data, tmp_path / "OTHER")
    pixel = [*command[:-4], "--detector", "pixel", "--arms", "originals", "--test-data", other]
    scarcity.main([str(part) for part in pixel])
    assert (share / "pixel-originals-0" / "counts-OTHER.json").is_file()

    shutil.rmtree(share / "data-planted")
    before = {path: path.stat().st_mtime_ns for path in share.rglob("*.safetensors")}
    scarcity.main([str(part) for part in command])  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in share.rglob("*.safetensors")} == before
    assert document.read_text() == text

    with pytest.raises(ValueError, match=r"`max_train_steps` must be 2, as in .*settings.json, got 3; give another"):
        scarcity.main([str(part) for part in (*command, "--max-train-steps", 3)])
    with pytest.raises(ValueError, match=r"`smallest_fraction` must be 0.6"):  # the generator's base is trained on it
        scarcity.main([str(part) for part in (*command, "--fractions", 0.5, 0.6)])
    with pytest.raises(ValueError, match=r"`list` must be .*train.list, as in"):
        scarcity.main([str(part) for part in (*command, "--list", data / "train.txt")])
    assert read_stem_list(share / "train.list") == stems
    assert document.read_text() == text


def test_a_list_with_a_test_image_is_refused(roots, tmp_path):
    data, backgrounds = roots
    write_stem_list(tmp_path / "mine.list", ["s0", "s6"])
    command = ["--data", data, "--backgrounds", backgrounds, "--output", tmp_path / "out", "--arms", "originals"]
    command += ["--fractions", 1, "--seeds", 0, "--max-train-steps", 1, "--mask-vae-steps", 1, "--resolution", 64]
    command += ["--train-batch-size", 1, "--num-cpu-threads", 1, "--list", tmp_path / "mine.list"]
    with pytest.raises(ValueError, match="`--list` must hold no image of a test list, got 1, such as s6"):
        scarcity.main([str(part) for part in command])
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    write_stem_list(tmp_path / "corrected.list", ["s0", "s1"])  # nothing is kept yet that a setting could contradict
    scarcity.main([str(part) for part in (*command, "--list", tmp_path / "corrected.list")])
    assert read_stem_list(tmp_path / "out" / "share-1" / "originals-0" / "train.txt") == ["s0", "s1"]


def test_smaller_shares_lie_in_larger_ones():
    stems = [f"s{number}" for number in range(100)]
    tenth, third, whole = (scarcity.share_of(stems, fraction) for fraction in (0.1, 0.3, 1.0))
    assert (len(tenth), len(third)) == (10, 30)
    assert set(tenth) < set(third) < set(whole) and whole == stems

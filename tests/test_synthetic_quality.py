"""scripts/synthetic_quality.py on folders that `synthesize` wrote, and tables of two scripts in one document."""

import json
from pathlib import Path

import markdown_tables
import numpy as np
import pytest
import synthetic_quality
from PIL import Image

from irstd_ldm.cli.main import main as irstd_ldm
from irstd_ldm.data.folder import write_stem_list
from irstd_ldm.data.synthetic import synthetic_scene

from .conftest import write_scenes

BEGIN, END = "<!-- table of scripts/synthetic_quality.py -->", "<!-- end of the table -->"


@pytest.fixture
def data(tmp_path) -> Path:
    """Eight scenes: two are tested on; of the six of the training list the first three are made into more."""
    root = tmp_path / "own"
    write_set(root, [f"s{number}" for number in range(8)], num_targets=2)
    for name, stems in (("train", range(6)), ("val", (4, 5)), ("test", (6, 7))):
        write_stem_list(root / f"{name}.txt", [f"s{number}" for number in stems])
    write_stem_list(tmp_path / "sources.list", ["s0", "s1", "s2"])
    return root


def write_set(root: Path, stems: list[str], num_targets: int, bit_depth: int = 8) -> None:
    settings = {"num_targets": num_targets, "scr": 8.0, "bit_depth": bit_depth}
    write_scenes(root, {stem: synthetic_scene(96, 112, seed=seed, **settings) for seed, stem in enumerate(stems)})


def synthesize(*words) -> Path:
    assert irstd_ldm(["synthesize", *map(str, words)]) == 0
    return Path(words[-1])


def squeezed(data: Path, count: int = 6) -> Path:
    parent = data.parent
    common = ("--data", data, "--list", parent / "sources.list", "--mode", "squeezed", "--count", count)
    return synthesize(*common, "--originals", "--output", parent / "squeezed")


def run(capsys, *words) -> str:
    synthetic_quality.main([*map(str, words), "--crop-px", "64"])
    return capsys.readouterr().out.strip()


def cells(table: str, name: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {name} ("))
    return line.strip("| ").split(" | ")


def test_the_table_the_sheet_and_the_document(data, tmp_path, capsys):
    folder = squeezed(data)
    write_set(tmp_path / "frames", ["a", "b"], num_targets=0)
    frames = ("--backgrounds", tmp_path / "frames")
    planted = synthesize("--mode", "planted", *frames, "--count", 4, "--output", tmp_path / "planted")
    document, output, sheet = (tmp_path / name for name in ("note.md", "rows.json", "sheet.png"))
    other = f"<!-- table of scripts/scarcity.py -->\nkept\n{END}"
    document.write_text(f"{other}\n{BEGIN}\nold\n{END}\nafter\n")
    capsys.readouterr()
    words = ["--synthetic", folder, planted, "--data", data, *frames]
    words += ["--document", document, "--output", output, "--sheet", sheet, "--examples", 2]
    printed = run(capsys, *words)

    assert document.read_text() == f"{other}\n{BEGIN}\n{printed}\n{END}\nafter\n"
    assert printed.startswith("own, against 3 held-out images")  # s3, s4 and s5
    rows = json.loads(output.read_text())
    assert [row["name"] for row in rows] == ["sources", "frames", "squeezed", "planted"]
    assert [row["images"] for row in rows] == [3, 2, 6, 4]  # the originals are no synthetic images
    sources, of_frames, of_squeezed, of_planted = rows
    assert of_squeezed["targets"] + of_squeezed["unlabelled"] == 2 * sources["targets"] == 12
    assert 0.5 < of_squeezed["contrast_median"] < 1.5 and of_squeezed["lost"] <= of_squeezed["below_half"]
    assert 0.9 < of_squeezed["median_own"] < 1 and sources["median_own"] == pytest.approx(1)
    assert of_squeezed["pair"][0].startswith(f"{of_squeezed['pair'][0][:2]}_squeezed_")
    assert of_squeezed["pair"][1] in {"s0", "s1", "s2"} - {of_squeezed["pair"][0][:2]}
    assert sources["scr_quantiles"] == pytest.approx([8, 8, 8], rel=0.1)
    assert 3 * 0.9 <= of_planted["scr_quantiles"][0] <= of_planted["scr_quantiles"][2] <= 12 * 1.1
    assert "contrast_median" not in of_planted and "pair" not in of_planted
    # the frames with and without a few planted pixels
    assert of_planted["spectrum_db"] == pytest.approx(of_frames["spectrum_db"], abs=1)
    assert len(cells(printed, "planted")) == len(cells(printed, "sources")) == 18
    assert cells(printed, "planted")[5:7] + cells(printed, "planted")[10:] == ["-"] * 10
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels == (255, 0, 0)).all(axis=2).any()  # boxes
    assert pixels.shape[0] > 4 * 256 and pixels.shape[1] > 5 * 256

    again = tmp_path / "again.json"
    assert run(capsys, *words[:-4], "--output", again) == printed
    assert again.read_text() == output.read_text()


def test_copies_are_as_near_as_the_sources_and_lost_targets_are_seen(data, tmp_path, capsys):
    folder = squeezed(data, count=3)
    for stem in ("s0", "s1", "s2"):
        (made,) = (folder / "images").glob(f"{stem}_squeezed_*.png")
        pixels = np.asarray(Image.open(data / "images" / f"{stem}.png")).copy()
        if stem == "s2":
            mask = np.asarray(Image.open(data / "masks" / f"{stem}.png")) > 0
            pixels[mask] = pixels.min()
        Image.fromarray(pixels).save(made)
        Image.open(data / "masks" / f"{stem}.png").save(folder / "masks" / made.name)
    output = tmp_path / "rows.json"
    run(capsys, "--synthetic", folder, "--data", data, "--held-out", "val", "--output", output)
    sources, copies = json.loads(output.read_text())
    assert copies["contrast_median"] == 1 and copies["unlabelled"] == 0
    assert copies["lost"] == copies["below_half"] == pytest.approx(1 / 3)
    assert copies["nearest_other_share"] == 0 and copies["median_own"] == pytest.approx(1)
    for name in ("spectrum_db", "patches"):  # at the same places: it is the target alone that differs
        assert copies[name] == pytest.approx(sources[name], rel=0.05)


def test_a_copy_of_another_source_is_seen(data, tmp_path, capsys):
    folder = squeezed(data, count=3)
    (made,) = (folder / "images").glob("s0_squeezed_*.png")
    Image.open(data / "images" / "s1.png").save(made)
    output = tmp_path / "rows.json"
    run(capsys, "--synthetic", folder, "--data", data, "--output", output)
    _, row = json.loads(output.read_text())
    assert row["nearest_other_share"] == pytest.approx(1 / 3)
    assert row["pair"] == [made.stem, "s1"] and row["highest_other"] == pytest.approx(1)
    assert row["highest_other_of_source"] < 0.99


def test_frames_of_sixteen_bits_are_on_one_scale(data, tmp_path, capsys):
    write_set(data, [f"s{number}" for number in range(8)], num_targets=2, bit_depth=16)
    folder, output = squeezed(data), tmp_path / "rows.json"
    run(capsys, "--synthetic", folder, "--data", data, "--output", output)
    _, row = json.loads(output.read_text())
    assert 0.5 < row["contrast_median"] < 1.5 and row["median_own"] > 0.9


@pytest.mark.parametrize(
    ("stems", "told"),
    [
        (["s4", "s6"], "`held_out` must hold no image that is on a test list, got 1, such as 's6'"),
        (["s1", "s4"], "`held_out` must hold no image that is a source of the synthetic ones, got 1, such as 's1'"),
        (["s4", "nowhere"], "got 'nowhere'"),
    ],
)
def test_lists_that_are_refused(data, tmp_path, capsys, stems, told):
    folder = squeezed(data, count=1)
    write_stem_list(tmp_path / "some.list", stems)
    with pytest.raises(SystemExit):
        run(capsys, "--synthetic", folder, "--data", data, "--held-out", tmp_path / "some.list")
    assert told in capsys.readouterr().err


def test_sources_of_a_test_list_and_a_list_used_up_are_refused(data):
    with pytest.raises(ValueError, match="`synthetic` must hold no image that is on a test list"):
        synthetic_quality.held_out_list(data, [], {"s0", "s7"})
    with pytest.raises(ValueError, match="all of the training list are sources"):
        synthetic_quality.held_out_list(data, [], {f"s{number}" for number in range(6)})
    assert synthetic_quality.held_out_list(data, ["val"], {"s0"}) == ["s4", "s5"]
    assert synthetic_quality.held_out_list(data, [], {"s0", "s3"}) == ["s1", "s2", "s4", "s5"]


def test_a_folder_of_originals_alone_is_refused(data, capsys):
    folder = squeezed(data, count=1)
    rows = (folder / "provenance.csv").read_text().splitlines()
    (folder / "provenance.csv").write_text("\n".join(row for row in rows if "squeezed" not in row) + "\n")
    with pytest.raises(SystemExit):
        run(capsys, "--synthetic", folder, "--data", data)
    assert "lists none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        f"{END}\n{BEGIN}\nold\n",
        f"{BEGIN}\nold\n<!-- table of scripts/scarcity.py -->\nkept\n{END}\n",
        f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n",
    ],
    ids=["no end", "the end of another table", "twice"],
)
def test_a_document_whose_marks_do_not_match_is_left_alone(tmp_path, text):
    document = tmp_path / "note.md"
    document.write_text(text)
    with pytest.raises(ValueError, match="note.md must have one line"):
        markdown_tables.insert(document, "synthetic_quality.py", "new")
    assert document.read_text() == text


def test_two_scripts_have_a_table_each(tmp_path):
    document = tmp_path / "note.md"
    first, second = (f"<!-- table of scripts/{name}.py -->" for name in ("one", "two"))
    document.write_text(f"{first}\n{END}\nbetween\n{second}\n{END}\n")
    markdown_tables.insert(document, "two.py", "B")
    markdown_tables.insert(document, "one.py", "A")
    assert document.read_text() == f"{first}\nA\n{END}\nbetween\n{second}\nB\n{END}\n"

"""The script that measures what denoising steps are worth."""

import json
import sys
from pathlib import Path

import markdown_tables
import pixel_steps
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput

from irstd_ldm.data.folder import IRSTDFolder, write_stem_list
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.evaluation.counts import ImageCounts, count_image
from irstd_ldm.evaluation.metrics import iou

from .conftest import write_scenes

BEGIN, END = "<!-- table of scripts/pixel_steps.py -->", "<!-- end of the table -->"


@pytest.fixture
def data(tmp_path) -> Path:
    """Two scenes of 128x128, the test list."""
    scenes = {f"s{seed}": synthetic_scene(128, 128, num_targets=1, scr=8.0, seed=seed) for seed in range(2)}
    root = write_scenes(tmp_path / "own", scenes)
    write_stem_list(root / "test.txt", scenes)
    return root


def test_the_table_the_plot_and_the_document(
    data, tiny_diff_checkpoint, tiny_diff_pipeline, tmp_path, monkeypatch, capsys
):
    document = tmp_path / "note.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    arguments = ["--model", str(tiny_diff_checkpoint), "--data", str(data), "--steps", "0", "2", "--rounds", "1"]
    outputs = ["--document", str(document), "--plot", str(tmp_path / "plot.svg")]
    outputs += ["--output", str(tmp_path / "rows.json")]
    monkeypatch.setattr(sys, "argv", ["pixel_steps.py", *arguments, *outputs])
    pixel_steps.main()

    first, second = json.loads((tmp_path / "rows.json").read_text())
    for row in (first, second):
        counts = [
            count_image(tiny_diff_pipeline(sample.image, num_inference_steps=row["steps"]).mask[0, 0], sample.mask)
            for sample in IRSTDFolder(data, "test")
        ]
        assert row["iou"] == iou(sum(counts, ImageCounts.zero()))
        assert row["clocks"] > 0
    assert (first["steps"], first["iou_difference"]) == (0, 0)
    assert second["iou_difference"] == pytest.approx(second["iou"] - first["iou"])
    printed = capsys.readouterr().out.strip()
    assert "own test, 2 images, 2 targets, native size, threshold 0.5" in printed
    assert "| encoder alone |" in printed and "| 2 |" in printed
    assert document.read_text() == f"before\n{BEGIN}\n{printed}\n{END}\nafter\n"
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_a_document_without_marks_is_refused(tmp_path):
    (tmp_path / "note.md").write_text("nothing")
    with pytest.raises(ValueError, match="note.md must have one line"):
        markdown_tables.insert(tmp_path / "note.md", "pixel_steps.py", "table")


def test_the_note_has_the_marks():
    text = (Path(__file__).resolve().parents[1] / "docs" / "irstd_diff.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1


def test_the_diagnosis_of_a_perfect_denoiser(data, tiny_diff_pipeline, monkeypatch):
    """An answer that is the mask is right at every step, from true masks and from own states; noise hides it first."""
    samples = list(IRSTDFolder(data, "test"))
    masks = {sample.mask.tobytes(): sample.mask for sample in samples}
    answers = iter([mask for mask in masks.values() for _ in range(3 * 4)])

    def answer(x, timestep, residuals):
        return UNet2DOutput(sample=torch.from_numpy(next(answers))[None, None] * 2.0 - 1)

    monkeypatch.setattr(tiny_diff_pipeline.unet, "forward", answer)
    lines = pixel_steps.diagnose(tiny_diff_pipeline, samples, 4).splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [int(row[0]) for row in rows] == [999, 749, 499, 249]
    assert all(row[2:5] == ["100.0"] * 3 and row[5] == "1.00" for row in rows)
    visible = [float(row[1]) for row in rows]
    assert abs(visible[0]) < 50 and visible[-1] > 80

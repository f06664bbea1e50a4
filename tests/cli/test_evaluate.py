"""`irstd-ldm evaluate` on small data sets whose numbers are known by hand."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.cli.evaluate import short_names
from irstd_ldm.cli.main import main
from irstd_ldm.evaluation.protocols import PROTOCOLS
from irstd_ldm.evaluation.result import evaluate_probabilities

RNG = np.random.default_rng(0)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four 20 x 10 images; S1 has a target of 2 x 2 px, S2 none, T1 one of 3 x 1 px, T2 (no split's) one of 1 px."""
    root = tmp_path / "set"
    boxes = {"S1": np.s_[2:4, 2:4], "S2": np.s_[0:0, 0:0], "T1": np.s_[5, 10:13], "T2": np.s_[9, 19]}
    for stem, box in boxes.items():
        save(root / "images" / f"{stem}.png", RNG.integers(0, 256, (10, 20), np.uint8))
        mask = np.zeros((10, 20), np.uint8)
        mask[box] = 255
        save(root / "masks" / f"{stem}.png", mask)
    (root / "test.txt").write_text("S1\r\nS2\r\nT1\r\n", newline="")
    (root / "mine.txt").write_text("T2\n")
    return root


@pytest.fixture
def predictions(data: Path) -> Path:
    """S1 is found, with a false alarm of 3 px; S2 is clean; T1 is missed."""
    folder = data.parent / "predictions"
    found = np.zeros((10, 20), np.uint8)
    found[2:4, 2:4] = 255
    found[8, 4:7] = 128
    save(folder / "S1.png", found)
    for stem in ("S2", "T1", "T2"):
        save(folder / f"{stem}.png", np.zeros((10, 20), np.uint8))
    return folder


def run(*arguments, output: Path) -> tuple[int, dict | None]:
    code = main(["evaluate", *map(str, arguments), "--no-report", "--output", str(output)])
    written = output / "metrics.json"
    return code, json.loads(written.read_text(), parse_constant=pytest.fail) if written.exists() else None


def test_predictions_of_the_test_split(data, predictions, tmp_path, capsys):
    code, metrics = run("--data", data, "--predictions", predictions, output=tmp_path / "out")
    assert code == 0
    assert metrics["iou"] == pytest.approx(4 / 10)  # 4 px found, 3 px false, 3 px missed
    assert metrics["niou"] == pytest.approx((4 / 7 + 1 + 0) / 3)
    assert (metrics["pd"], metrics["num_targets"], metrics["num_images"]) == (0.5, 2, 3)
    assert metrics["fa_per_million_px"] == pytest.approx(3 / 600 * 1e6)
    assert (metrics["mask_threshold"], metrics["score_threshold"]) == (0.5, 0.5)
    assert (metrics["protocol"], metrics["matching"]) == ("native", "greedy")
    assert (metrics["data"], metrics["images"], metrics["predictions"]) == (str(data), "split test", str(predictions))
    assert [image["stem"] for image in metrics["per_image"]] == ["S1", "S2", "T1"]
    assert metrics["per_image"][0]["false_alarm_px"] == 3
    out = capsys.readouterr().out
    assert "3 images (1 empty in truth and prediction), 2 targets, 600 px" in out
    assert "0.4000" in out and "5000.00" in out
    assert out.endswith(f"written: {tmp_path / 'out' / 'metrics.json'}\n")


@pytest.mark.parametrize(
    ("arguments", "stems", "fa_px"),
    [
        (["--threshold", 0.6], ["S1", "S2", "T1"], 0),  # 128 / 255 is no longer foreground
        (["--include", "S*"], ["S1", "S2"], 3),
        (["--list", "mine.txt"], ["T2"], 0),
        (["--no-targets"], ["S1", "S2", "T1", "T2"], 7),
        (["--no-targets", "--include", "?1"], ["S1", "T1"], 7),
        (["--no-targets", "--list", "mine.txt"], ["T2"], 0),
    ],
)
def test_which_images_and_which_false_alarms(data, predictions, tmp_path, monkeypatch, arguments, stems, fa_px):
    monkeypatch.chdir(data)
    code, metrics = run("--data", data, "--predictions", predictions, *arguments, output=tmp_path / "out")
    assert code == 0
    assert [image["stem"] for image in metrics["per_image"]] == stems
    assert metrics["false_alarm_px"] == fa_px


def test_legacy_false_alarms_forgive_an_equal_area(data, predictions, tmp_path):
    found = np.zeros((10, 20), np.uint8)
    found[2:4, 2:4] = found[7:9, 7:9] = 255  # a hit, and a false alarm of its area
    save(predictions / "S1.png", found)
    arguments = ["--data", data, "--predictions", predictions]
    assert run(*arguments, output=tmp_path / "out")[1]["false_alarm_px"] == 4
    assert run(*arguments, "--legacy-fa", output=tmp_path / "out")[1]["false_alarm_px"] == 0


def test_basicirstd_reads_the_masks_as_stored(data, predictions, tmp_path):
    mask = np.zeros((10, 20), np.uint8)
    mask[2:4, 2:4] = [[255, 200], [255, 255]]  # the grey pixel counts in the union alone
    save(data / "masks" / "S1.png", mask)
    arguments = ["--data", data, "--predictions", predictions, "--include", "S1"]
    assert run(*arguments, output=tmp_path / "out")[1]["iou"] == pytest.approx(4 / 7)
    metrics = run(*arguments, "--protocol", "basicirstd", output=tmp_path / "out")[1]
    assert metrics["tp_px"] == 3
    assert metrics["protocol"] == "basicirstd"


@pytest.mark.parametrize("protocol", ["native", "resize256"])
def test_a_model_is_run_on_the_protocols_image(data, tiny_checkpoint, tmp_path, protocol):
    arguments = ["--data", data, "--model", tiny_checkpoint, "--protocol", protocol, "--seed", 5, "--device", "cpu"]
    code, metrics = run(*arguments, output=tmp_path / "out")
    assert code == 0
    assert metrics["model"] == str(tiny_checkpoint)
    assert (metrics["settings"]["seed"], metrics["settings"]["num_inference_steps"]) == (5, 1)
    pipeline = IRSTDLatentPipeline.from_pretrained(tiny_checkpoint)
    pairs = []
    for stem in ("S1", "S2", "T1"):
        image = np.asarray(Image.open(data / "images" / f"{stem}.png"))
        output = pipeline(PROTOCOLS[protocol].prepare_image(image), generator=torch.Generator().manual_seed(5))
        mask = np.asarray(Image.open(data / "masks" / f"{stem}.png"))
        pairs.append((stem, output.probability[0, 0], mask, image))
    expected = evaluate_probabilities(pairs, protocol=protocol).summary()
    assert {key: metrics[key] for key in expected} == expected
    assert metrics["num_px"] == 3 * (200 if protocol == "native" else 256 * 256)


def test_masks_of_detect_are_predictions(data, tiny_checkpoint, tmp_path):
    """The random detector's threshold leaves less than half of each image, as masks must."""
    pipeline = IRSTDLatentPipeline.from_pretrained(tiny_checkpoint)
    probability = pipeline([Image.open(path) for path in sorted((data / "images").iterdir())]).probability
    threshold = np.quantile(probability, 0.7, axis=(1, 2, 3)).max()
    out = tmp_path / "detections"
    model = ["--model", str(tiny_checkpoint), "--device", "cpu", "--threshold", str(threshold)]
    assert main(["detect", str(data / "images"), "--output", str(out), *model]) == 0
    _, from_masks = run("--data", data, "--predictions", out / "masks", output=tmp_path / "1")
    _, from_model = run("--data", data, *model, output=tmp_path / "2")
    assert sum(image["predicted"] for image in from_masks["per_image"]) > 0
    assert from_masks["per_image"] == from_model["per_image"]


def test_frames_without_masks_folder_are_evaluated_without_targets(data, tiny_checkpoint, tmp_path):
    arguments = ["--data", data / "images", "--no-targets", "--model", tiny_checkpoint, "--device", "cpu"]
    code, metrics = run(*arguments, output=tmp_path / "out")
    assert code == 0
    assert (metrics["num_images"], metrics["num_targets"], metrics["pd"]) == (4, 0, None)
    assert metrics["false_alarm_px"] == metrics["fp_px"]


def test_masks_without_any_target_are_told(data, predictions, tmp_path, capsys):
    arguments = ["--data", data, "--predictions", predictions]
    for more, told in ((["--include", "S2"], True), (["--include", "S?"], False)):
        assert run(*arguments, *more, output=tmp_path / "out")[0] == 0
        assert ("none of the 1 masks holds a target: Pd and IoU say nothing" in capsys.readouterr().err) == told


def test_two_frames_of_one_stem_are_refused(data, tiny_checkpoint, tmp_path, capsys):
    save(data / "images" / "S1.bmp", np.zeros((10, 20), np.uint8))
    arguments = ["--data", data, "--no-targets", "--model", tiny_checkpoint, "--device", "cpu"]
    assert run(*arguments, output=tmp_path / "out") == (2, None)
    assert "S1.bmp' and '" in capsys.readouterr().err


def test_the_validation_list_is_not_looked_for_in_the_working_directory(data, monkeypatch, tmp_path, capsys):
    (tmp_path / "val.txt").write_text("S1\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", data, "--split", "val", "--model", "owner/name", "--device", "cpu"]
    assert run(*arguments, output=tmp_path / "out") == (2, None)
    assert "--split val needs a model folder; name a list with --list" in capsys.readouterr().err


def test_every_image_is_read_once(data, tiny_checkpoint, tmp_path, monkeypatch):
    opened: list[Path] = []
    open_image = Image.open

    def opening(file, **named):
        opened.append(Path(file.name))
        return open_image(file, **named)

    monkeypatch.setattr(Image, "open", opening)
    arguments = ["--data", data, "--model", tiny_checkpoint, "--device", "cpu", "--include", "S*"]
    assert run(*arguments, output=tmp_path / "out")[0] == 0
    assert run(*arguments, "--no-targets", output=tmp_path / "out")[0] == 0
    frames = [data / "images" / f"{stem}.png" for stem in ("S1", "S2")]
    read = [*frames, *frames, *(data / "masks" / frame.name for frame in frames)]
    assert sorted(opened) == sorted(2 * read)  # for its head, then for its pixels


def test_metrics_that_cannot_be_written_are_named(data, predictions, tmp_path, capsys):
    path = tmp_path / "out" / "metrics.json"
    path.mkdir(parents=True)
    arguments = ["--data", str(data), "--predictions", str(predictions), "--output", str(tmp_path / "out")]
    assert main(["evaluate", *arguments]) == 1
    assert capsys.readouterr().err == f"irstd-ldm evaluate: {path}: Is a directory\n"
    assert list(path.parent.iterdir()) == [path]


def test_the_validation_list_is_the_models(data, tiny_checkpoint, predictions, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    arguments = ["--data", data, "--split", "val", "--model", model, "--device", "cpu"]
    (data / "val.txt").write_text("S1\n")
    assert run(*arguments, output=tmp_path / "out") == (2, None)
    named = model / f"val_{data.name}.txt"
    assert f"the model has no validation list '{named}' or '{model / 'val.txt'}'" in capsys.readouterr().err
    (model / "val.txt").write_text("T2\n")
    _, metrics = run(*arguments, output=tmp_path / "out")
    assert [image["stem"] for image in metrics["per_image"]] == ["T2"]
    named.write_text("S2\n")
    _, metrics = run(*arguments, output=tmp_path / "out")
    assert [image["stem"] for image in metrics["per_image"]] == ["S2"]
    _, metrics = run("--data", data, "--split", "val", "--predictions", predictions, output=tmp_path / "out")
    assert [image["stem"] for image in metrics["per_image"]] == ["S1"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--data", "nowhere"], "no folder 'nowhere/images'"),
        (["--data", "set", "--split", "train"], "no list of the split 'train' under 'set'"),
        (["--data", "set", "--list", "none.txt"], "evaluate: none.txt: No such file or directory"),
        (["--data", "set", "--include", "X*"], "no image under 'set': split test like X*"),
        (["--data", "nowhere", "--no-targets"], "evaluate: no folder 'nowhere'"),
        (["--data", ".", "--no-targets", "--split", "test"], "evaluate: --no-targets: frames are on no split's list"),
        (["--data", "set", "set"], "a data set, a model or a folder of predictions is named twice"),
        (["--data", "set", "--predictions", "nowhere"], "no folder 'nowhere'"),
        (["--data", "set", "--predictions", "set/images", "--output", "set/test.txt"], "cannot write there"),
    ],
)
def test_wrong_arguments_are_one_line(data, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(data.parent)
    assert main(["evaluate", "--output", "out", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("irstd-ldm evaluate: ")
    assert reason in line


def test_a_missing_prediction_is_wrong_usage_that_names_it(data, predictions, tmp_path, capsys):
    (predictions / "S2.png").unlink()
    assert run("--data", data, "--predictions", predictions, output=tmp_path / "out") == (2, None)
    assert "has no prediction for 1 of 3 images: S2" in capsys.readouterr().err


def test_an_unreadable_image_ends_the_evaluation(data, predictions, tmp_path, capsys):
    (predictions / "T1.png").write_bytes(b"")
    assert run("--data", data, "--predictions", predictions, output=tmp_path / "out") == (1, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(predictions / "T1.png") in line


def test_a_mask_of_another_size_ends_the_evaluation_and_names_both_files(data, tiny_checkpoint, tmp_path, capsys):
    save(data / "masks" / "S2.png", np.zeros((10, 21), np.uint8))
    arguments = ["--data", data, "--model", tiny_checkpoint, "--device", "cpu"]
    assert run(*arguments, output=tmp_path / "out") == (1, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(data / "masks" / "S2.png") in line and str(data / "images" / "S2.png") in line
    assert "21x10" in line and "20x10" in line


def test_several_detectors_on_several_data_sets_give_a_cross_dataset_table(data, predictions, tmp_path, capsys):
    other = data.parent / "other"
    shutil.copytree(data, other)
    empty = data.parent / "empty"
    for stem in ("S1", "S2", "T1"):
        save(empty / f"{stem}.png", np.zeros((10, 20), np.uint8))
    out = tmp_path / "out"
    code, metrics = run("--data", data, other, "--predictions", predictions, empty, output=out)
    assert code == 0 and metrics is None
    rows = json.loads((out / "cross_dataset.json").read_text())["rows"]
    assert [(row["detector"], row["data"]) for row in rows] == [
        (detector, root) for detector in ("predictions", "empty") for root in ("set", "other")
    ]
    assert [row["iou"] for row in rows] == pytest.approx([0.4, 0.4, 0, 0])
    assert [row["pd"] for row in rows] == [0.5, 0.5, 0, 0]
    single = json.loads((out / "predictions-on-other" / "metrics.json").read_text())
    assert single["data"] == str(other) and single["intervals_95"]["iou"] == rows[1]["intervals_95"]["iou"]
    table = capsys.readouterr().out.splitlines()[-6:-1]
    assert table[0].split() == ["detector", "data", "images", "targets", "IoU", "nIoU", "Pd", "Fa", "(1e-6)"]
    assert table[1].split()[2:] == ["3", "2", "0.4000", "0.5238", "0.5000", "5000.00"]


def test_two_processes_score_as_one(data, tiny_checkpoint, tmp_path):
    model = ["--model", str(tiny_checkpoint), "--threshold", "0.4", "--device", "cpu"]
    arguments = ["evaluate", "--data", str(data), *model, "--no-report"]
    torchrun = ["-m", "torch.distributed.run", "--local-addr", "127.0.0.1", "--nproc_per_node", "2"]
    launcher = [sys.executable, *torchrun, "-m", "irstd_ldm.cli"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    command = [*launcher, *arguments, "--output", str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written: ") == 1
    assert main([*arguments, "--output", str(tmp_path / "one")]) == 0
    two, one = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("two", "one"))
    assert [image["stem"] for image in two["per_image"]] == ["S1", "S2", "T1"]
    assert two == one
    split = subprocess.run([*command, "--include", "S1"], env=environment, capture_output=True, text=True, timeout=300)
    assert split.returncode != 0 and "1 images for 2 processes; use fewer" in split.stderr


def test_a_report_is_written_beside_the_metrics(data, predictions, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", "--data", str(data), "--predictions", str(predictions), "--output", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "predictions on set" in page and f"written: {out / 'report.html'}" in capsys.readouterr().out
    assert "../set/images/T1.png" in page  # a link to the missed target's image
    rows = (out / "per_image.csv").read_text().splitlines()
    assert len(rows) == 1 + 3


def test_names_are_short_where_they_tell_apart():
    assert short_names(["a/b", "c/d", "a/b"]) == ["b", "d", "b"]
    assert short_names(["a/b", "c/b", "d"]) == ["a/b", "c/b", "d"]


def test_a_folder_of_class_numbers_is_no_folder_of_predictions(data, predictions, tmp_path, capsys):
    for path in predictions.iterdir():
        save(path, np.asarray(Image.open(path)) // 64)
        pixels = np.asarray(Image.open(path)).copy()
        pixels[0, :3] = (0, 1, 2)
        save(path, pixels)
    assert main(["evaluate", "--data", str(data), "--predictions", str(predictions), "--output", str(tmp_path)]) == 1
    assert "no prediction is above 0.012; masks have 0 and 255" in capsys.readouterr().err


def test_predictions_have_names_and_a_paper_gets_its_figures(data, predictions, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    empty = data.parent / "empty"
    for stem in ("S1", "S2", "T1"):
        save(empty / f"{stem}.png", np.zeros((10, 20), np.uint8))
    out = tmp_path / "out"
    named = [f"Ours_2={predictions}", f"Theirs={empty}"]
    arguments = ["evaluate", "--data", str(data), "--predictions", *named, "--paper", "--output", str(out)]
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--no-report"])
    assert "argument --no-report: not allowed with argument --paper" in capsys.readouterr().err and not out.exists()
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "set, Ours_2 and Theirs: IoU: " in told
    markdown, latex = ((out / "paper" / f"comparison.{suffix}").read_text() for suffix in ("md", "tex"))
    rows = [line.split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| detector", "| ---", "| Ours_2", "| Theirs"]
    assert "- set, Ours_2 and Theirs: IoU: " in markdown
    assert r"Ours\_2 & set & 3 & 2 & 0.4000" in latex and latex.startswith(r"\begin{tabular}{llrrrrrr}")
    for suffix, start in (("pdf", b"%PDF"), ("svg", b"<?xml")):
        plots = sorted((out / "paper").glob(f"*.{suffix}"))
        assert (
            len(plots) >= 4
            and out / "paper" / f"set-grid.{suffix}" in plots
            and all(plot.read_bytes().startswith(start) for plot in plots)
        )

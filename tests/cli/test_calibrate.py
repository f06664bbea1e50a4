"""`irstd-ldm calibrate` writes a checkpoint; `detect`, `evaluate` and the pipeline read it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.cli.main import main
from irstd_ldm.data.folder import write_stem_list
from irstd_ldm.targets import Decision, resolve_decision


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root, rng = tmp_path / "own", np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for stem in "abcd":
        Image.fromarray(rng.integers(0, 256, (40, 50), np.uint8)).save(root / "images" / f"{stem}.png")
        mask = np.zeros((40, 50), np.uint8)
        mask[10:12, 20:23] = 255
        Image.fromarray(mask).save(root / "masks" / f"{stem}.png")
    write_stem_list(root / "test.txt", "d")
    return root


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    write_stem_list(folder / "val.txt", "ab")
    write_stem_list(folder / "val_backgrounds.txt", "c")
    return folder


def calibrate(model: Path, data: Path, *arguments: object) -> int:
    return main(["calibrate", "--model", str(model), "--data", str(data), "--device", "cpu", *map(str, arguments)])


def test_a_calibrated_budget_is_kept_and_used(data, model, tmp_path, capsys):
    budgets = ["--max-fa-per-million-px", 100_000, 1, "--max-false-targets-per-megapixel", 300]
    assert calibrate(model, data, *budgets) == 0
    out = capsys.readouterr().out
    assert "split val: 2 images" in out
    # Of 2 images of 40x50 px, with targets of 6 px: 3 false targets / 0.004 Mpx * 6 px.
    assert "not resolved by these images, whose lowest promise is 4.49e+03" in out
    pipeline = IRSTDLatentPipeline.from_pretrained(model)
    calibration = pipeline.config.calibration
    assert calibration["data"] == "own (2 images)"
    assert (calibration["num_inference_steps"], calibration["ensemble_size"]) == (1, 1)
    stored = calibration["score_thresholds"]
    assert list(stored["max_fa_per_million_px"]) == ["1", "100000"]
    low, high = stored["max_fa_per_million_px"]["100000"], stored["max_fa_per_million_px"]["1"]
    assert 0.5 <= low <= high < 1
    assert resolve_decision(pipeline.config, max_fa_per_million_px=1) == Decision(0.5, high)
    targets_per_megapixel = stored["max_false_targets_per_megapixel"]["300"]
    assert low <= targets_per_megapixel == high  # 300 per megapixel of 0.004 are one
    with pytest.raises(ValueError, match="5 was never calibrated for this checkpoint; stored: 1, 100000"):
        pipeline(np.zeros((32, 32), np.uint8), max_fa_per_million_px=5)

    confidence = calibration["confidence"]
    assert confidence["kind"] == "platt"
    image = np.asarray(Image.open(data / "images" / "d.png"))
    calibrated = pipeline(image, threshold=0.5).targets[0]
    pipeline.register_to_config(calibration={**calibration, "confidence": None})
    raw = pipeline(image, threshold=0.5).targets[0]
    assert raw
    assert [target.confidence for target in raw] == [target.score for target in raw]
    logit = np.log([target.score / (1 - target.score) for target in raw])
    expected = 1 / (1 + np.exp(-confidence["slope"] * logit - confidence["intercept"]))
    np.testing.assert_allclose([target.confidence for target in calibrated], expected, rtol=1e-6)
    assert [target.score for target in calibrated] == [target.score for target in raw]

    common = ["--data", str(data), "--model", str(model), "--split", "val", "--device", "cpu"]
    assert main(["evaluate", *common, "--max-fa-per-million-px", "1", "--output", str(tmp_path / "out")]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["mask_threshold"], metrics["score_threshold"]) == (0.5, high) and metrics["fa_per_million_px"] <= 1
    assert metrics["settings"]["max_fa_per_million_px"] == 1
    command = ["detect", str(data / "images"), "--model", str(model), "--device", "cpu"]
    assert main([*command, "--max-fa-per-million-px", "1", "--output", str(tmp_path / "found")]) == 0
    assert json.loads((tmp_path / "found" / "detections.json").read_text())["settings"]["score_threshold"] == high
    capsys.readouterr()
    assert main([*command, "--max-fa-per-million-px", "2", "--output", str(tmp_path / "no")]) == 2
    assert "`max_fa_per_million_px` 2.0 was never calibrated" in capsys.readouterr().err


def test_frames_without_targets_must_keep_the_budget_too(data, model, capsys):
    assert calibrate(model, data, "--max-fa-per-million-px", 1, "--backgrounds", data) == 0
    data_name = json.loads((model / "model_index.json").read_text())["calibration"]["data"]
    assert data_name == "own (2 images), own (1 images)"
    assert "frames without targets on the list" in capsys.readouterr().out


def test_frames_without_labels_serve_alone(data, model, capsys):
    assert calibrate(model, data, "--max-fa-per-million-px", 1) == 0
    fitted = json.loads((model / "model_index.json").read_text())["calibration"]["confidence"]
    command = ["calibrate", "--model", str(model), "--frames", str(data), "--device", "cpu"]
    assert main([*command, "--max-false-targets-per-megapixel", "1"]) == 0
    calibration = json.loads((model / "model_index.json").read_text())["calibration"]
    assert (calibration["data"], calibration["confidence"]) == ("own (4 images)", fitted)
    threshold = calibration["score_thresholds"]["max_false_targets_per_megapixel"]["1"]
    pipeline = IRSTDLatentPipeline.from_pretrained(model)
    images = sorted((data / "images").glob("*.png"))
    assert any(pipeline(path).targets[0] for path in images)
    assert not any(pipeline(path, score_threshold=threshold).targets[0] for path in images)
    assert "not resolved" in capsys.readouterr().out
    assert main([*command[:3], "--max-fa-per-million-px", "1"]) == 2
    assert "nothing to calibrate on: name --data, --backgrounds or --frames" in capsys.readouterr().err


def test_a_model_of_several_data_sets_has_a_list_for_each(data, model, capsys):
    write_stem_list(model / "val_own.txt", "abc")
    assert calibrate(model, data, "--max-fa-per-million-px", 1) == 0
    assert json.loads((model / "model_index.json").read_text())["calibration"]["data"] == "own (3 images)"
    (model / "val_own.txt").rename(model / "val_other.txt")
    (model / "val.txt").unlink()
    assert calibrate(model, data, "--max-fa-per-million-px", 1) == 2
    looked_for = f"'{model / 'val_own.txt'}' or '{model / 'val.txt'}'"
    assert f"the model has no validation list {looked_for}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-fa-per-million-px", "1", "--list", "none.txt"], "none.txt: No such file"),
        (["--max-fa-per-million-px", "0"], "must be positive, got 0"),
        (["--max-fa-per-million-px", "1", "--split", "test"], "invalid choice: 'test'"),
    ],
)
def test_wrong_usage(data, model, capsys, arguments, message):
    before = (model / "model_index.json").read_bytes()
    try:
        code = calibrate(model, data, *arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert (model / "model_index.json").read_bytes() == before


@pytest.mark.parametrize("name", ["tiny", "irstd_diff_small"])
def test_bundled_checkpoints_are_not_written_to(data, capsys, monkeypatch, tmp_path, name):
    from irstd_ldm import bundled_checkpoint

    folder = bundled_checkpoint(name)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    monkeypatch.chdir(folder.parent)
    for spelled in (folder, Path(name), tmp_path / "link"):
        assert calibrate(spelled, data, "--max-fa-per-million-px", 1) == 2
        assert "--model must be the folder of a checkpoint of your own" in capsys.readouterr().err

"""The weights that come with the package, and what the README promises of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irstd_ldm import GaussianAgnosticPipeline, IRSTDDiffPipeline, IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.cli import SCENE_SCR
from irstd_ldm.cli.main import main
from irstd_ldm.data.folder import IRSTDFolder, read_stem_list
from irstd_ldm.data.ggs import target_contrasts
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.evaluation.counts import ImageCounts, count_image
from irstd_ldm.evaluation.metrics import pd
from irstd_ldm.hub.format import read_json
from irstd_ldm.runtime.detector import ExportedDetectorRunner
from irstd_ldm.tiling import tile_windows

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
DATA_SETS = ("NUAA-SIRST", "IRSTD-1k", "NUDT-SIRST")
DETECTORS = {"tiny": IRSTDLatentPipeline, "irstd_diff_small": IRSTDDiffPipeline}
PIPELINES = {**DETECTORS, "gaussian_agnostic_small": GaussianAgnosticPipeline}


@pytest.fixture(scope="module")
def pipeline() -> IRSTDLatentPipeline:
    return IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())


def test_they_are_small_and_safe():
    files = [path for path in bundled_checkpoint().parent.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) <= 16 * MIB
    assert sum(path.stat().st_size for path in files) <= 24 * MIB
    for name, limit in {"irstd_diff_small": 8 * MIB, "gaussian_agnostic_small": 10 * MIB}.items():
        assert sum(path.stat().st_size for path in bundled_checkpoint(name).rglob("*") if path.is_file()) <= limit
    assert {path.suffix for path in files} == {".json", ".md", ".onnx", ".png", ".safetensors", ".txt"}


@pytest.mark.parametrize("name", PIPELINES)
def test_saved_again_it_is_the_same(name, tmp_path):
    """Its configs and its index are those that the package writes today, but for digests: its weights are halved."""
    folder = bundled_checkpoint(name)
    PIPELINES[name].from_pretrained(folder).save_pretrained(tmp_path)
    for path in tmp_path.rglob("*.json"):
        ours, theirs = (read_json(one) for one in (path, folder / path.relative_to(tmp_path)))
        assert ours.pop("_sha256", {}).keys() == theirs.pop("_sha256", {}).keys()
        assert json.dumps(ours) == json.dumps(theirs), path.name


def test_an_unknown_checkpoint_is_an_error():
    with pytest.raises(
        ValueError, match="`name` must be one of gaussian_agnostic_small, irstd_diff_small, tiny, got 'large'"
    ):
        bundled_checkpoint("large")


@pytest.mark.parametrize(
    ("name", "data_set", "ending"),
    [
        ("irstd_diff_small", "NUAA-SIRST", ""),
        *((name, one, f"_{one}") for name in ("tiny", "gaussian_agnostic_small") for one in DATA_SETS),
    ],
)
def test_it_was_trained_on_the_training_list_alone(shared_data, name, data_set, ending):
    root, folder = shared_data / data_set, bundled_checkpoint(name)
    train, val = (set(read_stem_list(folder / f"{kind}{ending}.txt")) for kind in ("train", "val"))
    assert not train & val
    assert train | val == set(IRSTDFolder(root, split="train").stems)
    assert not (train | val) & set(IRSTDFolder(root, split="test").stems)


@pytest.mark.parametrize("name", DETECTORS)
def test_it_finds_the_planted_targets_of_synthetic_scenes(name):
    pipeline = PIPELINES[name].from_pretrained(bundled_checkpoint(name))
    counts = ImageCounts.zero()
    for seed in range(8):
        scene = synthetic_scene(192, 256, kind="sky", num_targets=2, scr=10.0, seed=seed)
        counts += count_image(pipeline(scene.image).mask[0, 0], scene.mask)
    assert counts.targets == 16
    assert pd(counts) >= 0.85
    assert counts.false_alarm_px <= 60


@pytest.mark.parametrize("paste_targets", [True, False])
def test_its_images_keep_scene_targets_and_noise(paste_targets):
    scenes = [synthetic_scene(160, 192, kind="sea", num_targets=2, scr=10.0, seed=seed) for seed in range(2)]
    masks = [scene.mask for scene in scenes]
    pipeline = GaussianAgnosticPipeline.from_pretrained("gaussian_agnostic_small")
    output = pipeline([scene.image for scene in scenes], masks, batch_size=2, paste_targets=paste_targets)
    for scene, image in zip(scenes, output.images, strict=True):
        real = scene.image / 255
        levels = [one.reshape(20, 8, 24, 8).mean(axis=(1, 3)).ravel() for one in (real, image)]
        assert np.corrcoef(*levels)[0, 1] > 0.8
        contrasts = [target_contrasts(one, scene.mask) for one in (real, image)]
        np.testing.assert_allclose(contrasts[1], contrasts[0], rtol=0.1, atol=0.01)
        noise = [np.diff(one[~scene.mask.any(axis=1)]).std() for one in (real, image)]
        assert 0.3 < noise[1] / noise[0] < 2


@pytest.mark.parametrize(
    ("height", "width", "tile_size"), [(160, 320, 160), pytest.param(512, 640, 512, marks=pytest.mark.slow)]
)
def test_its_tiles_leave_no_seams(height, width, tile_size):
    """The steps across the tiles' borders are those that the same columns have in the image made as a whole."""
    image = synthetic_scene(height, width, kind="sea", num_targets=0, seed=3).image
    pipeline = GaussianAgnosticPipeline.from_pretrained("gaussian_agnostic_small")
    windows = tile_windows((height, width), tile_size, 64)
    borders = sorted({edge for _, columns in windows for edge in (columns.start, columns.stop)} - {0, width})
    assert len(borders) >= 2
    made = [pipeline(image, tile_size=size, tile_overlap=64).images[0] for size in (0, tile_size)]
    whole, tiled = (255 * np.abs(np.diff(one, axis=1)).mean(axis=0)[np.array(borders) - 1] for one in made)
    print(f"gray levels across columns {borders}: whole {whole.round(2)}, in tiles {tiled.round(2)}")
    np.testing.assert_allclose(tiled, whole, rtol=0.1)


def test_the_scene_of_detect_without_input_shows_targets(tmp_path):
    assert main(["detect", "--output", str(tmp_path)]) == 0
    (image,) = json.loads((tmp_path / "detections.json").read_text())["images"]
    planted = synthetic_scene(seed=0, scr=SCENE_SCR).targets
    for target in image["targets"]:
        assert min(np.hypot(target["x"] - one.x, target["y"] - one.y) for one in planted) < 1.5
    assert len(image["targets"]) == len(planted) == 2


def test_a_16_bit_frame_gives_the_targets_of_the_8_bit_one(pipeline):
    scene = synthetic_scene(192, 256, kind="sky", num_targets=2, scr=10.0, seed=1)
    deep = scene.image.astype(np.uint16) * 16 + 4000
    eight = pipeline(scene.image, input_range=(0, 255)).targets[0]
    sixteen = pipeline(deep, input_range=(4000, 4000 + 255 * 16)).targets[0]
    assert [(t.left, t.top, t.area_px) for t in eight] == [(t.left, t.top, t.area_px) for t in sixteen]


def test_the_python_example_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(synthetic_scene(seed=0).image).save("frame.png")
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    scope: dict = {}
    exec(compile(example[1], "README.md", "exec"), scope)
    assert scope["output"].mask.shape == (1, 1, 256, 256)


@pytest.mark.slow
@pytest.mark.parametrize("data_set", DATA_SETS)
@pytest.mark.parametrize("runtime", ("onnxruntime", "openvino"))
def test_every_runtime_finds_torchs_targets_on_the_validation_images(pipeline, shared_data, runtime, data_set):
    """Of a pixel or a target within 1e-3 of its threshold the runtimes may decide otherwise."""
    folder = IRSTDFolder(shared_data / data_set, list_file=bundled_checkpoint() / f"val_{data_set}.txt")
    detector, apart, other = ExportedDetectorRunner(None, runtime), 0.0, 0
    for sample in folder:
        expected, found = pipeline(sample.image), detector(sample.image)
        apart = max(apart, np.abs(found.probability - expected.probability).max())
        other += len(found.targets[0]) != len(expected.targets[0])
    print(f"{runtime} on {data_set}: {apart:.1e} apart at most; {other} of {len(folder)} images with other targets")
    assert apart < 1e-3 and other <= 1


@pytest.mark.slow
def test_its_numbers_on_the_test_list_hold(nuaa_root, tmp_path):
    assert main(["evaluate", "--data", str(nuaa_root), "--split", "test", "--output", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_images"] == 214
    assert metrics["iou"] >= 0.70
    assert metrics["pd"] >= 0.92
    assert metrics["fa_per_million_px"] <= 40


@pytest.mark.slow
def test_its_false_alarms_on_an_unseen_sensor_hold(shared_data, tmp_path):
    arguments = ["--data", str(shared_data / "backgrounds"), "--no-targets", "--include", "S7*"]
    assert main(["evaluate", *arguments, "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["fa_per_million_px"] <= 50

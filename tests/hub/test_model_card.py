"""A card's numbers are those of the JSON it was made from."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from irstd_ldm import __version__, bundled_checkpoint
from irstd_ldm.cli.card import card_results
from irstd_ldm.cli.main import main
from irstd_ldm.hub.format import read_json
from irstd_ldm.hub.model_card import make_card

ROOT = Path(__file__).resolve().parents[2]


def metrics_of(model: str, **changes) -> dict:
    """What `irstd-ldm evaluate` writes, with figures that are easy to tell apart."""
    return {
        "version": "0.1.0",
        "data": "/somewhere/private/NUAA-SIRST",
        "images": "split test",
        "model": model,
        "settings": {"num_inference_steps": 1, "ensemble_size": 2, "mask_threshold": 0.5},
        "iou": 0.7112,
        "niou": 0.7223,
        "pd": 0.9334,
        "fa_per_million_px": 44.45,
        "intervals_95": {
            "iou": [0.6112, 0.8112],
            "niou": [0.6223, 0.8223],
            "pd": [0.8334, 0.9934],
            "fa_per_million_px": [14.45, 84.45],
        },
        "num_images": 214,
        "num_targets": 263,
        "mask_threshold": 0.5,
        "score_threshold": 0.5,
        "protocol": "native",
        "connectivity": 8,
        "matching": "greedy",
        "centroid_tolerance_px": 3.0,
        "false_alarm_count": "exact",
    } | changes


RUN = {
    "trainer": "train_latent",
    "num_processes": 2,
    "device": "cpu",
    "hardware": "2 x86_64 cores",
    "num_cpu_threads": 1,
    "versions": {"torch": "2.0.7"},
}
SETTINGS = {
    "train_data_dir": ["/not/shown/NUAA-SIRST", "/nor/this"],
    "background_dir": None,
    "seed": 3,
    "mixed_precision": "no",
}


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def test_the_model_index_holds_every_metric_with_its_conditions(checkpoint):
    no_targets = {"data": "x/backgrounds", "images": "frames without targets like S7*", "num_targets": 0, "pd": None}
    rows = [metrics_of("m"), metrics_of("m", protocol="resize256"), metrics_of("m", **no_targets)]
    card = ModelCard(str(make_card(checkpoint, "you/tiny", results=card_results(rows))))
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("diffusers", "image-segmentation", "apache-2.0")
    assert data.model_name == "tiny"
    assert data.datasets == ["NUAA-SIRST", "backgrounds"]
    assert data.metrics == ["iou", "niou", "pd", "fa_per_million_px"]
    assert len(data.eval_results) == 4 + 4 + 1
    iou = data.eval_results[0]
    assert (iou.dataset_type, iou.dataset_split, iou.metric_type, iou.metric_value) == (
        "NUAA-SIRST", "test", "iou", 0.7112
    )  # fmt: skip
    assert iou.metric_args == {
        "protocol": "native",
        "mask_threshold": 0.5,
        "score_threshold": 0.5,
        "matching": "greedy",
        "connectivity": 8,
        "centroid_tolerance_px": 3.0,
        "false_alarm_count": "exact",
        "num_images": 214,
        "num_targets": 263,
        "num_inference_steps": 1,
        "ensemble_size": 2,
        "interval_95": [0.6112, 0.8112],
    }
    assert [result.metric_args["protocol"] for result in data.eval_results[4:8]] == ["resize256"] * 4
    last = data.eval_results[8]
    assert (last.metric_type, last.dataset_type) == ("fa_per_million_px", "backgrounds")


def test_the_tables_hold_the_same_figures(checkpoint):
    empty = metrics_of("m", data="backgrounds", images="frames without targets", num_targets=0)
    text = make_card(checkpoint, "you/tiny", results=card_results([metrics_of("m"), empty])).content
    assert (
        "| NUAA-SIRST, split test | native | 0.5, 0.5 | greedy < 3 px | 214 | 263 | 71.1 (61.1 to 81.1) | "
        "72.2 (62.2 to 82.2) | 93.3 (83.3 to 99.3) | 44.5 (14.4 to 84.5) |" in text
    )
    assert "| 214 | 0 | - | - | - | 44.5 (14.4 to 84.5) |" in text
    assert "| NUAA-SIRST | none stated by its authors" in text
    assert "/somewhere" not in text


def test_parameters_are_counted_in_the_weights(tiny_pipeline, checkpoint):
    text = make_card(checkpoint, "you/tiny").content
    for name in ("image_encoder", "unet", "vae"):
        count = sum(parameter.numel() for parameter in getattr(tiny_pipeline, name).parameters())
        assert re.search(rf"\| `{name}` \| `\w+` \| {count:,} \| F32 \|", text)


def test_the_training_is_a_command_and_a_recipe_without_places(checkpoint):
    text = make_card(checkpoint, "you/tiny", run=RUN, settings=SETTINGS).content
    assert "accelerate launch --num_processes 2 training/train_latent.py --config recipe.yaml\n" in text
    assert "2 process(es) on 2 x86_64 cores, 1 CPU threads each. Versions: torch 2.0.7." in text
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert recipe == SETTINGS | {"train_data_dir": ["NUAA-SIRST", "this"]}
    assert "/not/shown" not in text


def test_an_unmeasured_model_says_so(checkpoint):
    card = make_card(checkpoint, "you/tiny")
    assert "Not measured yet" in card.content and "## Limitations" in card.content
    assert card.data.eval_results is None


def test_the_usage_snippet_runs(checkpoint):
    text = make_card(checkpoint, str(checkpoint)).content
    with_package, without = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict = {}
    exec(compile(with_package, "README.md", "exec"), scope)
    assert scope["output"].mask.shape == (1, 1, 256, 256)
    assert f'from_pretrained("{checkpoint}", trust_remote_code=True)' in without


def write(path: Path, content: dict) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_command_writes_card_and_picture(checkpoint, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    write(tmp_path / "run/run.json", RUN)
    (tmp_path / "run/settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    metrics = write(tmp_path / "metrics.json", metrics_of(str(checkpoint)))
    arguments = ["card", str(checkpoint), "--metrics", str(metrics), "--run", str(tmp_path / "run")]
    template = ROOT / "model_cards" / "TEMPLATE.md"
    assert main([*arguments, "--name", "you/tiny", "--notes", str(template)]) == 0
    assert capsys.readouterr().out == f"written: {checkpoint / 'README.md'}, {checkpoint / 'example.png'}\n"
    card = ModelCard.load(checkpoint / "README.md")
    assert card.data.eval_results[0].metric_value == 0.7112
    assert template.read_text().strip() in card.content
    assert f"irstd-ldm {__version__}" in card.content and f"torch {torch.__version__}" in card.content
    assert "(example.png)" in card.content
    assert (checkpoint / "example.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("carries_code", [False, True])
def test_a_generators_card_shows_an_image_that_it_made(tmp_path, carries_code):
    folder = tmp_path / "generator"
    shutil.copytree(bundled_checkpoint("gaussian_agnostic_small"), folder)
    (folder / "README.md").unlink()
    index = read_json(folder / "model_index.json")
    if carries_code:  # as what `pull` fetches
        index["_class_name"] = ["pipeline", index["_class_name"]]
    write(folder / "model_index.json", index)
    assert main(["card", str(folder)]) == 0
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-to-image"
    assert "GaussianAgnosticPipeline" in card.content and "an image made of it" in card.content
    assert "## Results" not in card.content
    with Image.open(folder / "example.png") as picture:
        assert picture.width == 2 * picture.height


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (metrics_of("another/model"), "is of the model another/model, not of"),
        (metrics_of("bundled"), "is of the model bundled, not of"),
        ({**metrics_of("m"), "model": None, "predictions": "masks"}, "is of the predictions in masks"),
        ({"iou": 0.9}, "is no metrics.json"),
    ],
)
def test_figures_of_something_else_are_refused(checkpoint, tmp_path, capsys, content, words):
    metrics = write(tmp_path / "metrics.json", content)
    assert main(["card", str(checkpoint), "--metrics", str(metrics)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (checkpoint / "README.md").exists()


def test_no_figure_can_be_typed(checkpoint):
    """The digits of a card without metrics come from its configs, its weights and the versions."""
    body = make_card(checkpoint, "you/tiny").content.partition("## Networks")[2]
    body = re.sub(r"\| `\w+` \| `\w+` \| [\d,]+ \| F32 \||## Versions.*|IRSTDUNet2D\w+", "", body, flags=re.DOTALL)
    assert not re.search(r"\d", body)

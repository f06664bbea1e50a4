"""Checkpoints of every format that ever was load, and compute what they did when they were saved."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.hub.format import FORMAT_VERSION, checkpoint_files

GOLDEN = Path(__file__).resolve().parent / "golden"
FOLDERS = sorted(GOLDEN.glob("format_*"))
# As tests/golden/make_golden.py asked for them.
CALLS: dict[str, dict[str, int]] = {"one_step": {}, "ensemble": {"num_inference_steps": 2, "ensemble_size": 2}}
EXPECTED = "expected.safetensors"
INDEX_ENTRIES = {"_class_name", "format_version", "image_encoder", "unet", "vae"}


def configs(folder: Path) -> dict[str, dict]:
    return {
        path.relative_to(folder).as_posix(): json.loads(path.read_text(encoding="utf-8"))
        for path in [folder / "model_index.json", *folder.glob("*/*config.json")]
    }


def test_there_is_one_of_every_format():
    versions = [json.loads((folder / "model_index.json").read_text())["format_version"] for folder in FOLDERS]
    assert versions == list(range(1, FORMAT_VERSION + 1))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_computes_what_it_did(folder):
    expected = load_file(folder / EXPECTED)
    pipeline = IRSTDLatentPipeline.from_pretrained(folder)
    for name, keywords in CALLS.items():
        probability = torch.from_numpy(pipeline(expected["image"].numpy(), **keywords).probability)
        torch.testing.assert_close(probability, expected[name], rtol=0, atol=2e-4)
        assert expected[name].std() > 0.01


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_saved_again_it_keeps_every_value_and_every_weight(folder, tmp_path):
    """The golden `model_index.json` and component configs: later versions may add entries, none may change.

    In the index the classes were named by the files of their code, and are named by their modules where there is none;
    one threshold stood for that of the mask and that of the scores.
    """
    pipeline = IRSTDLatentPipeline.from_pretrained(folder, dtype=torch.float16)
    pipeline.save_pretrained(tmp_path / "again")
    again = configs(tmp_path / "again")
    for name, golden in configs(folder).items():
        if name == "model_index.json":
            golden |= dict.fromkeys(("default_mask_threshold", "default_score_threshold"), golden["default_threshold"])
            assert golden.pop("default_threshold") and "default_threshold" not in again[name]
        kept = {key: again[name][key] for key in golden}
        changed = {"_diffusers_version"} | (INDEX_ENTRIES if name == "model_index.json" else set())
        assert {key: value for key, value in kept.items() if key not in changed} == {
            key: value for key, value in golden.items() if key not in changed
        }, name
    for path in folder.glob("*/*.safetensors"):
        before, after = load_file(path), load_file(tmp_path / "again" / path.relative_to(folder))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_files_are_those_of_a_checkpoint(folder, tmp_path):
    names = {path.as_posix() for path in checkpoint_files(folder)}
    assert names == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        *(f"{name}/config.json" for name in ("image_encoder", "unet", "vae")),
        *(f"{name}/diffusion_pytorch_model.safetensors" for name in ("image_encoder", "unet", "vae")),
    }
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy/vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OSError, match="vae"):
        IRSTDLatentPipeline.from_pretrained(tmp_path / "copy")

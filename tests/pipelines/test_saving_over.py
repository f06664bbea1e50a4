"""A checkpoint saved over another one is old or new, whole; nothing stale stays; damaged weights are refused."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from irstd_ldm import IRSTDLatentPipeline, IRSTDUNet2DConditionModel

from ..conftest import make_tiny_diff_pipeline, make_tiny_pipeline
from ..test_files import killed_at

WEIGHTS = "diffusion_pytorch_model.safetensors"


def make(value: float) -> IRSTDLatentPipeline:
    """A pipeline whose weights are all of one value."""
    pipeline = make_tiny_pipeline()
    with torch.no_grad():
        for component in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
            for parameter in component.parameters():
                parameter.fill_(value)
    return pipeline


def values(folder: Path, **keywords) -> set[float]:
    """The values of the weights that load."""
    loaded = IRSTDLatentPipeline.from_pretrained(folder, **keywords)
    components = (loaded.unet, loaded.vae, loaded.image_encoder)
    return {next(component.parameters()).flatten()[0].item() for component in components}


def weights(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.safetensors*"))


@pytest.mark.parametrize("num_moments", [10, pytest.param(None, marks=pytest.mark.slow)])
def test_killed_at_any_moment_the_old_or_the_new_loads(tmp_path, num_moments):
    old, new = make(1.0), make(2.0)
    old.save_pretrained(tmp_path / "old")
    moments = range(200) if num_moments is None else sorted(random.Random(0).sample(range(90), num_moments))
    seen = []
    for moment in moments:
        folder = shutil.copytree(tmp_path / "old", tmp_path / "saved" / "checkpoint", dirs_exist_ok=True)
        (folder / "mine.txt").write_text("kept")
        was_killed = killed_at(moment, new.save_pretrained, folder)
        seen.append(values(folder))
        assert (folder / "mine.txt").read_text() == "kept"
        shutil.rmtree(folder)
        if not was_killed:
            break
    assert all(one in ({1.0}, {2.0}) for one in seen)
    assert seen[0] == {1.0} and (num_moments is not None or seen[-1] == {2.0})


def test_parts_over_a_whole_and_back(tmp_path):
    make(1.0).save_pretrained(tmp_path)
    whole = weights(tmp_path)
    make(2.0).save_pretrained(tmp_path, max_shard_size="50KB")
    assert values(tmp_path) == {2.0} and f"unet/{WEIGHTS}" not in weights(tmp_path)
    make(3.0).save_pretrained(tmp_path, max_shard_size="30KB")
    assert values(tmp_path) == {3.0}
    make(4.0).save_pretrained(tmp_path)
    assert values(tmp_path) == {4.0} and weights(tmp_path) == whole


def test_variants_lie_side_by_side_and_each_is_whole(tmp_path):
    make(1.0).save_pretrained(tmp_path)
    make(2.0).save_pretrained(tmp_path, variant="fp16")
    assert values(tmp_path) == {1.0} and values(tmp_path, variant="fp16") == {2.0}
    make(3.0).save_pretrained(tmp_path)
    assert values(tmp_path) == {3.0} and values(tmp_path, variant="fp16") == {2.0}
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert set(index["_sha256"]) == set(weights(tmp_path)) and len(weights(tmp_path)) == 6
    other = make(4.0)
    other.vae.register_to_config(scaling_factor=3.0)  # networks of another training
    other.save_pretrained(tmp_path)
    assert values(tmp_path) == {4.0} and len(weights(tmp_path)) == 3


def test_another_pipeline_leaves_nothing_of_the_one_before_but_what_is_not_its_own(tmp_path):
    make(1.0).save_pretrained(tmp_path, remote_code=True)
    (tmp_path / "vae/notes.md").write_text("mine")
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "logs").mkdir()
    make_tiny_diff_pipeline().save_pretrained(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "vae/notes.md",
        "model_index.json",
        "scheduler/scheduler_config.json",
        *(f"{name}/{file}" for name in ("unet", "conditional_encoder") for file in ("config.json", WEIGHTS)),
    }
    assert (tmp_path / "logs").is_dir()


def test_weights_of_another_checkpoint_are_refused(tmp_path):
    make(1.0).save_pretrained(tmp_path / "a")
    make(2.0).save_pretrained(tmp_path / "b")
    shutil.copy(tmp_path / "b/vae" / WEIGHTS, tmp_path / "a/vae" / WEIGHTS)
    with pytest.raises(OSError, match=f"vae/{WEIGHTS} is damaged or of another checkpoint"):
        IRSTDLatentPipeline.from_pretrained(tmp_path / "a")
    passed = make(3.0).vae
    assert IRSTDLatentPipeline.from_pretrained(tmp_path / "a", vae=passed).vae is passed
    index = json.loads((tmp_path / "a/model_index.json").read_text())
    (tmp_path / "a/model_index.json").write_text(json.dumps({**index, "_sha256": [1]}))
    with pytest.raises(ValueError, match="`_sha256` must be an object"):
        IRSTDLatentPipeline.from_pretrained(tmp_path / "a")
    del index["_sha256"]  # as of the first version
    (tmp_path / "a/model_index.json").write_text(json.dumps(index))
    assert values(tmp_path / "a") == {1.0, 2.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    pipeline = make(1.0)
    pipeline.unet.conv_out.bias.data[0] = value
    pipeline.save_pretrained(tmp_path, remote_code=True)
    for load in (IRSTDLatentPipeline.from_pretrained, IRSTDUNet2DConditionModel.from_pretrained):
        with pytest.raises(ValueError, match="unet: the weights `conv_out.bias` hold NaN or infinite values"):
            load(tmp_path, **({} if "Pipeline" in str(load) else {"subfolder": "unet"}))
    with pytest.raises(ValueError, match="`conv_out.bias` hold NaN or infinite values"):
        DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)

"""The checkpoint folder is a file format: what is in it, who can load it, and what is refused."""

import ast
import inspect
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils.dynamic_modules_utils import get_relative_imports
from PIL import Image
from safetensors.torch import load_file, save_file

from irstd_ldm import (
    IRSTDImageEncoder,
    IRSTDLatentPipeline,
    IRSTDPipelineOutput,
    IRSTDUNet2DConditionModel,
    MaskAutoencoderKL,
)

COMPONENTS = {
    "image_encoder": ("image_encoder", "IRSTDImageEncoder"),
    "unet": ("unet", "IRSTDUNet2DConditionModel"),
    "vae": ("mask_vae", "MaskAutoencoderKL"),
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (70, 50), dtype=np.uint8)  # (H, W)


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path) -> Path:
    """A copy of what `tiny_pipeline` saves."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def remote_checkpoint(tiny_pipeline, tmp_path) -> Path:
    """What `tiny_pipeline` saves with remote code."""
    tiny_pipeline.save_pretrained(tmp_path / "checkpoint", remote_code=True)
    return tmp_path / "checkpoint"


def run(pipeline: IRSTDLatentPipeline, image: np.ndarray) -> np.ndarray:
    output = pipeline(image)
    assert isinstance(output, IRSTDPipelineOutput)
    return np.asarray(output.probability)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def edit_index(checkpoint: Path, **values) -> None:
    index = {**read_json(checkpoint / "model_index.json"), **values}
    (checkpoint / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FILES = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"{name}/config.json" for name in COMPONENTS),
    *(f"{name}/{WEIGHTS}" for name in COMPONENTS),
}
CODE = {"pipeline.py", *(f"{name}/irstd_{module}.py" for name, (module, _) in COMPONENTS.items())}


def test_files_of_a_checkpoint(checkpoint):
    assert set(all_files(checkpoint)) == FILES


def test_files_of_a_checkpoint_with_remote_code(checkpoint, tiny_pipeline, tmp_path):
    """The code and its names in the index are all that is added."""
    tiny_pipeline.save_pretrained(tmp_path / "remote", remote_code=True)
    plain, remote = all_files(checkpoint), all_files(tmp_path / "remote")
    assert set(remote) == FILES | CODE
    assert {name for name in FILES if remote[name] != plain[name]} == {"model_index.json"}
    index = read_json(tmp_path / "remote/model_index.json")
    assert index["_class_name"] == ["pipeline", "IRSTDLatentPipeline"]
    for name, (module, class_name) in COMPONENTS.items():
        assert index[name] == [f"irstd_{module}", class_name]


def test_golden_model_index(checkpoint):
    index = read_json(checkpoint / "model_index.json")
    settings = {name for name, value in index.items() if not isinstance(value, list)}
    assert {name: value for name, value in index.items() if name not in settings} == {
        "image_encoder": ["irstd_ldm.models.image_encoder", "IRSTDImageEncoder"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["irstd_ldm.models.unet", "IRSTDUNet2DConditionModel"],
        "vae": ["irstd_ldm.models.mask_vae", "MaskAutoencoderKL"],
    }
    assert (index["_class_name"], index["format_version"]) == ("IRSTDLatentPipeline", 2)
    assert set(index["_sha256"]) == {f"{name}/{WEIGHTS}" for name in COMPONENTS}
    assert settings == {
        "_class_name",
        "_diffusers_version",
        "_sha256",
        "calibration",
        "default_ensemble_size",
        "default_num_inference_steps",
        "default_mask_threshold",
        "default_score_threshold",
        "default_tile_overlap",
        "default_tile_size",
        "format_version",
        "normalization",
    }


def test_golden_component_configs(checkpoint):
    private = {"_class_name", "_diffusers_version"}
    encoder = read_json(checkpoint / "image_encoder/config.json")
    assert set(encoder) == private | {
        "block_out_channels",
        "frequency_attention",
        "in_channels",
        "latent_channels",
        "layers_per_block",
        "norm_num_groups",
        "norm_type",
        "num_attention_heads",
        "num_tokens",
        "stem",
    }
    unet = read_json(checkpoint / "unet/config.json")
    assert set(unet) - set(inspect.signature(UNet2DConditionModel).parameters) == private | {
        "condition_channels",
        "norm_type",
        "use_fae",
        "use_liw",
    }
    vae = read_json(checkpoint / "vae/config.json")
    assert set(vae) - set(inspect.signature(AutoencoderKL).parameters) == private | {
        "decoder_layers_per_block",
        "decoder_mid_attention",
        "encoder_layers_per_block",
        "image_feature_channels",
        "klda_min_logvar",
        "logvar_mean",
        "logvar_std",
        "norm_type",
        "stem",
    }
    for name, (_, class_name) in COMPONENTS.items():
        assert read_json(checkpoint / name / "config.json")["_class_name"] == class_name


@pytest.mark.parametrize("folder", ["checkpoint", "remote_checkpoint"])
def test_save_and_load_is_bit_equal(tiny_pipeline, folder, request, image):
    loaded = IRSTDLatentPipeline.from_pretrained(request.getfixturevalue(folder))
    assert type(loaded.unet) is IRSTDUNet2DConditionModel
    assert type(loaded.vae) is MaskAutoencoderKL
    assert type(loaded.image_encoder) is IRSTDImageEncoder
    np.testing.assert_array_equal(run(loaded, image), run(tiny_pipeline, image))


def test_a_component_alone_is_bit_equal(tiny_pipeline, checkpoint):
    image = torch.linspace(-1, 1, 64 * 64).reshape(1, 1, 64, 64)
    for loaded in (
        IRSTDImageEncoder.from_pretrained(checkpoint, subfolder="image_encoder"),
        IRSTDImageEncoder.from_pretrained(checkpoint / "image_encoder"),
    ):
        with torch.no_grad():
            assert torch.equal(loaded(image).tokens, tiny_pipeline.image_encoder(image).tokens)


def test_loaded_weights_are_aligned(checkpoint):
    """As those of a model that was not loaded: on unaligned ones some kernels give other last bits."""
    unet = IRSTDLatentPipeline.from_pretrained(checkpoint).unet
    assert {tensor.data_ptr() % 64 for tensor in unet.state_dict().values()} == {0}


def test_save_load_save_gives_the_same_bytes(checkpoint, tmp_path):
    IRSTDLatentPipeline.from_pretrained(checkpoint).save_pretrained(tmp_path / "again")
    assert all_files(tmp_path / "again") == all_files(checkpoint)


def test_a_passed_component_is_used(tiny_pipeline, checkpoint):
    shutil.rmtree(checkpoint / "unet")
    loaded = IRSTDLatentPipeline.from_pretrained(checkpoint, unet=tiny_pipeline.unet)
    assert loaded.unet is tiny_pipeline.unet


def test_a_half_precision_variant(tiny_pipeline, checkpoint):
    tiny_pipeline.to(torch.float16).save_pretrained(checkpoint, variant="fp16")
    assert IRSTDLatentPipeline.from_pretrained(checkpoint).unet.dtype == torch.float32
    loaded = IRSTDLatentPipeline.from_pretrained(checkpoint, variant="fp16", dtype=torch.float16)
    assert loaded.unet.dtype == torch.float16
    kept = load_file(checkpoint / "unet" / WEIGHTS)
    assert {tensor.dtype for tensor in kept.values() if tensor.is_floating_point()} == {torch.float32}


class OwnPipeline(IRSTDLatentPipeline):
    """A user's subclass, defined outside the package."""


def test_a_pipeline_class_outside_the_package(tiny_pipeline, tmp_path, image):
    OwnPipeline(**tiny_pipeline.components).save_pretrained(tmp_path / "own")
    assert read_json(tmp_path / "own/model_index.json")["_class_name"] == "OwnPipeline"
    loaded = OwnPipeline.from_pretrained(tmp_path / "own")
    np.testing.assert_array_equal(run(loaded, image), run(tiny_pipeline, image))


@pytest.mark.parametrize("fixture", ["tiny_pipeline", "tiny_diff_pipeline"])
def test_the_normalisation_is_an_entry_of_the_checkpoint(fixture, request, tmp_path):
    """A checkpoint of an earlier version has no such entry."""
    pipeline = request.getfixturevalue(fixture)
    robust = type(pipeline)(**pipeline.components, normalization="robust")
    robust.save_pretrained(tmp_path / "robust")
    assert read_json(tmp_path / "robust/model_index.json")["normalization"] == "robust"
    assert type(pipeline).from_pretrained(tmp_path / "robust").config.normalization == "robust"
    assert type(pipeline).from_pipe(robust).config.normalization == "robust"
    edit_index(tmp_path / "robust", normalization="minmax")
    message = "`normalization` must be one of range, robust, got 'minmax'"
    with pytest.raises(ValueError, match=message):
        type(pipeline).from_pretrained(tmp_path / "robust")
    with pytest.raises(ValueError, match=message):
        type(pipeline)(**pipeline.components, normalization="minmax")
    index = read_json(tmp_path / "robust/model_index.json")
    del index["normalization"]
    (tmp_path / "robust/model_index.json").write_text(json.dumps(index))
    assert type(pipeline).from_pretrained(tmp_path / "robust").config.normalization == "range"


# Code in the checkpoint


@pytest.mark.parametrize("fixture", ["tiny_pipeline", "tiny_diff_pipeline"])
def test_remote_files_stand_alone(fixture, request, tmp_path):
    """Each imports libraries only, under the names by which diffusers checks them, and defines all that it uses."""
    allowed = {"torch", "diffusers", "transformers", "huggingface_hub", "numpy", "scipy", "pywt", "PIL", "tqdm"}
    request.getfixturevalue(fixture).save_pretrained(tmp_path / "remote", remote_code=True)
    paths = list((tmp_path / "remote").rglob("*.py"))
    assert len(paths) in (3, 4)
    for path in paths:
        assert get_relative_imports(path) == []
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                names = [module] if module else [alias.name for alias in node.names]
                assert {name.partition(".")[0] for name in names} <= allowed | sys.stdlib_module_names, path
        assert len(text.splitlines()) < 1300
        assert "save_pretrained" not in text and "push_to_hub" not in text
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", *map(str, paths)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


WITHOUT_THE_PACKAGE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "irstd_ldm":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())

import numpy as np
from diffusers import DiffusionPipeline

image = np.load("image.npy")
try:
    DiffusionPipeline.from_pretrained("checkpoint")
except ValueError as error:
    print(error)
pipeline = DiffusionPipeline.from_pretrained("checkpoint", trust_remote_code=True)
np.save("array.npy", pipeline(image).probability)
np.save("file.npy", pipeline("image.png").probability)
print("module", type(pipeline.unet).__module__)
assert not any(name.partition(".")[0] == "irstd_ldm" for name in sys.modules)
"""


def test_loads_without_the_package(tiny_pipeline, remote_checkpoint, image, tmp_path):
    np.save(tmp_path / "image.npy", image)
    Image.fromarray(image).save(tmp_path / "image.png")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Pass `trust_remote_code=True`" in done.stdout
    assert "module diffusers_modules.local.irstd_unet" in done.stdout
    assert "Expected types" not in done.stderr  # diffusers' warning about a second copy of a component class
    expected = run(tiny_pipeline, image)
    np.testing.assert_array_equal(np.load(tmp_path / "array.npy"), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "file.npy"), expected)


def test_diffusers_refuses_remote_code_unasked(remote_checkpoint):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(remote_checkpoint)


# Refusals


class Touch:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_weights_are_not_loaded(checkpoint, tmp_path):
    weights = checkpoint / "unet" / WEIGHTS
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(OSError, match=f"no file named {WEIGHTS} found in directory .*unet"):
        IRSTDLatentPipeline.from_pretrained(checkpoint)
    with pytest.raises(OSError, match=f"no file named {WEIGHTS}"):
        IRSTDUNet2DConditionModel.from_pretrained(checkpoint / "unet")

    planted = pickle.dumps(Touch(tmp_path / "executed"))
    for name in (weights.with_suffix(".bin"), weights):
        name.write_bytes(planted)
        with pytest.raises(OSError, match=WEIGHTS):
            IRSTDLatentPipeline.from_pretrained(checkpoint)
        assert not (tmp_path / "executed").exists()
    pickle.loads(planted)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("unet", "words"),
    [
        (["irstd_ldm.models.unet", "Nothing"], "has no class `Nothing`"),
        (["irstd_unet", "Nothing"], "has no class `Nothing`"),
        (["load_irstd_ldm_models_unet", "Nothing"], "has no class `Nothing`"),
        (["os", "system"], "cannot be loaded as it does not seem to have any of the loading methods"),
    ],
)
def test_a_component_of_an_unknown_class_is_refused(checkpoint, unet, words):
    edit_index(checkpoint, unet=unet)
    with pytest.raises(ValueError, match=words):
        IRSTDLatentPipeline.from_pretrained(checkpoint)


def test_pickle_cannot_be_asked_for(tiny_pipeline, checkpoint, tmp_path):
    for load in (IRSTDLatentPipeline.from_pretrained, IRSTDUNet2DConditionModel.from_pretrained):
        with pytest.raises(ValueError, match="`use_safetensors` must be None or True"):
            load(checkpoint, use_safetensors=False)
    with pytest.raises(ValueError, match="`safe_serialization` must be True"):
        tiny_pipeline.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    assert not (tmp_path / "pickled").exists()


@pytest.mark.parametrize(
    ("version", "message"),
    [(3, "`format_version` is 3; this version of irstd-ldm reads up to 2"), (None, "got None"), ("1", "got '1'")],
)
def test_unknown_format_versions_are_refused(checkpoint, version, message):
    edit_index(checkpoint, format_version=version)
    with pytest.raises(ValueError, match=message) as caught:
        IRSTDLatentPipeline.from_pretrained(checkpoint)
    assert str(checkpoint) in str(caught.value)


def drop_a_tensor(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "unet" / WEIGHTS)
    tensors.pop("conv_out.weight")
    save_file(tensors, checkpoint / "unet" / WEIGHTS, metadata={"format": "pt"})


def halve_the_weights(checkpoint: Path) -> None:
    weights = checkpoint / "unet" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def narrow_the_config(checkpoint: Path) -> None:
    config = {**read_json(checkpoint / "unet/config.json"), "block_out_channels": [32, 32]}
    (checkpoint / "unet/config.json").write_text(json.dumps(config))


def exchange_components(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "unet")
    shutil.copytree(checkpoint / "image_encoder", checkpoint / "unet")


def spoil_the_header(checkpoint: Path) -> None:
    weights = checkpoint / "unet" / WEIGHTS
    data = weights.read_bytes()
    weights.write_bytes(data[:8] + b"?" * 100 + data[108:])


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        (lambda c: (c / "model_index.json").unlink(), OSError, "model_index.json"),
        (lambda c: (c / "model_index.json").write_text("{"), OSError, "model_index.json"),
        (lambda c: (c / "model_index.json").write_text("[]"), OSError, "model_index.json"),
        (lambda c: edit_index(c, _class_name=[]), OSError, "`_class_name`"),
        (lambda c: edit_index(c, unet="unet"), OSError, "`unet`"),
        (lambda c: shutil.rmtree(c / "unet"), OSError, "no folder `unet`"),
        (lambda c: (c / "unet/config.json").unlink(), OSError, "config.json"),
        (lambda c: (c / "unet/config.json").write_text("{"), OSError, "unet/config.json"),
        (lambda c: (c / "unet/config.json").write_text("{}"), ValueError, "checkpoint/unet: "),
        (lambda c: (c / "unet" / WEIGHTS).unlink(), OSError, WEIGHTS),
        (halve_the_weights, OSError, f"unet/{WEIGHTS}"),
        (spoil_the_header, OSError, f"unet/{WEIGHTS}"),
        (drop_a_tensor, ValueError, "missing keys ['conv_out.weight']"),
        (narrow_the_config, ValueError, "checkpoint/unet: "),
        (exchange_components, ValueError, "checkpoint/unet: "),
    ],
)
def test_a_damaged_checkpoint_is_named(checkpoint, damage, error, named):
    damage(checkpoint)
    with pytest.raises(error) as caught:
        IRSTDLatentPipeline.from_pretrained(checkpoint)
    assert str(checkpoint) in str(caught.value)
    assert named in str(caught.value)


# Saving


def test_other_files_of_the_folder_stay(tiny_pipeline, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/README.md").write_text("a card")
    tiny_pipeline.save_pretrained(str(tmp_path / "checkpoint"))
    assert (tmp_path / "checkpoint/README.md").read_text() == "a card"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_who_may_read_the_index_may_read_the_weights(checkpoint):
    mode = (checkpoint / "model_index.json").stat().st_mode
    assert {path.stat().st_mode for path in checkpoint.rglob("*") if path.is_file()} == {mode}


def test_a_failed_save_changes_nothing(tiny_pipeline, checkpoint, tmp_path):
    before = all_files(checkpoint)
    tiny_pipeline.vae.register_module("twice", tiny_pipeline.vae.encoder)  # safetensors refuses shared memory
    with pytest.raises(RuntimeError, match="share memory"):
        tiny_pipeline.save_pretrained(checkpoint)
    assert all_files(checkpoint) == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_wrong_arguments_of_save(tiny_pipeline, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="`save_directory`"):
        tiny_pipeline.save_pretrained(tmp_path / "file")
    with pytest.raises(ValueError, match="`repo_id` is for the upload"):
        tiny_pipeline.save_pretrained(tmp_path / "checkpoint", repo_id="user/name")

"""Trainers with `--push_to_hub`, and what they leave on the Hub."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load, load_file

from irstd_ldm.data.folder import write_stem_list
from irstd_ldm.data.synthetic import synthetic_scene

from .server import TOKEN

TRAIN = """
import json
import sys

from irstd_ldm.training import train_latent, train_mask_vae

mask_vae, latent, refused = json.loads(sys.argv[1])
train_mask_vae.main(mask_vae)
train_latent.main(latent)
try:
    train_latent.main(refused)
except OSError as error:
    print("refused", error)
"""


@pytest.fixture(scope="module")
def runs(hub, client, tiny_checkpoint, tmp_path_factory) -> tuple[Path, str]:
    """Both trainers, a few steps each, in one process: the folder of their outputs, and what they printed."""
    folder = tmp_path_factory.mktemp("training")
    for name in ("images", "masks"):
        (folder / "own" / name).mkdir(parents=True)
    rng, stems = np.random.default_rng(0), [f"frame_{seed}" for seed in range(8)]
    for seed, stem in enumerate(stems):
        scene = synthetic_scene(64, 64, num_targets=1, scr=8.0, seed=seed)
        noise = rng.integers(0, 256, (64, 64), dtype=np.uint8)  # no two scenes alike: each may stand alone in a split
        Image.fromarray(scene.image // 2 + noise // 2).save(folder / "own" / "images" / f"{stem}.png")
        Image.fromarray(scene.mask).save(folder / "own" / "masks" / f"{stem}.png")
    write_stem_list(folder / "own" / "train.txt", stems)
    common = f"--train_data_dir {folder / 'own'} --resolution 64 --train_batch_size 2 --num_cpu_threads 1"
    common += " --checkpointing_steps 2 --lr_warmup_steps 0 --report_to null --push_to_hub --validation_steps 2"
    mask_vae = f"{common} --output_dir mask_vae --max_train_steps 1 --statistics_crops 2 --val_fraction 0"
    latent = f"{common} --output_dir latent --max_train_steps 4 --val_fraction 0.25 --learning_rate 0.01"
    latent += f" --pretrained_model_name_or_path {tiny_checkpoint} --ema_decay 0.5"
    flags = [
        [*mask_vae.split(), "--hub_model_id", "you/mask-vae"],
        [*latent.split(), "--hub_model_id", "you/latent"],
        [*latent.split(), "--hub_model_id", "other/latent", "--output_dir", "refused"],
    ]
    hub.drop_commits = 0
    done = client("-c", TRAIN, json.dumps(flags), cwd=folder, token=TOKEN)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_commit_per_validation_and_one_at_the_end(hub, runs):
    assert hub.repos["you/latent"].messages[1:] == ["train_latent, step 2", "train_latent, step 4"]
    assert hub.repos["you/mask-vae"].messages[1:] == ["train_mask_vae, step 1"]


def test_what_is_uploaded_last_is_what_is_saved_and_nothing_else(hub, runs):
    folder, _ = runs
    saved = {path.relative_to(folder / "latent").as_posix(): path for path in (folder / "latent").rglob("*.*")}
    files = hub.files("you/latent")
    assert {name for name in saved if name not in files} >= {"run.json", "settings.yaml", "validation.png"}
    code = {name for name in files if name.endswith(".py")}
    assert code == {
        "pipeline.py",
        "image_encoder/irstd_image_encoder.py",
        "unet/irstd_unet.py",
        "vae/irstd_mask_vae.py",
    }
    assert not code & set(saved)
    written = {"README.md", "model_index.json", *code}
    assert all(data == saved[name].read_bytes() for name, data in files.items() if name not in written)
    assert {"train.txt", "val.txt", "model_index.json", "pipeline.py"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pkl", ".yaml", ".png"))]
    assert set(hub.files("you/mask-vae")) == {
        "README.md", "train.txt", "val.txt", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"
    }  # fmt: skip


def test_the_upload_on_the_way_holds_the_averaged_weights(hub, runs):
    folder, _ = runs
    half_way = hub.files("you/latent", list(hub.repos["you/latent"].commits)[1])
    uploaded = load(half_way["unet/diffusion_pytorch_model.safetensors"])["conv_out.weight"]
    trained = load_file(folder / "latent/checkpoint-2/model.safetensors")["unet.conv_out.weight"]
    last = load_file(folder / "latent/unet/diffusion_pytorch_model.safetensors")["conv_out.weight"]
    assert not torch.equal(uploaded, trained)
    assert not torch.equal(uploaded, last)


def test_the_card_says_how_it_was_trained(hub, runs):
    card = ModelCard(hub.files("you/latent")["README.md"].decode())
    assert card.data.datasets == ["own"]
    assert "accelerate launch training/train_latent.py --config recipe.yaml" in card.content
    assert 'train_data_dir: "own"' in card.content and "max_train_steps: 4" in card.content
    assert "1 process(es) on " in card.content and "accelerate " in card.content
    assert str(runs[0]) not in card.content
    vae = ModelCard(hub.files("you/mask-vae")["README.md"].decode())
    assert 'vae = MaskAutoencoderKL.from_pretrained("you/mask-vae", subfolder="vae")' in vae.content
    assert vae.data.pipeline_tag is None


def test_a_login_that_may_not_fails_before_the_training(runs):
    folder, out = runs
    (line,) = (line for line in out.splitlines() if line.startswith("refused "))
    assert line.startswith("refused `hub_model_id` other/latent: the Hub refuses this login")
    assert not list((folder / "refused").glob("checkpoint-*"))


def test_the_token_is_in_no_file_of_a_run(hub, runs):
    folder, _ = runs
    for path in folder.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    for repo in hub.repos.values():
        assert not any(TOKEN.encode() in blob.data for tree in repo.commits.values() for blob in tree.values())

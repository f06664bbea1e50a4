import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from irstd_ldm.training.train_mask_vae import MaskVAESettings, MaskVAETask

STEPS, FIRST_CHECKPOINT = 12, 3


def finish(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


def same(first, second):
    """Equality of nested states, bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def test_a_killed_run_goes_on_to_the_weights_of_an_uninterrupted_one(
    start_trainer, few_steps, tiny_checkpoint, tmp_path
):
    settings = {
        **few_steps,
        "pretrained_model_name_or_path": str(tiny_checkpoint),
        "max_train_steps": STEPS,
        "checkpointing_steps": FIRST_CHECKPOINT,
        "learning_rate": 1e-3,
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = start_trainer("train_latent", settings | {"output_dir": str(whole)})
    victim = start_trainer("train_latent", settings | {"output_dir": str(killed)})
    while not (killed / f"checkpoint-{FIRST_CHECKPOINT}").is_dir():
        assert victim.poll() is None, victim.communicate()[0]
        time.sleep(0.001)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert not (killed / "model_index.json").exists()
    half_written = killed / f"partial-checkpoint-{STEPS - 1}"
    half_written.mkdir()
    (half_written / "model.safetensors").write_bytes(b"half of a")

    finish(start_trainer("train_latent", settings | {"output_dir": str(killed)}))
    finish(reference)
    assert not half_written.exists()
    assert 'first_step": 0' in (whole / "run.json").read_text()
    assert 'first_step": 0' not in (killed / "run.json").read_text()

    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert {file.parts[0] for file in files} == {"vae", "unet", "image_encoder", "checkpoint-9", "checkpoint-12"}
    assert files == sorted(path.relative_to(killed) for path in killed.rglob("*.safetensors"))
    for file in files:
        assert same(load_file(whole / file), load_file(killed / file)), file
    started = load_file(tiny_checkpoint / "unet" / "diffusion_pytorch_model.safetensors")
    assert not same(load_file(whole / "unet" / "diffusion_pytorch_model.safetensors"), started)
    last = f"checkpoint-{STEPS}"
    first, second = (torch.load(run / last / "optimizer.bin", weights_only=True) for run in (whole, killed))
    assert same(first, second)
    first, second = (json.loads((run / last / "state.json").read_text()) for run in (whole, killed))
    assert first == second and first["lr_scheduler"]["last_epoch"] == STEPS
    assert not list(whole.rglob("custom_checkpoint_*"))  # pickles of ours


class Touch:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_a_checkpoint_is_not_run(few_steps, tmp_path):
    run = tmp_path / "run"
    settings = MaskVAESettings(**few_steps, output_dir=str(run), model="lgldnet_small")
    MaskVAETask.run(settings)
    (run / "run.json").write_text(json.dumps({**json.loads((run / "run.json").read_text()), "saved_sha256": None}))
    ran = tmp_path / "ran"
    checkpoint = run / "checkpoint-4"
    for name, words in (
        ("optimizer.bin", "checkpoint-4 cannot be loaded"),
        ("custom_checkpoint_0.pkl", "custom_checkpoint_0.pkl is a pickle of an earlier version or of another hand"),
    ):
        kept = (checkpoint / name).read_bytes() if (checkpoint / name).exists() else None
        torch.save(Touch(ran), checkpoint / name)
        with pytest.raises(ValueError, match=words):
            MaskVAETask.run(settings)
        (checkpoint / name).unlink() if kept is None else (checkpoint / name).write_bytes(kept)
    assert not ran.exists()
    (checkpoint / "state.json").unlink()
    with pytest.raises(ValueError, match="checkpoint-4 has no state.json: earlier versions wrote pickles"):
        MaskVAETask.run(settings)


def test_a_checkpoint_of_another_run_and_foreign_weights_are_refused_by_name(few_steps, tmp_path):
    run = tmp_path / "run"
    MaskVAETask.run(MaskVAESettings(**few_steps, output_dir=str(run), model="lgldnet_small"))
    other = {**few_steps, "output_dir": str(tmp_path / "other"), "model": "lgldnet_small", "learning_rate": 0.5}
    start = {"resume_from_checkpoint": str(run / "checkpoint-2")}
    with pytest.raises(ValueError, match="checkpoint-2 is of another run: learning_rate: 0.001 -> 0.5"):
        MaskVAETask.run(MaskVAESettings(**other, **start))
    assert not (tmp_path / "other" / "settings.yaml").exists()
    shutil.copytree(run / "vae", tmp_path / "other" / "vae")
    with pytest.raises(ValueError, match="holds a model without settings.yaml"):
        MaskVAETask.run(MaskVAESettings(**other))
    assert not (tmp_path / "other" / "settings.yaml").exists()


def test_two_trainings_of_one_folder(start_trainer, few_steps, tmp_path):
    settings = {**few_steps, "output_dir": str(tmp_path / "run"), "model": "lgldnet_small", "max_train_steps": 1000}
    first = start_trainer("train_mask_vae", settings)
    while not (tmp_path / "run" / "checkpoint-2").is_dir():
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    second = start_trainer("train_mask_vae", settings)
    output, _ = second.communicate(timeout=300)
    assert second.returncode != 0
    assert f"run is being written by the training MaskVAESettings, process {first.pid} on " in output.splitlines()[-1]

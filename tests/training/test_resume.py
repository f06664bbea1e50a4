import signal
import time

import torch
from safetensors.torch import load_file

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
    for state in ("optimizer.bin", "custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl"):  # schedule, moving average
        first, second = (torch.load(run / last / state, weights_only=False) for run in (whole, killed))
        assert same(first, second), state

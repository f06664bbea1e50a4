import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from irstd_ldm.data.folder import IRSTDFolder
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.pipelines.pipeline_irstd_latent import IRSTDLatentPipeline

# The launcher looks for itself under the host's name, which not every machine can resolve, unless told an address.
TORCHRUN = ("-m", "torch.distributed.run", "--local-addr", "127.0.0.1", "--nproc_per_node", "2")


def write_frames(root: Path, count: int) -> Path:
    (root / "images").mkdir(parents=True)
    for seed in range(count):
        Image.fromarray(synthetic_scene(96, 96, num_targets=1, seed=seed).image).save(root / "images" / f"{seed}.png")
    return root


def test_two_processes_train_one_model(start_trainer, few_steps, tiny_checkpoint, synthetic_root, tmp_path):
    run = tmp_path / "run"
    settings = {
        **few_steps,
        "output_dir": str(run),
        "pretrained_model_name_or_path": str(tiny_checkpoint),
        "val_fraction": 0.2,
        "validation_steps": 2,
        "background_dir": str(write_frames(tmp_path / "frames", 3)),
        "hard_negative_probability": 0.5,
    }
    process = start_trainer("train_latent", settings, prefix=TORCHRUN)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output

    record = json.loads((run / "run.json").read_text())
    assert record["num_processes"] == 2
    first, second = record["weights_sha256"]  # each process's own digest
    assert first == second
    random_states = sorted(path.name for path in (run / "checkpoint-4").glob("random_states_*"))
    assert random_states == ["random_states_0.pkl", "random_states_1.pkl"]
    validations = (run / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in validations] == [2, 4]  # by one process

    pipeline = IRSTDLatentPipeline.from_pretrained(run)
    image = IRSTDFolder(synthetic_root)[0].image
    assert np.isfinite(pipeline(image).probability).all()


def test_processes_share_a_search_and_all_have_what_was_found():
    script = Path(__file__).with_name("report_shared_search.py")
    done = subprocess.run([sys.executable, *TORCHRUN, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{[[index] for index in range(7)]}\n") == 2 and done.stdout.count("searched 1\n") == 1


def test_two_machines_train_what_two_processes_of_one_do(start_trainer, few_steps, tiny_checkpoint, tmp_path):
    """Two launchers, each with an address of its own (both of this machine), as `docs/archives.md` shows them."""
    start = {**few_steps, "pretrained_model_name_or_path": str(tiny_checkpoint), "max_train_steps": 2}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launchers = []
    for rank in range(2):
        nodes = (
            "--nnodes",
            "2",
            "--node_rank",
            str(rank),
            "--nproc_per_node",
            "1",
            "--local-addr",
            f"127.0.0.{rank + 1}",
        )
        prefix = ("-m", "torch.distributed.run", *nodes, "--master_addr", "127.0.0.1", "--master_port", str(port))
        launchers.append(start_trainer("train_latent", {**start, "output_dir": str(tmp_path / "two")}, prefix=prefix))
    for launcher in launchers:
        output, _ = launcher.communicate(timeout=300)
        assert launcher.returncode == 0, output
    one = start_trainer("train_latent", {**start, "output_dir": str(tmp_path / "one")}, prefix=TORCHRUN)
    output, _ = one.communicate(timeout=300)
    assert one.returncode == 0, output
    records = [json.loads((tmp_path / run / "run.json").read_text()) for run in ("two", "one")]
    assert [record["num_processes"] for record in records] == [2, 2]
    assert len({*records[0]["weights_sha256"], *records[1]["weights_sha256"]}) == 1


def test_no_model_outlives_the_process_group(start_trainer, few_steps, tiny_checkpoint, tmp_path):
    # The group's last reference must not be a wrapped model's, whose destructor waits for gloo's threads with the
    # interpreter's lock held, which these may be waiting for: torch 2.13 then hung at times, under load.
    settings = {
        **few_steps,
        "output_dir": str(tmp_path / "run"),
        "pretrained_model_name_or_path": str(tiny_checkpoint),
        "max_train_steps": 1,
    }
    script = Path(__file__).with_name("report_models_left.py")
    process = start_trainer("train_latent", settings, prefix=(*TORCHRUN, str(script)))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert output.count("models left: 0\n") == 2

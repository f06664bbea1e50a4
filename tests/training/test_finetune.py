import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from irstd_ldm import bundled_checkpoint
from irstd_ldm.data.crops import CropSettings
from irstd_ldm.data.folder import read_stem_list
from irstd_ldm.models.configurations import CONFIGURATIONS
from irstd_ldm.models.mask_vae import MaskAutoencoderKL
from irstd_ldm.pipelines.pipeline_irstd_latent import IRSTDLatentPipeline
from irstd_ldm.training import train_latent, train_mask_vae
from irstd_ldm.training.settings import parse_plan
from irstd_ldm.training.train_latent import LatentSettings, LatentTask
from irstd_ldm.training.training_data import read_training_data

RECIPE = Path(__file__).resolve().parents[2] / "training" / "recipes" / "finetune.yaml"
GIB = 2**30


def as_flags(settings):
    return [
        part for name, value in settings.items() for part in (f"--{name}", "null" if value is None else str(value))
    ]


def loss_on_crops(settings, crops):
    """Loss of `settings`' pipeline on the first 8 training crops, KLDA at its full weight, same noise every time."""
    data = read_training_data(settings, CropSettings())
    task = LatentTask(settings, data)
    task.model.eval()
    batch = {name: torch.stack([crops[k][name] for k in range(8)]) for name in crops[0]}
    with torch.no_grad():
        return task.loss(task.model, batch, 10**6, torch.Generator().manual_seed(0))[0].item()


def test_finetuning_on_20_images_lowers_the_loss(few_steps, tiny_checkpoint, tmp_path):
    run = tmp_path / "run"
    flags = as_flags(
        {
            "config": RECIPE,
            "train_data_dir": few_steps["train_data_dir"],
            "pretrained_model_name_or_path": tiny_checkpoint,
            "output_dir": run,
            "resolution": 64,
            "max_train_steps": 40,
            "learning_rate": 3e-3,  # the pipeline has random weights
            "validation_steps": 20,
            "num_cpu_threads": 1,
        }
    )
    train_latent.main(flags)

    before = parse_plan(LatentSettings, flags).stages[0]
    after = parse_plan(LatentSettings, [*flags, "--pretrained_model_name_or_path", str(run)]).stages[0]
    crops = read_training_data(before, CropSettings()).crops
    assert loss_on_crops(after, crops) < 0.8 * loss_on_crops(before, crops)

    train, val = read_stem_list(run / "train.txt"), read_stem_list(run / "val.txt")
    assert len(train) + len(val) == 20 and not set(train) & set(val)
    scores = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    assert [score["step"] for score in scores] == [20, 40]
    assert {"iou", "niou", "pd", "fa_per_million_px"} <= set(scores[0])
    assert (run / "validation.png").is_file() and list((run / "logs").rglob("events.out.tfevents.*"))


def test_the_bundled_checkpoint_adapts_to_20_images(few_steps, tmp_path):
    flags = as_flags(
        {
            "config": RECIPE,
            "train_data_dir": few_steps["train_data_dir"],
            "pretrained_model_name_or_path": bundled_checkpoint(),
            "output_dir": tmp_path / "run",
            "max_train_steps": 40,
            "validation_steps": 0,
            "num_cpu_threads": 2,
            "report_to": None,
        }
    )
    train_latent.main(flags)
    assert IRSTDLatentPipeline.load_config(bundled_checkpoint())["calibration"] is not None
    assert IRSTDLatentPipeline.load_config(tmp_path / "run")["calibration"] is None
    before = parse_plan(LatentSettings, flags).stages[0]
    after = parse_plan(LatentSettings, [*flags, "--pretrained_model_name_or_path", str(tmp_path / "run")]).stages[0]
    crops = read_training_data(before, CropSettings()).crops
    assert loss_on_crops(after, crops) < 0.95 * loss_on_crops(before, crops)


def test_a_half_precision_checkpoint_is_trained_in_full_precision(few_steps, tiny_pipeline, tmp_path):
    tiny_pipeline.to(torch.float16).save_pretrained(tmp_path / "half")
    settings = LatentSettings(
        **few_steps, output_dir=str(tmp_path / "run"), pretrained_model_name_or_path=str(tmp_path / "half")
    )
    pipeline = train_latent.make_pipeline(settings)
    dtypes = {p.dtype for part in (pipeline.vae, pipeline.unet, pipeline.image_encoder) for p in part.parameters()}
    assert dtypes == {torch.float32}


def test_both_stages_from_random_weights(few_steps, tmp_path):
    first, second = tmp_path / "mask_vae", tmp_path / "latent"
    flags = as_flags(few_steps)
    train_mask_vae.main([*flags, "--output_dir", str(first), "--statistics_crops", "16"])
    vae = MaskAutoencoderKL.from_pretrained(first, subfolder="vae")
    settings = parse_plan(LatentSettings, [*flags, "--output_dir", str(second)]).stages[0]
    crops = read_training_data(settings, CropSettings()).crops
    with torch.no_grad():
        masks = torch.stack([crops[k]["mask"] for k in range(16)])
        variables = vae.posterior_to_variables(vae.encode(masks * 2 - 1).latent_dist)  # (16, 8, h, w)
    means, logvars = variables.chunk(2, dim=1)
    assert means.std().item() == pytest.approx(1, abs=1e-3)
    assert logvars.mean().item() == pytest.approx(0, abs=1e-3) and logvars.std().item() == pytest.approx(1, abs=1e-3)

    train_latent.main([*flags, "--output_dir", str(second), "--mask_vae", str(first), "--max_train_steps", "1"])
    pipeline = IRSTDLatentPipeline.from_pretrained(second)
    for name in ("scaling_factor", "logvar_mean", "logvar_std", "klda_min_logvar"):
        assert pipeline.vae.config[name] == vae.config[name], name
    weights = "diffusion_pytorch_model.safetensors"
    stage1, stage2 = (load_file(run / "vae" / weights) for run in (first, second))
    frozen = [name for name in stage1 if name.startswith(("encoder.", "quant_conv."))]
    assert frozen and all(torch.equal(stage1[name], stage2[name]) for name in frozen)
    assert np.isfinite(pipeline(np.zeros((64, 64), np.uint8)).probability).all()


@pytest.mark.parametrize(
    ("mask_vae", "message"),
    [
        ([], "`mask_vae` or `pretrained_model_name_or_path` must be set, got neither"),
        (["--mask_vae", "nowhere"], "`mask_vae` must be a folder that train_mask_vae wrote.*nowhere"),
    ],
)
def test_a_missing_mask_vae_is_named(few_steps, tmp_path, mask_vae, message):
    with pytest.raises(ValueError, match=message):
        train_latent.main([*as_flags(few_steps), "--output_dir", str(tmp_path / "run"), *mask_vae])


def test_one_training_step_of_lgldnet_at_256(few_steps, tmp_path):
    MaskAutoencoderKL(**CONFIGURATIONS["lgldnet"]["vae"]).save_pretrained(tmp_path / "stage1" / "vae")
    settings = LatentSettings(
        **few_steps
        | {"model": "lgldnet", "resolution": 256, "output_dir": "run", "mask_vae": str(tmp_path / "stage1")}
    )
    data = read_training_data(settings, CropSettings())
    task = LatentTask(settings, data)
    batch = {name: tensor[None] for name, tensor in data.crops[0].items()}
    parameters = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    loss, _ = task.loss(task.model, batch, 0, torch.Generator().manual_seed(0))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    # Every weight takes part: several processes cannot train otherwise.
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in parameters)
    assert sum(not torch.equal(old, new) for old, new in zip(before, parameters, strict=True)) > 0.9 * len(before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 8 * GIB

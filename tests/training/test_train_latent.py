"""The latent detector's trainer: what it freezes, and the normalisation that its crops have."""

import pytest
import torch

from irstd_ldm.models.configurations import CONFIGURATIONS
from irstd_ldm.models.mask_vae import MaskAutoencoderKL
from irstd_ldm.pipelines.pipeline_irstd_latent import IRSTDLatentPipeline
from irstd_ldm.training import loop
from irstd_ldm.training.train_latent import LatentSettings, LatentTask, make_pipeline


@pytest.fixture(scope="module")
def mask_vae(tmp_path_factory) -> str:
    """The folder of an untrained Mask-VAE of the small configuration."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stage1")
    MaskAutoencoderKL(**CONFIGURATIONS["lgldnet_small"]["vae"]).save_pretrained(folder / "vae")
    return str(folder)


def test_the_mask_encoder_is_frozen_batch_statistics_and_all(few_steps, mask_vae):
    task = LatentTask(LatentSettings(**few_steps | {"output_dir": "run", "mask_vae": mask_vae}), None)
    frozen = {name: tensor.clone() for name, tensor in task.pipeline.vae.encoder.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randn(2, 1, 64, 64, generator=generator),
        "mask": (torch.rand(2, 1, 64, 64, generator=generator) > 0.99).float(),
        "weight": torch.ones(2, 1, 64, 64),
    }
    task.model.train()
    task.loss(task.model, batch, 0, generator)[0].backward()
    assert any(
        norm.running_mean.any() for norm in task.pipeline.vae.decoder.modules() if hasattr(norm, "running_mean")
    )
    for name, tensor in task.pipeline.vae.encoder.state_dict().items():
        assert torch.equal(tensor, frozen[name]), name
    assert not any(parameter.grad is not None for parameter in task.pipeline.vae.encoder.parameters())


@pytest.mark.parametrize("use_fae", (True, False))
def test_fae_is_where_the_configuration_has_it_or_nowhere(few_steps, mask_vae, tmp_path, use_fae):
    settings = LatentSettings(**few_steps | {"output_dir": "run", "mask_vae": mask_vae, "use_fae": use_fae})
    pipeline = make_pipeline(settings)
    assert tuple(pipeline.image_encoder.config.frequency_attention) == (False, False, False, use_fae)
    assert pipeline.unet.config.use_fae is False
    pipeline.save_pretrained(tmp_path)
    again = {"output_dir": "again", "pretrained_model_name_or_path": str(tmp_path)}
    make_pipeline(LatentSettings(**few_steps | again | {"use_fae": use_fae}))
    with pytest.raises(ValueError, match=f"`use_fae` is not {not use_fae} in the pretrained pipeline"):
        make_pipeline(LatentSettings(**few_steps | again | {"use_fae": not use_fae}))


@pytest.mark.parametrize("normalization", ("range", "robust", None))
def test_crops_have_the_normalisation_of_the_pipeline(
    few_steps, tiny_checkpoint, mask_vae, tmp_path, monkeypatch, normalization
):
    """None: from random weights."""
    changes = {"output_dir": str(tmp_path / "run"), "mask_vae": mask_vae}
    if normalization is not None:
        IRSTDLatentPipeline.from_pretrained(tiny_checkpoint, normalization=normalization).save_pretrained(
            tmp_path / "p"
        )
        changes = {"output_dir": str(tmp_path / "run"), "pretrained_model_name_or_path": str(tmp_path / "p")}
    seen = []
    monkeypatch.setattr(loop, "train", lambda settings, task, crops, lists: seen.append((task, crops)))
    LatentTask.run(LatentSettings(**few_steps | changes))
    task, crops = seen[0]
    assert crops.normalization == task.pipeline.config.normalization == (normalization or "robust")


def test_a_mask_vae_of_another_configuration_is_refused(few_steps, mask_vae):
    settings = LatentSettings(**few_steps | {"output_dir": "run", "mask_vae": mask_vae, "model": "lgldnet"})
    with pytest.raises(
        ValueError, match="`mask_vae` must be of the configuration lgldnet, where `block_out_channels`"
    ):
        make_pipeline(settings)

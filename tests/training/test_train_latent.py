"""The latent detector's trainer: what it freezes, and the normalisation that its crops have."""

import pytest
import torch

from irstd_ldm.models.configurations import CONFIGURATIONS
from irstd_ldm.models.image_encoder import IRSTDImageEncoder
from irstd_ldm.models.mask_vae import MaskAutoencoderKL
from irstd_ldm.pipelines.pipeline_irstd_latent import IRSTDLatentPipeline
from irstd_ldm.training import loop
from irstd_ldm.training.train_latent import LatentSettings, LatentTask, make_pipeline, vary_context


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


def test_attention_gathers_from_a_part_in_training_and_from_all_else():
    """A map of 16x12 of which a part of 8x6 at row 4 and column 6 is gathered."""
    torch.manual_seed(0)
    encoder = IRSTDImageEncoder(**CONFIGURATIONS["lgldnet_small"]["image_encoder"])
    features = torch.randn(2, 64, 16, 12)
    pooling, excite = encoder.token_pooling, encoder.ladder.levels[3][0].channel_attention.excite
    gathered = {
        name: [f(x) for x in (features, features[..., 4:12, 6:])]
        for name, f in (("tokens", pooling), ("gates", excite))
    }
    context = torch.tensor([0.5, 0.5, 0.5, 1.0])
    vary_context(encoder, context)
    for training in (True, False):
        encoder.train(training)
        assert torch.equal(pooling(features), gathered["tokens"][training])
        assert torch.equal(excite(features), gathered["gates"][training])
    context.copy_(torch.tensor([1.0, 1.0, 0.7, 0.2]))
    assert torch.equal(pooling.train()(features), gathered["tokens"][0])


def test_each_step_draws_its_context(few_steps, mask_vae):
    settings = few_steps | {"output_dir": "run", "mask_vae": mask_vae, "min_context": 0.4}
    task = LatentTask(LatentSettings(**settings), None)
    task.prepare()
    batch = {name: torch.zeros(1, 1, 128, 128) for name in ("image", "mask", "weight")}
    seen = []
    task.pipeline.image_encoder.token_pooling.attention.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[1].shape[1])
    )
    task.model.train()
    for step in range(20):
        task.loss(task.model, batch, step, torch.Generator().manual_seed(step))
        task.loss(task.model, batch, step, torch.Generator().manual_seed(step))
    assert seen[::2] == seen[1::2]  # positions of 16x16
    assert (0.4 * 16 - 0.5) ** 2 <= min(seen) < 100 < max(seen) <= 256


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

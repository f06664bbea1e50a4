"""The pixel trainer: its losses, where gradients go, its settings, resumption."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from irstd_ldm.data.crops import CropSettings
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.models.conditional_encoder import ConditionalEncoder
from irstd_ldm.models.configurations import PIXEL_CONFIGURATIONS
from irstd_ldm.models.pixel_unet import IRSTDUNet2DModel
from irstd_ldm.pipelines.pipeline_irstd_diff import IRSTDDiffPipeline
from irstd_ldm.training import train_pixel
from irstd_ldm.training.losses import bce_loss, dice_loss, probability_dice_loss
from irstd_ldm.training.train_pixel import (
    PREDICTION_TYPES,
    PixelSettings,
    PixelStep,
    PixelStepOutput,
    PixelTask,
    ancestral_step,
    clean_estimate,
    deeply_supervised,
    make_pipeline,
    make_scheduler,
    show_map,
    training_target,
)
from irstd_ldm.training.training_data import read_training_data


def random_map(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def as_flags(settings: dict) -> list[str]:
    return [
        part for name, value in settings.items() for part in (f"--{name}", "null" if value is None else str(value))
    ]


@pytest.fixture
def untrained(tiny_diff_pipeline) -> PixelStep:
    """The networks as a training finds them: the residual convolutions are zero."""
    torch.manual_seed(0)
    encoder = ConditionalEncoder(**tiny_diff_pipeline.conditional_encoder.config).train()
    return PixelStep(tiny_diff_pipeline.unet.train(), encoder, tiny_diff_pipeline.scheduler)


def test_the_diffusion_loss_alone_trains_the_conditional_encoder(untrained):
    """At first through the zero convolutions, from the second step on through every stage."""
    image, mask, noise = random_map(2, 1, 64, 64), torch.zeros(2, 1, 64, 64), random_map(2, 1, 64, 64, seed=1)
    mask[:, :, 20:24, 30:34] = 1
    encoder = untrained.conditional_encoder

    def backward() -> set[str]:
        """The encoder's parameters that the diffusion loss reaches."""
        untrained.zero_grad()
        predicted = untrained(image, mask, torch.tensor([999, 500]), noise).predicted
        (predicted - (mask * 2 - 1)).square().mean().backward()
        return {name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.any()}

    names = {name for name, _ in encoder.named_parameters()}
    of_residuals = {name for name in names if name.startswith("residual_convs.")}
    of_logits = {name for name in names if name.startswith(("side_heads.", "conv_fuse."))}
    assert backward() == of_residuals
    with torch.no_grad():
        for parameter in encoder.residual_convs.parameters():
            parameter -= 0.1 * parameter.grad
    unreached = names - of_logits - backward()
    assert all("key.bias" in name for name in unreached), unreached  # softmax cancels what the keys share


def test_without_residuals_the_diffusion_loss_does_not_reach_the_encoder():
    settings = PixelSettings(train_data_dir="", output_dir="", use_residuals=False)
    pipeline = make_pipeline(settings)
    model = PixelStep(pipeline.unet, pipeline.conditional_encoder, pipeline.scheduler)
    output = model(random_map(1, 1, 64, 64), torch.zeros(1, 1, 64, 64), torch.tensor([500]), random_map(1, 1, 64, 64))
    output.predicted.square().mean().backward()
    assert all(parameter.grad is None for parameter in pipeline.conditional_encoder.parameters())


@pytest.mark.parametrize("num_train_timesteps", (100, 1000))
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_training_target_stands_for_the_clean_mask(prediction_type, num_train_timesteps):
    scheduler = make_scheduler(
        PixelSettings(
            train_data_dir="",
            output_dir="",
            prediction_type=prediction_type,
            num_train_timesteps=num_train_timesteps,
            beta_schedule="linear",
        )
    )
    timesteps = torch.tensor([0, num_train_timesteps // 2, num_train_timesteps - 1])
    clean, noise = (random_map(3, 1, 8, 8) > 1.5).float() * 2 - 1, random_map(3, 1, 8, 8, seed=1)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    target = training_target(scheduler, clean, noise, timesteps)
    torch.testing.assert_close(clean_estimate(scheduler, target, noisy, timesteps), clean, atol=1e-3, rtol=0)
    if prediction_type != "epsilon":
        torch.testing.assert_close(noisy[-1], noise[-1])  # zero terminal SNR


def test_a_shift_lowers_the_signal_to_noise_ratio_of_every_timestep():
    plain, shifted = (
        make_scheduler(PixelSettings(train_data_dir="", output_dir="", snr_shift_db=shift)).alphas_cumprod[10:990]
        for shift in (0.0, 10.0)
    )
    torch.testing.assert_close(shifted / (1 - shifted), plain / (1 - plain) / 10, rtol=0.01, atol=1e-4)


def test_a_step_of_the_denoisers_own_is_the_schedulers():
    scheduler = make_scheduler(PixelSettings(train_data_dir="", output_dir="", snr_shift_db=6.0))
    predicted, noisy = random_map(2, 1, 8, 8).clamp(-1, 1), random_map(2, 1, 8, 8, seed=1)
    scheduler.set_timesteps(10)  # 999, 899, ...
    for before, after in ((999, 899), (899, 799), (199, 99)):
        expected = scheduler.step(predicted, before, noisy, generator=torch.Generator().manual_seed(2)).prev_sample
        fresh = random_map(2, 1, 8, 8, seed=2)
        found = ancestral_step(scheduler, predicted, noisy, torch.full((2,), before), torch.full((2,), after), fresh)
        torch.testing.assert_close(found, expected)


def test_the_encoders_map_is_one_more_input_and_changes_nothing_yet(tiny_diff_pipeline):
    image = torch.from_numpy(synthetic_scene(128, 128, seed=0).image)
    before = tiny_diff_pipeline(image.numpy(), num_inference_steps=2, seed=0).probability
    show_map(tiny_diff_pipeline)
    assert tiny_diff_pipeline.unet.config.in_channels == 3
    after = tiny_diff_pipeline(image.numpy(), num_inference_steps=2, seed=0).probability
    np.testing.assert_allclose(after, before, atol=1e-6)
    with torch.no_grad():
        tiny_diff_pipeline.unet.conv_in.conv.weight[:, :4] = 0.5
    assert np.abs(tiny_diff_pipeline(image.numpy(), num_inference_steps=2, seed=0).probability - before).max() > 1e-3


def test_a_map_is_seen_about_as_masks_are():
    unet = IRSTDUNet2DModel(**PIXEL_CONFIGURATIONS["irstd_diff"]["unet"] | {"in_channels": 5, "sees_map": True})
    seen = unet.condition(torch.full((1, 1, 32, 32), 0.25), torch.full((1, 1, 32, 32), 20.0))
    assert seen.shape == (1, 4, 32, 32)
    torch.testing.assert_close(seen[0, :, 0, 0], torch.tensor([1.0, 0.25, 0.25, 0.25]))


def test_crops_step_from_the_denoisers_own_answer(untrained):
    image, mask, noise = random_map(2, 1, 64, 64), torch.zeros(2, 1, 64, 64), random_map(2, 1, 64, 64, seed=1)
    timesteps, model = torch.tensor([300, 300]), untrained.eval()
    fresh = random_map(1, 1, 64, 64, seed=2)
    output = model(image, mask, timesteps, noise, torch.tensor([1]), torch.tensor([700]), fresh)
    true = model.scheduler.add_noise(mask * 2 - 1, noise, timesteps)
    assert torch.equal(output.noisy[0], true[0])
    before = model(image, mask, torch.tensor([700, 700]), noise)
    steps = (torch.tensor([700, 700]), timesteps)
    own = ancestral_step(model.scheduler, before.predicted, before.noisy, *steps, fresh)
    torch.testing.assert_close(output.noisy[1], own[1], atol=1e-4, rtol=0)
    assert not torch.allclose(output.noisy[1], true[1], atol=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"own_state_share": 0.6, "last_timestep_share": 0.5}, "`own_state_share` must lie in"),
        ({"own_state_share": 0.3, "prediction_type": "epsilon"}, "`own_state_share` needs the prediction type sample"),
    ],
)
def test_shares_of_own_states_that_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PixelSettings(train_data_dir="", output_dir="", **changes)


def test_deep_supervision_is_the_fused_map_plus_the_mean_of_the_levels():
    mask = (random_map(2, 1, 4, 4) > 0).float()
    logits, sides = random_map(2, 1, 4, 4, seed=1), [random_map(2, 1, 4, 4, seed=seed) for seed in (2, 3)]
    output, weight = PixelStepOutput(mask, mask, logits, sides), (random_map(2, 1, 4, 4, seed=4) > -1).float()
    for loss in (bce_loss, dice_loss):
        fused, *levels = (loss(one, mask, weight) for one in (logits, *sides))
        torch.testing.assert_close(deeply_supervised(loss, output, mask, weight), fused + sum(levels) / 2)


def test_the_loss_is_the_weighted_sum_of_its_terms(few_steps, tiny_diff_checkpoint):
    weights = {"diffusion_weight": 3.0, "sample_dice_weight": 5.0, "bce_weight": 7.0, "dice_weight": 11.0}
    settings = PixelSettings(
        **few_steps | weights,
        output_dir="",
        pretrained_model_name_or_path=str(tiny_diff_checkpoint),
        last_timestep_share=1.0,
    )
    task = PixelTask(settings, read_training_data(settings, CropSettings()))
    task.model.eval()
    image, mask = random_map(2, 1, 64, 64), torch.zeros(2, 1, 64, 64)
    mask[:, :, 20:24, 30:34] = 1
    batch = {"image": image, "mask": mask, "weight": (random_map(2, 1, 64, 64, seed=1) > -1).float()}
    with torch.no_grad():
        loss, terms = task.loss(task.model, batch, 0, torch.Generator().manual_seed(0))
        encoded = task.pipeline.conditional_encoder(image)
        generator = torch.Generator().manual_seed(0)
        torch.randint(1000, (2,), generator=generator), torch.rand(2, generator=generator)
        noise = torch.randn(mask.shape, generator=generator)  # at the last timestep all there is
        clean = task.pipeline.unet(torch.cat([image, noise], dim=1), 999, encoded.residuals).sample
    expected = {
        "diffusion": (batch["weight"] * (clean - (mask * 2 - 1)).square()).mean(),
        "sample_dice": probability_dice_loss(((clean + 1) / 2).clamp(0, 1), mask, batch["weight"]),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    weighted = (weights[f"{name}_weight"] * terms[name] for name in (*expected, "bce", "dice"))
    torch.testing.assert_close(loss, sum(weighted))


def test_probability_dice_of_two_by_two_pixels():
    probability = torch.tensor([[[[0.5, 0.75], [0.5, 0.25]]]])
    mask = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert probability_dice_loss(probability, mask).item() == pytest.approx(1 - (2 * 1.0 + 1) / (2.0 + 2.0 + 1))


def test_switches_reach_the_networks():
    plain, full = (
        make_pipeline(PixelSettings(train_data_dir="", output_dir="", use_liw=value, use_residuals=value))
        for value in (False, True)
    )
    assert isinstance(plain.conditional_encoder.liw, nn.Identity)
    assert not isinstance(full.conditional_encoder.liw, nn.Identity)
    assert (len(plain.conditional_encoder.residual_convs), len(full.conditional_encoder.residual_convs)) == (0, 6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "tiny"}, "`model` must be one of irstd_diff, irstd_diff_small, got 'tiny'"),
        ({"prediction_type": "noise"}, "`prediction_type` must be one of sample, v_prediction, epsilon, got 'noise'"),
        ({"beta_schedule": "cosine"}, "`beta_schedule` must be one of squaredcos_cap_v2, linear, got 'cosine'"),
        ({"last_timestep_share": 1.5}, r"`last_timestep_share` must lie in \[0, 1\], got 1.5"),
        ({"num_inference_steps": 0}, "`num_inference_steps` must lie in"),
        ({"num_train_timesteps": 100, "num_inference_steps": 101}, r"\[1, 100\], got 101"),
    ],
)
def test_bad_settings_are_refused_by_name(changes, named):
    with pytest.raises(ValueError, match=named):
        PixelSettings(train_data_dir="", output_dir="", **changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_liw": False}, "`use_liw` is True in the pretrained pipeline, got False"),
        ({"use_residuals": False}, "`use_residuals` is True in the pretrained pipeline, got False"),
        ({"prediction_type": "epsilon"}, "`prediction_type` is 'sample' in the pretrained pipeline, got 'epsilon'"),
        ({"num_train_timesteps": 100}, "`num_train_timesteps` is 1000 in the pretrained pipeline, got 100"),
    ],
)
def test_settings_of_another_pipeline_are_refused(tiny_diff_checkpoint, changes, named):
    settings = PixelSettings(
        train_data_dir="", output_dir="", pretrained_model_name_or_path=str(tiny_diff_checkpoint), **changes
    )
    with pytest.raises(ValueError, match=named):
        make_pipeline(settings)


def test_a_resumed_run_ends_at_the_same_weights_and_is_validated(few_steps, tiny_diff_checkpoint, tmp_path):
    settings = few_steps | {
        "pretrained_model_name_or_path": tiny_diff_checkpoint,
        "val_fraction": 0.1,
        "num_inference_steps": 2,
        "validation_steps": 4,
    }
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train_pixel.main(as_flags(settings | {"output_dir": whole}))
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    train_pixel.main(as_flags(settings | {"output_dir": resumed}))

    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert {"unet", "conditional_encoder", "checkpoint-4"} <= {file.parts[0] for file in files}
    for file in files:
        first, second = load_file(whole / file), load_file(resumed / file)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first), file
    started = load_file(tiny_diff_checkpoint / "conditional_encoder" / "diffusion_pytorch_model.safetensors")
    trained = load_file(whole / "conditional_encoder" / "diffusion_pytorch_model.safetensors")
    assert not torch.equal(started["residual_convs.0.weight"], trained["residual_convs.0.weight"])
    assert not torch.equal(started["encoder.0.stem.1.running_mean"], trained["encoder.0.stem.1.running_mean"])

    scores = json.loads((whole / "validation.jsonl").read_text().splitlines()[-1])
    assert {"iou", "niou", "pd", "fa_per_million_px", "encoder_iou"} < scores.keys()
    assert (whole / "val.txt").is_file()
    assert IRSTDDiffPipeline.from_pretrained(whole).config.default_num_inference_steps == 2

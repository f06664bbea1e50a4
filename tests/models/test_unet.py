"""Denoiser: switches, latent sizes, and what reaches its output."""

import itertools

import pytest
import torch
from torch import nn

from irstd_ldm.models.configurations import CONFIGURATIONS
from irstd_ldm.models.frequency import FAE, LIW
from irstd_ldm.models.unet import IRSTDUNet2DConditionModel

SMALL = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "cross_attention_dim": 16,
    "norm_num_groups": 8,
}
SWITCHES = tuple(itertools.product((False, True), repeat=2))


def random_map(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_inputs(height: int, width: int, in_channels: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sample, timestep and tokens of two images."""
    return (
        random_map(2, in_channels, height, width),
        torch.tensor([999, 400]),
        random_map(2, height * width, 16, seed=1),
    )


def make_unet(**config) -> IRSTDUNet2DConditionModel:
    torch.manual_seed(0)
    return IRSTDUNet2DConditionModel(**CONFIGURATIONS["lgldnet"]["unet"] | SMALL | config).eval()


@pytest.mark.parametrize("size", ((16, 16), (20, 28), (16, 36)))
def test_every_configuration_at_the_latent_sizes_of_padded_images(narrow_networks, size):
    unet = narrow_networks[1]
    sample, timestep, tokens = make_inputs(*size, in_channels=unet.config.in_channels)
    with torch.no_grad():
        clean = unet(sample, timestep, tokens).sample
    assert clean.shape == (2, 8, *size)
    assert clean.isfinite().all()


@pytest.mark.parametrize(("use_fae", "use_liw"), SWITCHES)
def test_switches(use_fae, use_liw):
    unet = make_unet(use_fae=use_fae, use_liw=use_liw)
    # One gate per skip tensor: the first convolution's, each level's block, the downsampler's.
    assert sum(isinstance(module, FAE) for module in unet.modules()) == (4 if use_fae else 0)
    assert sum(isinstance(module, LIW) for module in unet.modules()) == (1 if use_liw else 0)
    assert (unet.config.use_fae, unet.config.use_liw) == (use_fae, use_liw)
    assert unet(*make_inputs(16, 20), return_dict=False)[0].shape == (2, 8, 16, 20)


@pytest.mark.parametrize(("use_fae", "use_liw"), SWITCHES)
def test_gradients_reach_the_inputs_and_every_parameter(use_fae, use_liw):
    unet = make_unet(use_fae=use_fae, use_liw=use_liw)
    sample, timestep, tokens = make_inputs(16, 20)
    sample.requires_grad_()
    tokens.requires_grad_()
    unet(sample, timestep, tokens).sample.square().sum().backward()
    assert sample.grad is not None and tokens.grad is not None
    assert sample.grad[:, :8].any() and sample.grad[:, 8:].any()  # noisy variables, image latent
    assert tokens.grad.flatten(0, 1).any(dim=1).all()
    for name, parameter in unet.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or "key.bias" in name, name  # softmax cancels what the keys share


def test_gates_and_condition_change_nothing_else():
    """Neutral FAE and LIW leave the networks with and without them equal."""
    plain, full = make_unet(use_fae=False, use_liw=False), make_unet()
    renamed = {name.replace(".block.", "."): value for name, value in full.state_dict().items()}
    plain.load_state_dict({name: value for name, value in renamed.items() if name in plain.state_dict()})
    for module in full.modules():
        if isinstance(module, FAE):
            nn.init.zeros_(module.gamma_low)
            nn.init.zeros_(module.gamma_high)
        if isinstance(module, LIW):
            nn.init.zeros_(module.conv_out.weight)
            nn.init.zeros_(module.conv_out.bias)
    inputs = make_inputs(16, 20)
    with torch.no_grad():
        torch.testing.assert_close(full(*inputs).sample, plain(*inputs).sample)


def test_tokens_lie_on_the_latent_grid_in_raster_order():
    unet = make_unet(use_liw=False)
    seen = []
    unet.conv_in.projection.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    tokens = torch.arange(16.0 * 20)[None, :, None].expand(2, -1, 16)
    unet(random_map(2, 12, 16, 20), 999, tokens)
    assert torch.equal(seen[0], torch.arange(16.0 * 20).view(16, 20).expand(2, 16, 16, 20))


def test_timesteps_are_taken_per_image():
    unet = make_unet()
    sample, _, tokens = make_inputs(16, 16)
    with torch.no_grad():
        early, late, mixed = (unet(sample, t, tokens).sample for t in (999, 1, torch.tensor([999, 1])))
    assert (early - late).abs().max() > 1e-3
    torch.testing.assert_close(mixed, torch.stack([early[0], late[1]]))


@pytest.mark.parametrize("use_liw", (False, True))
def test_an_image_latent_as_the_condition_reads_the_tokens(use_liw):
    torch.manual_seed(0)
    unet = IRSTDUNet2DConditionModel(
        **CONFIGURATIONS["lgldnet_small"]["unet"]
        | {"block_out_channels": (16,), "cross_attention_dim": 16, "norm_num_groups": 8, "use_liw": use_liw}
    ).eval()
    sample, timestep, _ = make_inputs(16, 20, in_channels=40)
    tokens = random_map(2, 32, 16, seed=1)
    sample.requires_grad_()
    tokens.requires_grad_()
    unet(sample, timestep, tokens).sample.square().sum().backward()
    assert sample.grad is not None and tokens.grad is not None
    assert sample.grad.flatten(2).any(dim=2).all() and tokens.grad.flatten(1).any(dim=1).all()
    assert sum(isinstance(module, LIW) for module in unet.modules()) == use_liw
    assert not any(isinstance(module, nn.GroupNorm) for module in unet.modules())

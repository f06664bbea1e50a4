"""Pixel denoiser: diffusers' own network plus residuals."""

import pytest
import torch
from diffusers import UNet2DModel

from irstd_ldm.models.configurations import PIXEL_CONFIGURATIONS
from irstd_ldm.models.pixel_unet import IRSTDUNet2DModel

PUBLISHED = PIXEL_CONFIGURATIONS["irstd_diff"]["unet"] | {
    "block_out_channels": (8, 8, 8, 8, 16, 16),
    "norm_num_groups": 4,
    "attn_norm_num_groups": 4,
    "attention_head_dim": 8,
}
TIMESTEPS = torch.tensor([999, 400])


def random_map(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_without_residuals_it_is_the_network_of_diffusers():
    stock = UNet2DModel(**{name: value for name, value in PUBLISHED.items() if name != "stem"}).eval()
    ours = IRSTDUNet2DModel(**PUBLISHED).eval()
    ours.load_state_dict(stock.state_dict())
    sample = random_map(2, 4, 64, 96)
    assert torch.equal(ours(sample, TIMESTEPS).sample, stock(sample, TIMESTEPS).sample)
    for timestep in (7, torch.tensor(7)):
        assert torch.equal(ours(sample, timestep).sample, stock(sample, timestep).sample)


@pytest.mark.parametrize("size", ((128, 128), (160, 192), (320, 256)))
def test_every_configuration_at_padded_sizes(narrow_pixel_networks, size):
    encoder, unet = narrow_pixel_networks
    with torch.no_grad():
        residuals = encoder(random_map(2, 1, *size)).residuals
        prediction = unet(random_map(2, unet.config.in_channels, *size, seed=1), TIMESTEPS, residuals).sample
    assert prediction.shape == (2, 1, *size)
    assert prediction.isfinite().all()


@torch.no_grad()
def test_every_residual_is_added_to_a_skip(narrow_pixel_networks):
    encoder, unet = narrow_pixel_networks
    sample = random_map(2, unet.config.in_channels, 128, 128, seed=1)
    zeros = [torch.zeros_like(residual) for residual in encoder(random_map(2, 1, 128, 128)).residuals]
    plain = unet(sample, TIMESTEPS).sample
    assert torch.equal(unet(sample, TIMESTEPS, zeros).sample, plain)
    for index, zero in enumerate(zeros):
        residuals = [*zeros[:index], random_map(*zero.shape, seed=index), *zeros[index + 1 :]]
        assert (unet(sample, TIMESTEPS, residuals).sample - plain).abs().amax() > 1e-4, index


def test_residuals_of_another_number_are_refused(narrow_pixel_networks):
    encoder, unet = narrow_pixel_networks
    residuals = encoder(random_map(1, 1, 128, 128)).residuals
    sample = random_map(1, unet.config.in_channels, 128, 128)
    with pytest.raises(ValueError, match=f"`residuals` must be {len(residuals)} tensors, one per skip, got 1"):
        unet(sample, 0, residuals[:1])


@torch.no_grad()
def test_timesteps_are_taken_per_image(narrow_pixel_networks):
    unet = narrow_pixel_networks[1]
    sample = random_map(2, unet.config.in_channels, 128, 128)
    early, late, mixed = (unet(sample, t).sample for t in (999, 1, torch.tensor([999, 1])))
    assert (early - late).abs().max() > 1e-3
    torch.testing.assert_close(mixed, torch.stack([early[0], late[1]]), atol=1e-5, rtol=1e-5)


def test_gradients_reach_residuals_and_every_parameter(narrow_pixel_networks):
    encoder, unet = narrow_pixel_networks
    residuals = [r.detach().requires_grad_() for r in encoder(random_map(2, 1, 128, 128)).residuals]
    unet.zero_grad()
    unet(random_map(2, unet.config.in_channels, 128, 128), TIMESTEPS, residuals).sample.square().sum().backward()
    assert all(residual.grad is not None and residual.grad.any() for residual in residuals)
    for name, parameter in unet.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or "to_k.bias" in name, name  # softmax cancels what the keys share
    unet.zero_grad()


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"stem": "patch"}, "`stem` must be 'conv' or 'haar', got 'patch'"),
        ({"time_embedding_type": "fourier"}, "`time_embedding_type` must be 'positional', got 'fourier'"),
        ({"center_input_sample": True}, "`center_input_sample` must be False, got True"),
        ({"class_embed_type": "timestep"}, "`class_embed_type` must be None, got 'timestep'"),
    ],
)
def test_wrong_arguments_are_named(config, named):
    with pytest.raises(ValueError, match=named):
        IRSTDUNet2DModel(**PUBLISHED | config)

"""Conditional encoder: its blocks by hand, its switches, and what leaves it."""

import copy

import pytest
import torch
from torch import nn

from irstd_ldm.models.conditional_encoder import DODA, IPOF, PRIOR_LOGIT, ConditionalEncoder, ResidualUBlock
from irstd_ldm.models.frequency import LIW

SMALL = {
    "in_channels": 1,
    "block_out_channels": (8, 16, 16),
    "mid_channels": (4, 4, 8),
    "decoder_mid_channels": (4, 4),
    "heights": (4, 3, 0),
    "residual_channels": ((8, 8), (8, 8), (8, 16)),
}


def random_map(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_encoder(**config) -> ConditionalEncoder:
    torch.manual_seed(0)
    return ConditionalEncoder(**SMALL | config).eval()


@pytest.mark.parametrize(("channels", "kernel_size", "times"), ((32, 3, 3), (64, 3, 3), (128, 5, 4)))
def test_doda_applies_one_kernel_several_times(channels, kernel_size, times):
    doda = DODA(channels)
    assert doda.conv.kernel_size == (kernel_size,)
    with torch.no_grad():
        doda.conv.weight.zero_()
        doda.conv.bias.zero_()
        doda.conv.weight[0, 0, kernel_size // 2] = 2
    x = random_map(2, channels)
    torch.testing.assert_close(doda(x), x + torch.sigmoid(2**times * x))


def test_ipof_adds_what_the_gates_let_through():
    torch.manual_seed(0)
    ipof = IPOF(16).eval()
    ipof.conv_out = nn.Identity()
    with torch.no_grad():
        ipof.channel_gate[-1].weight.zero_()  # every channel's gate is sigmoid(bias)
        ipof.channel_gate[-1].bias.copy_(torch.linspace(-2, 2, 16))
        ipof.spatial_key[0][0].weight.zero_()  # the query agrees with every position alike: gate sigmoid(0)
    decoded, skip = random_map(2, 16, 6, 5), random_map(2, 16, 6, 5, seed=1)
    gates = torch.sigmoid(torch.linspace(-2, 2, 16))[:, None, None]
    torch.testing.assert_close(ipof(decoded, skip), 0.5 * decoded + gates * skip)


def test_ipof_gates_positions_by_their_agreement_with_the_query():
    torch.manual_seed(0)
    ipof = IPOF(16).eval()
    ipof.conv_out = nn.Identity()
    decoded, skip = torch.ones(1, 16, 4, 4), torch.zeros(1, 16, 4, 4)
    ipof.spatial_key = nn.Identity()
    ipof.spatial_query = nn.Identity()
    ipof.spatial_doda = nn.Identity()
    ipof.channel_value = ipof.channel_position = nn.Identity()
    ipof.channel_doda = ipof.channel_gate = nn.Identity()
    skip[:, :, 1, 2] = 1
    # One position of 16 agrees: mean 1/16, variance 15/256, so it lies at (15/16) / (sqrt(15)/16) = sqrt(15).
    gates = torch.full((4, 4), torch.sigmoid(torch.tensor(-1 / 15**0.5)).item())
    gates[1, 2] = torch.sigmoid(torch.tensor(15**0.5)).item()
    shown = ipof(decoded, skip)[0, 0] - skip[0, 0] * torch.sigmoid(torch.tensor(1 / 16))  # less the skip's share
    torch.testing.assert_close(shown, gates, atol=1e-3, rtol=0)


@pytest.mark.parametrize("height", (0, 3, 5))
@pytest.mark.parametrize("size", ((16, 16), (5, 7)))
def test_residual_u_block_adds_its_inside_to_its_stem(height, size):
    torch.manual_seed(0)
    block = ResidualUBlock(3, 4, 8, height).eval()
    x = random_map(2, 3, *size)
    assert block(x).shape == (2, 8, *size)
    assert not torch.equal(block(x), block.stem(x))
    nn.init.zeros_(block.up[-1][1].weight)
    assert torch.equal(block(x), block.stem(x))


def test_residual_u_block_sees_as_far_as_its_height():
    """Pooling three times, or dilation 8, carries a pixel further than the 3x3 convolutions alone."""
    for height in (5, 0):
        torch.manual_seed(0)
        block = ResidualUBlock(1, 4, 4, height).eval()
        x = random_map(1, 1, 48, 48)
        changed = x.clone()
        changed[..., 24, 24] += 10
        moved = (block(changed) - block(x)).abs().amax(dim=(0, 1)) > 0
        assert moved[24, 10:].any() and moved[24, :12].any(), height


@pytest.mark.parametrize("size", ((128, 128), (160, 192), (320, 256)))
def test_every_configuration_at_padded_sizes(narrow_pixel_networks, size):
    encoder = narrow_pixel_networks[0]
    with torch.no_grad():
        output = encoder(random_map(2, 1, *size))
    assert output.logits.shape == (2, 1, *size)
    assert [side.shape for side in output.side_logits] == [(2, 1, *size)] * len(encoder.encoder)
    halvings = 1 if encoder.config.stem == "haar" else 0
    expected = [
        (2, width, size[0] >> level + halvings, size[1] >> level + halvings)
        for level, widths in enumerate(encoder.config.residual_channels)
        for width in widths
    ]
    assert [tuple(residual.shape) for residual in output.residuals] == expected
    assert all(tensor.isfinite().all() for tensor in (output.logits, *output.residuals))


@pytest.mark.parametrize("stem", ("conv", "haar"))
def test_before_training_residuals_are_zero_and_logits_are_the_prior(stem):
    encoder = make_encoder(stem=stem)
    for head in encoder.side_heads:
        for name, parameter in head.named_parameters():
            if name.endswith("weight"):
                nn.init.zeros_(parameter)
    output = encoder(random_map(2, 1, 64, 64))
    assert len(output.residuals) == 6
    assert not any(residual.any() for residual in output.residuals)
    for logits in (output.logits, *output.side_logits):
        torch.testing.assert_close(logits, torch.full_like(logits, PRIOR_LOGIT))


def test_without_residual_channels_nothing_but_the_logits_leaves():
    assert make_encoder(residual_channels=()).forward(random_map(1, 1, 64, 64)).residuals == []


def test_liw_works_on_the_second_skip():
    plain, full = make_encoder(use_liw=False), make_encoder()
    assert not any(isinstance(module, LIW) for module in plain.modules())
    plain.load_state_dict({name: value for name, value in full.state_dict().items() if not name.startswith("liw.")})
    image, seen = random_map(1, 1, 64, 64), []
    full.liw.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    full.encoder[1].register_forward_hook(lambda module, arguments, output: seen.append(output))
    with torch.no_grad():
        assert not torch.equal(full(image).logits, plain(image).logits)
        assert torch.equal(seen[0], seen[1])  # the second stage's output
        nn.init.zeros_(full.liw.conv_out.weight)
        nn.init.zeros_(full.liw.conv_out.bias)
        assert torch.equal(full(image).logits, plain(image).logits)


def test_a_gray_image_fills_every_channel():
    encoder, image = make_encoder(in_channels=3), random_map(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder(image).logits, encoder(image.repeat(1, 3, 1, 1)).logits)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch(narrow_pixel_networks):
    encoder, images = narrow_pixel_networks[0], random_map(3, 1, 128, 128)
    together = encoder(images)
    alone = encoder(images[1:2])
    torch.testing.assert_close(together.logits[1:2], alone.logits, atol=1e-5, rtol=1e-5)
    for several, one in zip(together.residuals, alone.residuals, strict=True):
        torch.testing.assert_close(several[1:2], one, atol=1e-5, rtol=1e-5)


def test_the_running_statistics_are_saved_and_loaded(tmp_path):
    encoder = make_encoder().train()
    encoder(random_map(2, 1, 64, 64))
    encoder.eval().save_pretrained(tmp_path)
    loaded = ConditionalEncoder.from_pretrained(tmp_path)
    untouched = make_encoder()
    name = "encoder.0.stem.1.running_mean"
    assert torch.equal(loaded.state_dict()[name], encoder.state_dict()[name])
    assert not torch.equal(loaded.state_dict()[name], untouched.state_dict()[name])


def test_gradients_reach_every_parameter():
    encoder = make_encoder().train()
    for conv in encoder.residual_convs:
        nn.init.normal_(conv.weight)
    output = encoder(random_map(2, 1, 64, 64))
    sum(tensor.square().sum() for tensor in (output.logits, *output.residuals)).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or "key.bias" in name, name  # softmax cancels what the keys share


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"mid_channels": (4, 4)}, "`mid_channels` and `heights` must have 3 entries"),
        ({"decoder_mid_channels": (4, 4, 4)}, "`decoder_mid_channels` one fewer"),
        ({"block_out_channels": (8, 16, 32)}, "last two of `block_out_channels` must be equal"),
        ({"residual_channels": ((8,),) * 4}, "`residual_channels` must have at most 3 levels"),
        ({"stem": "patch"}, "`stem` must be 'conv' or 'haar', got 'patch'"),
    ],
)
def test_wrong_arguments_are_named(config, named):
    with pytest.raises(ValueError, match=named):
        make_encoder(**config)


def test_a_copy_has_running_statistics_of_its_own():
    encoder = make_encoder().train()
    copied = copy.deepcopy(encoder)
    before = copied.state_dict()["encoder.0.stem.1.running_mean"].clone()
    encoder(random_map(2, 1, 64, 64))
    assert torch.equal(copied.state_dict()["encoder.0.stem.1.running_mean"], before)

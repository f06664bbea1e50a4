"""Blocks whose normalisation folds away, and attention by pooled tokens."""

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from irstd_ldm.models.blocks import BatchNormBlock, Ladder, TokenPooling, TokenReading, batch_normalised
from irstd_ldm.models.frequency import FAE, ChannelAttention


def random_map(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_statistics(module: nn.Module) -> nn.Module:
    """The module in evaluation mode after it has seen a batch of another mean and variance."""
    with torch.no_grad():
        module.train()(3 * random_map(4, 8, 16, 16, seed=5) + 1)
    return module.eval()


@torch.no_grad()
def test_a_block_is_what_its_folded_convolutions_compute():
    torch.manual_seed(0)
    block = with_statistics(BatchNormBlock(8, 12, stride=2))
    x = random_map(2, 8, 16, 20)
    first, second = fuse_conv_bn_eval(block.conv1, block.norm1), fuse_conv_bn_eval(block.conv2, block.norm2)
    pooling, projection, norm = block.shortcut
    shortcut = fuse_conv_bn_eval(projection, norm)(pooling(x))
    expected = (second(first(x).relu()) + shortcut).relu()
    assert expected.shape == (2, 12, 8, 10)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_block_does_not_change_its_input():
    block, x = with_statistics(BatchNormBlock(8, 8)), random_map(2, 8, 16, 16)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


@torch.no_grad()
def test_a_pixel_does_not_depend_on_the_size_of_the_map_around_it():
    torch.manual_seed(0)
    block = with_statistics(BatchNormBlock(8, 8))
    x = random_map(1, 8, 32, 48)
    torch.testing.assert_close(block(x)[..., 4:12, 4:12], block(x[..., :16, :16])[..., 4:12, 4:12])


def test_a_ladder_attends_in_the_last_block_of_the_levels_that_ask_for_it():
    ladder = Ladder((8, 8, 16), (1, 2, 2), None, frequency_attention=(False, False, True))
    kinds = [[isinstance(block.frequency_attention, FAE) for block in level] for level in ladder.levels]
    assert kinds == [[False], [False, False], [False, True]]
    assert isinstance(ladder.levels[2][1].channel_attention, ChannelAttention)
    features = ladder(random_map(2, 8, 32, 40))
    assert [tuple(feature.shape) for feature in features] == [(2, 8, 32, 40), (2, 8, 16, 20), (2, 16, 8, 10)]


def test_narrow_blocks_train_channels_last_without_corrupting_memory():
    """A strided 1x1 convolution of 8 channels did, in this layout (torch 2.13)."""
    x = random_map(2, 8, 64, 64).to(memory_format=torch.channels_last)
    for _ in range(5):
        BatchNormBlock(8, 8, stride=2).to(memory_format=torch.channels_last)(x).square().sum().backward()


def test_pooled_tokens_of_any_map_are_read_by_every_position():
    torch.manual_seed(0)
    pooling, reading = TokenPooling(8, 2, num_tokens=5), TokenReading(4, 8, 2)
    for size in ((6, 7), (16, 4)):
        tokens = pooling(random_map(2, 8, *size))
        assert tokens.shape == (2, 5, 8)
        x = random_map(2, 4, *size, seed=1)
        read = reading(x, tokens) - x
        assert read.shape == x.shape and (read.flatten(2).abs().amax(dim=1) > 0).all()


def test_a_constant_map_gives_the_same_tokens_at_any_size():
    torch.manual_seed(0)
    pooling = TokenPooling(8, 2, num_tokens=3)
    value = random_map(1, 8, 1, 1)
    tokens = [pooling(value.expand(1, 8, *size)) for size in ((4, 4), (10, 3))]
    torch.testing.assert_close(tokens[0], tokens[1])


def test_group_norms_become_batch_norms_of_the_same_channels():
    module = batch_normalised(nn.Sequential(nn.GroupNorm(2, 6), nn.Sequential(nn.Conv2d(6, 4, 1), nn.GroupNorm(4, 4))))
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [6, 4]
    assert not any(isinstance(child, nn.GroupNorm) for child in module.modules())


@pytest.mark.parametrize("part", ["vae", "unet", "image_encoder"])
def test_an_unknown_normalisation_is_named(part, narrow_networks_of):
    vae, unet, encoder = narrow_networks_of("lgldnet_small")
    model = {"vae": vae, "unet": unet, "image_encoder": encoder}[part]
    with pytest.raises(ValueError, match="`norm_type` must be 'group' or 'batch', got 'layer'"):
        type(model).from_config({**model.config, "norm_type": "layer"})

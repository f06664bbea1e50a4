"""Image encoder: shapes, tokens, gradients and refused configurations."""

import pytest
import torch

from irstd_ldm.models.image_encoder import IRSTDImageEncoder

SMALL = {
    "block_out_channels": (8, 8, 16),
    "layers_per_block": (1, 1, 1),
    "frequency_attention": (False, True, True),
    "norm_num_groups": 4,
    "stem": "haar",
}


def random_map(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def make_encoder(**config) -> IRSTDImageEncoder:
    torch.manual_seed(0)
    return IRSTDImageEncoder(**SMALL | config).eval()


@pytest.mark.parametrize("size", ((128, 128), (64, 168)))
def test_shapes_of_every_configuration(narrow_networks, size):
    encoder = narrow_networks[2]
    height, width = size
    with torch.no_grad():
        output = encoder(random_map(2, 1, height, width))
    pooled = encoder.config.norm_type == "batch"
    assert output.image_latent.shape == (2, 32 if pooled else 4, height // 8, width // 8)
    assert output.tokens.shape == (2, 32 if pooled else height * width // 64, 16)
    finest = 2 if encoder.config.stem == "haar" else 1
    assert [tuple(feature.shape) for feature in output.features] == [
        (2, channels, height // (finest * 2**level), width // (finest * 2**level))
        for level, channels in enumerate(encoder.config.block_out_channels)
    ]


def test_tokens_are_the_middle_attentions_output_in_raster_order():
    encoder = make_encoder()
    attended = []
    encoder.mid_attention.register_forward_hook(lambda module, arguments, output: attended.append(output))
    tokens = encoder(random_map(1, 1, 64, 96)).tokens
    assert torch.equal(tokens.unflatten(1, (8, 12)).permute(0, 3, 1, 2), attended[0])


def test_images_of_a_batch_do_not_see_each_other():
    encoder = make_encoder()
    images = random_map(2, 1, 64, 64)
    both, alone = encoder(images), encoder(images[1:])
    torch.testing.assert_close(both.image_latent[1:], alone.image_latent)
    torch.testing.assert_close(both.tokens[1:], alone.tokens)


def test_gradients_reach_every_parameter():
    encoder = make_encoder()
    output = encoder(random_map(2, 1, 64, 64))
    (output.image_latent.square().sum() + output.tokens.square().sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or "to_k.bias" in name, name  # softmax cancels what the keys share


def test_unknown_stem_is_refused():
    with pytest.raises(ValueError, match="`stem` must be 'conv' or 'haar', got 'dct'"):
        make_encoder(stem="dct")


@pytest.mark.parametrize(
    "config", ({"layers_per_block": (1, 1)}, {"layers_per_block": (1,) * 4}, {"frequency_attention": (True,)})
)
def test_tuples_of_unequal_length_are_refused(config):
    with pytest.raises(ValueError, match="one entry per level of `block_out_channels`"):
        make_encoder(**config)

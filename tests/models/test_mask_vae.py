"""Mask-VAE: shapes, the decoder's image features, and the denoiser's variables."""

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from irstd_ldm.models.mask_vae import MaskAutoencoderKL

SMALL = {
    "block_out_channels": (8, 8, 8),
    "encoder_layers_per_block": (1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1),
    "norm_num_groups": 4,
    "stem": "haar",
}


def random_map(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def make_vae(**config) -> MaskAutoencoderKL:
    torch.manual_seed(0)
    return MaskAutoencoderKL(**SMALL | config).eval()


@pytest.mark.parametrize("size", ((128, 128), (64, 160)))
def test_shapes_of_every_configuration(narrow_networks, size):
    vae, _, image_encoder = narrow_networks
    height, width = size
    with torch.no_grad():
        posterior = vae.encode(random_map(2, 1, height, width)).latent_dist
        features = image_encoder(random_map(2, 1, height, width)).features
        logits = vae.decode(posterior.mode(), image_features=features).sample
    assert posterior.mean.shape == posterior.logvar.shape == (2, 4, height // 8, width // 8)
    assert logits.shape == (2, 1, height, width)


def test_a_decoder_built_with_image_features_needs_them(narrow_networks):
    vae, *_ = narrow_networks
    z = torch.zeros(1, 4, 16, 16)
    for call in (vae.decode, lambda z: vae(torch.zeros(1, 1, 128, 128))):
        with pytest.raises(ValueError, match="`image_features` is None, but this decoder was built with"):
            call(z)


def test_a_decoder_of_the_latent_alone():
    vae = make_vae()
    mask = random_map(1, 1, 64, 96)
    z = vae.encode(mask).latent_dist.mode()
    logits = vae.decode(z, return_dict=False)[0]
    assert logits.shape == mask.shape
    assert torch.equal(vae(mask).sample, logits)
    assert torch.equal(vae.decode(z, image_features=[random_map(1, 8, 1, 1)]).sample, logits)


def test_forward_decodes_a_sample_of_the_posterior_on_request():
    vae = make_vae()
    mask = random_map(1, 1, 64, 64)
    mode, first, again, other = (
        vae(mask, sample_posterior=sample, generator=torch.Generator().manual_seed(seed)).sample
        for sample, seed in ((False, 0), (True, 0), (True, 0), (True, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, mode) and not torch.equal(first, other)


def test_the_decoder_uses_the_features_of_the_levels_with_channels_and_the_latent(narrow_networks):
    vae, _, image_encoder = narrow_networks
    features = [f.detach().requires_grad_() for f in image_encoder(random_map(1, 1, 128, 128)).features]
    z = random_map(1, 4, 16, 16).requires_grad_()
    vae.decode(z, image_features=features).sample.square().sum().backward()
    assert z.grad is not None and z.grad.any()
    for feature, channels in zip(features, vae.config.image_feature_channels, strict=True):
        assert (feature.grad is not None and bool(feature.grad.any())) == bool(channels)


def test_tiling_and_slicing_are_the_pipelines():
    vae = make_vae()
    with pytest.raises(NotImplementedError, match="`tile_size`"):
        vae.enable_tiling()
    with pytest.raises(NotImplementedError, match="`batch_size`"):
        vae.enable_slicing()


def test_variables_and_posterior_by_hand():
    """mean 1 * 2 = 2; log-variance (0 - -3) / 1.5 = 2."""
    vae = make_vae(scaling_factor=2.0, logvar_mean=-3.0, logvar_std=1.5)
    posterior = DiagonalGaussianDistribution(torch.cat([torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)], dim=1))
    variables = vae.posterior_to_variables(posterior)
    assert torch.equal(variables, torch.full((1, 8, 2, 2), 2.0))
    restored = vae.variables_to_posterior(variables)
    assert torch.equal(restored.mean, posterior.mean) and torch.equal(restored.logvar, posterior.logvar)


def test_variables_and_posterior_are_inverse():
    vae = make_vae(scaling_factor=0.7, logvar_mean=-5.2, logvar_std=1.3)
    posterior = DiagonalGaussianDistribution(random_map(2, 8, 4, 6) * 3)
    restored = vae.variables_to_posterior(vae.posterior_to_variables(posterior))
    torch.testing.assert_close(restored.mean, posterior.mean)
    torch.testing.assert_close(restored.logvar, posterior.logvar)
    variables = random_map(2, 8, 4, 6)
    torch.testing.assert_close(vae.posterior_to_variables(vae.variables_to_posterior(variables)), variables)


def test_unknown_stem_is_refused():
    with pytest.raises(ValueError, match="`stem` must be 'conv' or 'haar', got 'dct'"):
        make_vae(stem="dct")


@pytest.mark.parametrize(
    "config",
    (
        {"encoder_layers_per_block": (1, 1)},
        {"decoder_layers_per_block": (1, 1, 1, 1)},
        {"image_feature_channels": (8, 8)},
        {"block_out_channels": (8, 8)},
    ),
)
def test_tuples_of_unequal_length_are_refused(config):
    with pytest.raises(ValueError, match="one entry per level of `block_out_channels`"):
        make_vae(**config)


def test_gradients_reach_every_parameter():
    vae = make_vae(image_feature_channels=(8, 0, 8))
    features = [random_map(1, 8, 32, 32), random_map(1, 8, 16, 16), random_map(1, 8, 8, 8)]
    vae(random_map(1, 1, 64, 64), sample_posterior=True, image_features=features).sample.square().sum().backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or "to_k.bias" in name, name  # softmax cancels what the keys share

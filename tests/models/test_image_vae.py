"""The image VAE of the small generator: nothing is lost, bands are alike, rounding is its posterior."""

import numpy as np
import pytest
import pywt
import torch

from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.models.image_vae import WaveletAutoencoderKL


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    scenes = [synthetic_scene(64, 96, seed=seed).image for seed in range(8)]
    return torch.from_numpy(np.stack(scenes)[:, None] / np.float32(127.5)) - 1  # (8, 1, 64, 96)


@pytest.fixture(scope="module")
def vae(images) -> WaveletAutoencoderKL:
    vae = WaveletAutoencoderKL(levels=2).eval()
    vae.fit(list(images))
    return vae


def test_an_unfitted_latent_is_the_arcsine_of_pywavelets_packets(images):
    latent = WaveletAutoencoderKL(levels=2).encode(images[:1]).latent_dist.mean[0]  # (16, 16, 24)
    low, (horizontal, vertical, diagonal) = pywt.dwt2(images[0, 0].numpy(), "bior4.4", mode="periodization")
    inside = (
        ...,
        slice(4, -4),
        slice(4, -4),
    )  # at borders PyWavelets' wraps around
    for index, band in enumerate((low, horizontal, vertical, diagonal)):
        lower, details = pywt.dwt2(band, "bior4.4", mode="periodization")
        expected = np.arcsinh(np.stack([lower, *details]))
        np.testing.assert_allclose(latent[4 * index : 4 * index + 4].numpy()[inside], expected[inside], atol=1e-5)


def test_opposite_borders_know_nothing_of_each_other():
    image = torch.zeros(1, 1, 64, 96)
    latent = WaveletAutoencoderKL(levels=2).encode(image).latent_dist.mean
    image[..., -8:] = 1.0
    changed = WaveletAutoencoderKL(levels=2).encode(image).latent_dist.mean
    assert torch.equal(changed[..., :16], latent[..., :16])
    assert not torch.equal(changed[..., -2:], latent[..., -2:])


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_nothing_is_lost(images, levels):
    vae = WaveletAutoencoderKL(levels)
    vae.fit(list(images))
    latent = vae.encode(images).latent_dist.mode()
    assert latent.shape == (8, 4**levels, 64 // 2**levels, 96 // 2**levels)
    torch.testing.assert_close(vae.decode(latent).sample, images, atol=1e-5, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(vae.decode(vae.encode(images).latent_dist.mode()).sample, images, atol=1e-5, rtol=0)


def test_fitted_bands_have_unit_deviation(vae, images):
    latent = vae.encode(images).latent_dist.mean
    torch.testing.assert_close(latent.std(dim=(0, 2, 3)), torch.ones(16), atol=0.1, rtol=0)


def test_the_posterior_is_that_of_rounding_to_8_bits(vae, images):
    generator = torch.Generator().manual_seed(0)
    posterior = vae.encode(images.repeat(8, 1, 1, 1)).latent_dist
    sampled = vae.decode(posterior.sample(generator)).sample
    gray_levels = (sampled - images.repeat(8, 1, 1, 1)) * 127.5
    assert gray_levels.std().item() == pytest.approx(12**-0.5, rel=0.05)


def test_a_saved_one_is_the_same(vae, images, tmp_path):
    vae.register_to_config(scaling_factor=1.5)
    vae.save_pretrained(tmp_path / "vae")
    loaded = WaveletAutoencoderKL.from_pretrained(tmp_path / "vae")
    assert loaded.config.scaling_factor == 1.5
    assert torch.equal(loaded.encode(images).latent_dist.mean, vae.encode(images).latent_dist.mean)

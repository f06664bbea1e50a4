"""FAE against a naive implementation and hand-computed bands."""

import copy

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import nn

from irstd_ldm.models.frequency import FAE, ChannelAttention, SpatialAttention

SIZES = ((8, 8), (7, 5), (9, 16), (1, 6), (1, 1))


def random_map(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def set_cutoff(fae: FAE, cutoff: float) -> None:
    """Sets `D0` of all channels, in cycles per pixel."""
    nn.init.constant_(fae.alpha, torch.logit(torch.tensor(cutoff / 0.5**0.5)).item())


@pytest.fixture
def fae() -> FAE:
    torch.manual_seed(0)
    fae = FAE(4)
    for parameter in (fae.alpha, fae.gamma_low, fae.gamma_high):
        nn.init.normal_(parameter)
    return fae


def naive_attention(x: np.ndarray, attention: SpatialAttention) -> np.ndarray:
    kernel, bias = attention.conv.weight.detach().numpy()[0], attention.conv.bias.item()
    logits = correlate2d(x.mean(0), kernel[0], "same") + correlate2d(x.max(0), kernel[1], "same") + bias
    return x / (1 + np.exp(-logits))


def naive_fae(x: np.ndarray, fae: FAE) -> np.ndarray:
    """(C, h, w) -> (C, h, w), channel by channel on the full spectrum."""
    rows, columns = np.meshgrid(np.fft.fftfreq(x.shape[1]), np.fft.fftfreq(x.shape[2]), indexing="ij")
    low = np.empty_like(x)
    for channel, alpha in enumerate(fae.alpha.detach().numpy().ravel()):
        cutoff = np.sqrt(0.5) / (1 + np.exp(-alpha))
        gain = 1 / (1 + (np.hypot(rows, columns) / cutoff) ** 4)
        low[channel] = np.fft.ifft2(np.fft.fft2(x[channel]) * gain).real
    gamma_low, gamma_high = fae.gamma_low.detach().numpy(), fae.gamma_high.detach().numpy()
    high = gamma_high * naive_attention(x - low, fae.attention_high)
    return x + high + gamma_low * naive_attention(low, fae.attention_low)


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_naive_implementation_at_any_size(fae, size):
    x = random_map(2, 4, *size)
    y = fae(x).detach().numpy()
    for image, expected in zip(y, x.double().numpy(), strict=True):
        np.testing.assert_allclose(image, naive_fae(expected, fae), atol=1e-5)


def fourier_low_pass(x: torch.Tensor, fae: FAE) -> torch.Tensor:
    """The low band of (B, C, h, w) by the transform that defines it."""
    rows, columns = torch.fft.fftfreq(x.shape[2]), torch.fft.rfftfreq(x.shape[3])
    cutoff = torch.sigmoid(fae.alpha) * 0.5**0.5
    squared = (rows[:, None] ** 2 + columns**2) / cutoff**2
    return torch.fft.irfft2(torch.fft.rfft2(x) / (1 + squared**2), s=x.shape[2:])


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (31, 48), (7, 8), (256, 32), (512, 640), (1, 2)])
def test_the_low_band_is_that_of_the_fourier_transform(size):
    fae, x = FAE(6), random_map(2, 6, *size)
    fae.alpha.copy_(torch.linspace(-4, 3, 6)[:, None, None])
    torch.testing.assert_close(fae.low_pass(x), fourier_low_pass(x, fae), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_filter_computes_in_float32_under_autocast(fae):
    x = random_map(1, 4, 32, 48)
    with torch.autocast("cpu", torch.bfloat16):
        low = fae.low_pass(x)
    assert torch.equal(low, fae.low_pass(x))


def test_the_bands_sum_to_the_input(fae):
    fae.attention_low = fae.attention_high = nn.Identity()
    nn.init.ones_(fae.gamma_low)
    nn.init.ones_(fae.gamma_high)
    x = random_map(1, 4, 9, 12)
    torch.testing.assert_close(fae(x), 2 * x)


def test_without_its_gammas_it_is_the_identity(fae):
    nn.init.zeros_(fae.gamma_low)
    nn.init.zeros_(fae.gamma_high)
    x = random_map(1, 4, 9, 12)
    assert torch.equal(fae(x), x)


def test_the_cutoff_starts_at_a_tenth_of_the_largest_frequency():
    fae = FAE(3)
    torch.testing.assert_close(torch.sigmoid(fae.alpha), torch.full((3, 1, 1), 0.1))
    assert (fae.gamma_low == 1).all() and (fae.gamma_high == 1).all()


def test_the_low_band_halves_the_cutoff_frequency_and_keeps_the_mean():
    fae = FAE(1)
    set_cutoff(fae, 0.25)
    wave = torch.cos(2 * torch.pi * 0.25 * torch.arange(8.0)).expand(1, 1, 8, 8)
    torch.testing.assert_close(fae.low_pass(wave + 5), wave / 2 + 5)
    # At twice the cut-off the gain is 1 / (1 + 2^4), along either axis.
    alternating = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)
    torch.testing.assert_close(fae.low_pass(alternating), alternating / 17)
    torch.testing.assert_close(fae.low_pass(alternating.mT), alternating.mT / 17)


def test_gradients_reach_every_parameter_and_the_input(fae):
    x = random_map(1, 4, 9, 12).requires_grad_()
    fae(x).square().sum().backward()
    for name, tensor in (*fae.named_parameters(), ("x", x)):
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any(), name
    assert (fae.alpha.grad != 0).all()


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision(fae, dtype):
    x = random_map(1, 4, 9, 12)
    y = copy.deepcopy(fae).to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), fae(x), atol=0.1, rtol=0.05)


def test_attentions_whose_last_convolution_is_zero_halve_their_input():
    """sigmoid(0) = 1/2."""
    x = random_map(2, 4, 5, 7)
    channel, spatial = ChannelAttention(4), SpatialAttention()
    for convolution in (channel.excite[-2], spatial.conv):
        nn.init.zeros_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    assert torch.equal(channel(x), x / 2)
    assert torch.equal(spatial(x), x / 2)

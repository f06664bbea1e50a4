"""DWT and its inverse against PyWavelets, window attention and LIW."""

import copy

import numpy as np
import pytest
import pywt
import torch
from torch import nn

from irstd_ldm.models.frequency import DWT, IDWT, LIW, SwinBlock

SIZES = ((4, 4), (12, 10), (8, 14))


def random_map(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def liw() -> LIW:
    torch.manual_seed(0)
    return LIW(8).eval()


@pytest.mark.parametrize("size", SIZES)
def test_transforms_equal_pywavelets_and_reconstruct_perfectly(size):
    x = random_map(2, 3, *size)
    bands = DWT()(x)
    assert bands.shape == (2, 3, 4, size[0] // 2, size[1] // 2)
    for image, of_image in zip(x.flatten(0, 1).numpy(), bands.flatten(0, 1), strict=True):
        low, details = pywt.dwt2(image, "haar")
        np.testing.assert_allclose(of_image.numpy(), np.stack([low, *details]), atol=1e-6)
    torch.testing.assert_close(IDWT()(bands), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_inverse_of_any_bands_equals_pywavelets(size):
    bands = random_map(1, 1, 4, *size)
    low, *details = bands[0, 0].numpy()
    expected = pywt.idwt2((low, details), "haar")
    np.testing.assert_allclose(IDWT()(bands)[0, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("size", ((5, 4), (4, 7)))
def test_odd_size_is_refused(size):
    with pytest.raises(ValueError, match=f"`x` must have an even height and width, got {size[0]}x{size[1]}"):
        DWT()(torch.zeros(1, 1, *size))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision_keeps_its_dtype(dtype):
    x = random_map(1, 2, 8, 8)
    restored = IDWT().to(dtype)(DWT().to(dtype)(x.to(dtype)))
    assert restored.dtype == dtype
    torch.testing.assert_close(restored.float(), x, atol=0.05, rtol=0)


def test_attention_stays_inside_spatial_windows():
    """Windows of 4x4 from the corner; shifted by 2 they start at row and column 2, and do not wrap around."""
    torch.manual_seed(0)
    corner, inner, edge = (0, (0, 0), np.s_[0:4, 0:4]), (2, (2, 3), np.s_[2:6, 2:6]), (2, (0, 1), np.s_[0:2, 0:2])
    for shift, pixel, window in (corner, inner, edge):
        block = SwinBlock(8, num_heads=2, window_size=4, shift_size=shift).eval()
        x = random_map(1, 8, 12, 8)
        changed = x.clone()
        changed[:, 0, *pixel] += 5  # one channel: the normalisation removes what all share
        moved = ((block(changed) - block(x)).abs().amax(dim=1)[0] > 0).detach().numpy()  # (12, 8)
        expected = np.zeros((12, 8), dtype=bool)
        expected[window] = True
        np.testing.assert_array_equal(moved, expected)


def test_liw_whose_last_convolution_is_zero_is_the_identity(liw):
    nn.init.zeros_(liw.conv_out.weight)
    nn.init.zeros_(liw.conv_out.bias)
    x = random_map(2, 8, 20, 12)
    assert torch.equal(liw(x), x)


@pytest.mark.parametrize("size", ((32, 32), (20, 12), (7, 9)))
def test_liw_without_its_transformations_shows_its_input_to_the_last_convolution(liw, size):
    for name in ("conv_low", "swin1", "swin2", "conv_merge"):
        setattr(liw, name, nn.Identity())
    seen = []
    liw.conv_out.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    x = random_map(1, 8, *size)
    liw(x)
    torch.testing.assert_close(seen[0], x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", ((128, 128), (256, 256), (320, 256)))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_liw_at_the_sizes_of_images(liw, size, dtype):
    """It changes its input, and with its last convolution zeroed gives it back exactly."""
    liw, x = liw.to(dtype), random_map(1, 8, *size).to(dtype)
    with torch.no_grad():
        y = liw(x)
        assert y.dtype == dtype and y.shape == x.shape and y.isfinite().all()
        assert not torch.equal(y, x)
        nn.init.zeros_(liw.conv_out.weight)
        nn.init.zeros_(liw.conv_out.bias)
        assert torch.equal(liw(x), x)


def test_liw_transforms_the_low_band_alone(liw):
    """A checkerboard of period 2 lies in the first level's cD alone, which passes unchanged."""
    board = torch.ones(16, 16)
    board[::2, 1::2] = board[1::2, ::2] = -1
    seen = []
    liw.conv_out.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    x = random_map(1, 8, 16, 16)
    liw(x)
    liw(x + board)
    torch.testing.assert_close(seen[1] - seen[0], board.expand(1, 8, 16, 16), atol=1e-5, rtol=0)


def test_liw_of_a_size_does_not_depend_on_the_sizes_before(liw):
    fresh = copy.deepcopy(liw)
    with torch.no_grad():
        for size in ((8, 8), (64, 64), (72, 72), (24, 40), (256, 256), (256, 256)):
            x = random_map(1, 8, *size)
            y = liw(x)
            assert y.shape == x.shape
            assert torch.equal(y, copy.deepcopy(fresh)(x)), size


def test_gradients_reach_every_parameter_of_liw(liw):
    liw(random_map(1, 8, 20, 24)).square().sum().backward()
    for name, parameter in liw.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or "key.bias" in name, name  # softmax cancels what the keys share


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_liw_in_half_precision(liw, dtype):
    x = random_map(1, 8, 16, 24)
    with torch.no_grad():
        expected, y = liw(x), copy.deepcopy(liw).to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, atol=0.1, rtol=0.05)

"""The noise of the exported detectors is torch's."""

import numpy as np
import pytest
import torch

from irstd_ldm.runtime.exported import TorchNoise

SEEDS = (0, 1, 77, 2**31, 2**32 - 1, 2**32, 2**40 + 3, 2**62 - 1, 2**63 - 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_integers_are_torchs(seed):
    generator, noise = torch.Generator().manual_seed(seed), TorchNoise(seed)
    for bound in (2**62, 2**62, 2**40):
        assert noise.integer(bound) == int(torch.randint(bound, (1,), generator=generator))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", (16, 17, 31, 32, 100, 2049, 3 * 8 * 17 * 19))
def test_normal_numbers_are_torchs_and_so_are_those_after_them(seed, size):
    generator, noise = torch.Generator().manual_seed(seed), TorchNoise(seed)
    for _ in range(3):
        expected = torch.randn(size, generator=generator).numpy()
        np.testing.assert_allclose(noise.standard_normal((size,)), expected, rtol=0, atol=1e-6)


def test_the_shape_is_filled_in_order():
    expected = torch.randn(2, 8, 4, 6, generator=torch.Generator().manual_seed(5)).numpy()
    drawn = TorchNoise(5).standard_normal((2, 8, 4, 6))
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-6)


def test_few_numbers_are_refused():
    with pytest.raises(ValueError, match=r"`shape` must have at least 16 elements, got \(3, 5\)"):
        TorchNoise(0).standard_normal((3, 5))

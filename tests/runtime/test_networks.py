"""The graph that is exported computes what the pipeline computes."""

import numpy as np
import pytest
import torch

from irstd_ldm.models.frequency import FAE
from irstd_ldm.runtime.export import HartleyFAE, LatentDetector, with_hartley


@pytest.mark.parametrize("size", [(64, 64), (31, 48), (7, 8), (256, 32), (1, 2)])
def test_the_hartley_filter_is_the_fourier_filter(size):
    torch.manual_seed(0)
    fae, hartley = FAE(6), HartleyFAE(6)
    with torch.no_grad():
        fae.alpha.copy_(torch.linspace(-4, 3, 6)[:, None, None])
    hartley.load_state_dict(fae.state_dict())
    x = torch.randn(2, 6, *size)
    torch.testing.assert_close(hartley.low_pass(x), fae.low_pass(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(hartley(x), fae(x), rtol=0, atol=1e-5)


def test_every_fae_of_the_copy_is_replaced_and_none_of_the_original(pipeline):
    replaced = with_hartley(pipeline.image_encoder)
    kinds = [type(module) for module in replaced.modules() if isinstance(module, FAE)]
    assert kinds and set(kinds) == {HartleyFAE}
    assert {type(module) for module in pipeline.image_encoder.modules() if isinstance(module, FAE)} == {FAE}


@pytest.mark.parametrize("steps", (1, 3))
def test_the_graph_is_the_pipeline(pipeline, steps):
    image = np.random.default_rng(0).uniform(-1, 1, (2, 128, 160)).astype(np.float32)
    noise = torch.cat([torch.randn(1, 8, 16, 20, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)])
    with torch.no_grad():
        expected = pipeline.predict_probability(image, [3, 4], steps, 1)[:, 0]  # (B, PH, PW)
        probability = LatentDetector(pipeline, steps)(
            torch.from_numpy(image)[:, None], noise, torch.zeros(2, 4, 16, 20)
        )
    np.testing.assert_allclose(probability[:, 0].numpy(), expected, rtol=0, atol=1e-4)

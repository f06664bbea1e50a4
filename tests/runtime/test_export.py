"""The graph that is exported computes what the pipeline computes."""

import numpy as np
import pytest
import torch

from irstd_ldm.runtime.export import LatentDetector


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

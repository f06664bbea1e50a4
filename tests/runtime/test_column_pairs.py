"""The finest level on pairs of columns: the same function, for which a runtime does less."""

import copy

import onnx
import pytest
import torch
from torch import nn

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.runtime.column_pairs import fits_in_pairs, pair_columns, paired
from irstd_ldm.runtime.detector import ExportedDetectorRunner
from irstd_ldm.runtime.export import export_detector
from irstd_ldm.training.train_latent import make_scheduler

from .test_detector import assert_same


def stacked(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, 2*C, H, W/2), the even columns' channels first."""
    return torch.cat([x[..., 0::2], x[..., 1::2]], dim=1)


@pytest.mark.parametrize("kernel_size", (1, 3))
@pytest.mark.parametrize("bias", (False, True))
def test_a_convolution_of_stacked_columns(kernel_size, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, kernel_size, padding=kernel_size // 2, bias=bias)
    x = torch.randn(2, 3, 6, 10)
    torch.testing.assert_close(paired(conv)(stacked(x)), stacked(conv(x)))


def test_a_strided_convolution_of_stacked_columns():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 3, 6, 10)
    torch.testing.assert_close(paired(conv)(stacked(x)), conv(x))


@torch.no_grad()
def test_networks_in_pairs_of_columns_answer_as_before(narrow_networks_of):
    vae, _, encoder = copy.deepcopy(narrow_networks_of("lgldnet_small"))
    for norm in [one for network in (vae, encoder) for one in network.modules() if isinstance(one, nn.BatchNorm2d)]:
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    generator = torch.Generator().manual_seed(0)
    image, z = torch.randn(2, 1, 40, 56, generator=generator), torch.randn(2, 4, 5, 7, generator=generator)
    encoded = encoder(image)
    logits = vae.decode(z, image_features=encoded.features).sample
    assert fits_in_pairs(encoder, vae)
    pair_columns(encoder, vae)
    again = encoder(image)
    torch.testing.assert_close(again.image_latent, encoded.image_latent)
    torch.testing.assert_close(again.features[0], stacked(encoded.features[0]))
    torch.testing.assert_close(vae.decode(z, image_features=again.features).sample, logits)


@pytest.mark.parametrize(
    "other", ({"block_out_channels": (16, 16, 32, 64)}, {"frequency_attention": (True,) * 4}, {"stem": "haar"})
)
def test_others_stay_as_they_are(narrow_networks_of, other):
    vae, _, encoder = narrow_networks_of("lgldnet_small")
    assert not fits_in_pairs(type(encoder).from_config({**encoder.config, **other}), vae)


def test_networks_of_different_kinds_stay_as_they_are(narrow_networks_of):
    vae, _, encoder = narrow_networks_of("lgldnet_small")
    assert not fits_in_pairs(encoder, narrow_networks_of("lgldnet")[0])
    assert not fits_in_pairs(encoder, type(vae).from_config({**vae.config, "block_out_channels": (16, 16, 16, 16)}))


@pytest.mark.parametrize("runtime", ("onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)))
def test_a_runtime_computes_what_the_pipeline_does(narrow_networks_of, tmp_path, runtime):
    """Of other sizes than the graph was traced with, padded, whole and in tiles."""
    pipeline = IRSTDLatentPipeline(*narrow_networks_of("lgldnet_small"), make_scheduler(), normalization="robust")
    export_detector(pipeline, tmp_path / "exported", "onnx", "small")
    weights = onnx.load(tmp_path / "exported" / "model.onnx").graph.initializer
    assert any(tuple(one.dims) == (16, 16, 3, 3) for one in weights)  # 8 channels of two columns
    detector = ExportedDetectorRunner(tmp_path / "exported", runtime, num_threads=1)
    for size, tile_size in (((150, 128), 0), ((200, 300), 160)):
        image = synthetic_scene(*size, seed=1).image
        expected = pipeline(image, ensemble_size=2, tile_size=tile_size, seed=7)
        assert_same(detector(image, ensemble_size=2, tile_size=tile_size, seed=7), expected)

"""Shared fixtures: a real pipeline with small random networks, and the development data where it is present."""

import os
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the tests are those of a CPU, also where there is a GPU

import pytest
import torch

from irstd_ldm.models.configurations import CONFIGURATIONS
from irstd_ldm.models.image_encoder import IRSTDImageEncoder
from irstd_ldm.models.mask_vae import MaskAutoencoderKL
from irstd_ldm.models.unet import IRSTDUNet2DConditionModel
from irstd_ldm.pipelines.pipeline_irstd_latent import IRSTDLatentPipeline
from irstd_ldm.training.train_latent import make_scheduler

# Each configuration at a few channels: its structure, its stem, its number of levels.
NARROW: dict[str, dict[str, tuple[int, ...]]] = {
    "lgldnet": {"ladder": (8, 8, 8, 16), "features": (8, 8, 8, 16), "unet": (16, 16, 16, 32, 32)},
    "tiny": {"ladder": (8, 8, 16), "features": (8, 8, 0), "unet": (16, 32)},
}
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def make_tiny_pipeline() -> IRSTDLatentPipeline:
    """The bundled architecture at a few channels, with random weights."""
    torch.manual_seed(0)
    tiny = CONFIGURATIONS["tiny"]
    vae = {**tiny["vae"], **tiny["image_features"], "block_out_channels": (8, 8, 16), "norm_num_groups": 4}
    encoder = {**tiny["image_encoder"], "block_out_channels": (8, 8, 16), "layers_per_block": (1, 1, 1)}
    unet = {**tiny["unet"], "block_out_channels": (16, 16), "cross_attention_dim": 16, "norm_num_groups": 4}
    return IRSTDLatentPipeline(
        vae=MaskAutoencoderKL(**vae | {"image_feature_channels": (8, 8, 0)}).eval(),
        unet=IRSTDUNet2DConditionModel(**unet).eval(),
        image_encoder=IRSTDImageEncoder(**encoder).eval(),
        scheduler=make_scheduler(),
    )


@pytest.fixture(scope="session", params=NARROW)
def narrow_networks(request) -> tuple[MaskAutoencoderKL, IRSTDUNet2DConditionModel, IRSTDImageEncoder]:
    """The three networks of every configuration, narrow and with random weights. A test that alters one copies it."""
    torch.manual_seed(0)
    parts, narrow = CONFIGURATIONS[request.param], NARROW[request.param]
    ladder = {"block_out_channels": narrow["ladder"], "norm_num_groups": 4}
    unet = {"block_out_channels": narrow["unet"], "cross_attention_dim": 16, "norm_num_groups": 8}
    return (
        MaskAutoencoderKL(**parts["vae"] | ladder | {"image_feature_channels": narrow["features"]}).eval(),
        IRSTDUNet2DConditionModel(**parts["unet"] | unet).eval(),
        IRSTDImageEncoder(**parts["image_encoder"] | ladder).eval(),
    )


@pytest.fixture
def tiny_pipeline() -> IRSTDLatentPipeline:
    return make_tiny_pipeline()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    make_tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the development data is absent: {SHARED_DATA.name} beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def nuaa_root(shared_data: Path) -> Path:
    return shared_data / "NUAA-SIRST"

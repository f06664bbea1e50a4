"""Shared fixtures: a real pipeline with small random networks, and the development data where it is present."""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

if "gpu" not in sys.argv:  # `pytest -m gpu`; all others are tests of a CPU, also where there is a GPU
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers side by side: more threads than cores wait for each other

import pytest
import torch
from hypothesis import settings
from PIL import Image

from irstd_ldm.data.synthetic import SyntheticScene
from irstd_ldm.models.conditional_encoder import ConditionalEncoder
from irstd_ldm.models.configurations import CONFIGURATIONS, PIXEL_CONFIGURATIONS
from irstd_ldm.models.image_encoder import IRSTDImageEncoder
from irstd_ldm.models.mask_vae import MaskAutoencoderKL
from irstd_ldm.models.pixel_unet import IRSTDUNet2DModel
from irstd_ldm.models.unet import IRSTDUNet2DConditionModel
from irstd_ldm.pipelines.pipeline_irstd_diff import IRSTDDiffPipeline
from irstd_ldm.pipelines.pipeline_irstd_latent import IRSTDLatentPipeline
from irstd_ldm.training import train_pixel
from irstd_ldm.training.train_latent import make_scheduler

# A busy machine is slow, and says nothing of the code by it.
settings.register_profile("short", deadline=None, max_examples=50, derandomize=True, database=None)
settings.register_profile("long", deadline=None, max_examples=20_000, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

# Each configuration at a few channels: its structure, its stem, its number of levels.
NARROW: dict[str, dict[str, tuple[int, ...]]] = {
    "lgldnet": {"ladder": (8, 8, 8, 16), "features": (8, 8, 8, 16), "unet": (16, 16, 16, 32, 32)},
    "lgldnet_small": {"ladder": (8, 8, 8, 16), "features": (8, 8, 8, 0), "unet": (16,)},
}
NARROW_PIXEL: dict[str, dict[str, dict]] = {
    "irstd_diff": {
        "conditional_encoder": {
            "block_out_channels": (8,) * 6,
            "mid_channels": (4,) * 6,
            "decoder_mid_channels": (4,) * 5,
            "residual_channels": ((8, 8), (8, 8), (8, 8), (8, 8), (8, 16), (16, 16)),
        },
        "unet": {
            "block_out_channels": (8, 8, 8, 8, 16, 16),
            "norm_num_groups": 4,
            "attn_norm_num_groups": 4,
            "attention_head_dim": 8,
        },
    },
    "irstd_diff_small": {
        "conditional_encoder": {
            "block_out_channels": (8, 16, 16),
            "mid_channels": (4, 4, 8),
            "decoder_mid_channels": (4, 4),
            "heights": (4, 3, 0),
            "residual_channels": ((8, 8), (8, 8), (8, 16)),
        },
        "unet": {"block_out_channels": (8, 8, 16), "norm_num_groups": 4},
    },
}


def write_scenes(root: Path, scenes: Mapping[str, SyntheticScene]) -> Path:
    """Images and masks of scenes, by stem, in the field's layout."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, scene in scenes.items():
        Image.fromarray(scene.image).save(root / "images" / f"{stem}.png")
        Image.fromarray(scene.mask).save(root / "masks" / f"{stem}.png")
    return root


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def make_tiny_pipeline(unet_channels: tuple[int, ...] = (16,)) -> IRSTDLatentPipeline:
    """The bundled architecture at a few channels, with random weights."""
    torch.manual_seed(0)
    small, ladder = CONFIGURATIONS["lgldnet_small"], {"block_out_channels": (8, 8, 8, 16)}
    unet = {"block_out_channels": unet_channels, "cross_attention_dim": 16, "norm_num_groups": 4}
    vae = MaskAutoencoderKL(**small["vae"] | ladder | {"image_feature_channels": (8, 8, 8, 0)}).eval()
    torch.nn.init.normal_(vae.decoder.head.weight, std=0.3)  # probabilities on both sides of 0.5
    torch.nn.init.constant_(vae.decoder.head.bias, -1.0)
    return IRSTDLatentPipeline(
        vae=vae,
        unet=IRSTDUNet2DConditionModel(**small["unet"] | unet).eval(),
        image_encoder=IRSTDImageEncoder(**small["image_encoder"] | ladder).eval(),
        scheduler=make_scheduler(),
    )


def make_narrow_pixel_networks(name: str) -> tuple[ConditionalEncoder, IRSTDUNet2DModel]:
    """The two networks of a pixel configuration, narrow, with random weights: in the residual convolutions too."""
    torch.manual_seed(0)
    parts, narrow = PIXEL_CONFIGURATIONS[name], NARROW_PIXEL[name]
    encoder = ConditionalEncoder(**parts["conditional_encoder"] | narrow["conditional_encoder"])
    for conv in encoder.residual_convs:
        torch.nn.init.normal_(conv.weight, std=0.1)
    return encoder.eval(), IRSTDUNet2DModel(**parts["unet"] | narrow["unet"]).eval()


def make_tiny_diff_pipeline(**settings) -> IRSTDDiffPipeline:
    """The small pixel architecture at a few channels, with random weights; `settings` are the trainer's."""
    encoder, unet = make_narrow_pixel_networks("irstd_diff_small")
    pixel_settings = train_pixel.PixelSettings(train_data_dir="", output_dir="", **settings)
    return IRSTDDiffPipeline(
        unet=unet, conditional_encoder=encoder, scheduler=train_pixel.make_scheduler(pixel_settings)
    )


@functools.cache
def make_narrow_networks(name: str) -> tuple[torch.nn.Module, ...]:
    """The networks of a configuration, narrow and with random weights. A test that alters one copies it."""
    if name in PIXEL_CONFIGURATIONS:
        return make_narrow_pixel_networks(name)
    torch.manual_seed(0)
    parts, narrow = CONFIGURATIONS[name], NARROW[name]
    ladder = {"block_out_channels": narrow["ladder"], "norm_num_groups": 4}
    unet = {"block_out_channels": narrow["unet"], "cross_attention_dim": 16, "norm_num_groups": 8}
    return (
        MaskAutoencoderKL(**parts["vae"] | ladder | {"image_feature_channels": narrow["features"]}).eval(),
        IRSTDUNet2DConditionModel(**parts["unet"] | unet).eval(),
        IRSTDImageEncoder(**parts["image_encoder"] | ladder).eval(),
    )


@pytest.fixture(scope="session")
def narrow_networks_of() -> Callable[[str], tuple[torch.nn.Module, ...]]:
    return make_narrow_networks


@pytest.fixture(scope="session", params=NARROW)
def narrow_networks(request) -> tuple[MaskAutoencoderKL, IRSTDUNet2DConditionModel, IRSTDImageEncoder]:
    """The three networks of every latent configuration."""
    return make_narrow_networks(request.param)


@pytest.fixture(scope="session", params=NARROW_PIXEL)
def narrow_pixel_networks(request) -> tuple[ConditionalEncoder, IRSTDUNet2DModel]:
    """The two networks of every pixel configuration."""
    return make_narrow_networks(request.param)


@pytest.fixture
def tiny_diff_pipeline() -> IRSTDDiffPipeline:
    return make_tiny_diff_pipeline()


@pytest.fixture(scope="session")
def tiny_diff_checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny_diff"
    make_tiny_diff_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_pipeline() -> IRSTDLatentPipeline:
    return make_tiny_pipeline()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    make_tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide_checkpoint(tmp_path_factory) -> Path:
    """Its denoiser has convolutions of enough channels for int8."""
    folder = tmp_path_factory.mktemp("checkpoint") / "wide"
    make_tiny_pipeline(unet_channels=(32,)).save_pretrained(folder)
    return folder


@pytest.fixture
def seconds() -> Callable[[float], AbstractContextManager[None]]:
    """`with seconds(5)`: the block takes at most 5 s of this process's own time, whatever else the machine does."""

    @contextmanager
    def within(limit: float) -> Iterator[None]:
        start = time.process_time()
        yield
        assert time.process_time() - start < limit

    return within


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the development data is absent: {SHARED_DATA.name} beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def nuaa_root(shared_data: Path) -> Path:
    return shared_data / "NUAA-SIRST"

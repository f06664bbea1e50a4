"""What every network of every configuration must do: half precision, checkpointing, compile, export, copies, files."""

import copy
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr

import pytest
import torch
from torch import nn
from torch.export import Dim

from irstd_ldm.models.conditional_encoder import ConditionalEncoder
from irstd_ldm.models.configurations import CONFIGURATIONS, PIXEL_CONFIGURATIONS
from irstd_ldm.models.image_encoder import IRSTDImageEncoder
from irstd_ldm.models.mask_vae import MaskAutoencoderKL
from irstd_ldm.models.pixel_unet import IRSTDUNet2DModel
from irstd_ldm.models.unet import IRSTDUNet2DConditionModel

Tensors = tuple[torch.Tensor, ...]


class MaskEncoding(nn.Module):
    """Mask (B, 1, PH, PW) -> moments."""

    def __init__(self, network: MaskAutoencoderKL):
        super().__init__()
        self.network = network

    def forward(self, mask: torch.Tensor) -> Tensors:
        return (self.network.encode(mask).latent_dist.parameters,)


class MaskDecoding(nn.Module):
    """Mask latent and image features -> logits."""

    def __init__(self, network: MaskAutoencoderKL):
        super().__init__()
        self.network = network

    def forward(self, z: torch.Tensor, features: list[torch.Tensor]) -> Tensors:
        return self.network.decode(z, return_dict=False, image_features=features)


class ImageEncoding(nn.Module):
    """Image (B, 1, PH, PW) -> image latent, tokens, features."""

    def __init__(self, network: IRSTDImageEncoder):
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> Tensors:
        output = self.network(image)
        return (output.image_latent, output.tokens, *output.features)


class Denoising(nn.Module):
    """Noisy variables ++ image latent, timestep, tokens -> clean variables."""

    def __init__(self, network: IRSTDUNet2DConditionModel):
        super().__init__()
        self.network = network

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, tokens: torch.Tensor) -> Tensors:
        return self.network(sample, timestep, tokens, return_dict=False)


class ConditionalEncoding(nn.Module):
    """Image (B, 1, PH, PW) -> fused logits, logits of the levels, residuals."""

    def __init__(self, network: ConditionalEncoder):
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> Tensors:
        output = self.network(image)
        return (output.logits, *output.side_logits, *output.residuals)


class PixelDenoising(nn.Module):
    """Image ++ noisy mask, timestep, residuals -> prediction."""

    def __init__(self, network: IRSTDUNet2DModel):
        super().__init__()
        self.network = network

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, residuals: list[torch.Tensor]) -> Tensors:
        return self.network(sample, timestep, residuals, return_dict=False)


LATENT_COMPUTATIONS = (ImageEncoding, Denoising, MaskEncoding, MaskDecoding)
PIXEL_COMPUTATIONS = (ConditionalEncoding, PixelDenoising)
NETWORKS = [
    *((name, computation) for name in CONFIGURATIONS for computation in LATENT_COMPUTATIONS),
    *((name, computation) for name in PIXEL_CONFIGURATIONS for computation in PIXEL_COMPUTATIONS),
]


def with_slow(*configurations: str) -> pytest.MarkDecorator:
    """Every network, those of some configurations marked slow: tracing the larger ones takes a minute."""
    return pytest.mark.parametrize(
        "network",
        [pytest.param(pair, marks=pytest.mark.slow if pair[0] in configurations else ()) for pair in NETWORKS],
        indirect=True,
        ids=lambda pair: f"{pair[0]}-{pair[1].__name__}",
    )


def random_map(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=NETWORKS, ids=lambda pair: f"{pair[0]}-{pair[1].__name__}")
def network(request, narrow_networks_of) -> tuple[nn.Module, Callable[[int, int], tuple]]:
    """One of the computations, its weights free to alter, and a maker of its inputs for images (PH, PW)."""
    name, computation = request.param
    if computation in PIXEL_COMPUTATIONS:
        encoder, unet = narrow_networks_of(name)
        model = encoder if computation is ConditionalEncoding else unet
    else:
        vae, unet, encoder = narrow_networks_of(name)
        model = {ImageEncoding: encoder, Denoising: unet}.get(computation, vae)

    @torch.no_grad()
    def make_inputs(height: int, width: int) -> tuple:
        image, size = random_map(2, 1, height, width), (height // 8, width // 8)
        if computation is Denoising:
            tokens = random_map(2, size[0] * size[1], 16, seed=2)
            return random_map(2, unet.config.in_channels, *size, seed=1), torch.tensor([999, 400]), tokens
        if computation is MaskDecoding:
            return random_map(2, 4, *size, seed=1), encoder(image).features
        if computation is PixelDenoising:
            sample = random_map(2, unet.config.in_channels, height, width, seed=1)
            return sample, torch.tensor([999, 400]), encoder(image).residuals
        return (image,)

    return computation(copy.deepcopy(model)), make_inputs


def convert(values, dtype: torch.dtype):
    if isinstance(values, tuple | list):
        return type(values)(convert(value, dtype) for value in values)
    return values.to(dtype) if values.is_floating_point() else values


def assert_equal(outputs: Tensors, expected: Tensors) -> None:
    assert len(outputs) == len(expected)
    assert all(torch.equal(output, value) for output, value in zip(outputs, expected, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), ((torch.bfloat16, 0.1), (torch.float16, 0.02)))
def test_half_precision_on_the_cpu(network, dtype, tolerance):
    module, make_inputs = network
    inputs = make_inputs(128, 128)
    with torch.no_grad():
        expected = module(*inputs)
        outputs = module.to(dtype)(*convert(inputs, dtype))
    for output, value in zip(outputs, expected, strict=True):
        assert output.dtype == dtype
        assert (output.float() - value).norm() / value.norm() < tolerance


def test_gradient_checkpointing_changes_nothing(network):
    module, make_inputs = network
    inputs = make_inputs(128, 128)
    plain, frugal = module, copy.deepcopy(module).train()
    plain.train()
    frugal.network.enable_gradient_checkpointing()
    outputs = [one(*inputs) for one in (plain, frugal)]
    assert_equal(outputs[1], outputs[0])
    saved = []
    for one, output in zip((plain, frugal), outputs, strict=True):
        sum(value.square().sum() for value in output).backward()
        saved.append({name: p.grad for name, p in one.named_parameters() if p.grad is not None})
    assert saved[0] and saved[0].keys() == saved[1].keys()
    for name, gradient in saved[0].items():
        torch.testing.assert_close(saved[1][name], gradient, msg=name)


def test_gradient_checkpointing_keeps_fewer_tensors(network):
    module, make_inputs = network
    inputs = make_inputs(128, 128)

    def count_kept() -> int:
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            module.train()(*inputs)
        return sum(tensor.numel() for tensor in kept)

    plain = count_kept()
    module.network.enable_gradient_checkpointing()
    assert count_kept() < 0.8 * plain


@with_slow("lgldnet", "irstd_diff")
def test_compiled_in_one_graph_equals_eager(network):
    module, make_inputs = network
    inputs = make_inputs(128, 160)
    torch.compiler.reset()
    with torch.no_grad():
        outputs = torch.compile(module, fullgraph=True, backend="eager")(*inputs)
        for output, value in zip(outputs, module(*inputs), strict=True):
            torch.testing.assert_close(output, value)


@with_slow("lgldnet", *PIXEL_CONFIGURATIONS)
def test_exported_with_dynamic_sizes_equals_eager_at_another_size(network):
    module, make_inputs = network

    def free(value):
        if isinstance(value, list):
            return [free(one) for one in value]
        return {axis: Dim.AUTO for axis in range(value.ndim) if axis > (1 if value.ndim == 4 else 0)}

    deep = len(module.network.config.get("up_block_types", ())) > 2 or isinstance(module, ConditionalEncoding)
    # Latents that halve evenly to more than one position: elsewhere diffusers' upsampling compares the two axes, and
    # LIW tells sizes that it has to pad from those it has not.
    first, second = ((256, 384), (384, 256)) if deep else ((160, 192), (224, 160))
    inputs, others = make_inputs(*first), make_inputs(*second)
    with torch.no_grad(), redirect_stderr(io.StringIO()):
        program = torch.export.export(module, inputs, dynamic_shapes=tuple(free(value) for value in inputs))
        for output, value in zip(program.module()(*others), module(*others), strict=True):
            torch.testing.assert_close(output, value, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_deepcopy_is_independent(network):
    module, make_inputs = network
    inputs = make_inputs(128, 128)
    before = module(*inputs)
    copied = copy.deepcopy(module)
    assert_equal(copied(*inputs), before)

    def average(target: nn.Module) -> None:
        """In place, as an exponential moving average does."""
        for index, parameter in enumerate(target.parameters()):
            parameter.lerp_(random_map(*parameter.shape, seed=index), 0.1)

    average(copied)
    changed = copied(*inputs)
    assert_equal(module(*inputs), before)
    assert not any(torch.equal(one, other) for one, other in zip(changed, before, strict=True))
    average(module)
    assert_equal(copied(*inputs), changed)
    assert_equal(module(*inputs), changed)  # the same weights again: no output comes from anywhere else


@torch.no_grad()
def test_saved_and_loaded_is_exact(network, tmp_path):
    module, make_inputs = network
    inputs = make_inputs(128, 128)
    module.network.save_pretrained(tmp_path)
    loaded = type(module.network).from_pretrained(tmp_path)
    assert_equal(type(module)(loaded)(*inputs), module(*inputs))

    def public(config) -> dict:
        plain = json.loads(json.dumps(dict(config), default=str))
        return {name: value for name, value in plain.items() if not name.startswith("_")}

    assert public(loaded.config) == public(module.network.config)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_lgldnet_has_the_published_size():
    """Within 3 % of the released networks: image encoder 1.80 M, denoiser 41.4 M, decoder 2.71 M."""
    parts = CONFIGURATIONS["lgldnet"]
    encoder = count_parameters(IRSTDImageEncoder(**parts["image_encoder"]))
    decoder = count_parameters(MaskAutoencoderKL(**parts["vae"] | parts["image_features"]).decoder)
    denoiser = count_parameters(IRSTDUNet2DConditionModel(**parts["unet"]))
    for count, published in ((encoder, 1.80e6), (denoiser, 41.4e6), (decoder, 2.71e6)):
        assert abs(count / published - 1) < 0.03


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_parts_of_a_configuration_fit_each_other(name):
    parts = CONFIGURATIONS[name]
    channels = parts["image_encoder"]["block_out_channels"]
    features = parts["image_features"]["image_feature_channels"]
    assert all(feature in (0, channel) for feature, channel in zip(features, channels, strict=True))
    assert parts["unet"]["cross_attention_dim"] == channels[-1]
    halvings = len(channels) - 1 + (parts["image_encoder"]["stem"] == "haar")
    assert halvings == 3 and parts["vae"]["stem"] == parts["image_encoder"]["stem"]


def test_irstd_diff_has_the_published_size():
    """The denoiser exactly; of the encoder all but the fusion and LIW, which differ by 0.1 %."""
    parts = PIXEL_CONFIGURATIONS["irstd_diff"]
    encoder = ConditionalEncoder(**parts["conditional_encoder"])
    assert count_parameters(IRSTDUNet2DModel(**parts["unet"])) == 20_182_209
    assert count_parameters(encoder.encoder) == 3_190_400
    assert count_parameters(encoder.decoder) == 3_214_144
    assert count_parameters(encoder.side_heads) == 7_494
    without_residuals = count_parameters(encoder) - count_parameters(encoder.residual_convs)
    assert abs(without_residuals / 9_829_716 - 1) < 0.001


@pytest.mark.parametrize("name", PIXEL_CONFIGURATIONS)
def test_residuals_of_a_configuration_fit_the_skips_of_its_denoiser(name):
    parts = PIXEL_CONFIGURATIONS[name]
    unet = IRSTDUNet2DModel(**parts["unet"])
    skips = [[parts["unet"]["block_out_channels"][0]]]
    for block in unet.down_blocks:
        skips[-1] += [resnet.out_channels for resnet in block.resnets]
        skips += [[downsampler.out_channels] for downsampler in block.downsamplers or ()]
    assert [list(widths) for widths in parts["conditional_encoder"]["residual_channels"]] == skips
    assert parts["conditional_encoder"]["stem"] == parts["unet"]["stem"]

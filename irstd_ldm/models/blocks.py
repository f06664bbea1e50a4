"""What the networks share: the residual ladder of encoders and decoder, and loading from safetensors alone."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from torch import nn

from .frequency import DWT, FAE, IDWT, ChannelAttention

ALIGNMENT_BYTES = 64  # the alignment of memory that torch allocates


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice; the residual branch may end in channel attention and then FAE."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm_num_groups: int,
        channel_attention: bool = False,
        frequency_attention: bool = False,
    ):
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_num_groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(norm_num_groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.channel_attention = ChannelAttention(out_channels) if channel_attention else nn.Identity()
        self.frequency_attention = FAE(out_channels) if frequency_attention else nn.Identity()
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        residual = self.conv1(F.silu(self.norm1(x)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        return self.shortcut(x) + self.frequency_attention(self.channel_attention(residual))


def conv_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: torch.Tensor, pool: tuple[int, int] = (1, 1)) -> torch.Tensor:
    """`norm(conv(x))`, after pooling by the mean over `pool` rows and columns; at inference in one convolution.

    The convolution has no bias; one that pools is 1x1. Its weights are made in every call, which costs far less than
    a pass over a map, so that none can be out of date. Under autocast the two stay apart, as in training: what is
    rounded is the weights that are learnt.
    """
    pools = pool != (1, 1)
    if norm.training or torch.is_autocast_enabled(x.device.type):
        return norm(conv(F.avg_pool2d(x, pool) if pools else x))
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var.float() + norm.eps)  # (O,)
    weight = (conv.weight * scale.view(-1, 1, 1, 1)).to(x.dtype)
    bias = (norm.bias - norm.running_mean * scale).to(x.dtype)
    if pools:
        return F.conv2d(x, (weight / (pool[0] * pool[1])).expand(-1, -1, *pool), bias, pool)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


class BatchNormBlock(nn.Module):
    """3x3 convolution, BatchNorm, ReLU, twice, the last ReLU after the addition; attentions as in [`ResidualBlock`].

    At inference the normalisations fold into the convolutions, and, but for the two attentions, what a pixel becomes
    does not depend on the size of the map around it, as it does where statistics of the whole map are taken.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        channel_attention: bool = False,
        frequency_attention: bool = False,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.channel_attention = ChannelAttention(out_channels) if channel_attention else nn.Identity()
        self.frequency_attention = FAE(out_channels) if frequency_attention else nn.Identity()
        # Averaged first: a strided 1x1 convolution sees a quarter of the pixels, and the backward pass of a narrow
        # one corrupts memory in oneDNN (torch 2.13, channels last).
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = PooledProjection(in_channels, out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h/stride, w/stride)."""
        residual = conv_norm(self.conv2, self.norm2, F.relu_(conv_norm(self.conv1, self.norm1, x)))
        # Passes over memory are a block's other cost at full and half resolution, so the addition is in place.
        return F.relu_(self.frequency_attention(self.channel_attention(residual)).add_(self.shortcut(x)))


class PooledProjection(nn.Sequential):
    """Mean over squares of `stride` pixels, 1x1 convolution, BatchNorm; (B, I, h, w) -> (B, O, h/stride, w/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__(
            nn.AvgPool2d((stride, stride)),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooling, conv, norm = cast(tuple[nn.AvgPool2d, nn.Conv2d, nn.BatchNorm2d], self)
        return conv_norm(conv, norm, x, cast(tuple[int, int], pooling.kernel_size))


class TokenPooling(nn.Module):
    """Learned queries that gather a fixed number of tokens from a map of any size; the cost grows with its area.

    The first half of induced attention (Lee et al., *Set Transformer*, arXiv 1810.00825, section 3.1);
    [`TokenReading`] is the second.
    """

    def __init__(self, channels: int, num_heads: int, num_tokens: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, num_tokens, channels))
        self.attention = Attention(channels, heads=num_heads, dim_head=channels // num_heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, num_tokens, C)."""
        return self.attention(self.queries.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2))


class TokenReading(nn.Module):
    """Cross-attention of every position of a map to the tokens of [`TokenPooling`], with its residual."""

    def __init__(self, channels: int, token_channels: int, num_heads: int):
        super().__init__()
        self.attention = Attention(
            channels, cross_attention_dim=token_channels, heads=num_heads, dim_head=channels // num_heads
        )

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) and tokens (B, num_tokens, D) -> (B, C, h, w)."""
        read = self.attention(x.flatten(2).transpose(1, 2), tokens)  # (B, h*w, C)
        return x + read.transpose(1, 2).unflatten(2, x.shape[2:])


def batch_normalised(module: nn.Module) -> nn.Module:
    """`module` with a BatchNorm in the place of every GroupNorm of a map."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm) and not isinstance(parent, Attention):
                setattr(parent, name, nn.BatchNorm2d(child.num_channels))
    return module


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) with the channels of a position beside each other: few of them are convolved faster so on a CPU."""
    return x.contiguous(memory_format=torch.channels_last)


def checkpointed(model: Any, block: nn.Module) -> Callable[..., Any]:
    """The block, or the block computed anew in the backward pass where `model` checkpoints gradients."""
    if torch.is_grad_enabled() and model.gradient_checkpointing:
        return partial(model._gradient_checkpointing_func, block)
    return block


def check_norm_type(norm_type: str) -> None:
    """Raises ValueError unless `norm_type` is known."""
    if norm_type not in ("group", "batch"):
        raise ValueError(f"`norm_type` must be 'group' or 'batch', got {norm_type!r}")


def self_attention(channels: int, num_heads: int, norm_num_groups: int) -> Attention:
    """Self-attention over the positions of (B, C, h, w), with its residual, as in diffusers' middle blocks."""
    return Attention(
        channels,
        heads=num_heads,
        dim_head=channels // num_heads,
        norm_num_groups=norm_num_groups,
        residual_connection=True,
        bias=True,
        eps=1e-5,
        _from_deprecated_attn_block=True,
    )


class HaarStem(nn.Module):
    """Haar DWT and a 3x3 convolution: (B, in_channels, H, W) -> (B, out_channels, H/2, W/2), without loss."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.dwt = DWT()
        self.conv = nn.Conv2d(4 * in_channels, out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.dwt(x).flatten(1, 2))


class HaarHead(nn.Module):
    """A 3x3 convolution and the inverse Haar DWT: (B, in_channels, H/2, W/2) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1)
        self.idwt = IDWT()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.idwt(self.conv(x).unflatten(1, (self.out_channels, 4)))


def make_stem(kind: str, in_channels: int, out_channels: int) -> nn.Module:
    """``conv``: a full-resolution 3x3 convolution; ``haar``: [`HaarStem`]."""
    if kind == "conv":
        return nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect")
    if kind == "haar":
        return HaarStem(in_channels, out_channels)
    raise ValueError(f"`stem` must be 'conv' or 'haar', got {kind!r}")


def make_head(kind: str, in_channels: int, out_channels: int) -> nn.Module:
    """The counterpart of [`make_stem`]: back to full resolution."""
    if kind == "haar":
        return HaarHead(in_channels, out_channels)
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class Ladder(nn.Module):
    """Residual levels, each at half the resolution of the one before; one feature per level, finest first.

    Args:
        block_out_channels: Channels of each level.
        layers_per_block: Residual blocks of each level.
        norm_num_groups: Groups of the normalisation; None: [`BatchNormBlock`]s, the first of a level with the stride
            that is else a convolution between levels.
        channel_attention: Channel attention in every block; with BatchNorm where FAE is.
        frequency_attention: FAE in every block of a level, with BatchNorm in its last; one switch per level.
    """

    def __init__(
        self,
        block_out_channels: Sequence[int],
        layers_per_block: Sequence[int],
        norm_num_groups: int | None,
        channel_attention: bool = False,
        frequency_attention: Sequence[bool] | None = None,
    ):
        super().__init__()
        switches = frequency_attention or (False,) * len(block_out_channels)
        self.levels = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        previous = block_out_channels[0]
        for level, channels in enumerate(block_out_channels):
            blocks = nn.Sequential()
            for left in reversed(range(layers_per_block[level])):
                if norm_num_groups is None:
                    stride = 2 if level and not len(blocks) else 1
                    attention = switches[level] and not left
                    blocks.append(BatchNormBlock(previous, channels, stride, attention, attention))
                else:
                    blocks.append(
                        ResidualBlock(previous, channels, norm_num_groups, channel_attention, switches[level])
                    )
                previous = channels
            self.levels.append(blocks)
            if norm_num_groups is not None and level + 1 < len(block_out_channels):
                self.downsamplers.append(Downsample2D(channels, use_conv=True, name="op"))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, C0, h0, w0) -> features (B, Ci, h0/2^i, w0/2^i), finest first."""
        features = []
        for level, blocks in enumerate(self.levels):
            x = blocks(self.downsamplers[level - 1](x) if level and len(self.downsamplers) else x)
            features.append(x)
        return features


def require_safetensors(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a `from_pretrained` call, with pickled weights ruled out.

    Without `use_safetensors=True` diffusers falls back to a `.bin` pickle where no safetensors file is found.

    Raises:
        ValueError: If `use_safetensors` is given as anything but None or True.
    """
    given = kwargs.get("use_safetensors")
    if given not in (None, True):
        raise ValueError(f"`use_safetensors` must be None or True: pickled weights are never loaded, got {given!r}")
    return {**kwargs, "use_safetensors": True}


def align_weights(model: nn.Module) -> None:
    """Copies weights that lie unaligned in a memory-mapped file: kernels give other last bits on those."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.data_ptr() % ALIGNMENT_BYTES:
            tensor.data = tensor.data.clone()


def check_finite(component: Any, source: Path) -> None:
    """Raises ValueError for a network with weights that are NaN or infinite: it would find nothing, without a word."""
    if isinstance(component, nn.Module):
        for name, tensor in component.state_dict().items():
            if tensor.is_floating_point() and not tensor.is_meta and not tensor.isfinite().all():
                raise ValueError(f"{source}: the weights `{name}` hold NaN or infinite values")


class SafetensorsOnlyMixin:
    """Makes a diffusers model load safetensors only. Comes before the model class in the list of bases."""

    @classmethod
    def _get_init_keys(cls, input_class: type | None = None) -> set[str]:
        """Names the arguments of a model, those that it hands on to the class below it included."""
        inits = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
        return {name for init in inits[:2] for name in inspect.signature(init).parameters}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> Any:
        """Loads a model as `ModelMixin.from_pretrained` does; it computes bit for bit what the saved one did.

        Raises:
            OSError: If there is no safetensors file, or it cannot be read.
            ValueError: If the weights are not those of the config, where diffusers would go on without the missing
                ones, or not finite.
        """
        source = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        output_loading_info = kwargs.get("output_loading_info", False)
        kwargs = {**require_safetensors(kwargs), "output_loading_info": True}
        try:
            model, info = super().from_pretrained(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        for kind in ("missing_keys", "unexpected_keys"):
            if info[kind]:
                raise ValueError(f"{source}: the weights do not fit the config, {kind.replace('_', ' ')} {info[kind]}")
        align_weights(model)
        check_finite(model, source)
        return (model, info) if output_loading_info else model

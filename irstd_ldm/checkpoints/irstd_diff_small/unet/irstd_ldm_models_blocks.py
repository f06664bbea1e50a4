"""The residual ladder that the mask encoder, the image encoder and the mask decoder are made of."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from torch import nn

from . irstd_ldm_models_frequency import FAE, ChannelAttention
from . irstd_ldm_models_wavelet import DWT, IDWT


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, with attention on the residual branch.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        norm_num_groups: Groups of the normalisation.
        channel_attention: Ends the branch in squeeze-and-excitation.
        frequency_attention: Ends the branch in FAE, after the channel attention.
    """

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
        self.dwt = DWT("haar")
        self.conv = nn.Conv2d(4 * in_channels, out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.dwt(x).flatten(1, 2))


class HaarHead(nn.Module):
    """A 3x3 convolution and the inverse Haar DWT: (B, in_channels, H/2, W/2) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1)
        self.idwt = IDWT("haar")

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
    """Residual levels with strided convolutions between them; one feature per level, finest first.

    Args:
        block_out_channels: Channels of each level.
        layers_per_block: Residual blocks of each level.
        norm_num_groups: Groups of the normalisation.
        channel_attention: Channel attention in every block.
        frequency_attention: FAE in every block of a level, one switch per level.
    """

    def __init__(
        self,
        block_out_channels: Sequence[int],
        layers_per_block: Sequence[int],
        norm_num_groups: int,
        channel_attention: bool = False,
        frequency_attention: Sequence[bool] | None = None,
    ):
        super().__init__()
        frequency_attention = frequency_attention or (False,) * len(block_out_channels)
        self.levels = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        previous = block_out_channels[0]
        for level, channels in enumerate(block_out_channels):
            blocks = [
                ResidualBlock(
                    channels if block or not level else previous,
                    channels,
                    norm_num_groups,
                    channel_attention,
                    frequency_attention[level],
                )
                for block in range(layers_per_block[level])
            ]
            self.levels.append(nn.Sequential(*blocks))
            if level + 1 < len(block_out_channels):
                self.downsamplers.append(Downsample2D(channels, use_conv=True, name="op"))
            previous = channels

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, C0, h0, w0) -> features (B, Ci, h0/2^i, w0/2^i), finest first."""
        features = []
        for level, blocks in enumerate(self.levels):
            x = blocks(x if not level else self.downsamplers[level - 1](x))
            features.append(x)
        return features

"""The conditional encoder of IRSTD-Diff: a U2-Net with IPOF fusion, DODA and LIW.

IRSTD-Diff: Li et al., "Mitigate Target-level Insensitivity of Infrared Small Target Detection via Posterior
Distribution Modeling", arXiv 2403.08380. U2-Net: Qin et al., arXiv 2005.09007.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import BaseOutput
from torch import nn

from .blocks import HaarHead, SafetensorsOnlyMixin, checkpointed, make_head
from .frequency import DWT, LIW

DILATED_HEIGHT = 4  # levels of the residual U-block without pooling
PRIOR_LOGIT = -4.6  # target pixels have probability 0.01 before training (RetinaNet, arXiv 1708.02002, section 4.1)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1):
        padding = dilation * (kernel_size // 2)
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


def _halve(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 2, ceil_mode=True)


def _resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class ResidualUBlock(nn.Module):
    """A small U-Net whose input, after one convolution, is added to its output (U2-Net, section 3.1).

    It has `height` levels, the bottom one included; 0 = four levels by dilation instead of pooling.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, height: int):
        super().__init__()
        self.pools = height > 0
        depth = (height or DILATED_HEIGHT) - 1
        dilations = [1] * depth if self.pools else [2**level for level in range(depth)]
        bottom_dilation = 2 if self.pools else 2**depth
        down_channels = [out_channels] + [mid_channels] * depth
        up_channels = [out_channels] + [mid_channels] * (depth - 1)
        self.stem = ConvNormAct(in_channels, out_channels, 3)
        self.down = nn.ModuleList(
            ConvNormAct(down_channels[level], mid_channels, 3, dilations[level]) for level in range(depth)
        )
        self.bottom = ConvNormAct(mid_channels, mid_channels, 3, bottom_dilation)
        self.up = nn.ModuleList(
            ConvNormAct(2 * mid_channels, up_channels[level], 3, dilations[level]) for level in reversed(range(depth))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, h, w) of any size -> (B, out_channels, h, w)."""
        stem = self.stem(x)
        y, skips = stem, []
        for level, conv in enumerate(self.down):
            y = conv(_halve(y) if level and self.pools else y)
            skips.append(y)
        y = self.bottom(y)
        for level, conv in enumerate(self.up):
            skip = skips.pop()
            y = conv(torch.cat([_resize(y, skip) if level and self.pools else y, skip], dim=1))
        return stem + y


class DODA(nn.Module):
    """Adds to a vector of channels the sigmoid of one convolution along the channels, applied several times."""

    def __init__(self, channels: int):
        super().__init__()
        kernel_size = 5 if channels >= 128 else 3
        self.repetitions = 1 + (kernel_size + 1) // 2
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C) -> (B, C)."""
        gate = x[:, None]
        for _ in range(self.repetitions):
            gate = self.conv(gate)
        return x + torch.sigmoid(gate[:, 0])


class IPOF(nn.Module):
    """Fuses a decoder feature with the encoder's skip, each gated by the other.

    The decoder feature chooses the positions whose mean gates the skip's channels; its own mean is the query whose
    agreement with the skip gates its positions.
    """

    def __init__(self, channels: int):
        super().__init__()
        half, hidden = channels // 2, max(channels // 8, 8)

        def pair(out_channels: int) -> nn.Sequential:
            return nn.Sequential(ConvNormAct(channels, half, 1), ConvNormAct(half, out_channels, 1))

        self.channel_value, self.channel_position = pair(half), pair(1)
        self.channel_doda = DODA(half)
        self.channel_gate = nn.Sequential(
            nn.Linear(half, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels),
            nn.LayerNorm(channels),
        )
        self.spatial_query, self.spatial_key = pair(half), pair(half)
        self.spatial_doda = DODA(half)
        self.conv_out = ConvNormAct(channels, 2 * channels, 3)

    def forward(self, decoded: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Two (B, C, h, w) -> (B, 2C, h, w)."""
        value = self.channel_value(skip).flatten(2)  # (B, C/2, h*w)
        position = self.channel_position(decoded).flatten(2).softmax(dim=2)  # (B, 1, h*w)
        pooled = (value * position).sum(dim=2)  # (B, C/2)
        channel_gate = torch.sigmoid(self.channel_gate(self.channel_doda(pooled)))  # (B, C)

        query = self.spatial_doda(self.spatial_query(decoded).mean(dim=(2, 3))).softmax(dim=1)  # (B, C/2)
        agreement = (self.spatial_key(skip) * query[:, :, None, None]).sum(dim=1, keepdim=True).float()  # (B, 1, h, w)
        centred = agreement - agreement.mean(dim=(2, 3), keepdim=True)
        deviation = torch.sqrt(centred.square().mean(dim=(2, 3), keepdim=True) + 1e-5)
        spatial_gate = torch.sigmoid(centred / deviation).to(decoded.dtype)  # (B, 1, h, w)
        return self.conv_out(decoded * spatial_gate + skip * channel_gate[:, :, None, None])


@torch.no_grad()
def _start_at_prior(head: nn.Module) -> None:
    """Sets the biases of a side head so that its logits start around `PRIOR_LOGIT`."""
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
            parameter[0] = 2 * PRIOR_LOGIT if isinstance(head, HaarHead) else PRIOR_LOGIT  # low band: twice the mean


@dataclass
class ConditionalEncoderOutput(BaseOutput):
    """The conditional encoder's view of an image.

    Attributes:
        logits: (B, 1, PH, PW), mask logits fused from all levels: the encoder as a detector of its own.
        side_logits: One (B, 1, PH, PW) per level, finest first, for deep supervision.
        residuals: Summands of the denoiser's skip tensors, in their order; zero before training.
    """

    logits: torch.Tensor
    side_logits: list[torch.Tensor]
    residuals: list[torch.Tensor]


class ConditionalEncoder(SafetensorsOnlyMixin, ModelMixin, ConfigMixin):
    """Encodes an infrared image for the pixel denoiser, and detects by itself (IRSTD-Diff, conditional encoder).

    Six encoder and five decoder stages of residual U-blocks in the published size, IPOF in place of concatenated
    skips, LIW on the second stage's skip. The residuals are the decoder's features under 1x1 convolutions that start
    at zero, so that gradients of the diffusion loss reach every stage.

    With gradient checkpointing the running statistics see each batch twice.

    Args:
        in_channels: Channels of the image; a gray image fills them all.
        block_out_channels: Channels of the encoder's stages, finest first, the last two equal.
        mid_channels: Channels inside the encoder's residual U-blocks.
        decoder_mid_channels: Channels inside the decoder's, finest first, one fewer.
        heights: Levels inside the residual U-blocks; 0 = dilated, without pooling.
        residual_channels: Channels of the denoiser's skip tensors, a tuple per level, finest first; empty = none, the
            released system's behaviour, in which image and noisy mask are concatenated and nothing else.
        use_liw: LIW on the second stage's skip.
        stem: ``conv`` (the first stage at full resolution) or ``haar`` (at half resolution, behind a DWT).

    Raises:
        ValueError: Tuples of unequal length, unequal last channels, or an unknown `stem`.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        block_out_channels: Sequence[int] = (64, 64, 128, 256, 256, 256),
        mid_channels: Sequence[int] = (16, 16, 32, 32, 32, 64),
        decoder_mid_channels: Sequence[int] = (16, 16, 32, 32, 64),
        heights: Sequence[int] = (7, 6, 5, 4, 0, 0),
        residual_channels: Sequence[Sequence[int]] = (),
        use_liw: bool = True,
        stem: str = "conv",
    ):
        super().__init__()
        stages = len(block_out_channels)
        if (len(mid_channels), len(decoder_mid_channels), len(heights)) != (stages, stages - 1, stages):
            raise ValueError(
                f"`mid_channels` and `heights` must have {stages} entries as `block_out_channels` has, "
                f"`decoder_mid_channels` one fewer, got {mid_channels}, {heights}, {decoder_mid_channels}"
            )
        if block_out_channels[-2:-1] != block_out_channels[-1:]:
            raise ValueError(f"the last two of `block_out_channels` must be equal, got {block_out_channels}")
        if len(residual_channels) > stages:
            raise ValueError(f"`residual_channels` must have at most {stages} levels, got {residual_channels}")
        if stem not in ("conv", "haar"):
            raise ValueError(f"`stem` must be 'conv' or 'haar', got {stem!r}")
        self.dwt = DWT() if stem == "haar" else None
        encoder_in = [4 * in_channels if stem == "haar" else in_channels, *block_out_channels[:-1]]
        decoder_out = [block_out_channels[0], *block_out_channels[: stages - 2]]
        feature_channels = [*decoder_out, block_out_channels[-1]]
        self.encoder = nn.ModuleList(
            ResidualUBlock(*channels)
            for channels in zip(encoder_in, mid_channels, block_out_channels, heights, strict=True)
        )
        self.liw = LIW(block_out_channels[1]) if use_liw else nn.Identity()
        self.fusion = nn.ModuleList(IPOF(channels) for channels in block_out_channels[:-1])
        self.decoder = nn.ModuleList(
            ResidualUBlock(2 * block_out_channels[i], decoder_mid_channels[i], decoder_out[i], heights[i])
            for i in range(stages - 1)
        )
        self.side_heads = nn.ModuleList(
            make_head("conv" if level else stem, channels, 1) for level, channels in enumerate(feature_channels)
        )
        for head in self.side_heads:
            _start_at_prior(head)
        self.conv_fuse = nn.Conv2d(stages, 1, 1)
        for parameter, value in zip(self.conv_fuse.parameters(), (1 / stages, 0.0), strict=True):
            nn.init.constant_(parameter, value)
        self.residual_levels = [level for level, widths in enumerate(residual_channels) for _ in widths]
        self.residual_convs = nn.ModuleList(
            nn.Conv2d(feature_channels[level], width, 1)
            for level, widths in enumerate(residual_channels)
            for width in widths
        )
        for parameter in self.residual_convs.parameters():
            nn.init.zeros_(parameter)
        self.gradient_checkpointing = False

    def forward(self, image: torch.Tensor) -> ConditionalEncoderOutput:
        """Encode (B, 1, PH, PW) in [-1, 1], PH and PW multiples of 32."""
        x = image.expand(-1, self.config.in_channels, -1, -1)
        if self.dwt is not None:
            x = self.dwt(x).flatten(1, 2)  # (B, 4*in_channels, PH/2, PW/2)
        skips: list[torch.Tensor] = []
        for stage, block in enumerate(self.encoder):
            x = checkpointed(self, block)(_halve(x) if stage else x)
            skips.append(x)
        skips[1] = self.liw(skips[1])
        features = [x]
        for stage in reversed(range(len(self.decoder))):
            fused = checkpointed(self, self.fusion[stage])(_resize(features[0], skips[stage]), skips[stage])
            features.insert(0, checkpointed(self, self.decoder[stage])(fused))
        heads = [head(feature) for head, feature in zip(self.side_heads, features, strict=True)]
        side_logits = [heads[0], *(_resize(head, heads[0]) for head in heads[1:])]  # (B, 1, PH, PW) each
        logits = self.conv_fuse(torch.cat(side_logits, dim=1))
        levels = zip(self.residual_convs, self.residual_levels, strict=True)
        residuals = [conv(features[level]) for conv, level in levels]
        return ConditionalEncoderOutput(logits, side_logits, residuals)

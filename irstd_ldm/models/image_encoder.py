"""The infrared image encoder of LGLDNet: residual ladder with channel attention and FAE."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.utils import BaseOutput
from torch import nn

from .blocks import (
    Ladder,
    ResidualBlock,
    SafetensorsOnlyMixin,
    TokenPooling,
    channels_last,
    check_norm_type,
    checkpointed,
    make_stem,
    self_attention,
)


@dataclass
class IRSTDImageEncoderOutput(BaseOutput):
    """The encoder's view of an image.

    Attributes:
        image_latent: (B, latent_channels, h, w), enters the denoiser beside the noisy posterior variables.
        features: One (B, Ci, hi, wi) per resolution, finest first, halving; they enter the mask decoder.
        tokens: (B, M, D), condition the denoiser: the output of the middle attention in raster order, M = h*w, or the
            encoder's `num_tokens` pooled ones.
    """

    image_latent: torch.Tensor
    features: list[torch.Tensor]
    tokens: torch.Tensor


class IRSTDImageEncoder(SafetensorsOnlyMixin, ModelMixin, AttentionMixin, ConfigMixin):
    """Encodes an infrared image for the conditional denoiser and the mask decoder (LGLDNet, image encoder).

    Args:
        in_channels: Channels of the image.
        latent_channels: Channels of the image latent.
        block_out_channels: Channels of each level; the last level lies at 1/8.
        layers_per_block: Residual blocks of each level.
        num_attention_heads: Heads of the middle attention, or of the pooling of the tokens.
        norm_num_groups: Groups of the normalisation.
        frequency_attention: FAE in the blocks of a level, one switch per level.
        stem: ``conv`` (the first level at full resolution) or ``haar`` (at half resolution).
        norm_type: ``group`` (the published blocks, attention over all positions) or ``batch`` (blocks whose
            normalisation folds into the convolutions, attention by `num_tokens` pooled tokens; channel attention
            where FAE is).
        num_tokens: Pooled tokens of ``batch``.

    Raises:
        ValueError: An unknown `stem` or `norm_type`, or tuples of unequal length.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        latent_channels: int = 4,
        block_out_channels: Sequence[int] = (16, 32, 64, 128),
        layers_per_block: Sequence[int] = (2, 2, 3, 3),
        num_attention_heads: int = 1,
        norm_num_groups: int = 8,
        frequency_attention: Sequence[bool] = (True, True, True, True),
        stem: str = "conv",
        norm_type: str = "group",
        num_tokens: int = 32,
    ):
        super().__init__()
        per_level = (layers_per_block, frequency_attention)
        if any(len(values) != len(block_out_channels) for values in per_level):
            raise ValueError(
                "`layers_per_block` and `frequency_attention` must have one entry per level of `block_out_channels` "
                f"({len(block_out_channels)}), got {per_level}"
            )
        top = block_out_channels[-1]
        self.conv_in = make_stem(stem, in_channels, block_out_channels[0])
        self.gradient_checkpointing = False
        check_norm_type(norm_type)
        groups = norm_num_groups if norm_type == "group" else None
        self.ladder = Ladder(block_out_channels, layers_per_block, groups, True, frequency_attention)
        if groups is None:
            self.token_pooling = TokenPooling(top, num_attention_heads, num_tokens)
            self.conv_out = nn.Conv2d(top, latent_channels, 1)
            return
        self.mid_block1 = ResidualBlock(top, top, norm_num_groups, True, frequency_attention[-1])
        self.mid_attention = self_attention(top, num_attention_heads, norm_num_groups)
        self.mid_block2 = ResidualBlock(top, top, norm_num_groups, True, frequency_attention[-1])
        self.norm_out = nn.GroupNorm(norm_num_groups, top)
        self.conv_out = nn.Conv2d(top, latent_channels, 3, padding=1)

    def forward(self, image: torch.Tensor) -> IRSTDImageEncoderOutput:
        """Encode (B, 1, PH, PW) in [-1, 1], PH and PW multiples of 8."""
        x, is_batch = self.conv_in(image), self.config.norm_type == "batch"
        features = checkpointed(self, self.ladder)(channels_last(x) if is_batch else x)
        if is_batch:
            return IRSTDImageEncoderOutput(self.conv_out(features[-1]), features, self.token_pooling(features[-1]))
        attended = self.mid_attention(self.mid_block1(features[-1]))  # (B, D, h, w)
        image_latent = self.conv_out(F.silu(self.norm_out(self.mid_block2(attended))))  # (B, latent_channels, h, w)
        return IRSTDImageEncoderOutput(image_latent, features, attended.flatten(2).transpose(1, 2))

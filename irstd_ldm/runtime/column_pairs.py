"""The finest level of a small latent detector on pairs of columns: the same function, in fewer blocks of channels.

With AVX-512 runtimes convolve blocks of 16 channels, so that a level of 8 channels costs them four times its
multiplications. Two neighbouring columns stacked as channels, (B, 8, H, W) as (B, 16, H, W/2), fill a block; half of
the weights of a 3x3 convolution on them are zeros, which makes it cost twice its multiplications.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from ..models.blocks import BatchNormBlock
    from ..models.image_encoder import IRSTDImageEncoder
    from ..models.mask_vae import MaskAutoencoderKL

CHANNELS_OF_A_BLOCK = 16


def fits_in_pairs(image_encoder: "IRSTDImageEncoder", vae: "MaskAutoencoderKL") -> bool:
    """Whether the finest levels are at full resolution without attention, and two columns of each fit into a block."""
    configs = image_encoder.config, vae.config
    small = all(2 * config.block_out_channels[0] <= CHANNELS_OF_A_BLOCK for config in configs)
    plain = all((config.norm_type, config.stem) == ("batch", "conv") for config in configs)
    return small and plain and not image_encoder.config.frequency_attention[0]


def paired(conv: nn.Conv2d) -> nn.Conv2d:
    """A 1x1 or 3x3 convolution that keeps the size or halves it, on stacked pairs of columns.

    (B, 2*in_channels, H, W/2), the even columns first, to (B, 2*out_channels, H, W/2) stacked alike, or with a stride
    of 2 to (B, out_channels, H/2, W/2), which is not stacked.
    """
    (rows, stride), radius = conv.stride, conv.kernel_size[1] // 2
    out_channels, in_channels, height, _ = conv.weight.shape
    out_columns, width = 2 // stride, 2 * radius + 1
    weight = conv.weight.new_zeros(out_columns, out_channels, 2, in_channels, height, width)
    for to in range(out_columns):
        for of in range(2):
            for pair in range(-radius, radius + 1):
                column = 2 * pair + of - to  # Counted from the output's column.
                if abs(column) <= radius:
                    weight[to, :, of, :, :, pair + radius] = conv.weight[..., column + radius]
    size = (height, width)
    stacked = nn.Conv2d(
        2 * in_channels, out_columns * out_channels, size, (rows, 1), radius, bias=conv.bias is not None
    )
    stacked.weight = nn.Parameter(weight.flatten(2, 3).flatten(0, 1))
    if conv.bias is not None:
        stacked.bias = nn.Parameter(conv.bias.repeat(out_columns))
    return stacked


def repeat_channels(module: nn.Module) -> None:
    """Has a normalisation or a 1x1 convolution give its channels twice, once for each of two columns."""
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.ndim:
            twice = value.repeat(2, *[1] * (value.ndim - 1))
            setattr(module, name, nn.Parameter(twice) if isinstance(value, nn.Parameter) else twice)


def pair_block(block: "BatchNormBlock") -> None:
    """A block of stride 1 without attention and with as many channels on both sides."""
    block.conv1, block.conv2 = paired(block.conv1), paired(block.conv2)
    repeat_channels(block.norm1)
    repeat_channels(block.norm2)


class PairedStem(nn.Module):
    """A 3x3 convolution of a reflected image (B, C, H, W), its columns stacked: (B, 2*out_channels, H, W/2)."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        even, odd = F.pad(conv.weight, (0, 1)), F.pad(conv.weight, (1, 0))
        self.weight = nn.Parameter(torch.cat([even, odd]))  # (2*out_channels, C, 3, 4)
        self.bias = nn.Parameter(conv.bias.repeat(2))  # type: ignore[union-attr]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), self.weight, self.bias, stride=(1, 2))


class PairedHead(nn.Module):
    """A 3x3 convolution of stacked columns to logits (B, 1, H, W) of single ones."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = paired(conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).permute(0, 2, 3, 1).flatten(2).unsqueeze(1)  # (B, 2, H, W/2) -> (B, 1, H, W)


@torch.no_grad()
def pair_columns(image_encoder: Any, vae: Any) -> None:
    """Brings an `IRSTDImageEncoder` that [`fits_in_pairs`] and its `MaskAutoencoderKL` into this form, in place."""
    ladder, decoder = image_encoder.ladder, vae.decoder
    image_encoder.conv_in = PairedStem(image_encoder.conv_in)
    for block in [*ladder.levels[0], *decoder.levels[0]]:
        pair_block(block)
    entering = ladder.levels[1][0]
    entering.conv1 = paired(entering.conv1)
    _, shortcut, _ = entering.shortcut
    entering.shortcut[0] = nn.AvgPool2d((2, 1))
    shortcut.weight = nn.Parameter(shortcut.weight.repeat(1, 2, 1, 1) / 2)
    repeat_channels(decoder.upsamplers[0])
    decoder.upsamplers[0].scale_factor = (2.0, 1.0)
    if decoder.image_feature_channels[0]:
        decoder.projections[0] = paired(decoder.projections[0])
    decoder.head = PairedHead(decoder.head)

"""The conditional denoiser of LGLDNet: a diffusers UNet whose skips pass FAE and whose condition passes LIW."""

from typing import cast

import torch
from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401  (the loader looks ModelMixin up in this module)
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn

from .blocks import SafetensorsOnlyMixin, TokenReading, batch_normalised, channels_last, check_norm_type
from .frequency import FAE, LIW


class ConditionedInput(nn.Module):
    """The first convolution of a UNet, with a conditioning feature, behind LIW at will, added to its output."""

    def __init__(self, conv_in: nn.Conv2d, condition_channels: int, use_liw: bool):
        super().__init__()
        self.conv_in = conv_in
        self.liw = LIW(condition_channels) if use_liw else nn.Identity()
        self.projection = nn.Conv2d(condition_channels, conv_in.out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels + condition_channels, h, w) -> (B, out_channels, h, w)."""
        sample, condition = x.split([self.conv_in.in_channels, x.shape[1] - self.conv_in.in_channels], dim=1)
        return self.conv_in(sample) + self.projection(self.liw(condition))


class GatedUpBlock(nn.Module):
    """An up block of a UNet whose skip tensors, of `skip_channels` in the UNet's order, pass FAE first."""

    def __init__(self, block: nn.Module, skip_channels: list[int]):
        super().__init__()
        self.block = block
        self.gates = nn.ModuleList(FAE(channels) for channels in skip_channels)
        self.has_cross_attention = getattr(block, "has_cross_attention", False)

    @property
    def resnets(self):
        return self.block.resnets

    def forward(self, hidden_states, res_hidden_states_tuple, **kwargs) -> torch.Tensor:
        skips = tuple(gate(skip) for gate, skip in zip(self.gates, res_hidden_states_tuple, strict=True))
        return self.block(hidden_states=hidden_states, res_hidden_states_tuple=skips, **kwargs)


class IRSTDUNet2DConditionModel(SafetensorsOnlyMixin, UNet2DConditionModel):
    """Predicts the clean posterior variables of the mask from noisy ones and the encoded image (LGLDNet, section 3).

    Either the tokens, one per position, enter twice: by cross-attention in the blocks that have it, and, laid out on
    the latent grid, as the conditioning feature that is added after the first convolution. Or the image latent is the
    conditioning feature, and reads the tokens by cross-attention.

    Args:
        use_fae: FAE on the skip tensors.
        use_liw: LIW on the conditioning feature.
        condition_channels: Channels of an image latent that is the conditioning feature; 0 where the tokens are.
        norm_type: ``group`` or ``batch``, in the place of every GroupNorm.
        kwargs: Arguments of `UNet2DConditionModel`; `cross_attention_dim` is the tokens' dimension.

    Raises:
        ValueError: An unknown `norm_type`.
    """

    conv_in: nn.Module

    @register_to_config
    def __init__(
        self,
        use_fae: bool = True,
        use_liw: bool = True,
        condition_channels: int = 0,
        norm_type: str = "group",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_norm_type(norm_type)
        conv_in = cast(nn.Conv2d, self.conv_in)
        if condition_channels:
            self.liw = LIW(condition_channels, shifted=False) if use_liw else nn.Identity()
            self.token_reading = TokenReading(
                condition_channels, self.config.cross_attention_dim, self.config.attention_head_dim
            )
        else:
            self.conv_in = ConditionedInput(conv_in, self.config.cross_attention_dim, use_liw)
        if use_fae:
            skip_channels = [conv_in.out_channels]
            for block in self.down_blocks:
                width = block.resnets[-1].out_channels
                skip_channels += [width] * (len(block.resnets) + len(block.downsamplers or ()))
            for index, block in enumerate(self.up_blocks):
                count = len(block.resnets)
                self.up_blocks[index] = GatedUpBlock(block, skip_channels[-count:])
                skip_channels = skip_channels[:-count]
        if norm_type == "batch":
            batch_normalised(self)

    def get_time_embed(self, sample: torch.Tensor, timestep: torch.Tensor | float | int) -> torch.Tensor | None:
        """The embedding (B, C) of timesteps (B,), or (1, C) of one for all: a constant of an exported graph."""
        is_one = not isinstance(timestep, torch.Tensor) or timestep.ndim == 0
        return super().get_time_embed(sample[:1] if is_one else sample, timestep)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        return_dict: bool = True,
        **kwargs,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:
        """Denoise.

        Args:
            sample: (B, in_channels, h, w), 8 noisy posterior variables ++ the image latent.
            timestep: Scalar or (B,).
            encoder_hidden_states: Tokens (B, M, D) of the image encoder; M = h*w in raster order where they are the
                conditioning feature.
            return_dict: Whether to return a `UNet2DConditionOutput` instead of a tuple.
            kwargs: Further arguments of `UNet2DConditionModel.forward`.

        Returns:
            `UNet2DConditionOutput` whose sample is the predicted clean variables (B, 8, h, w).
        """
        channels = self.config.condition_channels
        if channels:
            noisy, condition = sample[:, :-channels], sample[:, -channels:]
            condition = self.token_reading(self.liw(condition), encoder_hidden_states)
            conditioned = channels_last(torch.cat([noisy, condition], dim=1))
        else:
            condition = encoder_hidden_states.transpose(1, 2).unflatten(2, sample.shape[-2:])  # (B, D, h, w)
            conditioned = torch.cat([sample, condition.to(sample.dtype)], dim=1)
        return super().forward(conditioned, timestep, encoder_hidden_states, return_dict=return_dict, **kwargs)

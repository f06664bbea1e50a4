"""The pixel denoiser of IRSTD-Diff: a diffusers UNet whose skip tensors receive the conditional encoder's features."""

from collections.abc import Sequence

import torch
from diffusers import ModelMixin, UNet2DModel  # noqa: F401  (the loader looks ModelMixin up in this module)
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from .blocks import SafetensorsOnlyMixin, make_head, make_stem

FIXED = {"center_input_sample": False, "time_embedding_type": "positional", "class_embed_type": None}


class IRSTDUNet2DModel(SafetensorsOnlyMixin, UNet2DModel):
    """Denoises a mask, given the image beside it and residuals for its skip tensors (IRSTD-Diff, denoising network).

    Args:
        stem: ``conv`` (the first level at full resolution) or ``haar`` (at half resolution, between a DWT and its
            inverse).
        sees_map: Whether the conditional encoder's own map is the first of the input channels: the denoiser then
            mends an answer instead of finding one.
        kwargs: Arguments of `UNet2DModel`; `in_channels` counts the map, the image's channels and the mask's.

    Raises:
        ValueError: An unknown `stem`, or a variant of `UNet2DModel` that this class does not compute.
    """

    conv_in: nn.Module
    conv_out: nn.Module

    @register_to_config
    def __init__(self, stem: str = "conv", sees_map: bool = False, **kwargs):
        super().__init__(**kwargs)
        for name, value in FIXED.items():
            if self.config[name] != value:
                raise ValueError(f"`{name}` must be {value!r}, got {self.config[name]!r}")
        if stem != "conv":
            width = self.config.block_out_channels[0]
            self.conv_in = make_stem(stem, self.config.in_channels, width)
            self.conv_out = make_head(stem, width, self.config.out_channels)

    def condition(self, image: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """What the network sees beside the noisy mask, (B, in_channels - out_channels, PH, PW), about [-1, 1].

        Args:
            image: (B, 1, PH, PW), about [-1, 1]; it fills as many channels as are left for it.
            logits: (B, 1, PH, PW), the conditional encoder's own.
        """
        config = self.config
        pixels = image.expand(-1, config.in_channels - config.out_channels - config.sees_map, -1, -1)
        return torch.cat([(logits.sigmoid() * 2 - 1).to(pixels.dtype), pixels], dim=1) if config.sees_map else pixels

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        residuals: Sequence[torch.Tensor] = (),
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Denoise.

        Args:
            sample: (B, in_channels, PH, PW), what `condition` returns ++ the noisy mask.
            timestep: Scalar or (B,).
            residuals: One (B, C, h, w) per skip tensor, in the order in which the network makes them; empty = none.
            return_dict: Whether to return a `UNet2DOutput` instead of a tuple.

        Returns:
            `UNet2DOutput` whose sample is the prediction (B, out_channels, PH, PW), of which kind the scheduler knows.

        Raises:
            ValueError: `residuals` are not as many as the skip tensors.
        """
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])  # (B,)
        embedding = self.time_embedding(self.time_proj(timesteps).to(sample.dtype))  # (B, D)
        x = self.conv_in(sample)
        skips = [x]
        for block in self.down_blocks:
            x, made = block(hidden_states=x, temb=embedding)
            skips += made
        if residuals:
            if len(residuals) != len(skips):
                raise ValueError(f"`residuals` must be {len(skips)} tensors, one per skip, got {len(residuals)}")
            skips = [skip + residual for skip, residual in zip(skips, residuals, strict=True)]
        if self.mid_block is not None:
            x = self.mid_block(x, embedding)
        for block in self.up_blocks:
            count = len(block.resnets)
            x = block(x, tuple(skips[-count:]), embedding)
            del skips[-count:]
        prediction = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        return UNet2DOutput(sample=prediction) if return_dict else (prediction,)

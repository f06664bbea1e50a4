"""Stage 1 of the Gaussian-agnostic engine: a squeezed infrared image rebuilt coarsely."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import nn
from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

from .blocks import SafetensorsOnlyMixin


@dataclass
class IRSTDRestorationOutput(BaseOutput):
    """Output of [`IRSTDRestorationModel`]: the restored image (B, 1, H, W), about [0, 1]."""

    sample: torch.Tensor


class IRSTDRestorationModel(SafetensorsOnlyMixin, ModelMixin, ConfigMixin):
    """Restores the gray levels that the Gaussian Group Squeezer merged.

    Pixel unshuffling, Swin blocks at the lower resolution, pixel shuffling: the shape of the published SwinIR, built
    from transformers' Swin2SR, which predicts what is added to the squeezed image.

    Args:
        downscale: Factor of the pixel unshuffling; 8 as published.
        embed_dim: Width of the Swin blocks.
        depths: Swin layers per stage.
        num_heads: Attention heads per stage.
        window_size: Side of the attention windows at the lower resolution.
        mlp_ratio: Width of the layers' MLPs in units of `embed_dim`.
    """

    @register_to_config
    def __init__(
        self,
        downscale: int = 4,
        embed_dim: int = 48,
        depths: tuple[int, ...] = (4, 4),
        num_heads: tuple[int, ...] = (4, 4),
        window_size: int = 8,
        mlp_ratio: float = 2.0,
    ):
        super().__init__()
        self.swin = Swin2SRForImageSuperResolution(
            Swin2SRConfig(
                image_size=window_size,
                num_channels=downscale**2,
                num_channels_out=1,
                embed_dim=embed_dim,
                depths=list(depths),
                num_heads=list(num_heads),
                window_size=window_size,
                mlp_ratio=float(mlp_ratio),
                upscale=downscale,
                upsampler="pixelshuffledirect",
            )
        )
        # Untrained, it returns the squeezed image: from a random addition it takes hundreds of steps to get there.
        nn.init.zeros_(self.swin.upsample.conv.weight)
        nn.init.zeros_(self.swin.upsample.conv.bias)

    def forward(self, image: torch.Tensor, return_dict: bool = True) -> IRSTDRestorationOutput | tuple[torch.Tensor]:
        """Restore squeezed images.

        Args:
            image: (B, 1, H, W) in [0, 1], H and W multiples of `downscale`.
            return_dict: Whether to return an [`IRSTDRestorationOutput`] instead of a tuple.

        Raises:
            ValueError: `image` has another shape.
        """
        downscale = self.config.downscale
        if image.ndim != 4 or image.shape[1] != 1 or any(side % downscale for side in image.shape[2:]):
            raise ValueError(
                f"`image` must be (B, 1, H, W) with H and W multiples of {downscale}, got {tuple(image.shape)}"
            )
        small = F.pixel_unshuffle(image, downscale)  # (B, downscale**2, H / downscale, W / downscale)
        sample = image + self.swin(small).reconstruction  # (B, 1, H, W)
        return IRSTDRestorationOutput(sample=sample) if return_dict else (sample,)

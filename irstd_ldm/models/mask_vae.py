"""The Mask-VAE of LGLDNet: target masks to a small latent and back."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ModelMixin  # noqa: F401  (the loader looks ModelMixin up in this module)
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.upsampling import Upsample2D
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from .blocks import (
    BatchNormBlock,
    Ladder,
    ResidualBlock,
    SafetensorsOnlyMixin,
    channels_last,
    check_norm_type,
    checkpointed,
    make_head,
    make_stem,
    self_attention,
)


def middle_blocks(channels: int, norm_num_groups: int, attention: bool = True) -> nn.Sequential:
    """Two residual blocks (B, C, h, w) around a self-attention."""
    return nn.Sequential(
        ResidualBlock(channels, channels, norm_num_groups),
        self_attention(channels, 1, norm_num_groups) if attention else nn.Identity(),
        ResidualBlock(channels, channels, norm_num_groups),
    )


class MaskEncoder(nn.Module):
    """Mask (B, 1, PH, PW) -> moments (B, 2*latent_channels, h, w); without groups, BatchNorm and no attention."""

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        block_out_channels: Sequence[int],
        layers_per_block: Sequence[int],
        norm_num_groups: int | None,
        stem: str,
    ):
        super().__init__()
        top = block_out_channels[-1]
        self.conv_in = make_stem(stem, in_channels, block_out_channels[0])
        self.ladder = Ladder(block_out_channels, layers_per_block, norm_num_groups)
        self.has_groups = norm_num_groups is not None
        if norm_num_groups is not None:
            self.mid = middle_blocks(top, norm_num_groups)
            self.norm_out = nn.GroupNorm(norm_num_groups, top)
        self.conv_out = nn.Conv2d(top, 2 * latent_channels, 3, padding=1)
        self.gradient_checkpointing = False

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(mask)
        x = checkpointed(self, self.ladder)(x if self.has_groups else channels_last(x))[-1]
        return self.conv_out(F.silu(self.norm_out(self.mid(x))) if self.has_groups else x)


class MaskDecoder(nn.Module):
    """Latent and image features -> mask logits (B, 1, PH, PW), every level fused at the finest one (LGLDNet)."""

    def __init__(
        self,
        out_channels: int,
        latent_channels: int,
        block_out_channels: Sequence[int],
        layers_per_block: Sequence[int],
        stem: str,
        image_feature_channels: Sequence[int],
        norm_num_groups: int,
        mid_attention: bool,
    ):
        super().__init__()
        top, fused = block_out_channels[-1], block_out_channels[0]
        self.conv_in = nn.Conv2d(latent_channels, top, 3, padding=1)
        self.mid = middle_blocks(top, norm_num_groups, mid_attention)
        self.levels = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        self.reducers = nn.ModuleList()
        for level, channels in enumerate(block_out_channels):  # finest first, run from the coarsest
            below = block_out_channels[min(level + 1, len(block_out_channels) - 1)]
            entering = below + image_feature_channels[level]
            blocks = [
                ResidualBlock(channels if block else entering, channels, norm_num_groups)
                for block in range(layers_per_block[level])
            ]
            self.levels.append(nn.Sequential(*blocks))
            self.reducers.append(nn.Conv2d(channels, fused, 1))
            if level:
                self.upsamplers.append(Upsample2D(channels, use_conv=True))
        self.image_feature_channels = tuple(image_feature_channels)
        self.conv_fuse = nn.Conv2d(fused * len(block_out_channels), fused, 1)
        self.norm_out = nn.GroupNorm(norm_num_groups, fused)
        self.head = make_head(stem, fused, out_channels)
        self.gradient_checkpointing = False

    def forward(self, z: torch.Tensor, image_features: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        x = self.mid(self.conv_in(z))
        reduced = []
        for level in reversed(range(len(self.levels))):
            if self.image_feature_channels[level]:
                assert image_features is not None
                x = torch.cat([x, image_features[level]], dim=1)
            x = checkpointed(self, self.levels[level])(x)
            reduced.append(self.reducers[level](x))
            if level:
                x = self.upsamplers[level - 1](x)
        size = reduced[-1].shape[-2:]
        maps = [F.interpolate(r, size=size, mode="bilinear", align_corners=False) for r in reduced[:-1]]
        fused = self.conv_fuse(torch.cat([*maps, reduced[-1]], dim=1))
        return self.head(F.silu(self.norm_out(fused)))


class Upsampling(nn.Conv2d):
    """A 1x1 convolution, then every pixel repeated in both directions."""

    scale_factor = (2.0, 2.0)  # rows, columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, 2*h, 2*w)."""
        return F.interpolate(super().forward(x), scale_factor=self.scale_factor, mode="nearest")


class BatchNormMaskDecoder(nn.Module):
    """Latent and image features -> mask logits (B, 1, PH, PW), of blocks with BatchNorm.

    An image feature is added, projected, to the map that comes up from the level below.
    """

    def __init__(
        self,
        out_channels: int,
        latent_channels: int,
        block_out_channels: Sequence[int],
        layers_per_block: Sequence[int],
        stem: str,
        image_feature_channels: Sequence[int],
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(latent_channels, block_out_channels[-1], 3, padding=1)
        self.levels = nn.ModuleList()
        self.upsamplers = nn.ModuleList()
        self.projections = nn.ModuleList()
        for level, channels in enumerate(block_out_channels):  # finest first, run from the coarsest
            blocks = [BatchNormBlock(channels, channels) for _ in range(layers_per_block[level])]
            self.levels.append(nn.Sequential(*blocks))
            entering = image_feature_channels[level]
            self.projections.append(nn.Conv2d(entering, channels, 1) if entering else nn.Identity())
            if level:
                self.upsamplers.append(Upsampling(channels, block_out_channels[level - 1], 1))
        self.image_feature_channels = tuple(image_feature_channels)
        self.head = make_head(stem, block_out_channels[0], out_channels)
        self.gradient_checkpointing = False

    def forward(self, z: torch.Tensor, image_features: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        x = self.conv_in(channels_last(z))
        for level in reversed(range(len(self.levels))):
            if self.image_feature_channels[level]:
                assert image_features is not None
                x = x.add_(self.projections[level](image_features[level]))
            x = checkpointed(self, self.levels[level])(F.relu_(x))
            if level:
                x = self.upsamplers[level - 1](x)
        return self.head(x)


class MaskAutoencoderKL(SafetensorsOnlyMixin, AutoencoderKL):
    """Variational autoencoder of target masks whose decoder may also see the image's features.

    ``encode`` takes masks (B, 1, PH, PW) in [-1, 1] to a diagonal Gaussian over (B, latent_channels, PH/8, PW/8);
    ``decode`` gives mask logits. `posterior_to_variables` and `variables_to_posterior` map a posterior to the
    normalised variables that the denoiser predicts and back.

    Args:
        in_channels: Channels of the mask.
        out_channels: Channels of the logits.
        latent_channels: Channels of the latent.
        block_out_channels: Channels of each level; the last level lies at 1/8.
        encoder_layers_per_block: Residual blocks of each level of the encoder.
        decoder_layers_per_block: Residual blocks of each level of the decoder.
        norm_num_groups: Groups of the normalisation.
        stem: ``conv`` (full-resolution convolutions) or ``haar`` (Haar stem and head).
        image_feature_channels: Channels of the image feature that enters the decoder at each level, finest first;
            0 where none does. None: a decoder of the latent alone.
        decoder_mid_attention: Self-attention in the middle of the decoder.
        scaling_factor: Factor on the posterior mean that gives it unit variance over the training masks.
        logvar_mean: Mean of the posterior log-variance over the training masks.
        logvar_std: Standard deviation of the posterior log-variance over the training masks.
        klda_min_logvar: Log-variance below which KLDA does not distinguish posteriors.
        norm_type: ``group`` (the published blocks) or ``batch`` (blocks whose normalisation folds into the
            convolutions, image features that are added instead of concatenated, no attention).
        kwargs: Further arguments of `AutoencoderKL`.

    Raises:
        ValueError: An unknown `stem` or `norm_type`, or tuples of unequal length.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        latent_channels: int = 4,
        block_out_channels: Sequence[int] = (16, 32, 64, 128),
        encoder_layers_per_block: Sequence[int] = (2, 2, 3, 3),
        decoder_layers_per_block: Sequence[int] = (3, 3, 4, 4),
        norm_num_groups: int = 8,
        stem: str = "conv",
        image_feature_channels: Sequence[int] | None = None,
        decoder_mid_attention: bool = True,
        scaling_factor: float = 1.0,
        logvar_mean: float = 0.0,
        logvar_std: float = 1.0,
        klda_min_logvar: float = -6.0,
        norm_type: str = "group",
        **kwargs,
    ):
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            latent_channels=latent_channels,
            block_out_channels=(norm_num_groups,),
            norm_num_groups=norm_num_groups,
            scaling_factor=scaling_factor,
            **kwargs,
        )
        self.register_to_config(block_out_channels=block_out_channels)
        features = image_feature_channels or (0,) * len(block_out_channels)
        per_level = (encoder_layers_per_block, decoder_layers_per_block, features)
        if any(len(values) != len(block_out_channels) for values in per_level):
            raise ValueError(
                "`encoder_layers_per_block`, `decoder_layers_per_block` and `image_feature_channels` must have one "
                f"entry per level of `block_out_channels` ({len(block_out_channels)}), got {per_level}"
            )
        check_norm_type(norm_type)
        groups = norm_num_groups if norm_type == "group" else None
        self.encoder = MaskEncoder(
            in_channels, latent_channels, block_out_channels, encoder_layers_per_block, groups, stem
        )
        sizes = (out_channels, latent_channels, block_out_channels, decoder_layers_per_block)
        if groups is None:
            self.decoder: nn.Module = BatchNormMaskDecoder(*sizes, stem, features)
        else:
            self.decoder = MaskDecoder(*sizes, stem, features, groups, decoder_mid_attention)

    @apply_forward_hook
    def decode(
        self,
        z: torch.Tensor,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
        *,
        image_features: Sequence[torch.Tensor] | None = None,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Decode a mask latent.

        Args:
            z: (B, latent_channels, h, w), unscaled.
            return_dict: Whether to return a `DecoderOutput` instead of a tuple.
            generator: Unused, as in the parent.
            image_features: The image encoder's features, finest first.

        Returns:
            `DecoderOutput` whose sample is the logits (B, 1, PH, PW).

        Raises:
            ValueError: The decoder was built with image features and `image_features` is None.
        """
        if image_features is None and self.config.image_feature_channels is not None:
            raise ValueError("`image_features` is None, but this decoder was built with image features")
        logits = self.decoder(self.post_quant_conv(z), image_features)
        return DecoderOutput(sample=logits) if return_dict else (logits,)

    def forward(
        self,
        sample: torch.Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
        *,
        image_features: Sequence[torch.Tensor] | None = None,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Encode and decode masks (B, 1, PH, PW) in [-1, 1]; the sample is logits of the same shape."""
        posterior = self.encode(sample).latent_dist
        z = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(z, return_dict, image_features=image_features)

    def enable_tiling(self, use_tiling: bool = True) -> None:
        """Raises NotImplementedError: the pipeline tiles."""
        raise NotImplementedError("`MaskAutoencoderKL` does not tile; pass `tile_size` to the pipeline")

    def enable_slicing(self) -> None:
        """Raises NotImplementedError: the pipeline splits batches."""
        raise NotImplementedError("`MaskAutoencoderKL` does not slice; pass `batch_size` to the pipeline")

    def posterior_to_variables(self, posterior: DiagonalGaussianDistribution) -> torch.Tensor:
        """The denoiser's variables (B, 2*latent_channels, h, w): scaled mean and standardised log-variance."""
        mean = posterior.mean * self.config.scaling_factor
        logvar = (posterior.logvar - self.config.logvar_mean) / self.config.logvar_std
        return torch.cat([mean, logvar], dim=1)

    def variables_to_posterior(self, variables: torch.Tensor) -> DiagonalGaussianDistribution:
        """Inverse of [`posterior_to_variables`]."""
        mean, logvar = variables.chunk(2, dim=1)
        mean = mean / self.config.scaling_factor
        logvar = logvar * self.config.logvar_std + self.config.logvar_mean
        return DiagonalGaussianDistribution(torch.cat([mean, logvar], dim=1))

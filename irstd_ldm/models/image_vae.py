"""The image VAE of the small Gaussian-agnostic generator: wavelet packets with companded, normalised coefficients."""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, ModelMixin  # noqa: F401  (the loader looks ModelMixin up in this module)
from diffusers.configuration_utils import register_to_config
from torch import nn

from .blocks import SafetensorsOnlyMixin
from .frequency import DWT, IDWT

ROUNDING_STD = 2 / 255 / 12**0.5  # of a gray level's rounding to 8 bits, for images in [-1, 1]
MIN_SCALE = 1 / 255  # half a gray level: finer coefficients are rounding


class WaveletPackets(nn.Module):
    """Image (B, 1, H, W) -> coefficients (B, 4**levels, H / 2**levels, W / 2**levels), every band split again.

    They are computed in float32 in any case: bfloat16 rounds as coarsely as a sensor's noise is strong.
    """

    def __init__(self, wavelet: str, levels: int):
        super().__init__()
        self.dwt, self.levels = DWT(wavelet), levels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(image.device.type, enabled=False):
            bands = image.float()
            for _ in range(self.levels):
                bands = self.dwt(bands).flatten(1, 2)
        return bands


class Companding(nn.Module):
    """The constants (C, 1, 1) of ``asinh((c - center) / scale) / width``, band by band."""

    def __init__(self, bands: int):
        super().__init__()
        self.center = nn.Parameter(torch.zeros(bands, 1, 1), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(bands, 1, 1), requires_grad=False)
        self.width = nn.Parameter(torch.ones(bands, 1, 1), requires_grad=False)


class Encoder(nn.Module):
    """Image (B, 1, H, W) -> moments (B, 2 * C, h, w); the deviation is that of rounding to 8 bits, carried through."""

    def __init__(self, wavelet: str, levels: int):
        super().__init__()
        self.packets, self.companding = WaveletPackets(wavelet, levels), Companding(4**levels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        constants = self.companding
        offset = self.packets(image) - constants.center
        mean = torch.asinh(offset / constants.scale) / constants.width
        slope = 1 / (constants.width * (offset.square() + constants.scale.square()).sqrt())  # d mean / d coefficient
        return torch.cat([mean, 2 * (ROUNDING_STD * slope).log()], dim=1)


class Decoder(nn.Module):
    """Latent (B, C, h, w) -> image (B, 1, H, W)."""

    def __init__(self, wavelet: str, levels: int):
        super().__init__()
        self.idwt, self.levels, self.companding = IDWT(wavelet), levels, Companding(4**levels)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        constants = self.companding
        with torch.autocast(z.device.type, enabled=False):
            bands = constants.scale * torch.sinh(z.float() * constants.width) + constants.center
            for _ in range(self.levels):
                bands = self.idwt(bands.unflatten(1, (-1, 4)))
        return bands


class WaveletAutoencoderKL(SafetensorsOnlyMixin, AutoencoderKL):
    """An autoencoder that loses nothing: as many latent elements as pixels, of about unit variance each.

    ``encode`` takes images (B, 1, H, W) in [-1, 1], sides multiples of ``2**levels``, to a Gaussian over their wavelet
    packets' coefficients (B, 4**levels, h, w), companded by ``asinh((c - center) / scale) / width`` band by band: what
    a coefficient of a smooth image and one on an edge differ by, a factor of hundreds, becomes a small one. A latent
    diffusion model on it is one of wavelet sub-bands (Phung et al., arXiv 2211.16152). A learned VAE of the same size
    of latent loses the sensor's noise: docs/gaussian_agnostic.md.

    Args:
        wavelet: A discrete wavelet of PyWavelets; of a longer one than ``haar`` errors leave no blocks.
        levels: Levels of the packets.
        scaling_factor: As in the parent.
        kwargs: What else a config of the parent holds; it follows from `levels`.
    """

    @register_to_config
    def __init__(self, wavelet: str = "db2", levels: int = 2, scaling_factor: float = 1.0, **kwargs):
        bands = 4**levels
        sizes = {"latent_channels": bands, "block_out_channels": (1,) * (levels + 1), "norm_num_groups": 1}
        super().__init__(**sizes, in_channels=1, out_channels=1, use_quant_conv=False, use_post_quant_conv=False)
        self.register_to_config(scaling_factor=scaling_factor, **sizes)
        self.encoder = Encoder(wavelet, levels)
        self.decoder = Decoder(wavelet, levels)

    @torch.no_grad()
    def fit(self, images: Sequence[torch.Tensor]) -> None:
        """Set center, scale and width of each band to what images (1, H, W) in [-1, 1] have.

        The scale is the deviation that the median of the coefficients' absolute values has of a Gaussian, half a gray
        level or more; four deviations for the band of the means, which so stays nearly linear.
        """
        packets = [self.encoder.packets(image[None]).flatten(2)[0] for image in images]  # (C, h * w) each
        bands = torch.cat(packets, dim=1)
        center = torch.zeros_like(bands[:, :1])
        center[0] = bands[0].mean()
        scale = ((bands - center).abs().median(dim=1, keepdim=True).values / 0.6745).clamp(min=MIN_SCALE)
        scale[0] = 4 * bands[0].std()
        width = torch.asinh((bands - center) / scale).std(dim=1, keepdim=True)
        for companding in (self.encoder.companding, self.decoder.companding):
            for name, value in {"center": center, "scale": scale, "width": width}.items():
                getattr(companding, name).copy_(value[..., None])

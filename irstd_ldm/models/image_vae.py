"""The image VAE of the small Gaussian-agnostic generator: wavelet packets with companded, normalised coefficients."""

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, ModelMixin  # noqa: F401  (the loader looks ModelMixin up in this module)
from diffusers.configuration_utils import register_to_config
from torch import nn

from .blocks import SafetensorsOnlyMixin

ROUNDING_STD = 2 / 255 / 12**0.5  # of a gray level's rounding to 8 bits, for images in [-1, 1]
MIN_SCALE = 1 / 255  # half a gray level: finer coefficients are rounding
# Of the biorthogonal wavelet CDF 9/7, pairs of a prediction of the odd samples and an update of the even ones.
LIFTING = ((-1.586134342059924, -0.052980118572961), (0.882911075530934, 0.443506852043971))
GAIN = 1.149604398860241  # after which both bands of white noise have its deviation, to 2 %


def analyse(signal: torch.Tensor) -> torch.Tensor:
    """The low and the high band (2, ..., n / 2) of a signal (..., n), n even: ``bior4.4`` but for the border.

    Lifting after Daubechies and Sweldens (J. Fourier Anal. Appl. 4, 1998): each step adds to the samples of one parity
    what their neighbours of the other are multiplied by. At a border the one neighbour stands for both, which
    continues the signal by reflection: nothing wraps around.
    """
    even, odd = signal.unflatten(-1, (-1, 2)).unbind(-1)  # (..., n / 2) each
    for predict, update in LIFTING:
        odd = odd + predict * (even + _next(even))
        even = even + update * (odd + _previous(odd))
    return torch.stack([GAIN * even, -odd / GAIN])


def synthesise(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The signal (..., n) of its bands (..., n / 2): [`analyse`] undone step by step."""
    even, odd = low / GAIN, -GAIN * high
    for predict, update in reversed(LIFTING):
        even = even - update * (odd + _previous(odd))
        odd = odd - predict * (even + _next(even))
    return torch.stack([even, odd], dim=-1).flatten(-2)


def _next(samples: torch.Tensor) -> torch.Tensor:
    return torch.cat([samples[..., 1:], samples[..., -1:]], dim=-1)


def _previous(samples: torch.Tensor) -> torch.Tensor:
    return torch.cat([samples[..., :1], samples[..., :-1]], dim=-1)


class WaveletPackets(nn.Module):
    """Image (B, 1, H, W) -> coefficients (B, 4**levels, H / 2**levels, W / 2**levels), every band split again.

    They are computed in float32 in any case: bfloat16 rounds as coarsely as a sensor's noise is strong.
    """

    def __init__(self, levels: int):
        super().__init__()
        self.levels = levels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(image.device.type, enabled=False):
            bands = image.float()
            for _ in range(self.levels):
                rows = analyse(bands)  # (2, B, C, H, W / 2), low and high along the rows
                both = analyse(rows.mT).mT  # (2, 2, B, C, H / 2, W / 2), the columns' pair first
                bands = torch.stack([both[0, 0], both[1, 0], both[0, 1], both[1, 1]], dim=2).flatten(1, 2)
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

    def __init__(self, levels: int):
        super().__init__()
        self.packets, self.companding = WaveletPackets(levels), Companding(4**levels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        constants = self.companding
        offset = self.packets(image) - constants.center
        mean = torch.asinh(offset / constants.scale) / constants.width
        slope = 1 / (constants.width * (offset.square() + constants.scale.square()).sqrt())  # d mean / d coefficient
        return torch.cat([mean, 2 * (ROUNDING_STD * slope).log()], dim=1)


class Decoder(nn.Module):
    """Latent (B, C, h, w) -> image (B, 1, H, W)."""

    def __init__(self, levels: int):
        super().__init__()
        self.levels, self.companding = levels, Companding(4**levels)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        constants = self.companding
        with torch.autocast(z.device.type, enabled=False):
            bands = constants.scale * torch.sinh(z.float() * constants.width) + constants.center
            for _ in range(self.levels):
                approximation, horizontal, vertical, diagonal = bands.unflatten(1, (-1, 4)).unbind(2)
                low = synthesise(approximation.mT, horizontal.mT).mT  # (B, C, 2h, w)
                bands = synthesise(low, synthesise(vertical.mT, diagonal.mT).mT)  # (B, C, 2h, 2w)
        return bands


class WaveletAutoencoderKL(SafetensorsOnlyMixin, AutoencoderKL):
    """An autoencoder that loses nothing: as many latent elements as pixels, of about unit variance each.

    ``encode`` takes images (B, 1, H, W) in [-1, 1], sides multiples of ``2**levels``, to a Gaussian over their wavelet
    packets' coefficients (B, 4**levels, h, w), of CDF 9/7, companded by ``asinh((c - center) / scale) / width``
    band by band: what a coefficient of a smooth image and one on an edge differ by, hundreds, becomes a small factor.
    A latent diffusion model on it is one of wavelet sub-bands (Phung et al., arXiv 2211.16152). A learned VAE of the
    same size of latent loses the sensor's noise: docs/gaussian_agnostic.md.

    Args:
        levels: Levels of the packets.
        scaling_factor: As in the parent.
        kwargs: What else a config of the parent holds; it follows from `levels`.
    """

    @register_to_config
    def __init__(self, levels: int = 2, scaling_factor: float = 1.0, **kwargs):
        bands = 4**levels
        sizes = {"latent_channels": bands, "block_out_channels": (1,) * (levels + 1), "norm_num_groups": 1}
        super().__init__(**sizes, in_channels=1, out_channels=1, use_quant_conv=False, use_post_quant_conv=False)
        self.register_to_config(scaling_factor=scaling_factor, **sizes)
        self.encoder = Encoder(levels)
        self.decoder = Decoder(levels)

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

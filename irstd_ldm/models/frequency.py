"""The modules that work on frequencies: FAE by a Fourier split, wavelet transforms, LIW in the wavelet domain.

FAE, frequency attention, is LGLDNet's. LIW, low-frequency isolation: Li et al., "Mitigate Target-level Insensitivity
of Infrared Small Target Detection via Posterior Distribution Modeling", arXiv 2403.08380, section III.
"""

import pywt
import torch
import torch.nn.functional as F
from torch import nn
from transformers import SwinConfig
from transformers.models.swin.modeling_swin import SwinLayer


class ChannelAttention(nn.Module):
    """Squeeze-and-excitation (Hu et al., arXiv 1709.01507); the hidden layer is narrower by `reduction`."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.SiLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return x * self.excite(x)


class SpatialAttention(nn.Module):
    """A 7x7 convolution over the channels' mean and maximum (Woo et al., arXiv 1807.06521)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)  # (B, 2, h, w)
        return x * torch.sigmoid(self.conv(pooled))


def _frequencies_and_hartley(extent: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Frequencies (n,) in cycles per pixel, and the orthonormal Hartley matrix (n, n)."""
    indices = torch.arange(extent, device=device)
    # Phases are reduced as integers: float32 would lose them at large products.
    period = indices[-1:] + 1  # (1,), n as a tensor: the ONNX exporter has no remainder of a symbolic number
    angle = (indices[:, None] * indices % period).float() * (2 * torch.pi / extent)
    matrix = (torch.cos(angle) + torch.sin(angle)) * extent**-0.5
    return torch.minimum(indices, extent - indices).float() / extent, matrix


class FAE(nn.Module):
    """Frequency attention: a learnable Butterworth split into two bands, each with its spatial attention (LGLDNet).

    ``y = x + gamma_high * A_high(x_high) + gamma_low * A_low(x_low)``, the low band by the second-order filter
    ``1 / (1 + (D / D0)^4)`` with one cut-off ``D0 = sigmoid(alpha) * sqrt(0.5)`` per channel in cycles per pixel, the
    high band its complement. The frequency grid follows the input's size; the transform runs in float32.

    A filter that is symmetric along either axis weighs the separable Hartley transform as it weighs the Fourier
    transform (Bracewell, "The Hartley Transform", 1986). That one is real, and its orthonormal matrix its own inverse:
    what remains are matrix products, which every runtime has.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((channels, 1, 1), torch.logit(torch.tensor(0.1)).item()))
        self.gamma_low = nn.Parameter(torch.ones(channels, 1, 1))
        self.gamma_high = nn.Parameter(torch.ones(channels, 1, 1))
        self.attention_low = SpatialAttention()
        self.attention_high = SpatialAttention()

    def low_pass(self, x: torch.Tensor) -> torch.Tensor:
        """The low band of (B, C, h, w), same shape and dtype."""
        with torch.autocast(x.device.type, enabled=False):
            rows, row_matrix = _frequencies_and_hartley(x.shape[-2], x.device)  # (h,), (h, h)
            columns, column_matrix = _frequencies_and_hartley(x.shape[-1], x.device)  # (w,), (w, w)
            cutoff = torch.sigmoid(self.alpha.float()) * 0.5**0.5  # (C, 1, 1) cycles per pixel
            squared = (rows[:, None] ** 2 + columns**2) / cutoff**2  # (C, h, w), (D / D0)^2
            spectrum = (row_matrix @ (x.float() @ column_matrix)) / (1 + squared**2)  # (B, C, h, w)
            return (row_matrix @ (spectrum @ column_matrix)).to(x.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) of any size -> (B, C, h, w)."""
        low = self.low_pass(x)
        high = x - low
        return x + self.gamma_high * self.attention_high(high) + self.gamma_low * self.attention_low(low)


def _outer_filters(low: list[float], high: list[float]) -> torch.Tensor:
    """The four separable 2-D filters in PyWavelets' order cA, cH, cV, cD: (4, 1, L, L)."""
    low_pass, high_pass = torch.tensor(low), torch.tensor(high)
    pairs = ((low_pass, low_pass), (high_pass, low_pass), (low_pass, high_pass), (high_pass, high_pass))
    return torch.stack([torch.outer(rows, columns) for rows, columns in pairs])[:, None]  # (4, 1, L, L)


class DWT(nn.Module):
    """One level of the 2-D Haar wavelet transform, ``pywt.dwt2(x, "haar")``."""

    filters: torch.Tensor

    def __init__(self):
        super().__init__()
        bank = pywt.Wavelet("haar")
        self.register_buffer("filters", _outer_filters(bank.dec_lo[::-1], bank.dec_hi[::-1]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) with even H and W -> sub-bands cA, cH, cV, cD stacked as (B, C, 4, H/2, W/2)."""
        height, width = x.shape[-2:]
        if height % 2 or width % 2:
            raise ValueError(f"`x` must have an even height and width, got {height}x{width}")
        bands = F.conv2d(x.flatten(0, 1)[:, None], self.filters.to(x.dtype), stride=2)  # (B*C, 4, H/2, W/2)
        return bands.unflatten(0, x.shape[:2])


class IDWT(nn.Module):
    """Inverse of [`DWT`]: perfect reconstruction."""

    filters: torch.Tensor

    def __init__(self):
        super().__init__()
        bank = pywt.Wavelet("haar")
        self.register_buffer("filters", _outer_filters(bank.rec_lo, bank.rec_hi), persistent=False)

    def forward(self, bands: torch.Tensor) -> torch.Tensor:
        """Sub-bands (B, C, 4, h, w) in the order cA, cH, cV, cD -> (B, C, 2h, 2w)."""
        x = F.conv_transpose2d(bands.flatten(0, 1), self.filters.to(bands.dtype), stride=2)  # (B*C, 1, 2h, 2w)
        return x[:, 0].unflatten(0, bands.shape[:2])


class SwinBlock(nn.Module):
    """One Swin layer over a feature map whose sides are multiples of the window; sizes are in positions."""

    def __init__(self, channels: int, num_heads: int, window_size: int, shift_size: int):
        super().__init__()
        config = SwinConfig(window_size=window_size, mlp_ratio=4.0, attn_implementation="eager")
        self.layer = SwinLayer(config, channels, (window_size, window_size), num_heads, shift_size=shift_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        size = (x.shape[-2], x.shape[-1])
        tokens = x.flatten(2).transpose(1, 2)  # (B, h*w, C)
        # `always_partition` keeps the layer from shrinking its window for good on a grid of the window's size.
        return self.layer(tokens, size, always_partition=True)[0].transpose(1, 2).unflatten(2, size)


def _conv_norm_act(channels: int, kernel_size: int, norm_num_groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2),
        nn.GroupNorm(norm_num_groups, channels),
        nn.SiLU(),
    )


class LIW(nn.Module):
    """Low-frequency isolation in the wavelet domain: two Haar levels of which only the low band is transformed.

    Window attention works on spatial windows, the second level's may be shifted by half a window, the normalisation is
    over groups, and the last 1x1 convolution stands alone so that the residual can take either sign.

    Args:
        channels: Channels of the feature.
        num_heads: Heads of the window attention.
        window_size: Side of the attention window in positions.
        norm_num_groups: Groups of the normalisation.
        shifted: Shifts the second level's windows, at the cost of a mask that is made anew in every call.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 4,
        window_size: int = 4,
        norm_num_groups: int = 8,
        shifted: bool = True,
    ):
        super().__init__()
        self.multiple = 4 * window_size
        self.dwt = DWT()
        self.idwt = IDWT()
        self.conv_low = _conv_norm_act(channels, 1, norm_num_groups)
        self.swin1 = SwinBlock(channels, num_heads, window_size, shift_size=0)
        self.swin2 = SwinBlock(channels, num_heads, window_size, shift_size=window_size // 2 if shifted else 0)
        self.conv_merge = _conv_norm_act(channels, 3, norm_num_groups)
        self.conv_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) of any size -> (B, C, h, w)."""
        height, width = x.shape[-2:]
        # Rounded up by division: `torch.export` reasons about negative remainders ten times as long.
        bottom, right = ((n + self.multiple - 1) // self.multiple * self.multiple - n for n in (height, width))
        padded = F.pad(x, (0, right, 0, bottom), mode="replicate")
        bands1 = self.dwt(padded)  # (B, C, 4, h/2, w/2)
        bands2 = self.dwt(self.swin1(self.conv_low(bands1[:, :, 0])))  # (B, C, 4, h/4, w/4)
        low1 = self.idwt(torch.cat([self.swin2(bands2[:, :, 0])[:, :, None], bands2[:, :, 1:]], dim=2))
        merged = self.idwt(torch.cat([self.conv_merge(low1)[:, :, None], bands1[:, :, 1:]], dim=2))
        return x + self.conv_out(merged[..., :height, :width])

"""Channel attention and FAE, the frequency attention of LGLDNet."""

import torch
from torch import nn


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

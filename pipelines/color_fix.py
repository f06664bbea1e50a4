"""Large-scale brightness of a generated image put right by a reference.

Source: the colour fixes of StableSR and DiffBIR, which the Gaussian-agnostic engine uses.
"""

import torch
import torch.nn.functional as F

BINOMIAL = (1 / 16, 2 / 16, 1 / 16, 2 / 16, 4 / 16, 2 / 16, 1 / 16, 2 / 16, 1 / 16)
DILATIONS = (1, 2, 4, 8, 16)


def low_frequencies(image: torch.Tensor) -> torch.Tensor:
    """Five binomial 3x3 blurs (B, C, H, W) at dilations 1 to 16, border pixels repeated; a low pass of about 13 px."""
    channels = image.shape[1]
    kernel = image.new_tensor(BINOMIAL).view(1, 1, 3, 3).repeat(channels, 1, 1, 1)
    for dilation in DILATIONS:
        padded = F.pad(image, (dilation,) * 4, mode="replicate")
        image = F.conv2d(padded, kernel, dilation=dilation, groups=channels)
    return image


def wavelet_color_fix(generated: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The generated image's high frequencies on the reference's low ones; (B, C, H, W) each.

    A target of 3x3 px has less than 1 % of its amplitude in the low band: the fix does not touch small targets.
    """
    return generated + low_frequencies(reference - generated)


def adain_color_fix(generated: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The generated image with the mean and deviation of the reference, channel by channel; (B, C, H, W) each."""
    axes = (2, 3)
    std, mean = torch.std_mean(generated, axes, keepdim=True)
    reference_std, reference_mean = torch.std_mean(reference, axes, keepdim=True)
    return (generated - mean) / (std + 1e-5) * reference_std + reference_mean


COLOR_FIXES = {"wavelet": wavelet_color_fix, "adain": adain_color_fix}

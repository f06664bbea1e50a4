"""Losses of the detectors and the IoU that is logged beside them. Each returns a scalar tensor."""

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

TARGET_MARGIN_PX = 8  # distance from a target within which `background_weights` are 1


def dice_loss(logits: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """[`probability_dice_loss`] of the probabilities of logits (B, 1, H, W)."""
    return probability_dice_loss(logits.float().sigmoid(), mask, weight)


def probability_dice_loss(
    probability: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """One minus the Dice coefficient of all pixels of the batch together (Milletari et al., arXiv 1606.04797).

    Pooling over the batch follows the pooled IoU by which detectors are compared, and an image without targets then
    counts by its false alarms alone.

    Args:
        probability: (B, 1, H, W) float32 in [0, 1].
        mask: (B, 1, H, W) in {0, 1}.
        weight: (B, 1, H, W) in {0, 1}, 0 where a pixel does not count; None = all do.
    """
    if weight is not None:
        probability, mask = probability * weight, mask * weight
    overlap = (probability * mask).sum()
    return 1 - (2 * overlap + 1) / (probability.sum() + mask.sum() + 1)


def bce_loss(logits: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Binary cross-entropy of logits and a mask in {0, 1}, mean over pixels, weighted or not; all (B, 1, H, W)."""
    return F.binary_cross_entropy_with_logits(logits.float(), mask, weight)


def background_weights(mask: torch.Tensor, background_weight: float) -> torch.Tensor:
    """(B, 1, H, W): 1 within 8 rows and columns of a target's pixels, `background_weight` elsewhere.

    A `background_weight` above 1 asks for more evidence before a pixel becomes a target, and leaves open how far a
    mask (B, 1, H, W) in {0, 1} reaches.
    """
    side = 2 * TARGET_MARGIN_PX + 1
    rows = F.max_pool2d(mask, (side, 1), stride=1, padding=(TARGET_MARGIN_PX, 0))
    near = F.max_pool2d(rows, (1, side), stride=1, padding=(0, TARGET_MARGIN_PX))
    return background_weight + (1 - background_weight) * near


def kl_loss(posterior: DiagonalGaussianDistribution) -> torch.Tensor:
    """KL(posterior || N(0, 1)), mean per latent element."""
    return posterior.kl().mean() / posterior.mean[0].numel()


def klda_loss(
    predicted: DiagonalGaussianDistribution, mask_posterior: DiagonalGaussianDistribution, min_logvar: float
) -> torch.Tensor:
    """KLDA: KL(predicted posterior || mask posterior), mean per latent element, in float32 (LGLDNet, section 4).

    Args:
        predicted: Posterior predicted from the image, parameters (B, 2*latent_channels, h, w).
        mask_posterior: The Mask-VAE's posterior of the true mask, same shape.
        min_logvar: Both log-variances are clamped from below here, so that posteriors that are certain beyond it
            do not blow the divergence up.
    """
    logvar = predicted.logvar.float().clamp_min(min_logvar)
    true_logvar = mask_posterior.logvar.float().clamp_min(min_logvar)
    distance = (predicted.mean.float() - mask_posterior.mean.float()) ** 2
    return 0.5 * (true_logvar - logvar + (logvar.exp() + distance) / true_logvar.exp() - 1).mean()


def posterior_loss(predicted: torch.Tensor, variables: torch.Tensor) -> torch.Tensor:
    """Smooth L1 between predicted and true posterior variables (B, 2*latent_channels, h, w)."""
    return F.smooth_l1_loss(predicted.float(), variables.float())


@torch.no_grad()
def batch_iou(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Pixel IoU of a batch (B, 1, H, W) at probability 0.5, for the log; 0 where prediction and mask are empty."""
    found, truth = logits > 0, mask.bool()
    return (found & truth).sum() / (found | truth).sum().clamp_min(1)

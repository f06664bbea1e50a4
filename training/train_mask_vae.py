"""Train the Mask-VAE on target masks: the first stage of LGLDNet.

    accelerate launch training/train_mask_vae.py --config training/recipes/lgldnet_small_mask_vae.yaml \
        --train_data_dir DATA --output_dir runs/mask_vae
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from irstd_ldm.data.crops import CropSettings, setting
from irstd_ldm.evaluation.counts import count_image
from irstd_ldm.models.configurations import CONFIGURATIONS
from irstd_ldm.models.mask_vae import MaskAutoencoderKL
from irstd_ldm.training.detectors import scores_of_data_sets
from irstd_ldm.training.loop import Task, Validation
from irstd_ldm.training.losses import batch_iou, bce_loss, dice_loss, kl_loss
from irstd_ldm.training.settings import TrainSettings
from irstd_ldm.training.training_data import TrainingData, read_training_data


@dataclass(kw_only=True)
class MaskVAESettings(TrainSettings):
    """Settings of the Mask-VAE's trainer."""

    start_settings: ClassVar[tuple[str, ...]] = ("pretrained_model_name_or_path",)

    bce_weight: float = setting(0.5, "Weight of the binary cross-entropy.")
    dice_weight: float = setting(0.5, "Weight of the Dice loss.")
    kl_weight: float = setting(1e-3, "Weight of KL(posterior || N(0, 1)), mean per latent element.")
    klda_min_logvar: float = setting(-6.0, "Log-variance below which KLDA distinguishes no posteriors; saved.")
    statistics_crops: int = setting(256, "Crops over which the posterior's statistics are measured after training.")


class MaskVAEStep(nn.Module):
    """One training step's forward pass: masks and noise in, logits and posterior out."""

    def __init__(self, vae: MaskAutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, mask: torch.Tensor, noise: torch.Tensor):
        posterior = self.vae.encode(mask * 2 - 1).latent_dist
        return self.vae.decode(posterior.mean + posterior.std * noise).sample, posterior


def make_vae(settings: MaskVAESettings) -> MaskAutoencoderKL:
    """The pretrained Mask-VAE, or one with random weights."""
    if settings.pretrained_model_name_or_path is not None:
        vae = MaskAutoencoderKL.from_pretrained(settings.pretrained_model_name_or_path, subfolder="vae")
        vae.register_to_config(klda_min_logvar=settings.klda_min_logvar)
        return vae
    torch.manual_seed(settings.seed)
    return MaskAutoencoderKL(**CONFIGURATIONS[settings.model]["vae"], klda_min_logvar=settings.klda_min_logvar)


class MaskVAETask(Task):
    """Mask reconstruction: BCE, Dice and KL."""

    settings_class = MaskVAESettings
    headline = "iou"

    def __init__(self, settings: MaskVAESettings, data: TrainingData):
        super().__init__(settings, data)
        self.vae = make_vae(settings)
        self.checkpoint_gradients(self.vae)
        self.model = MaskVAEStep(self.vae)

    @classmethod
    def read_data(cls, settings: MaskVAESettings) -> TrainingData:
        """Crops of masks are drawn as those of images, whose intensities do not matter here."""
        return read_training_data(settings, CropSettings(target_probability=0.45, background_probability=0.2))

    def loss(self, model, batch, step, generator):
        mask = batch["mask"]
        shape = (len(mask), self.vae.config.latent_channels, mask.shape[-2] // 8, mask.shape[-1] // 8)
        logits, posterior = model(mask, torch.randn(shape, generator=generator).to(mask, non_blocking=True))
        terms = {"bce": bce_loss(logits, mask), "dice": dice_loss(logits, mask), "kl": kl_loss(posterior)}
        loss = sum(getattr(self.settings, f"{name}_weight") * term for name, term in terms.items())
        return loss, {**terms, "iou": batch_iou(logits, mask)}

    def validate(self) -> Validation:
        """IoU of the held-out masks and their reconstructions from the posterior's mode."""
        counts, rows = [], []
        for sample in self.data.val_samples:
            height, width = sample.mask.shape
            mask = torch.from_numpy(sample.mask.astype(np.float32))[None, None].to(self.vae.device)
            padded = F.pad(mask, (0, -width % 32, 0, -height % 32))
            probability = self.vae(padded * 2 - 1).sample.sigmoid()[0, 0, :height, :width].cpu().numpy()
            counts.append(count_image(probability > 0.5, sample.mask))
            rows.append([sample.mask.astype(np.float32), probability])
        scores = scores_of_data_sets(self.data, counts)
        return Validation({name: value for name, value in scores.items() if name.startswith("iou")}, rows)

    def save_components(self, folder: Path) -> None:
        """Write the Mask-VAE, with the mean and deviation of its posteriors of training masks in its config."""
        crops = (self.data.crops[k]["mask"][None] for k in range(self.settings.statistics_crops))
        posteriors = [self.vae.encode(mask.to(self.vae.device) * 2 - 1).latent_dist for mask in crops]
        mean = torch.cat([posterior.mean.flatten() for posterior in posteriors])
        logvar = torch.cat([posterior.logvar.flatten() for posterior in posteriors])
        self.vae.register_to_config(
            scaling_factor=1 / mean.std().item(), logvar_mean=logvar.mean().item(), logvar_std=logvar.std().item()
        )
        self.vae.save_pretrained(folder / "vae")


main = MaskVAETask.main

if __name__ == "__main__":
    main()

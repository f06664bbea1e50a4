"""Train stage 1 of the Gaussian-agnostic engine: squeezed infrared images rebuilt.

    accelerate launch training/train_restoration.py --config training/recipes/generator_restoration.yaml \
        --train_data_dir DATA --output_dir runs/restoration
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from irstd_ldm.models.configurations import GENERATOR_CONFIGURATIONS
from irstd_ldm.models.restoration import IRSTDRestorationModel
from irstd_ldm.training.generator import (
    GeneratorSettings,
    GeneratorTask,
    pictures,
    psnr,
    squeezed_batch,
    validation_batch,
)
from irstd_ldm.training.loop import Validation
from irstd_ldm.training.training_data import TrainingData

MIN_ERROR = 1e-6  # mean squared error in [0, 1], below which an image counts as restored: a quarter of a gray level


@dataclass(kw_only=True)
class RestorationSettings(GeneratorSettings):
    """Settings of the restoration's trainer."""


class RestorationTask(GeneratorTask):
    """Logarithm of the squared error between each image and its restored squeezed copy, so that its mean is a PSNR's.

    The squared error itself, as published, hangs on the few images of few groups whose levels nobody can know: with it
    stage 1 hardly learned anything else.
    """

    headline = "psnr"
    settings_class = RestorationSettings

    def __init__(self, settings: RestorationSettings, data: TrainingData):
        super().__init__(settings, data)
        torch.manual_seed(settings.seed)
        self.model = IRSTDRestorationModel(**GENERATOR_CONFIGURATIONS[settings.model]["restoration"])
        if settings.gradient_checkpointing:
            self.model.swin.gradient_checkpointing_enable()

    def loss(self, model, batch, step, generator):
        image = ((batch["image"] + 1) / 2).clamp(0, 1)  # (B, 1, S, S)
        restored = model(squeezed_batch(image, generator)).sample
        error = (restored.float() - image).square().mean(dim=(1, 2, 3))  # (B,)
        loss = error.clamp(min=MIN_ERROR).log10().mean()
        return loss, {"psnr": -10 * loss.detach()}

    def validate(self) -> Validation:
        """PSNR of the held-out images, squeezed as in generation and restored."""
        image = validation_batch(self.data.val_samples).to(self.model.device)
        squeezed = squeezed_batch(image, torch.Generator().manual_seed(0), generation=True)
        restored = self.model(squeezed).sample.clamp(0, 1)
        scores = {"squeezed_psnr": psnr(squeezed, image), "psnr": psnr(restored, image)}
        return Validation(scores, pictures(image, squeezed, restored))

    def save_components(self, folder: Path) -> None:
        """Write the restoration."""
        self.model.save_pretrained(folder / "restoration")


main = RestorationTask.main

if __name__ == "__main__":
    main()

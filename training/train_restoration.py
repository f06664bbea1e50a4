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
    pictures,
    psnr,
    read_generator_data,
    squeezed_batch,
    validation_batch,
)
from irstd_ldm.training.loop import Validation, train
from irstd_ldm.training.stages import start
from irstd_ldm.training.training_data import TrainingData, side_by_side, write_split


@dataclass(kw_only=True)
class RestorationSettings(GeneratorSettings):
    """Settings of stage 1's trainer."""


class RestorationTask:
    """Squared error between the image and its restored squeezed copy."""

    headline = "psnr"

    def __init__(self, settings: RestorationSettings, data: TrainingData):
        self.settings, self.data = settings, data
        torch.manual_seed(settings.seed)
        self.model = IRSTDRestorationModel(**GENERATOR_CONFIGURATIONS[settings.model]["restoration"])

    def loss(self, model, batch, step, generator):
        image = ((batch["image"] + 1) / 2).clamp(0, 1)  # (B, 1, S, S)
        restored = model(squeezed_batch(image, generator)).sample
        loss = (restored - image).square().mean()
        return loss, {"psnr": -10 * loss.detach().log10()}

    @torch.no_grad()
    def validate(self) -> Validation:
        """PSNR of images squeezed as in generation, before and after the restoration."""
        self.model.eval()
        image = validation_batch(self.data.val_samples).to(self.model.device)
        squeezed = squeezed_batch(image, torch.Generator().manual_seed(0), generation=True)
        restored = self.model(squeezed).sample.clamp(0, 1)
        scores = {"psnr": psnr(restored, image), "squeezed_psnr": psnr(squeezed, image)}
        return Validation(scores, side_by_side(pictures(image, squeezed, restored)))

    def save_pretrained(self, folder: Path) -> None:
        self.model.save_pretrained(folder / "restoration")
        write_split(self.data, folder)


def run(settings: RestorationSettings) -> None:
    """Train once."""
    data = read_generator_data(settings)
    train(settings, RestorationTask(settings, data), data.crops, data.lists)


def main(argv: list[str] | None = None) -> None:
    start(RestorationSettings, run, argv)


if __name__ == "__main__":
    main()

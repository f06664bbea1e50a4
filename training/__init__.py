"""Training: losses, the one loop, a script per trained part, recipes. Public names are loaded on first use."""

from importlib import import_module
from typing import Any

# Public name -> module that defines it.
_LAZY = {
    "ControlNetSettings": "train_controlnet",
    "ControlNetTask": "train_controlnet",
    "DetectorSettings": "settings",
    "ImageUNetSettings": "train_image_unet",
    "ImageUNetTask": "train_image_unet",
    "ImageVAESettings": "train_image_vae",
    "ImageVAETask": "train_image_vae",
    "LatentSettings": "train_latent",
    "LatentTask": "train_latent",
    "MaskVAESettings": "train_mask_vae",
    "MaskVAETask": "train_mask_vae",
    "PixelSettings": "train_pixel",
    "PixelTask": "train_pixel",
    "RestorationSettings": "train_restoration",
    "RestorationTask": "train_restoration",
    "Task": "loop",
    "TrainSettings": "settings",
    "parse_plan": "settings",
    "train": "loop",
}
__all__ = [*_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

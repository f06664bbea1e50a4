"""Training: losses, the one loop, a script per trained part, recipes. Public names are loaded on first use."""

from .. import lazy_names

_MODULES = {
    ".loop": ("Task", "train"),
    ".settings": ("DetectorSettings", "TrainSettings", "parse_plan"),
    ".train_controlnet": ("ControlNetSettings", "ControlNetTask"),
    ".train_image_unet": ("ImageUNetSettings", "ImageUNetTask"),
    ".train_latent": ("LatentSettings", "LatentTask"),
    ".train_mask_vae": ("MaskVAESettings", "MaskVAETask"),
    ".train_pixel": ("PixelSettings", "PixelTask"),
    ".train_restoration": ("RestorationSettings", "RestorationTask"),
}
_DEFINED_IN = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_DEFINED_IN)
__getattr__, __dir__ = lazy_names(globals(), _DEFINED_IN)

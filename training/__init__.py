"""Training: losses, the one loop, a script per trained part, recipes. Public names are loaded on first use."""

from .. import lazy_names

_MODULES = {
    "ControlNetSettings": ".train_controlnet",
    "ControlNetTask": ".train_controlnet",
    "DetectorSettings": ".settings",
    "ImageUNetSettings": ".train_image_unet",
    "ImageUNetTask": ".train_image_unet",
    "ImageVAESettings": ".train_image_vae",
    "ImageVAETask": ".train_image_vae",
    "LatentSettings": ".train_latent",
    "LatentTask": ".train_latent",
    "MaskVAESettings": ".train_mask_vae",
    "MaskVAETask": ".train_mask_vae",
    "PixelSettings": ".train_pixel",
    "PixelTask": ".train_pixel",
    "RestorationSettings": ".train_restoration",
    "RestorationTask": ".train_restoration",
    "Task": ".loop",
    "TrainSettings": ".settings",
    "parse_plan": ".settings",
    "train": ".loop",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_names(globals(), _MODULES)

"""Infrared small target detection (IRSTD) with diffusion models, as a diffusers-style package.

    from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint

    pipe = IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())
    output = pipe("frame.png")
    output.mask, output.probability, output.targets

Shapes, everywhere in the package:

    N         images
    E         ensemble members
    B         batch
    C         channels
    (H, W)    image
    (PH, PW)  padded image
    (h, w)    latent

A *target* is a connected component (8-connectivity) of a mask. Positions are in pixels, x to the right and y down,
pixel centres at integers, origin at the centre of the top left pixel.
"""

from typing import TYPE_CHECKING

from .hub.format import bundled_checkpoint
from .lazy import lazy_names

if TYPE_CHECKING:
    from .models.conditional_encoder import ConditionalEncoder
    from .models.image_encoder import IRSTDImageEncoder
    from .models.mask_vae import MaskAutoencoderKL
    from .models.pixel_unet import IRSTDUNet2DModel
    from .models.restoration import IRSTDRestorationModel
    from .models.unet import IRSTDUNet2DConditionModel
    from .pipelines.output import IRSTDPipelineOutput
    from .pipelines.pipeline_gaussian_agnostic import GaussianAgnosticPipeline
    from .pipelines.pipeline_irstd_diff import IRSTDDiffPipeline
    from .pipelines.pipeline_irstd_latent import IRSTDLatentPipeline
    from .targets import Target

__version__ = "0.1.0"

__all__ = [
    "ConditionalEncoder",
    "GaussianAgnosticPipeline",
    "IRSTDDiffPipeline",
    "IRSTDImageEncoder",
    "IRSTDLatentPipeline",
    "IRSTDPipelineOutput",
    "IRSTDRestorationModel",
    "IRSTDUNet2DConditionModel",
    "IRSTDUNet2DModel",
    "MaskAutoencoderKL",
    "Target",
    "__version__",
    "bundled_checkpoint",
]

# Public name -> module that defines it, imported on first use, so that `irstd-ldm --help` loads no torch.
_LAZY = {
    "ConditionalEncoder": ".models.conditional_encoder",
    "GaussianAgnosticPipeline": ".pipelines.pipeline_gaussian_agnostic",
    "IRSTDDiffPipeline": ".pipelines.pipeline_irstd_diff",
    "IRSTDImageEncoder": ".models.image_encoder",
    "IRSTDLatentPipeline": ".pipelines.pipeline_irstd_latent",
    "IRSTDPipelineOutput": ".pipelines.output",
    "IRSTDRestorationModel": ".models.restoration",
    "IRSTDUNet2DConditionModel": ".models.unet",
    "IRSTDUNet2DModel": ".models.pixel_unet",
    "MaskAutoencoderKL": ".models.mask_vae",
    "Target": ".targets",
}

__getattr__, __dir__ = lazy_names(globals(), _LAZY)

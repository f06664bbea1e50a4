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

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .bundled import bundled_checkpoint as bundled_checkpoint

if TYPE_CHECKING:
    from .models.conditional_encoder import ConditionalEncoder as ConditionalEncoder
    from .models.image_encoder import IRSTDImageEncoder as IRSTDImageEncoder
    from .models.mask_vae import MaskAutoencoderKL as MaskAutoencoderKL
    from .models.pixel_unet import IRSTDUNet2DModel as IRSTDUNet2DModel
    from .models.restoration import IRSTDRestorationModel as IRSTDRestorationModel
    from .models.unet import IRSTDUNet2DConditionModel as IRSTDUNet2DConditionModel
    from .pipelines.detection import IRSTDPipelineOutput as IRSTDPipelineOutput
    from .pipelines.detection import detector_class as detector_class
    from .pipelines.pipeline_gaussian_agnostic import GaussianAgnosticPipeline as GaussianAgnosticPipeline
    from .pipelines.pipeline_irstd_diff import IRSTDDiffPipeline as IRSTDDiffPipeline
    from .pipelines.pipeline_irstd_latent import IRSTDLatentPipeline as IRSTDLatentPipeline
    from .stream import StreamDetector as StreamDetector
    from .targets import Target as Target

__version__ = "0.1.0"

# Public name -> module that defines it, imported on first use, so that `irstd-ldm --help` loads no torch.
PUBLIC = {
    "ConditionalEncoder": ".models.conditional_encoder",
    "GaussianAgnosticPipeline": ".pipelines.pipeline_gaussian_agnostic",
    "IRSTDDiffPipeline": ".pipelines.pipeline_irstd_diff",
    "IRSTDImageEncoder": ".models.image_encoder",
    "IRSTDLatentPipeline": ".pipelines.pipeline_irstd_latent",
    "IRSTDPipelineOutput": ".pipelines.detection",
    "IRSTDRestorationModel": ".models.restoration",
    "IRSTDUNet2DConditionModel": ".models.unet",
    "IRSTDUNet2DModel": ".models.pixel_unet",
    "MaskAutoencoderKL": ".models.mask_vae",
    "StreamDetector": ".stream",
    "Target": ".targets",
    "detector_class": ".pipelines.detection",
}
__all__ = sorted([*PUBLIC, "__version__", "bundled_checkpoint"])


def lazy_names(
    package: dict[str, Any], modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package that import public names on first use (PEP 562).

    `package` is its `globals()`, `modules` are name -> the module that defines it, relative to the package.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        package[name] = getattr(import_module(modules[name], package["__name__"]), name)
        return package[name]

    def names() -> list[str]:
        return sorted({*package, *modules})

    return get, names


__getattr__, __dir__ = lazy_names(globals(), PUBLIC)

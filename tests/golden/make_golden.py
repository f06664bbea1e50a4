"""Makes a golden checkpoint: random weights, a few channels, and what the version that saved it computed with them.

    python tests/golden/make_golden.py tests/golden/format_2

A folder is made once, by the version that introduced its format, and never again: it stands for the checkpoints that
people have. A new format gets a folder of its own beside the old ones.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from irstd_ldm import IRSTDImageEncoder, IRSTDLatentPipeline, IRSTDUNet2DConditionModel, MaskAutoencoderKL
from irstd_ldm.models.configurations import CONFIGURATIONS
from irstd_ldm.training.train_latent import make_scheduler

EXPECTED = "expected.safetensors"
CALLS: dict[str, dict[str, int]] = {
    "one_step": {},
    "ensemble": {"num_inference_steps": 2, "ensemble_size": 2},
}


def compute(pipeline: IRSTDLatentPipeline, image: np.ndarray) -> dict[str, torch.Tensor]:
    """Probability (1, 1, H, W) of every call, in float32."""
    pipeline = pipeline.to(torch.float32)
    return {name: torch.from_numpy(pipeline(image, **keywords).probability) for name, keywords in CALLS.items()}


def main(folder: Path) -> None:
    torch.manual_seed(0)
    small, ladder = CONFIGURATIONS["lgldnet_small"], {"block_out_channels": (4, 4, 4, 8)}
    vae = small["vae"] | ladder | {"image_feature_channels": (4, 4, 4, 0), "norm_num_groups": 2}
    encoder = small["image_encoder"] | ladder | {"latent_channels": 8, "num_attention_heads": 2}
    unet = small["unet"] | {"block_out_channels": (8,), "cross_attention_dim": 8, "norm_num_groups": 2}
    pipeline = IRSTDLatentPipeline(
        vae=MaskAutoencoderKL(**vae),
        unet=IRSTDUNet2DConditionModel(**unet | {"in_channels": 16, "condition_channels": 8, "attention_head_dim": 2}),
        image_encoder=IRSTDImageEncoder(**encoder),
        scheduler=make_scheduler(),
        normalization="robust",
    )
    for module in pipeline.components.values():
        for norm in module.modules() if isinstance(module, torch.nn.Module) else ():
            if isinstance(norm, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(norm.running_mean, std=0.1)
                torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    pipeline.vae.register_to_config(scaling_factor=0.9, logvar_mean=-1.25, logvar_std=1.5)
    pipeline.to(torch.float16).save_pretrained(folder)
    for path in folder.rglob("*.py"):
        path.unlink()  # the package loads it by its own code
    image = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)  # (H, W)
    expected = compute(IRSTDLatentPipeline.from_pretrained(folder), image)
    save_file({"image": torch.from_numpy(image), **expected}, folder / EXPECTED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

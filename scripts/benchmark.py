"""Latency of a latent detector's parts in clocks, and its peak memory.

A *clock* is the time of a fixed convolution stack (1.44 GMAC at 256x256), measured in turns with the subject, so that
figures of different machines and of a busy machine compare.

    python scripts/benchmark.py [--model PATH_OR_HUB_ID] [--size 256] [--rounds 15] [--device cpu]
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.data.synthetic import synthetic_scene


class ClockNet(nn.Module):
    """The reference stack: 16/32/64/128 channels at 256/128/64/32 px, two 3x3 convolutions each, strided between."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64, 128)
        layers: list[nn.Module] = [nn.Conv2d(1, widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            if level:
                layers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
            for _ in range(2):
                layers += [nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the device's queue drained."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def clocks(subject: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median over rounds of (subject's seconds / clock's seconds), both timed in each round, after three warm-ups."""
    net = ClockNet().eval().to(device)
    x = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0)).to(device)

    def tick() -> object:
        return net(x)

    with torch.inference_mode():
        for _ in range(3):
            seconds(tick, device), seconds(subject, device)
        ratios = []
        for _ in range(rounds):
            subject_s = seconds(subject, device)
            ratios.append(subject_s / statistics.fmean((seconds(tick, device), seconds(tick, device))))
    return statistics.median(ratios)


def parts(pipe: IRSTDLatentPipeline, size: int) -> dict[str, Callable[[], object]]:
    """The networks' calls of one image at one step, and the whole pipeline's."""
    device, dtype = pipe.device, pipe.unet.dtype
    scene = synthetic_scene(size, size, seed=0).image  # (size, size) uint8
    image = torch.zeros(1, 1, size, size, device=device, dtype=dtype)
    with torch.inference_mode():
        encoded = pipe.image_encoder(image)
        noisy = torch.zeros(1, pipe.unet.config.out_channels, size // 8, size // 8, device=device, dtype=dtype)
        sample = torch.cat([noisy, encoded.image_latent], dim=1)
        z = torch.zeros_like(encoded.image_latent)
    timestep = torch.tensor(pipe.scheduler.config.num_train_timesteps - 1, device=device)

    def networks() -> None:
        pipe.image_encoder(image)
        pipe.unet(sample, timestep, encoded.tokens)
        pipe.vae.decode(z, image_features=encoded.features)

    return {
        "encoder": lambda: pipe.image_encoder(image),
        "denoiser": lambda: pipe.unet(sample, timestep, encoded.tokens),
        "decoder": lambda: pipe.vae.decode(z, image_features=encoded.features),
        "networks": networks,
        "pipeline": lambda: pipe(scene, tile_size=0),
    }


def peak_memory_mib(device: torch.device) -> float:
    """Highest memory so far: allocated on a CUDA device, else the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(bundled_checkpoint()), help="default: the bundled checkpoint")
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    pipe = IRSTDLatentPipeline.from_pretrained(arguments.model).to(arguments.device)
    device = torch.device(arguments.device)
    before = peak_memory_mib(device)
    pipe(np.zeros((arguments.size, arguments.size), np.uint8), tile_size=0)
    after = peak_memory_mib(device)

    measured = {name: clocks(part, device, arguments.rounds) for name, part in parts(pipe, arguments.size).items()}
    measured["the rest"] = measured["pipeline"] - measured["networks"]
    print(f"{arguments.size}x{arguments.size}, batch 1, one step, eager, {device}, {torch.get_num_threads()} threads")
    for name in ("encoder", "denoiser", "decoder", "networks", "the rest", "pipeline"):
        print(f"{name:<10}{measured[name]:>8.2f} clocks")
    print(f"peak memory {after:.0f} MiB, {after - before:.0f} MiB above the loaded model")


if __name__ == "__main__":
    main()

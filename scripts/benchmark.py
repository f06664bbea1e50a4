"""Latency of a detector in clocks, by part and by runtime, and its peak memory.

A *clock* is the time of a fixed convolution stack (1.44 GMAC at 256x256) in eager torch, measured in turns with the
subjects, so that figures of different machines and of a busy machine compare.

    python scripts/benchmark.py --threads 2 --exported exported/onnx exported/openvino

`--exported` names folders that `irstd-ldm export` wrote; each runs in every runtime that reads it,
the image as one tile.

    python scripts/benchmark.py --random lgldnet --device cuda --throughput

`--throughput` measures the networks alone, for what a GPU is asked: precisions, sizes and batches.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import nn

from irstd_ldm import (
    IRSTDImageEncoder,
    IRSTDLatentPipeline,
    IRSTDUNet2DConditionModel,
    MaskAutoencoderKL,
    bundled_checkpoint,
)
from irstd_ldm.cli.model import compile_networks, pipeline_class
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.models.configurations import CONFIGURATIONS, PIXEL_CONFIGURATIONS
from irstd_ldm.pipelines.detection import IRSTDDetectionPipeline
from irstd_ldm.runtime.detector import ExportedDetectorRunner
from irstd_ldm.runtime.exported import READABLE, read_description
from irstd_ldm.training import train_pixel
from irstd_ldm.training.train_latent import make_scheduler

Subjects = dict[str, Callable[[], object]]
SIZES, BATCHES = ((256, 256), (512, 640)), (1, 16)  # (H, W) in pixels: papers, cameras
MODES = (("float32", False), ("bfloat16", False), ("bfloat16", True))  # of the networks, compiled or not


def clock_net() -> nn.Sequential:
    """The reference stack: 16/32/64/128 channels at 256/128/64/32 px, two 3x3 convolutions each, strided between."""
    layers: list[nn.Module] = []
    for width in (16, 32, 64, 128):
        layers.append(nn.Conv2d(width // 2, width, 3, 2, 1) if layers else nn.Conv2d(1, width, 3, padding=1))
        for _ in range(2):
            layers += [nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)]
    return nn.Sequential(*layers)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the device's queue drained."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def clocks_in_turns(
    subjects: Mapping[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, float]:
    """Median over rounds of (seconds / clock's seconds), all timed in turns in each round, after three warm-ups."""
    x = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0)).to(device)
    tick: Callable[[], object] = partial(clock_net().to(device), x)
    ratios: dict[str, list[float]] = {name: [] for name in subjects}
    with torch.inference_mode():
        for _ in range(3):
            for subject in (tick, *subjects.values()):
                seconds(subject, device)
        for _ in range(rounds):
            for name, subject in subjects.items():
                subject_s = seconds(subject, device)
                ratios[name].append(subject_s / statistics.fmean((seconds(tick, device), seconds(tick, device))))
    return {name: statistics.median(of_subject) for name, of_subject in ratios.items()}


def parts(pipe: IRSTDLatentPipeline, size: int) -> Subjects:
    """The networks' calls of one image at one step."""
    device, dtype = pipe.device, pipe.unet.dtype
    image = torch.zeros(1, 1, size, size, device=device, dtype=dtype)
    with torch.inference_mode():
        encoded = pipe.image_encoder(image)
        noisy = torch.zeros(1, pipe.unet.config.out_channels, size // 8, size // 8, device=device, dtype=dtype)
        sample = torch.cat([noisy, encoded.image_latent], dim=1)
        z = noisy[:, : pipe.vae.config.latent_channels]
    timestep = torch.tensor(pipe.scheduler.config.num_train_timesteps - 1, device=device)

    calls: Subjects = {
        "encoder": lambda: pipe.image_encoder(image),
        "denoiser": lambda: pipe.unet(sample, timestep, encoded.tokens),
        "decoder": lambda: pipe.vae.decode(z, image_features=encoded.features),
    }
    together = [*calls.values()]
    return calls | {"networks": lambda: [call() for call in together]}


def runtimes(exported: Sequence[str], scene: np.ndarray, num_threads: int) -> Subjects:
    """The whole call of every exported detector in every runtime that reads it."""
    subjects: Subjects = {}
    for folder in exported:
        description = read_description(folder)
        precision = "float32" if description.quantization is None else "int8"
        for runtime in (name for name, formats in READABLE.items() if description.format in formats):
            run = partial(ExportedDetectorRunner(folder, runtime, num_threads), scene, tile_size=scene.shape[0])
            subjects[f"{runtime}, {description.format} {precision}"] = run
    return subjects


def random_weights(configuration: str) -> IRSTDDetectionPipeline:
    """A detector that was never trained: its time does not depend on its weights."""
    if configuration in PIXEL_CONFIGURATIONS:
        settings = train_pixel.PixelSettings(train_data_dir="", output_dir="", model=configuration)
        diff = train_pixel.make_pipeline(settings)
        for network in (diff.unet, diff.conditional_encoder):
            network.eval()
        return diff
    parts = CONFIGURATIONS[configuration]
    return IRSTDLatentPipeline(
        vae=MaskAutoencoderKL(**parts["vae"], **parts["image_features"]).eval(),
        unet=IRSTDUNet2DConditionModel(**parts["unet"]).eval(),
        image_encoder=IRSTDImageEncoder(**parts["image_encoder"]).eval(),
        scheduler=make_scheduler(),
    )


def load(model: str, device: str) -> IRSTDDetectionPipeline:
    pipe = pipeline_class(model).from_pretrained(model).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def peak_memory_mib(device: torch.device) -> float:
    """Highest memory so far: allocated on a CUDA device, else the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def throughput(pipe: IRSTDDetectionPipeline, rounds: int) -> Iterator[str]:
    """Lines of a table of one step of the networks, from normalised images in memory to probabilities in memory.

    Each is yielded once it is measured, the compiled ones last. Milliseconds are the median over `rounds` calls.
    """
    torch._dynamo.config.automatic_dynamic_shapes = False  # a graph per size and batch
    yield f"{'precision':<20}{'size':>10}{'batch':>7}{'ms':>10}{'frames/s':>10}{'peak MiB':>10}"
    for dtype, compiled in MODES:
        pipe.to(getattr(torch, dtype))
        if compiled:
            compile_networks(pipe)
        for (height, width), batch in product(SIZES, BATCHES):
            images = np.random.default_rng(0).uniform(-1, 1, (batch, height, width)).astype(np.float32)
            call = partial(pipe.predict_probability, images, range(batch), 1, 1)
            if pipe.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            with torch.no_grad():
                times = [seconds(call, pipe.device) for _ in range(rounds + 2)][2:]  # without two warm-ups
            ms, name = 1e3 * statistics.median(times), dtype + ", compiled" * compiled
            size, peak = f"{width}x{height}", peak_memory_mib(pipe.device)
            yield f"{name:<20}{size:>10}{batch:>7}{ms:>10.2f}{1e3 * batch / ms:>10.1f}{peak:>10.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(bundled_checkpoint()), help="default: the bundled checkpoint")
    parser.add_argument(
        "--random",
        choices=[*CONFIGURATIONS, *PIXEL_CONFIGURATIONS],
        help="random weights of this configuration instead",
    )
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, help="of every runtime; default: torch's choice")
    parser.add_argument("--device", default="cpu", help="of torch")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; it takes a minute or more to start")
    parser.add_argument("--exported", nargs="+", default=[], metavar="DIR", help="what `irstd-ldm export` wrote")
    parser.add_argument("--throughput", action="store_true", help="the networks at every precision, size and batch")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    scene = synthetic_scene(arguments.size, arguments.size, seed=0).image  # (size, size) uint8
    if arguments.random is not None:
        pipe: IRSTDDetectionPipeline = random_weights(arguments.random).to(device)
    else:
        pipe = load(arguments.model, arguments.device)
    if arguments.throughput:
        for line in throughput(pipe, arguments.rounds):
            print(line, flush=True)
        return
    before = peak_memory_mib(device)
    pipe(scene, tile_size=0)
    after = peak_memory_mib(device)

    subjects = parts(pipe, arguments.size) if isinstance(pipe, IRSTDLatentPipeline) else {}
    subjects["pipeline"] = lambda: pipe(scene, tile_size=0)
    if arguments.compile:
        compiled = load(arguments.model, arguments.device)
        compile_networks(compiled)
        subjects["torch.compile"] = lambda: compiled(scene, tile_size=0)
    subjects |= runtimes(arguments.exported, scene, torch.get_num_threads())
    measured = clocks_in_turns(subjects, device, arguments.rounds)
    if "networks" in measured:
        measured["the rest"] = measured["pipeline"] - measured["networks"]
    steps, threads = pipe.config.default_num_inference_steps, torch.get_num_threads()
    print(f"{arguments.size}x{arguments.size}, batch 1, steps {steps}, {device}, {threads} threads")
    for name, of_subject in measured.items():
        print(f"{name:<32}{of_subject:>8.2f} clocks")
    print(f"peak memory of eager torch {after:.0f} MiB, {after - before:.0f} MiB above the loaded model")


if __name__ == "__main__":
    main()

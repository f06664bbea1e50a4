"""Latency of a detector in every runtime, its frames per second and its memory, in one table.

A *clock* is the time of a fixed convolution stack (1.44 GMAC at 256x256) in eager torch, measured in turns with the
subjects, so that figures of different machines and of a busy machine compare.

    python scripts/benchmark.py --threads 2 --exported exported/onnx exported/onnx-int8 exported/openvino-int8

Times are those of a call, from the array (8 bits) to its targets, with the checkpoint's own tiles; medians over the
rounds. Memory is the largest resident set of a process `irstd-ldm detect frame.png`, which is timed from its start to
its end too. `--exported` names folders that `irstd-ldm export` wrote; each runs in every runtime that reads it.
`--random` times the parts of the network in torch as well.

    python scripts/benchmark.py --random lgldnet --device cuda --throughput

`--throughput` measures the networks alone, for what a GPU is asked: precisions, sizes and batches.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from markdown_tables import markdown
from PIL import Image
from torch import nn

from irstd_ldm import (
    IRSTDImageEncoder,
    IRSTDLatentPipeline,
    IRSTDUNet2DConditionModel,
    MaskAutoencoderKL,
    bundled_checkpoint,
)
from irstd_ldm.cli.model import compile_networks
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.models.configurations import CONFIGURATIONS, PIXEL_CONFIGURATIONS
from irstd_ldm.pipelines.detection import IRSTDDetectionPipeline, detector_class
from irstd_ldm.runtime.detector import ExportedDetectorRunner
from irstd_ldm.runtime.exported import BUNDLED_GRAPH, READABLE, openvino_has_bf16, read_description
from irstd_ldm.training import train_pixel
from irstd_ldm.training.train_latent import make_scheduler

Subjects = dict[str, Callable[[], object]]
SIZES, BATCHES = ((256, 256), (512, 640)), (1, 16)  # (H, W) in pixels: papers, cameras
# Precision of the networks, and whether they are compiled.
MODES = (("float32", False), ("bfloat16", False), ("bfloat16", True))
COLUMNS = ("image", "runtime", "ms", "clocks", "frames/s", "`detect`, MiB", "`detect`, s")
# A small process between: the resident set of this one would count as its child's (Linux).
USAGE = """\
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"""


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


def in_turns(
    subjects: Mapping[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, tuple[float, float]]:
    """Medians over rounds of the seconds and of (seconds / clock's seconds), timed in turns, after three warm-ups."""
    x = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0)).to(device)
    tick: Callable[[], object] = partial(clock_net().to(device), x)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
    with torch.inference_mode():
        for _ in range(3):
            for subject in (tick, *subjects.values()):
                seconds(subject, device)
        for _ in range(rounds):
            for name, subject in subjects.items():
                subject_s = seconds(subject, device)
                clock_s = statistics.fmean((seconds(tick, device), seconds(tick, device)))
                times[name].append((subject_s, subject_s / clock_s))
    return {name: tuple(map(statistics.median, zip(*pairs, strict=True))) for name, pairs in times.items()}


def parts(pipe: IRSTDLatentPipeline, height: int, width: int) -> Subjects:
    """The networks' calls of one image at one step."""
    device, dtype = pipe.device, pipe.unet.dtype
    image = torch.zeros(1, 1, height, width, device=device, dtype=dtype)
    with torch.inference_mode():
        encoded = pipe.image_encoder(image)
        noisy = torch.zeros(1, pipe.unet.config.out_channels, height // 8, width // 8, device=device, dtype=dtype)
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


def detect_process(scene: np.ndarray, flags: Sequence[str], num_threads: int) -> list[str]:
    """MiB and seconds of `irstd-ldm detect` of one PNG file, the second of two times."""
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(scene).save(Path(folder) / "frame.png")
        command = [sys.executable, "-m", "irstd_ldm.cli", "detect", f"{folder}/frame.png", "--output", folder, *flags]
        environment = os.environ | {"OMP_NUM_THREADS": str(num_threads)}
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", USAGE, *command], stdout=subprocess.PIPE, check=True, text=True, env=environment
            )
    seconds_s, peak_mib = map(float, done.stdout.split())
    return [f"{peak_mib:.0f}", f"{seconds_s:.1f}"]


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


def load(args: argparse.Namespace) -> IRSTDDetectionPipeline:
    """The pipeline that `--random` or `--model` names, on the device."""
    if args.random:
        pipe: IRSTDDetectionPipeline = random_weights(args.random)
    else:
        model = args.model or str(bundled_checkpoint())
        pipe = detector_class(model).from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(args.device)


def detectors(args: argparse.Namespace, pipe: IRSTDDetectionPipeline) -> dict[str, tuple[Callable, list[str]]]:
    """Name of a runtime -> the detector in it, and the flags with which `irstd-ldm detect` runs it."""
    on_device = ["--device", args.device, *(["--model", args.model] if args.model else [])]
    found: dict[str, tuple[Callable, list[str]]] = {"torch": (pipe, ["--runtime", "torch", *on_device])}
    if args.compile:
        compiled = load(args)
        compile_networks(compiled)
        found["torch.compile"] = (compiled, ["--runtime", "compile", *on_device])
    for folder in args.exported or ([] if args.model or args.random else [BUNDLED_GRAPH]):
        description = read_description(folder)
        precision = "float32" if description.quantization is None else "int8"
        for runtime in (name for name, formats in READABLE.items() if description.format in formats):
            if runtime == "openvino-bf16" and not openvino_has_bf16():
                continue
            runner = ExportedDetectorRunner(folder, runtime, torch.get_num_threads())
            flags = ["--runtime", runtime, "--model", str(folder)]
            name = f"{runtime}, {description.format} {precision}"
            found[f"{name}, {folder}" if name in found else name] = (runner, flags)
    return found


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
    parser.add_argument("--model", metavar="DIR", help="default: the bundled checkpoint and its graph")
    parser.add_argument(
        "--random",
        choices=[*CONFIGURATIONS, *PIXEL_CONFIGURATIONS],
        help="random weights of this configuration instead",
    )
    sizes = ("256x256", "640x512", "1280x1024")
    parser.add_argument("--sizes", nargs="+", default=sizes, metavar="WIDTHxHEIGHT", help="multiples of 32 pixels")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, help="of every runtime; default: torch's choice")
    parser.add_argument("--device", default="cpu", help="of torch")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; it takes a minute or more to start")
    parser.add_argument("--exported", nargs="+", default=[], metavar="DIR", help="what `irstd-ldm export` wrote")
    parser.add_argument("--throughput", action="store_true", help="the networks at every precision, size and batch")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    pipe = load(args)
    if args.throughput:
        for line in throughput(pipe, args.rounds):
            print(line, flush=True)
        return
    chosen, threads, rows = detectors(args, pipe), torch.get_num_threads(), []
    for size in args.sizes:
        width, height = map(int, size.split("x"))
        scene = synthetic_scene(height, width, seed=0).image  # (H, W) uint8
        subjects: Subjects = {name: partial(detector, scene) for name, (detector, _) in chosen.items()}
        if isinstance(pipe, IRSTDLatentPipeline) and args.random:
            subjects |= parts(pipe, height, width)
        for name, (taken_s, clocks) in in_turns(subjects, pipe.device, args.rounds).items():
            has_command = name in chosen and not (args.random and name.startswith("torch"))
            process = detect_process(scene, chosen[name][1], threads) if has_command else ["-", "-"]
            rows.append([size, name, f"{1000 * taken_s:.1f}", f"{clocks:.2f}", f"{1 / taken_s:.1f}", *process])
    steps, tile_size = pipe.config.default_num_inference_steps, pipe.config.default_tile_size
    print(f"batch 1, steps {steps}, tiles of at most {tile_size} px, torch on {args.device}, {threads} threads")
    print(markdown(COLUMNS, rows))


if __name__ == "__main__":
    main()

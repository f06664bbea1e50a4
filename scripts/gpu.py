"""The minutes on a GPU that can seldom be had: tests, measurements and a training, planned to the second.

    python scripts/gpu.py --pack DATA/IRSTD-1k
    python scripts/gpu.py --minutes 4 --stage test bench --output OUT
    python scripts/gpu.py --minutes 8 --stage train --model lgldnet --output OUT

The machine may be bare and know no package index. `--pack`, at home, fills gpu-pack/, which git ignores, with wheels
of what is missing there and with crops of training images, and lists what travels. Each stage runs in processes of its
own for its part of the minutes and leaves its log in the output folder; report.txt grows line by line. At most 8 files
of 16 MiB come back: a model is a half-precision tar in parts, of which those that do not fit stay in runs/.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
PYTHON = "3.12"  # there
WHEELS = ("diffusers", "PyWavelets", "importlib_metadata")  # absent there, in the versions at hand
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
PACK_BYTES, TRAVELS_BYTES = 20 * MIB, 60 * MIB
PART_BYTES, MAX_PARTS = 15 * MIB, 4  # Parts of a model that come back at once, beside the logs.
MODELS = ("tiny", "lgldnet", "irstd_diff")
LARGEST_PX = 256  # side of a crop
COMPILED_S = 360  # A training of this length is compiled, which takes a minute or two.
RESERVE_S = 45  # A training needs it to start, to validate and to save.
GRACE_S = 60  # after which what does not end by itself is stopped
LEAST_S = 30  # for a stage after others that overran
MANY_STEPS = 100_000  # the minutes end a training before; its schedule is in these

# The trainers of each model: the share of the time, the trainer and what differs from its recipe. Rates are for the
# batch, the loss's weights those with which the small detector learnt fast.
FAST = ["--bce_weight", "100", "--ema_decay", "0.998", "--learning_rate", "5e-4", "--lr_warmup_steps", "5000"]
TRAININGS: dict[str, list[tuple[float, str, str, list[str]]]] = {
    "lgldnet": [
        (0.2, "train_mask_vae", "lgldnet_mask_vae", ["--ema_decay", "0.99", "--learning_rate", "1e-3"]),
        (0.8, "train_latent", "lgldnet_latent", [*FAST, "--klda_weight", "0.01", "--klda_warmup_steps", "300"]),
    ],
    "tiny": [(1.0, "train_latent", "finetune", FAST)],
}


def size(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def download_wheels(folder: Path) -> None:
    options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]
    for platform in PLATFORMS:
        options += ["--platform", platform]
    named = [f"{name}=={version(name)}" for name in WHEELS]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *options, "-d", str(folder), *named], check=True)


def write_crops(root: Path, folder: Path, side: int) -> None:
    """A crop of `side` pixels around a target of each image of the training list, in the field's layout.

    Left out are images of a test list and those that the bundled detector was validated on.
    """
    import numpy as np
    from PIL import Image

    from irstd_ldm import bundled_checkpoint
    from irstd_ldm.data.folder import IRSTDFolder, held_out_stems, read_stem_list, write_stem_list
    from irstd_ldm.targets import label_components

    data = IRSTDFolder(root, split="train")
    validated = (read_stem_list(path) for path in bundled_checkpoint().glob("val_*.txt"))
    left_out = held_out_stems(root).union(*validated)
    rng, stems = np.random.default_rng(0), []
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for sample in data:
        components = label_components(sample.mask)[1]
        if sample.stem in left_out or not components:
            continue
        component = components[rng.integers(len(components))]
        corner = np.rint([component.y, component.x]).astype(int) - rng.integers(8, side - 8, 2)
        top, left = np.clip(corner, 0, np.maximum(np.subtract(sample.mask.shape, side), 0))
        window = np.s_[top : top + side, left : left + side]
        Image.fromarray(sample.image[window]).save(folder / "images" / f"{sample.stem}.png")
        Image.fromarray(sample.mask[window]).save(folder / "masks" / f"{sample.stem}.png")
        stems.append(sample.stem)
    write_stem_list(folder / "train.txt", stems)


def pack_crops(roots: list[Path], folder: Path, budget: int) -> None:
    """The largest crops of all data sets that `budget` bytes hold."""
    side = LARGEST_PX
    while side >= 64:
        shutil.rmtree(folder, ignore_errors=True)
        for root in roots:
            write_crops(root, folder / root.resolve().name, side)
        share = budget / size(files(folder))
        if share >= 1:
            return
        side = min(side - 32, int(side * share**0.5) // 32 * 32)  # bytes grow with the area
    raise SystemExit(f"the crops of {', '.join(map(str, roots))} do not fit into {budget / MIB:.1f} MiB")


def pack(roots: list[Path], folder: Path) -> None:
    """Fill the folder that travels, and list what does."""
    for name in ("wheels", "site"):
        shutil.rmtree(folder / name, ignore_errors=True)
    download_wheels(folder / "wheels")
    pack_crops(roots, folder / "data", PACK_BYTES - size(files(folder / "wheels")))
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.check_output(command, cwd=ROOT)
    tree = [ROOT / name for name in listed.decode().split("\0") if name]
    parts = {"the tree, as git lists it": tree, **{f"{folder / n}": files(folder / n) for n in ("wheels", "data")}}
    for name, paths in parts.items():
        print(f"{size(paths) / MIB:8.2f} MiB {len(paths):6} files  {name}")
    total = sum(map(size, parts.values()))
    print(f"{total / MIB:8.2f} MiB of {TRAVELS_BYTES // MIB} travel")
    if total > TRAVELS_BYTES:
        raise SystemExit(1)


def install(folder: Path, missing: str = "diffusers") -> None:
    """Make the wheels that travelled importable in the stages, where the package `missing` is."""
    site, wheels = folder / "site", [str(path) for path in files(folder / "wheels")]
    if wheels and importlib.util.find_spec(missing) is None:
        options = ["-q", "--no-index", "--no-deps", "--no-compile", "--target", str(site)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels], check=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(site.resolve()), os.environ.get("PYTHONPATH", "")])


def run(command: list[str], log: Path, timeout: float) -> tuple[str, list[str]]:
    """Run a Python command with its output in a log; how it ended, and the lines that it wrote."""
    with log.open("a+", encoding="utf-8", errors="replace") as file:
        start = file.tell()
        process = subprocess.Popen([sys.executable, *command], stdout=file, stderr=file, start_new_session=True)
        try:
            ended = "done" if process.wait(timeout) == 0 else f"failed, exit {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
            process.wait()
            ended = "stopped, the time was over"
        file.seek(start)
        return ended, file.read().splitlines()


def test(args: argparse.Namespace, seconds: float) -> Iterator[str]:
    """The tests of a GPU; on a CPU their quick stand-ins."""
    marked = "gpu" if args.device == "cuda" else "not gpu and not slow"
    command = ["-m", "pytest", "-vv", "--durations=10", "-m", marked, str(ROOT / "tests" / "test_gpu.py")]
    ended, lines = run(command, args.output / "test.txt", seconds + GRACE_S)
    counts = {word: sum(f" {word}" in line for line in lines) for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    yield f"{ended}: " + ", ".join(f"{count} {word.lower()}" for word, count in counts.items())
    yield from (line for line in lines if line.startswith(("FAILED", "ERROR")))


def bench(args: argparse.Namespace, seconds: float) -> Iterator[str]:
    """The throughput of each model, in equal parts of the time."""
    models = [args.model] if args.model else MODELS
    for model in models:
        command = [str(ROOT / "scripts" / "benchmark.py"), "--random", model, "--device", args.device, "--throughput"]
        rounds = "20" if args.device == "cuda" else "1"
        ended, lines = run([*command, "--rounds", rounds], args.output / "bench.txt", seconds / len(models))
        yield f"{model}: {ended}"
        yield from (line for line in lines if line.startswith(("precision", "float32", "bfloat16")))


def train(args: argparse.Namespace, seconds: float) -> Iterator[str]:
    """The project's trainers for as many steps as the time allows, and the model in parts."""
    Path("runs").mkdir(exist_ok=True)
    work, before = Path(mkdtemp(prefix="gpu-", dir="runs")), None
    roots = sorted((args.folder / "data").iterdir())
    for share, trainer, recipe, flags in TRAININGS[args.model or "lgldnet"]:
        folder = work / trainer
        command = [str(ROOT / "training" / f"{trainer}.py"), *flags, *device_flags(args), "--output_dir", str(folder)]
        command += ["--config", str(ROOT / "training" / "recipes" / f"{recipe}.yaml"), "--train_data_dir"]
        command += map(str, roots)
        if recipe == "finetune":
            command += ["--pretrained_model_name_or_path", str(ROOT / "irstd_ldm" / "checkpoints" / args.model)]
        elif before is not None:
            command += ["--mask_vae", str(before)]
        ends_at = time.monotonic() + share * seconds
        compiles = args.device == "cuda" and share * seconds >= COMPILED_S
        for more in [["--compile"], []] if compiles else [[]]:  # without, where it fails with
            left = max(ends_at - time.monotonic(), LEAST_S)
            minutes = max(left - RESERVE_S, left / 4) / 60
            timed = [*command, *more, "--max_train_minutes", str(minutes)]
            ended, _ = run(timed, args.output / "train.txt", left + GRACE_S)
            yield f"{' '.join([trainer, *more])}, {minutes:.1f} minutes: {ended}"
            if ended == "done":
                break
        for log in ("losses.jsonl", "validation.jsonl"):
            records = (folder / log).read_text().splitlines() if (folder / log).is_file() else []
            yield from (f"    {log} {record}" for record in records[-1:])
        if ended != "done":
            break
        before = folder
    if before is not None:
        yield from bring(before, work, args.output)


def device_flags(args: argparse.Namespace) -> list[str]:
    """Flags of a training that the device decides; on a CPU it is a rehearsal."""
    settings: dict[str, object] = {"max_train_steps": MANY_STEPS, "val_fraction": 0.1, "report_to": "null"}
    settings |= {"checkpointing_steps": MANY_STEPS, "checkpoints_total_limit": 1}
    if args.device == "cuda":
        free = shutil.disk_usage("/dev/shm").free  # workers hand over their batches there, 4 each
        settings |= {"dataloader_num_workers": min(os.cpu_count() or 1, free // (128 * MIB)), "validation_steps": 1000}
        settings |= {"train_batch_size": 32, "resolution": crop_side(args.folder), "mixed_precision": "bf16"}
    else:
        settings |= {"train_batch_size": 2, "resolution": 64, "validation_steps": MANY_STEPS}
    return ["--half_precision", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def crop_side(folder: Path) -> int:
    """Side in pixels of the crops that travelled, a multiple of 32."""
    from PIL import Image

    sides = [min(Image.open(path).size) for path in (folder / "data").glob("*/images/*.png")]
    return min(max(sides), LARGEST_PX) // 32 * 32


def bring(folder: Path, work: Path, output: Path) -> Iterator[str]:
    """A model's folder without its checkpoints as a tar in parts; those that may come back go to `output`."""
    archive = work / "model.tar"
    with tarfile.open(archive, "w") as tar:
        for path in files(folder):
            if not path.relative_to(folder).parts[0].startswith("checkpoint-"):
                tar.add(path, Path(folder.name) / path.relative_to(folder))
    parts: list[Path] = []
    with archive.open("rb") as file:
        while content := file.read(PART_BYTES):
            parts.append(work / f"{archive.name}.{len(parts):02}")
            parts[-1].write_bytes(content)
    archive.unlink()
    for part in islice(parts, MAX_PARTS):
        shutil.copy(part, output)
    yield f"model in {len(parts)} parts; at home: cat model.tar.* | tar x"
    if parts[MAX_PARTS:]:
        yield f"the rest, in the next run on this machine: cp {' '.join(map(str, parts[MAX_PARTS:]))} OUT"


STAGES = {"test": (2, test), "bench": (3, bench), "train": (5, train)}  # each one's part of the minutes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=[*STAGES], help="default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--model", choices=TRAININGS, help="default: lgldnet is trained, all are measured")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="folder that comes back")
    parser.add_argument("--folder", type=Path, default=Path("gpu-pack"), help="folder that travels")
    parser.add_argument("--pack", nargs="+", type=Path, metavar="DATA", help="data sets: fill the folder and stop")
    args = parser.parse_args()
    if args.pack:
        pack(args.pack, args.folder)
        return 0
    if "train" in args.stage and not (args.folder / "data").is_dir():
        parser.error(f"--stage train needs the crops in {args.folder}: run --pack first")
    install(args.folder)
    os.environ |= {"PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "10"}  # The stages are other processes.
    if args.device == "cpu":
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"  # also where there is a GPU
    args.output.mkdir(parents=True, exist_ok=True)
    ends_at, report = time.monotonic() + 60 * args.minutes, []
    for index, stage in enumerate(args.stage):
        part, function = STAGES[stage]
        share = part / sum(STAGES[later][0] for later in args.stage[index:])
        seconds = max(ends_at - time.monotonic(), LEAST_S) * share
        for line in function(args, seconds):
            report.append(f"{stage:<6} {line}")
            print(report[-1], flush=True)
            (args.output / "report.txt").write_text("\n".join(report) + "\n", encoding="utf-8")
    print(f"{args.minutes + (time.monotonic() - ends_at) / 60:.1f} minutes")
    return int(any("failed, exit" in line for line in report))


if __name__ == "__main__":
    sys.exit(main())

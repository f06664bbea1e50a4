"""Time and memory of one large 16-bit image after another, each in a process of its own; the table of the docs.

    python scripts/large_images.py --megapixels 1 4 16 64

An image is a 14-bit synthetic scene, repeated and mirrored to its size, in a PNG file. Time is that of
`irstd-ldm detect`'s work on it: reading, detecting, mask, overlay, tables. Memory is the largest resident set less
that of the process that has loaded the model and run one tile, whose own is told apart (Linux).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from markdown_tables import markdown
from PIL import Image

from irstd_ldm.cli import detect
from irstd_ldm.cli.main import build_parser
from irstd_ldm.cli.model import load_pipeline, resolve_device
from irstd_ldm.data.images import to_gray
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.tiling import tile_windows

MIB = 2**20
COLUMNS = ("image", "megapixels", "tiles", "targets", "s", "ms per tile", "MiB of a tile", "MiB above it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=int, nargs="+", default=[1, 4, 16, 64], metavar="N", help="in 2^20 px")
    parser.add_argument("--model", metavar="PATH_OR_HUB_ID", help="default: the bundled checkpoint")
    parser.add_argument("--measure", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.model)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for megapixels in args.megapixels:
            side = round((megapixels * MIB) ** 0.5)
            path = Path(folder) / f"{side}.png"
            Image.fromarray(large_scene(side)).save(path, compress_level=1)
            command = [sys.executable, __file__, "--measure", str(path)]
            command += ["--model", args.model] if args.model else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            measured = [found["seconds"], 1000 * found["seconds"] / found["tiles"], found["tile_mib"], found["mib"]]
            sizes = [f"{side}x{side}", round(side * side / MIB), found["tiles"], found["targets"]]
            rows.append([*sizes, f"{measured[0]:.1f}", *(f"{value:.0f}" for value in measured[1:])])
    print(markdown(COLUMNS, rows))


def large_scene(side: int) -> np.ndarray:
    """A scene (side, side) uint16, repeated and mirrored without a seam."""
    scene = synthetic_scene(512, 512, num_targets=1, scr=8.0, seed=1, bit_depth=16).image
    return np.pad(scene, (0, side - len(scene)), mode="symmetric")


def measure(path: Path, model: str | None) -> dict[str, float]:
    """Runs `detect` on one file in this process, the model loaded before."""
    command = ["detect", str(path), "--runtime", "torch", "--output", str(path.with_suffix(""))]
    args = build_parser().parse_args([*command, "--model", model] if model else command)
    pipeline = load_pipeline(args, resolve_device(None))
    tile_size, tile_overlap = pipeline.config.default_tile_size, pipeline.config.default_tile_overlap
    loaded = resident_kib("VmRSS")
    pipeline(np.zeros((tile_size, tile_size), np.uint8))  # the first call allocates memory that stays
    tiles = tile_windows(to_gray(path).shape, tile_size, tile_overlap)
    idle, start = resident_kib("VmRSS"), time.perf_counter()
    detect.load_detector = lambda *_: pipeline
    detect.run(args)
    seconds = time.perf_counter() - start
    targets = json.loads((args.output / "detections.json").read_text())["images"][0]["targets"]
    return {
        "seconds": seconds,
        "tile_mib": (idle - loaded) / 1024,
        "mib": (resident_kib("VmHWM") - idle) / 1024,
        "tiles": len(tiles),
        "targets": len(targets),
    }


def resident_kib(field: str) -> int:
    """VmRSS, the resident set of now, or VmHWM, its largest so far."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


if __name__ == "__main__":
    main()

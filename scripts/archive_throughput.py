"""Frames a second of `irstd-ldm detect-archive` by workers, beside `irstd-ldm detect`; the table of the docs.

    python scripts/archive_throughput.py --frames 160 --workers 1 2

Frames are synthetic, 640x512, 8-bit PNG files. Each command is a process of its own, timed from start to end; the
start is the time that it takes for two frames. Both run the bundled detector in onnxruntime, `detect` with a thread
per core, a worker with one.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from markdown_tables import markdown
from PIL import Image

from irstd_ldm.data.synthetic import synthetic_scene

COLUMNS = ("command", "s", "frames/s", "start, s", "frames/s after it")
SCENES, PART_SIZE = 20, 10


def write_frames(folder: Path, count: int) -> None:
    """Different frames of a few scenes, shifted."""
    folder.mkdir()
    scenes = [synthetic_scene(512, 640, num_targets=3, scr=8.0, seed=seed).image for seed in range(min(SCENES, count))]
    for index in range(count):
        shifted = np.roll(scenes[index % SCENES], index // SCENES, axis=1)
        Image.fromarray(shifted).save(folder / f"{index:06}.png")


def seconds(command: list[str]) -> float:
    """Wall time of an `irstd-ldm` command."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "irstd_ldm", *command], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=160, metavar="N")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N")
    args = parser.parse_args()
    commands = {"detect": ["detect", "--write", "json"]}
    for number in args.workers:
        flags = ["--concurrency", str(number), "--part-size", str(PART_SIZE)]
        commands[f"detect-archive, workers: {number}"] = ["detect-archive", *flags]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("few", 2), ("all", args.frames)):
            write_frames(Path(folder) / name, count)
        for name, command in commands.items():
            flags = [*command, "--runtime", "onnxruntime"]
            start_s, total_s = (
                seconds([*flags, f"{folder}/{part}", "--output", f"{folder}/{name} {part}"]) for part in ("few", "all")
            )
            after = (args.frames - 2) / (total_s - start_s)
            rows.append([name, f"{total_s:.1f}", f"{args.frames / total_s:.2f}", f"{start_s:.1f}", f"{after:.2f}"])
    print(markdown(COLUMNS, rows))


if __name__ == "__main__":
    main()

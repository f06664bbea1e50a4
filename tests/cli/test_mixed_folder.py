"""A folder of files of every format, some of them broken: a result for each whole one, a line for each broken one."""

import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 16, 24
RAW = f"{WIDTH}x{HEIGHT}:uint16le"
MIB = 2**20


def gray(seed: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (HEIGHT, WIDTH)).astype(dtype)


def pillow(mode: str, **keywords) -> Callable[[Path, int], None]:
    return lambda path, seed: Image.fromarray(gray(seed)).convert(mode).save(path, **keywords)


def of_type(dtype: type, **keywords) -> Callable[[Path, int], None]:
    return lambda path, seed: Image.fromarray(gray(seed, dtype)).save(path, **keywords)


WHOLE: dict[str, Callable[[Path, int], None]] = {
    "gray.png": pillow("L"),
    "deep.png": of_type(np.uint16),
    "rgba.png": pillow("RGBA"),
    "palette.png": pillow("P"),
    "bilevel.png": pillow("1"),
    "gray.jpg": pillow("L"),
    "cmyk.jpg": pillow("CMYK"),
    "gray.bmp": pillow("L"),
    "gray.pgm": pillow("L"),
    "deep.pgm": lambda path, seed: path.write_bytes(b"P5 24 16 16383\n" + gray(seed, np.dtype(">u2")).tobytes()),
    "gray.tif": pillow("L"),
    "lzw.tiff": of_type(np.uint16, compression="tiff_lzw"),
    "float.tif": of_type(np.float32),
    "deep.npy": lambda path, seed: np.save(path, gray(seed, np.uint16)),
    "float.npy": lambda path, seed: np.save(path, gray(seed, np.float64)),
    "deep.raw": lambda path, seed: gray(seed, np.uint16).tofile(path),
}


def cut(path: Path, image: np.ndarray, keep: float, **keywords) -> None:
    Image.fromarray(image).save(path, **keywords)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def giant_png(path: Path) -> None:
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)))


BROKEN: dict[str, Callable[[Path], object]] = {
    "truncated.png": lambda path: cut(path, gray(0), 0.6),
    "empty.bmp": lambda path: path.touch(),
    "text.jpg": lambda path: path.write_text("this is no image\n"),
    "not_a_number.tif": lambda path: Image.fromarray(np.full((HEIGHT, WIDTH), np.nan, np.float32)).save(path),
    "pickled.npy": lambda path: np.save(path, np.array([[{}]], object)),
    "giant.png": giant_png,
    "half_a_frame.raw": lambda path: path.write_bytes(bytes(HEIGHT * WIDTH)),
    "nowhere.png": lambda path: path.symlink_to(f"missing_{path.name}"),
    "cut.tif": lambda path: cut(path, gray(0, np.uint16), 0.5, compression="tiff_lzw"),
    "int64.npy": lambda path: np.save(path, gray(0, np.int64)),
}


def fill(folder: Path, num_whole: int, of_each_broken: int) -> tuple[set[str], set[str]]:
    """Writes the files; returns the names of the whole and of the broken ones."""
    folder.mkdir()
    whole, broken = set(), set()
    for number in range(num_whole):
        name, write = list(WHOLE.items())[number % len(WHOLE)]
        write(folder / f"{number:04}_{name}", number)
        whole.add(f"{number:04}_{name}")
    for copy in range(of_each_broken):
        for name, write_broken in BROKEN.items():
            number = (copy * 97 + 13 * len(broken)) % num_whole  # among the others
            write_broken(folder / f"{number:04}_{copy}_{name}")
            broken.add(f"{number:04}_{copy}_{name}")
    return whole, broken


def resident_bytes(process: subprocess.Popen) -> int:
    """Of the process, 0 when it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)


def run(folder: Path, out: Path, model: Path, errors: Path) -> tuple[int, list[tuple[int, int]]]:
    """The command; returns its exit code and (images done, resident bytes) as it ran."""
    flags = ["--raw", RAW, "--write", "csv,masks,jsonl", "--model", model, "--output", out, "--device", "cpu"]
    command = [sys.executable, "-m", "irstd_ldm.cli.main", "detect", folder, *flags]
    memory = []
    with errors.open("w") as file:
        process = subprocess.Popen(list(map(str, command)), stderr=file, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            lines = out / "detections.jsonl"
            memory.append((lines.read_bytes().count(b"\n") if lines.exists() else 0, resident_bytes(process)))
            time.sleep(0.1)
    return process.returncode, memory


def check(folder: Path, out: Path, model: Path, num_whole: int, of_each_broken: int) -> list[tuple[int, int]]:
    whole, broken = fill(folder, num_whole, of_each_broken)
    errors = out.with_suffix(".err")
    code, memory = run(folder, out, model, errors)
    *lines, last = errors.read_text().splitlines()
    assert last == f"irstd-ldm detect: {len(broken)} of {len(whole) + len(broken)} inputs failed"
    assert code == 1
    for name in broken:
        (line,) = (line for line in lines if name in line)
        assert line.startswith("irstd-ldm detect: ")
    assert len(lines) == len(broken)
    content = json.loads((out / "detections.json").read_text())
    assert {Path(image["file"]).name for image in content["images"]} == whole
    assert len(content["images"]) == num_whole
    assert {Path(failure["file"]).name for failure in content["failed"]} == broken
    assert content["complete"] is True
    assert len(list((out / "masks").iterdir())) == num_whole
    assert {(image["width"], image["height"]) for image in content["images"]} == {(WIDTH, HEIGHT)}
    return memory


def test_50_whole_files_and_10_broken_ones(tiny_checkpoint, tmp_path):
    check(tmp_path / "in", tmp_path / "out", tiny_checkpoint, 50, 1)


@pytest.mark.slow
def test_a_thousand_files_in_flat_memory(tiny_checkpoint, tmp_path):
    memory = check(tmp_path / "in", tmp_path / "out", tiny_checkpoint, 950, 5)
    if not any(resident for _, resident in memory):
        pytest.skip("the files are done; the memory needs /proc (Linux)")
    early = max(resident for done, resident in memory if 50 <= done <= 250)
    late = max(resident for done, resident in memory if done > 250)
    print(f"resident: {early / MIB:.0f} MiB at most from image 50 to 250, {late / MIB:.0f} MiB after")
    assert late - early < 16 * MIB

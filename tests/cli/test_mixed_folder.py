"""Files of every format and of many sizes, some of them broken: a result for each whole one, a line for each other."""

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
SIDES_PX = (24, 200)
NUM_SIZES = 25  # that come again and again: memory must be flat once each has come
PAGES = 2
MIB = 2**20


def size_of(seed: int) -> tuple[int, int]:
    """Height and width."""
    place = seed % NUM_SIZES
    height, width = np.linspace(*SIDES_PX, NUM_SIZES, dtype=int)[[place, place * 7 % NUM_SIZES]]
    return int(height), int(width)


def gray(seed: int, dtype: type = np.uint8, size: tuple[int, int] | None = None) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, size or size_of(seed)).astype(dtype)


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
    "deep.pgm": lambda path, seed: path.write_bytes(
        b"P5 %d %d 16383\n" % size_of(seed)[::-1] + gray(seed, np.dtype(">u2")).tobytes()
    ),
    "gray.tif": pillow("L"),
    "lzw.tiff": of_type(np.uint16, compression="tiff_lzw"),
    "float.tif": of_type(np.float32),
    "deep.npy": lambda path, seed: np.save(path, gray(seed, np.uint16)),
    "float.npy": lambda path, seed: np.save(path, gray(seed, np.float64)),
    "deep.raw": lambda path, seed: gray(seed, np.uint16, (HEIGHT, WIDTH)).tofile(path),
}


def write_pages(path: Path, seed: int) -> None:
    pages = [Image.fromarray(gray(seed, np.uint16)) for _ in range(PAGES)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


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


def fill(folder: Path, num_whole: int, num_stacks: int, of_each_broken: int) -> tuple[dict[str, int], set[str]]:
    """Writes the files; returns the whole images with the numbers that made them, and the names of the broken ones."""
    folder.mkdir()
    whole: dict[str, int] = {}
    broken: set[str] = set()
    for number in range(num_whole):
        name, write = list(WHOLE.items())[number % len(WHOLE)]
        write(folder / f"{number:04}_{name}", number)
        whole[f"{number:04}_{name}"] = number
    for copy in range(num_stacks):
        number = copy * num_whole // num_stacks  # among the others
        write_pages(folder / f"{number:04}_stack.tif", number)
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
    command = [sys.executable, "-m", "irstd_ldm.cli", "detect", folder, *flags]
    memory = []
    with errors.open("w") as file:
        process = subprocess.Popen(list(map(str, command)), stderr=file, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            lines = out / "detections.jsonl"
            memory.append((lines.read_bytes().count(b"\n") if lines.exists() else 0, resident_bytes(process)))
            time.sleep(0.1)
    return process.returncode, memory


def check(
    folder: Path, out: Path, model: Path, num_whole: int, num_stacks: int, of_each_broken: int
) -> list[tuple[int, int]]:
    whole, broken = fill(folder, num_whole, num_stacks, of_each_broken)
    errors = out.with_suffix(".err")
    code, memory = run(folder, out, model, errors)
    *lines, last = errors.read_text().splitlines()
    assert last == f"irstd-ldm detect: {len(broken)} of {len(whole) + num_stacks + len(broken)} inputs failed"
    assert code == 1
    for name in broken:
        (line,) = (line for line in lines if name in line)
        assert line.startswith("irstd-ldm detect: ")
    assert len(lines) == len(broken)
    content = json.loads((out / "detections.json").read_text())
    assert {Path(image["file"]).name for image in content["images"]} == whole.keys()
    assert len(content["images"]) == num_whole
    assert {Path(failure["file"]).name for failure in content["failed"]} == broken
    assert content["complete"] is True
    assert len(list((out / "masks").glob("*.png"))) == num_whole
    for image in content["images"]:
        name = Path(image["file"]).name
        size = (HEIGHT, WIDTH) if name.endswith(".raw") else size_of(whole[name])
        assert (image["height"], image["width"]) == size, name
    assert [(one["num_frames"], one["complete"]) for one in content["sequences"]] == [(PAGES, True)] * num_stacks
    for one in content["sequences"]:
        assert len(list((out / one["name"] / "masks").glob("*.png"))) == PAGES
    return memory


def test_50_whole_files_and_10_broken_ones(tiny_checkpoint, tmp_path):
    check(tmp_path / "in", tmp_path / "out", tiny_checkpoint, 50, 2, 1)


@pytest.mark.slow
def test_a_thousand_files_in_flat_memory(tiny_checkpoint, tmp_path):
    memory = check(tmp_path / "in", tmp_path / "out", tiny_checkpoint, 950, 20, 5)
    if not any(resident for _, resident in memory):
        pytest.skip("the files are done; the memory needs /proc (Linux)")
    early = max(resident for done, resident in memory if 50 <= done <= 250)
    late = max(resident for done, resident in memory if done > 250)
    print(f"resident: {early / MIB:.0f} MiB at most from image 50 to 250, {late / MIB:.0f} MiB after")
    assert late - early < 16 * MIB

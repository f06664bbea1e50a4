"""Reads an input of the page in a process of its own, which ends with its time and memory: `python -m` this module.

Arguments: the file, where to write what is read (.npz), the normalisation, `Limits.max_pixels` and `max_frames`.
"""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..data.readers.frame import IMAGE_ERRORS, Frame, ImageReadError
from .detection import Input, Limits, read_input

TIME_S = 20
MEMORY_BYTES = 4 * 2**30  # The address space of a reading process.


def read_apart(path: Path, limits: Limits, normalization: str, time_s: float = TIME_S) -> Input:
    """`read_input` in a process of its own.

    Raises:
        ImageReadError: the file cannot be read, or not within `time_s` and `MEMORY_BYTES`.
    """
    package = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with TemporaryDirectory() as folder:
        target = Path(folder) / "read.npz"
        values = (path, target, normalization, limits.max_pixels, limits.max_frames)
        command = [sys.executable, "-m", __name__, *map(str, values)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=time_s, env=environment)
        except subprocess.TimeoutExpired as error:
            raise ImageReadError(f"cannot read image '{path}': it takes more than {time_s:g} s") from error
        if done.returncode == 1:
            raise ImageReadError(done.stderr.strip())
        if done.returncode:
            raise ImageReadError(f"cannot read image '{path}': it takes more memory than is given")
        with np.load(target) as read:
            frames = [
                Frame(int(index), image, None if np.isnan(time) else float(time))
                for index, image, time in zip(read["index"], read["images"], read["time_s"], strict=True)
            ]
            input_range = (float(read["range"][0]), float(read["range"][1])) if read["range"].size else None
            return Input(path.name, frames, str(read["left_out"]), input_range)


def _main(path: str, target: str, normalization: str, max_pixels: str, max_frames: str) -> int:
    with suppress(ImportError):  # Windows has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        read = read_input(Path(path), Limits(int(max_pixels), int(max_frames)), normalization)
    except IMAGE_ERRORS as error:
        sys.stderr.write(str(error) or type(error).__name__)
        return 1
    np.savez(
        target,
        index=[frame.index for frame in read.frames],
        images=np.stack([frame.image for frame in read.frames]),
        time_s=[np.nan if frame.time_s is None else frame.time_s for frame in read.frames],
        range=[] if read.input_range is None else read.input_range,
        left_out=read.left_out,
    )
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))

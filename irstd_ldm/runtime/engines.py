"""What an exported graph needs without torch: a library that runs it, behind one call, and torch's noise.

torch's CPU generator draws 32-bit words from MT19937 (Matsumoto and Nishimura, 1998), seeded with the lowest 32 bits
of the seed, and makes normal numbers of them by Box and Muller's method in blocks of 16.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# (inputs by name, side of the call's tiles in pixels) -> probability (B, 1, PH, PW)
Engine = Callable[[Mapping[str, np.ndarray], int], np.ndarray]

INSTALL = "pip install irstd-ldm[export]"
_BLOCK = 16  # normal numbers that torch makes at a time: 8 radii, 8 angles


def onnxruntime_engine(path: Path, num_threads: int | None) -> Engine:
    """onnxruntime has one plan for all sizes, tiles or not. What fails in it is a RuntimeError."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"onnxruntime is not installed: {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, np.ndarray], tile_size: int) -> np.ndarray:
        try:
            return session.run(None, dict(inputs))[0]
        except Exception as error:  # onnxruntime's own have no base class in common
            raise RuntimeError(str(error)) from error

    return run


def openvino_engine(path: Path, num_threads: int | None) -> Engine:
    """OpenVINO is faster where it knows the sizes: a plan for single tiles and one for all else, made when needed."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"openvino is not installed: {INSTALL}") from error
    # Without the precision hint a processor with bfloat16 computes in it.
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if num_threads is not None:
        properties["INFERENCE_NUM_THREADS"] = num_threads
    core = openvino.Core()
    model = core.read_model(path)
    plans: dict[int | None, Any] = {}  # by the side of single tiles in pixels; None: for all else

    def run(inputs: Mapping[str, np.ndarray], tile_size: int) -> np.ndarray:
        side = tile_size if inputs["image"].shape == (1, 1, tile_size, tile_size) else None
        if side not in plans:
            planned = model
            if side is not None:
                planned = model.clone()
                planned.reshape({name: value.shape for name, value in inputs.items()})
            plans[side] = core.compile_model(planned, "CPU", properties)
        return plans[side](dict(inputs))[0]

    return run


ENGINES = {"onnxruntime": onnxruntime_engine, "openvino": openvino_engine}
READABLE = {"onnxruntime": ("onnx",), "openvino": ("openvino", "onnx")}  # formats, the runtime's own first


class TorchNoise:
    """What `torch.Generator().manual_seed(seed)` would draw.

    Args:
        seed: In [0, 2**64).
    """

    def __init__(self, seed: int):
        self._words = np.random.RandomState(seed % 2**32)  # MT19937, frozen by numpy's policy

    def integer(self, bound: int) -> int:
        """As `torch.randint(bound, (1,))`, for a bound of at least 2**32."""
        high, low = (int(word) for word in self._draw(2))
        return ((high << 32) | low) % bound

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """As `torch.randn(shape)` in float32, to 1e-6.

        Raises:
            ValueError: The shape has fewer than 16 elements; torch draws those in another way.
        """
        size = int(np.prod(shape))
        if size < _BLOCK:
            raise ValueError(f"`shape` must have at least {_BLOCK} elements, got {shape}")
        uniform = self._uniform(size)
        whole = size // _BLOCK * _BLOCK
        normal = np.empty(size, np.float32)
        normal[:whole] = _box_muller(uniform[:whole])
        if whole < size:  # the last block is drawn anew
            normal[-_BLOCK:] = _box_muller(self._uniform(_BLOCK))
        return normal.reshape(shape)

    def _draw(self, count: int) -> np.ndarray:
        return self._words.randint(0, 2**32, count, dtype=np.uint32)

    def _uniform(self, count: int) -> np.ndarray:
        """In [0, 1), of 24 bits."""
        return (self._draw(count) & np.uint32(2**24 - 1)).astype(np.float32) * np.float32(2**-24)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    blocks = uniform.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - blocks[:, 0]))
    angle = np.float32(2 * np.pi) * blocks[:, 1]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)

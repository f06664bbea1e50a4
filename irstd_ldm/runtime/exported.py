"""What an exported detector needs without torch: its description, a library that runs its graph, and torch's noise.

torch's CPU generator draws 32-bit words from MT19937 (Matsumoto and Nishimura, 1998), seeded with the lowest 32 bits
of the seed, and makes normal numbers of them by Box and Muller's method in blocks of 16.
"""

import ctypes
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ..bundled import bundled_checkpoint, is_default
from ..data.images import check_normalization
from ..extras import required

DESCRIPTION = "detector.json"
FORMAT_VERSION = 4  # 2 brought the normalisation, 3 the score threshold, 4 the sizes of each noise
CONFIG_FIELDS = {
    "calibration",
    "default_ensemble_size",
    "default_num_inference_steps",
    "default_mask_threshold",
    "default_score_threshold",
    "default_tile_overlap",
    "default_tile_size",
}
# The bundled detector as `make graph` exports it.
POSTERIOR_NOISE = "posterior_noise"  # zeros decode the posterior's mode
BUNDLED_GRAPH = bundled_checkpoint() / "exported"
MODEL_FILES = {"onnx": "model.onnx", "openvino": "model.xml"}  # OpenVINO's weights lie beside it, in model.bin
_BLOCK = 16  # normal numbers that torch makes at a time: 8 radii, 8 angles

Engine = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # inputs by name -> probability (B, 1, PH, PW)


@dataclass(frozen=True)
class ExportedDetector:
    """What `detector.json` holds."""

    format: str  #: "onnx" or "openvino"
    num_inference_steps: int  #: denoising steps of the graph
    noise: dict[str, list[int]]  #: the graph's inputs beside the image, in the order drawn: channels C, and PH / h
    config: dict[str, Any]  #: the checkpoint's defaults, calibration and normalisation, named as in its index
    model: str  #: name of the checkpoint
    version: str  #: version of the package that exported it
    quantization: dict[str, Any] | None = None  #: how the int8 values were found; None for float32
    format_version: int = FORMAT_VERSION

    def model_path(self, folder: Path) -> Path:
        return folder / MODEL_FILES[self.format]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def inputs(self, image: np.ndarray, seeds: Sequence[int], ensemble_size: int) -> dict[str, np.ndarray]:
        """The graph's inputs for images (B, PH, PW), E members of each, with noise as torch draws it.

        The image is (B*E, 1, PH, PW), each noise (B*E, C, h, w); a single member's is the posterior's mode.
        """
        inputs = {"image": np.repeat(image[:, None], ensemble_size, axis=0)}
        sources = [TorchNoise(seed) for seed in seeds]
        for name, (channels, downscale) in self.noise.items():
            shape = (ensemble_size, channels, *(side // downscale for side in image.shape[1:]))  # (E, C, h, w)
            if name == POSTERIOR_NOISE and ensemble_size == 1:
                drawn = [np.zeros(shape, np.float32) for _ in sources]
            else:
                drawn = [source.standard_normal(shape) for source in sources]
            inputs[name] = np.concatenate(drawn)
        return inputs


def read_description(folder: str | PathLike) -> ExportedDetector:
    """The description of an exported detector.

    Raises:
        OSError: A file is missing or cannot be read.
        ValueError: `detector.json` is not of this form, or of a newer version.
    """
    path = Path(folder) / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    try:
        version = content.get("format_version") if isinstance(content, dict) else None
        if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            raise ValueError(f"`format_version` must be an integer from 1 to {FORMAT_VERSION}, got {version!r}")
        content.pop("pad_multiple", None)  # earlier versions wrote it, always 32
        if "latent_channels" in content:  # earlier versions knew the latent detector alone
            channels, downscale = content.pop("latent_channels"), content.pop("latent_downscale")
            content["noise"] = {"noise": [2 * channels, downscale], POSTERIOR_NOISE: [channels, downscale]}
        description = ExportedDetector(**content)
        config = description.config
        if isinstance(config, dict) and "default_threshold" in config:  # earlier versions had one for both
            config["default_mask_threshold"] = config["default_score_threshold"] = config.pop("default_threshold")
        if not isinstance(config, dict) or not config.keys() >= CONFIG_FIELDS:
            raise ValueError(f"`config` must hold {', '.join(sorted(CONFIG_FIELDS))}, got {config!r}")
        check_normalization(config.setdefault("normalization", "range"))  # earlier versions had no other
        if description.format not in MODEL_FILES:
            raise ValueError(f"`format` must be one of {', '.join(MODEL_FILES)}, got {description.format!r}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not description.model_path(Path(folder)).is_file():
        raise FileNotFoundError(f"{folder} has no file {MODEL_FILES[description.format]}")
    return description


def is_exported(folder: str | PathLike) -> bool:
    """Whether a folder holds an exported detector."""
    return (Path(folder) / DESCRIPTION).is_file()


def fastest_runtime(
    model: str | PathLike | None, num_inference_steps: int | None = None, device: str | None = None
) -> str:
    """What `--runtime auto` runs the networks of a model in.

    An exported detector, or the bundled one (None or its name) at the steps of its graph unless a CUDA device is there
    or asked for, runs in the faster of the runtimes that are installed; all else, and all without one, in torch.
    """
    graph = BUNDLED_GRAPH if model is None or is_default(model) else Path(model)
    if not is_exported(graph):
        return "torch"
    engine = fastest_engine("onnx" if (graph / MODEL_FILES["onnx"]).is_file() else "openvino")
    if not is_default(model):
        return engine
    has_steps = num_inference_steps in (None, read_description(graph).num_inference_steps)
    on_cpu = not _has_cuda() if device is None else device == "cpu"
    return engine if has_steps and on_cpu and find_spec(engine) is not None else "torch"


def _has_cuda() -> bool:
    """Whether torch has a CUDA device; it takes seconds to import and is asked only where a driver is installed."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        import torch
    except (OSError, ModuleNotFoundError):
        return False
    return torch.cuda.is_available()


def fastest_engine(format: str) -> str:
    """The first of `ENGINES` that reads a format and is installed; where none is, the first that reads it."""
    able = [name for name in ENGINES if format in READABLE[name]]
    return next((name for name in able if find_spec(name) is not None), able[0])


def onnxruntime_engine(path: Path, num_threads: int | None) -> Engine:
    """onnxruntime has one plan for all sizes. What fails in it is a RuntimeError."""
    onnxruntime = required("onnxruntime", "runtime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        try:
            return session.run(None, dict(inputs))[0]
        except Exception as error:  # onnxruntime's own have no base class in common
            raise RuntimeError(str(error)) from error

    return run


def openvino_engine(path: Path, num_threads: int | None, precision: str = "f32") -> Engine:
    """OpenVINO has one plan for all sizes: one for each would round in another way and take seconds to make.

    A plan called from two threads at once gives one the other's result, so that calls wait for each other: its
    latency mode has one stream anyway. In `precision` ``bf16`` it rounds activations and weights to bfloat16.

    Raises:
        ValueError: The processor has no bfloat16, for which OpenVINO would take float32 and say nothing.
    """
    openvino = required("openvino")
    if precision == "bf16" and not openvino_has_bf16():
        raise ValueError("`runtime` openvino-bf16 needs a processor with bfloat16, which this one has not")
    # Without the precision hint a processor with bfloat16 computes in it.
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if num_threads is not None:
        properties["INFERENCE_NUM_THREADS"] = num_threads
    plan = openvino.Core().compile_model(path, "CPU", properties)
    lock = Lock()

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        with lock:
            return plan(dict(inputs))[0]

    return run


def openvino_has_bf16() -> bool:
    """Whether the processor computes in bfloat16 (AVX-512 or AMX), as OpenVINO finds."""
    return "BF16" in required("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


# Of those in float32 the faster one first; the others only where they are asked for.
ENGINES: dict[str, Callable[[Path, int | None], Engine]] = {
    "onnxruntime": onnxruntime_engine,
    "openvino": openvino_engine,
    "openvino-bf16": partial(openvino_engine, precision="bf16"),
}
READABLE = {  # formats, the runtime's own first
    "onnxruntime": ("onnx",),
    "openvino": ("openvino", "onnx"),
    "openvino-bf16": ("openvino", "onnx"),
}


class TorchNoise:
    """What `torch.Generator().manual_seed(seed)` would draw, for a seed in [0, 2**64)."""

    def __init__(self, seed: int):
        self._words = np.random.RandomState(seed % 2**32)  # MT19937, frozen by numpy's policy

    def integer(self, bound: int) -> int:
        """As `torch.randint(bound, (1,))`, for a bound of at least 2**32."""
        high, low = (int(word) for word in self._draw(2))
        return ((high << 32) | low) % bound

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """As `torch.randn(shape)` in float32, to 1e-6; ValueError for less than 16 numbers, drawn in another way."""
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

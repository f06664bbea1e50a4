"""The libraries that run an exported graph, each behind one call."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# (inputs by name, side of the call's tiles in pixels) -> probability (B, 1, PH, PW)
Engine = Callable[[Mapping[str, np.ndarray], int], np.ndarray]

INSTALL = "pip install irstd-ldm[export]"


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
    plans: dict[int | None, Any] = {}  # by the side of single tiles in pixels; None: of all else

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

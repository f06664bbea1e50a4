"""The libraries that run an exported graph, each behind one call."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Engine = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # inputs by name -> probability (B, 1, PH, PW)

INSTALL = "pip install irstd-ldm[export]"


def onnxruntime_engine(path: Path, num_threads: int | None, tile_size: int) -> Engine:
    """onnxruntime has one plan for all sizes; `tile_size` changes nothing. What fails in it is a RuntimeError."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"onnxruntime is not installed: {INSTALL}") from error
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


def openvino_engine(path: Path, num_threads: int | None, tile_size: int) -> Engine:
    """OpenVINO is faster where it knows the sizes: plans are made when needed, one for each side of a single square up
    to `tile_size` pixels, multiples of 32, and one for all else."""
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
    plans: dict[int | None, Any] = {}  # by the side of single squares in pixels; None: of all else

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        num_images, _, height, width = inputs["image"].shape
        side = height if num_images == 1 and height == width <= tile_size else None
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

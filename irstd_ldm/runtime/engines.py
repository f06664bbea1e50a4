"""The libraries that run an exported graph, each behind one call."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Engine = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # inputs by name -> probability (B, 1, PH, PW)

INSTALL = "pip install irstd-ldm[export]"


def onnxruntime_engine(path: Path, num_threads: int | None) -> Engine:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"onnxruntime is not installed: {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))[0]


def openvino_engine(path: Path, num_threads: int | None) -> Engine:
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"openvino is not installed: {INSTALL}") from error
    # Without the hint a processor with bfloat16 computes in it.
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if num_threads is not None:
        properties["INFERENCE_NUM_THREADS"] = num_threads
    compiled = openvino.Core().compile_model(path, "CPU", properties)
    return lambda inputs: compiled(dict(inputs))[0]


ENGINES = {"onnxruntime": onnxruntime_engine, "openvino": openvino_engine}
READABLE = {"onnxruntime": ("onnx",), "openvino": ("openvino", "onnx")}  # formats, the runtime's own first

"""Post-training quantisation of exported graphs: int8 wide convolutions, float32 for all else.

Convolutions of fewer than 32 channels on either side stay as they are: the wavelet transforms, whose 8 bits for a low
band and three detail bands together would leave the details few levels, the gates, those that read or write the
latent, and the finest level of the image encoder and of the decoder. Matrix products (attention, FAE's transform, the
time embedding), normalisations and every other operation compute in float32 too; one that shares its input with a wide
convolution reads it rounded to int8, but for means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import gray_range, network_input
from ..extras import required
from ..tiling import image_seed, pad_image, tile_windows
from .exported import ExportedDetector

NUM_CALIBRATION_IMAGES = 64
MIN_INT8_CHANNELS = 32  # fewest channels on either side; chosen by the pixels of training images that differ


@dataclass(frozen=True, eq=False)
class Calibration:
    """Images whose activations set the ranges of int8 values."""

    data: str  #: name of the data set
    images: Sequence[np.ndarray]  #: (H, W) each, as `to_gray` returns them

    def describe(self) -> dict[str, Any]:
        return {"weights": "int8", "activations": "int8", "data": self.data, "num_images": len(self.images)}


def evenly_spaced(stems: Sequence[str], count: int = NUM_CALIBRATION_IMAGES) -> list[str]:
    """A selection of at most `count` stems, evenly spaced over the list."""
    indices = np.linspace(0, len(stems) - 1, min(count, len(stems))).round().astype(int)
    return [stems[index] for index in indices]


def calibration_inputs(calibration: Calibration, description: ExportedDetector) -> list[dict[str, np.ndarray]]:
    """The graph's inputs for one tile of each image: the first of the first image, the second of the second, ..."""
    inputs = []
    for index, gray in enumerate(calibration.images):
        windows = tile_windows(
            gray.shape,
            description.config["default_tile_size"] or max(gray.shape),
            description.config["default_tile_overlap"],
        )
        normalization = description.config["normalization"]
        value_range = gray_range(gray, normalization=normalization)
        tile = pad_image(network_input(gray[windows[index % len(windows)]], value_range, normalization))  # (PH, PW)
        inputs.append(description.inputs(tile[None], [image_seed(0, index)], ensemble_size=1))
    return inputs


def quantize_onnx(path: Path, inputs: Sequence[dict[str, np.ndarray]]) -> None:
    """Makes the wide convolutions of an ONNX file int8, by pairs of QuantizeLinear and DequantizeLinear."""
    onnx, quantization = required("onnx"), required("onnxruntime.quantization")
    remaining = iter(inputs)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(remaining, None)

    graph = onnx.load(path).graph
    channels = {tensor.name: min(tensor.dims[:2]) for tensor in graph.initializer if len(tensor.dims) == 4}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    narrow = [node.name for node in convolutions if channels[node.input[1]] < MIN_INT8_CHANNELS]
    quantized = path.with_name(f"int8-{path.name}")
    quantization.quantize_static(
        path,
        quantized,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=narrow,
        per_channel=True,
        reduce_range=True,  # weights of 7 bits: processors without VNNI add two products in 16 bits, which saturate
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    model = onnx.load(quantized)
    unround_means(model.graph)
    onnx.save(model, path)
    quantized.unlink()


def unround_means(graph: Any) -> None:
    """Lets means over positions, those of channel attention, read what came before the rounding to int8.

    OpenVINO takes means over int8 values in int8 too, and what is left of them is noise.
    """
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        rounded = producers.get(node.input[0]) if node.op_type == "ReduceMean" else None
        if rounded is not None and rounded.op_type == "DequantizeLinear":
            node.input[0] = producers[rounded.input[0]].input[0]

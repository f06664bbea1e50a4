"""int8: wide convolutions and nothing else, from training images and no others."""

import argparse
import shutil

import numpy as np
import onnx
import openvino
import pytest

from irstd_ldm.cli.export import _calibration
from irstd_ldm.data.images import normalize_image, to_gray
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.runtime.detector import ExportedDetectorRunner
from irstd_ldm.runtime.exported import read_description
from irstd_ldm.runtime.quantize import calibration_inputs, evenly_spaced, quantize_onnx, unround_means
from irstd_ldm.tiling import pad_image

from ..conftest import write_scenes


@pytest.mark.parametrize(("format", "runtime"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_int8_is_near_float32(exported, pipeline, format, runtime):
    image = synthetic_scene(128, 160, seed=8).image
    expected = pipeline(image).probability
    found = ExportedDetectorRunner(exported[f"{format}-int8"], runtime)(image).probability
    difference = np.abs(found - expected)
    assert 0 < difference.mean() < 0.02


def test_the_int8_folder_is_smaller_and_says_how(exported):
    weights = {name: exported[name] / "model.bin" for name in ("openvino", "openvino-int8")}
    assert weights["openvino-int8"].stat().st_size < 0.8 * weights["openvino"].stat().st_size
    assert read_description(exported["openvino-int8"]).quantization == {
        "weights": "int8",
        "activations": "int8",
        "data": "scenes",
        "num_images": 4,
    }
    assert read_description(exported["openvino"]).quantization is None


def source_of(node: openvino.Node) -> str:
    """What a convolution or product reads: the operation before joining, scaling and shifting int8 values."""
    while node.get_type_name() in ("Concat", "Convert", "Subtract", "Multiply", "Reshape"):
        node = node.input_value(0).get_node()
    return node.get_type_name() + (f" {node.get_element_type().get_type_name()}" if not node.inputs() else "")


def test_wide_convolutions_alone_are_quantised_in_openvino(exported):
    operations = openvino.Core().read_model(exported["openvino-int8"] / "model.xml").get_ops()
    int8, float32 = [], []
    for one in operations:
        if "Convolution" in one.get_type_name():
            image, weights = (source_of(value.get_source_output().get_node()) for value in one.inputs())
            channels = min(list(one.get_input_shape(1))[-4:-2])
            (float32 if weights == "Constant f32" else int8).append((image, weights, channels))
    assert {(image, weights) for image, weights, _ in int8} == {("FakeQuantize", "Constant i8")}
    assert min(channels for *_, channels in int8) >= 32 > max(channels for *_, channels in float32)
    products = [operation for operation in operations if operation.get_type_name() == "MatMul"]
    read = {source_of(value.get_source_output().get_node()) for one in products for value in one.inputs()}
    assert "Constant f32" in read and "Constant i8" not in read


def test_wide_convolutions_alone_are_quantised_in_onnx(exported):
    """Their weights have 7 bits: of 8, sums of two products saturate on processors without VNNI."""
    int8 = onnx.TensorProto.INT8
    before, graph = (onnx.load(exported[name] / "model.onnx").graph for name in ("onnx", "onnx-int8"))
    channels = {tensor.name: min(tensor.dims[:2]) for tensor in before.initializer if len(tensor.dims) == 4}
    wide = {node.name for node in before.node if node.op_type == "Conv" and channels[node.input[1]] >= 32}
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert wide == {node.name for node in convolutions if set(node.input) <= dequantized}
    assert len(wide) < len(convolutions)
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in convolutions:
        assert node.name in wide or weights[node.input[1]] == onnx.TensorProto.FLOAT
    integers = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type == int8]
    assert max(np.abs(values.astype(int)).max() for values in integers if values.ndim == 4) == 64
    products = [name for node in graph.node if node.op_type == "MatMul" for name in node.input if name in weights]
    assert products and {weights[name] for name in products} == {onnx.TensorProto.FLOAT}


def test_means_read_what_was_not_rounded():
    """OpenVINO takes those of int8 values in int8."""
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["int8"]),
        onnx.helper.make_node("DequantizeLinear", ["int8", "scale", "zero"], ["rounded"]),
        onnx.helper.make_node("Conv", ["rounded", "weight"], ["convolved"]),
        onnx.helper.make_node("ReduceMean", ["rounded", "axes"], ["mean"]),
        onnx.helper.make_node("ReduceMean", ["convolved", "axes"], ["other"]),
    ]
    graph = onnx.helper.make_graph(nodes, "graph", [], [])
    unround_means(graph)
    assert [node.input[0] for node in graph.node] == ["image", "int8", "rounded", "image", "convolved"]


def test_quantisation_is_deterministic(exported, calibration, tmp_path):
    image = synthetic_scene(128, 160, seed=8).image
    description = read_description(exported["onnx"])
    again = shutil.copytree(exported["onnx"], tmp_path / "again")
    quantize_onnx(again / "model.onnx", calibration_inputs(calibration, description))
    first, second = (
        ExportedDetectorRunner(folder, "onnxruntime")(image).probability for folder in (exported["onnx-int8"], again)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("normalization", ["range", "robust"])
def test_the_ranges_are_those_of_normalised_images(exported, calibration, normalization):
    description = read_description(exported["onnx"])
    description.config["normalization"] = normalization
    (first, *_) = calibration_inputs(calibration, description)
    image = pad_image(normalize_image(calibration.images[0], normalization=normalization))
    np.testing.assert_array_equal(first["image"], image[None, None])


def test_evenly_spaced_stems():
    stems = [f"{number}" for number in range(10)]
    assert evenly_spaced(stems, 4) == ["0", "3", "6", "9"]
    assert evenly_spaced(stems, 20) == stems


def test_no_test_image_calibrates(tmp_path):
    write_scenes(tmp_path, {str(number): synthetic_scene(64, 64, num_targets=1, seed=number) for number in range(4)})
    (tmp_path / "train.txt").write_text("0\n1\n2\n")
    (tmp_path / "test_other.txt").write_text("1\n3\n")
    images = _calibration(argparse.Namespace(calibration=tmp_path)).images
    assert len(images) == 2
    for image, number in zip(images, (0, 2), strict=True):
        np.testing.assert_array_equal(image, to_gray(tmp_path / "images" / f"{number}.png"))

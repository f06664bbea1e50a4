"""The graph that is exported computes what the pipeline computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.runtime.detector import ExportedDetectorRunner
from irstd_ldm.runtime.export import LatentDetector, PixelDetector, export_detector, make_smaller

from .test_detector import assert_same


@pytest.mark.parametrize("steps", (1, 3))
def test_the_graph_is_the_pipeline(pipeline, steps):
    image = np.random.default_rng(0).uniform(-1, 1, (2, 128, 160)).astype(np.float32)
    noise = torch.cat([torch.randn(1, 8, 16, 20, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)])
    with torch.no_grad():
        expected = pipeline.predict_probability(image, [3, 4], steps, 1)[:, 0]  # (B, PH, PW)
        probability = LatentDetector(pipeline, steps)(
            torch.from_numpy(image)[:, None], [noise, torch.zeros(2, 4, 16, 20)]
        )
    np.testing.assert_allclose(probability[:, 0].numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scheduler", (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler))
@pytest.mark.parametrize("steps", (0, 1, 4))
def test_the_graph_is_the_pixel_pipeline(tiny_diff_pipeline, scheduler, steps):
    tiny_diff_pipeline.scheduler = scheduler.from_config(tiny_diff_pipeline.scheduler.config)
    if scheduler is DPMSolverMultistepScheduler:
        with pytest.raises(ValueError, match="`pipeline` must have a DDIMScheduler or a DDPMScheduler"):
            PixelDetector(tiny_diff_pipeline, steps)
        return
    image = np.random.default_rng(0).uniform(-1, 1, (1, 128, 160)).astype(np.float32)
    detector, drawn = PixelDetector(tiny_diff_pipeline, steps), torch.Generator().manual_seed(3)
    assert len(detector.noise) == (steps if scheduler is DDPMScheduler else min(steps, 1))
    noise = [torch.randn(1, 1, 128, 160, generator=drawn) for _ in detector.noise]
    with torch.no_grad():
        expected = tiny_diff_pipeline.predict_probability(image, [3], steps, 1)[:, 0]  # (B, PH, PW)
        probability = detector(torch.from_numpy(image)[:, None], noise)
    np.testing.assert_allclose(probability[:, 0].numpy(), expected, rtol=0, atol=1e-4)


def test_the_pixel_detector_in_onnxruntime(tiny_diff_pipeline, tmp_path):
    export_detector(tiny_diff_pipeline, tmp_path / "exported", "onnx", "tiny", num_inference_steps=2)
    detector = ExportedDetectorRunner(tmp_path / "exported", "onnxruntime", num_threads=1)
    tiny_diff_pipeline.set_progress_bar_config(disable=True)
    images = [synthetic_scene(*size, seed=1).image for size in ((150, 128), (200, 300))]
    for image in images:
        expected = tiny_diff_pipeline(image, num_inference_steps=2, ensemble_size=2, tile_size=160, seed=7)
        assert expected.uncertainty.max() > 0.1
        assert_same(detector(image, ensemble_size=2, tile_size=160, seed=7), expected)


def test_maps_that_are_added_have_one_size_by_name(onnx_folder):
    """From the names alone onnxruntime knows, for every size of image, that an addition is one of a convolution's."""
    graph = onnx.load(onnx_folder / "model.onnx").graph
    shape = {one.name: [axis.dim_param for axis in one.type.tensor_type.shape.dim[2:]] for one in graph.value_info}
    doubled = {node.output[0] for node in graph.node if node.op_type == "Resize"}
    additions = [node.input for node in graph.node if node.op_type == "Add" and doubled & set(node.input)]
    assert additions
    for first, second in additions:
        assert shape[first] == shape[second] and all(shape[first])


def test_weights_of_half_precision_are_stored_so(tmp_path):
    """A half is exact in float16 and a third is not; the product is the same, and no folder is named any more."""
    half, third = np.full((4, 4), 1 / 2, np.float32), np.full((4, 4), 1 / 3, np.float32)
    nodes = [
        onnx.helper.make_node("MatMul", names[:2], names[2:]) for names in (("x", "half", "y"), ("y", "third", "z"))
    ]
    nodes[0].metadata_props.add(key="stack_trace", value="folder/export.py")
    x, z = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 4]) for name in "xz")
    weights = [onnx.numpy_helper.from_array(half, "half"), onnx.numpy_helper.from_array(third, "third")]
    graph = onnx.helper.make_graph(nodes, "products", [x], [z], weights)
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=[opset]), tmp_path / "model.onnx")
    run = {}
    for name in ("before", "after"):
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        (run[name],) = session.run(None, {"x": np.eye(4, dtype=np.float32)})
        make_smaller(tmp_path / "model.onnx")
    np.testing.assert_array_equal(run["before"], run["after"])
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert stored == {"half_half": onnx.TensorProto.FLOAT16, "third": onnx.TensorProto.FLOAT}
    assert b"folder" not in (tmp_path / "model.onnx").read_bytes()

"""What the page reads of a file, and how much work it does for one."""

import numpy as np
import pytest

from irstd_ldm.app.detection import Input, Limits, read_input
from irstd_ldm.app.reading import read_apart
from irstd_ldm.data.images import robust_range_of_values
from irstd_ldm.data.readers.frame import Frame, ImageReadError
from irstd_ldm.pipelines.pipeline_irstd_latent import IRSTDLatentPipeline

gr = pytest.importorskip("gradio")


def test_a_long_stack_is_cut_and_says_so(tmp_path):
    np.save(tmp_path / "long.npy", np.zeros((9, 64, 64), np.uint8))
    read = read_input(tmp_path / "long.npy", Limits(max_frames=4), "range")
    assert len(read.frames) == 4 and read.left_out.startswith("the first 4 frames")
    read = read_input(tmp_path / "long.npy", Limits(max_pixels=3 * 64 * 64), "range")
    assert len(read.frames) == 3 and read.left_out.startswith("the first 3 frames")
    assert read_input(tmp_path / "long.npy", Limits(), "range").left_out == ""


@pytest.mark.parametrize("name", ["long.npy", "long.mkv"])
def test_frames_beyond_the_limit_change_nothing(tmp_path, name):
    """The frames after the fourth are much brighter, and would set the range if they were read."""
    images = np.full((40, 64, 64), 1000, np.uint16)
    images[:4] += 10 * np.arange(64, dtype=np.uint16)
    images[20:] = 60000
    if name == "long.npy":
        np.save(tmp_path / name, images)
    else:
        av = pytest.importorskip("av")
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.height, stream.width, stream.pix_fmt = 64, 64, "gray16le"
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray16le")))
            container.mux(stream.encode())
    read = read_input(tmp_path / name, Limits(max_frames=4), "range")
    assert len(read.frames) == 4
    assert read.input_range == pytest.approx((1000, 1630), abs=5)


def test_bytes_have_a_range_for_a_robust_detector(tmp_path):
    images = np.random.default_rng(0).integers(10, 50, (5, 64, 64), np.uint8)
    np.save(tmp_path / "stack.npy", images)
    assert read_input(tmp_path / "stack.npy", Limits(), "range").input_range is None
    read = read_input(tmp_path / "stack.npy", Limits(max_frames=4), "robust")
    assert read.input_range == robust_range_of_values(images[:4].ravel())


def test_work_beyond_the_limit_is_refused(tiny_pipeline):
    from irstd_ldm.app.detection import Settings
    from irstd_ldm.app.handlers import Handlers

    handlers = Handlers(tiny_pipeline, "tiny", Limits(max_passes_px=64 * 64 * 6))
    read = Input("a.png", [Frame(0, np.zeros((64, 64), np.uint8), None)])
    detection, *_ = handlers._detect(read, Settings(2, 3, "white-hot"), gr.Progress())
    assert len(detection.frames) == 1
    with pytest.raises(gr.Error, match="must be at most 6 for an input of this size, got 8"):
        handlers._detect(read, Settings(2, 4, "white-hot"), gr.Progress())


def test_sliders_hold_the_defaults_of_a_checkpoint(tiny_pipeline):
    from irstd_ldm.app.page import build_page

    many = IRSTDLatentPipeline(**tiny_pipeline.components, default_num_inference_steps=50, default_ensemble_size=32)
    blocks = build_page(many, "many").blocks.values()
    sliders = {block.elem_id: block for block in blocks if isinstance(block, gr.Slider)}
    assert (sliders["steps"].value, sliders["steps"].maximum) == (50, 50)
    assert (sliders["ensemble"].value, sliders["ensemble"].maximum) == (32, 32)


def test_a_file_is_read_in_a_process_that_ends_with_its_time(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 4000, (3, 64, 80), np.uint16))
    here, apart = (read(tmp_path / "a.npy", Limits(), "robust") for read in (read_input, read_apart))
    assert (apart.name, apart.left_out, apart.input_range) == (here.name, here.left_out, here.input_range)
    for one, other in zip(apart.frames, here.frames, strict=True):
        assert (one.index, one.time_s) == (other.index, other.time_s) and (one.image == other.image).all()
    with pytest.raises(ImageReadError, match=r"cannot read image '.*a\.npy': it takes more than 0\.01 s"):
        read_apart(tmp_path / "a.npy", Limits(), "robust", time_s=0.01)
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ImageReadError, match=r"cannot read image '.*broken\.npy'"):
        read_apart(tmp_path / "broken.npy", Limits(), "robust")

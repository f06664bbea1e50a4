"""What runs on a GPU equals the CPU's within the bounds below: `pytest -m gpu tests/test_gpu.py`.

Each test runs on CUDA, where there is one, and on a CPU in its place, so that it cannot rot.
"""

import copy
import json
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from irstd_ldm import GaussianAgnosticPipeline, IRSTDDiffPipeline, IRSTDLatentPipeline
from irstd_ldm.cli.model import compile_networks
from irstd_ldm.data.folder import write_stem_list
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.models.configurations import GENERATOR_CONFIGURATIONS
from irstd_ldm.runtime.export import export_detector
from irstd_ldm.training.train_controlnet import ControlNetTask
from irstd_ldm.training.train_image_unet import ImageUNetTask
from irstd_ldm.training.train_latent import LatentTask
from irstd_ldm.training.train_latent import make_scheduler as make_latent_scheduler
from irstd_ldm.training.train_mask_vae import MaskVAETask
from irstd_ldm.training.train_pixel import PixelSettings, PixelTask
from irstd_ldm.training.train_pixel import make_scheduler as make_pixel_scheduler
from irstd_ldm.training.train_restoration import RestorationTask

from .conftest import write_scenes

# Largest difference to the CPU's float32 of a probability or a gray value in [0, 1]; float32 is without TF32.
BOUNDS = {"float32": 1e-3, "tf32": 1e-2, "float16": 2e-2, "bfloat16": 1e-1}
LOSS_BOUND = {"no": 1e-2, "fp16": 5e-2, "bf16": 5e-2}  # relative, of the loss after three steps
DETECTORS = ("latent", "lgldnet", "diff", "irstd_diff")
TRAINERS = {"mask_vae": MaskVAETask, "latent": LatentTask, "pixel": PixelTask, "restoration": RestorationTask}


def cases(names, quick=()):
    """Each name on CUDA, and on a CPU in its place: the `quick` ones in every run of the tests, others in the slow."""
    on_cuda = [pytest.param("cuda", name, marks=pytest.mark.gpu) for name in names]
    on_cpu = [pytest.param("cpu", name, marks=[] if name in quick else pytest.mark.slow) for name in names]
    return pytest.mark.parametrize(("device", "name"), on_cuda + on_cpu, indirect=["device"])


@pytest.fixture
def device(request, monkeypatch) -> str:
    """A device on which float32 is float32."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return request.param


@pytest.fixture
def make_detector(narrow_networks_of, tiny_pipeline, tiny_diff_pipeline):
    """A detector by its name: the small ones, and the published ones at a few channels."""

    def make(name: str):
        if name == "lgldnet":
            vae, unet, encoder = copy.deepcopy(narrow_networks_of(name))
            pipe = IRSTDLatentPipeline(vae, unet, encoder, make_latent_scheduler(), normalization="robust")
        elif name == "irstd_diff":
            encoder, unet = copy.deepcopy(narrow_networks_of(name))
            scheduler = make_pixel_scheduler(PixelSettings(train_data_dir="", output_dir="", model=name))
            pipe = IRSTDDiffPipeline(unet, encoder, scheduler)
        else:
            pipe = {"latent": tiny_pipeline, "diff": tiny_diff_pipeline}[name]
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [synthetic_scene(128, 128, num_targets=2, scr=8.0, seed=seed).image for seed in range(3)]


def difference(first, second) -> float:
    """The largest, of probabilities and, where there are any, of uncertainties."""
    assert first.probability.dtype == np.float32
    pairs = [(first.probability, second.probability), (first.uncertainty, second.uncertainty)]
    return max(float(np.abs(one - other).max()) for one, other in pairs if one is not None)


@cases(DETECTORS, quick=["latent", "diff"])
def test_a_detector_equals_the_cpus(device, make_detector, scenes, name):
    pipe = make_detector(name)
    expected = pipe(scenes, num_inference_steps=2)
    assert difference(pipe.to(device)(scenes, num_inference_steps=2), expected) < BOUNDS["float32"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@cases(DETECTORS, quick=["latent"])
def test_half_precision_is_near_float32(device, make_detector, scenes, name, dtype):
    pipe = make_detector(name)
    expected = pipe(scenes[0])
    assert difference(pipe.to(device, getattr(torch, dtype))(scenes[0]), expected) < BOUNDS[dtype]


@cases(DETECTORS)
def test_tf32_is_near_float32(device, make_detector, scenes, name, monkeypatch):
    pipe = make_detector(name)
    expected = pipe(scenes)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert difference(pipe.to(device)(scenes), expected) < BOUNDS["tf32"]


@cases(DETECTORS, quick=["latent"])
def test_offloaded_networks_equal_the_cpus(device, make_detector, scenes, name):
    pipe = make_detector(name)
    expected = pipe(scenes[0])
    pipe.enable_model_cpu_offload(device=device)
    for _ in range(2):  # the hooks are set anew after each call
        assert difference(pipe(scenes[0]), expected) < BOUNDS["float32"]
    assert pipe.unet.device.type == "cpu"


@cases(["latent", "diff"], quick=["latent"])
def test_a_device_map_places_the_networks(device, tiny_checkpoint, tiny_diff_checkpoint, scenes, name):
    cls, folder = IRSTDLatentPipeline, tiny_checkpoint
    if name == "diff":
        cls, folder = IRSTDDiffPipeline, tiny_diff_checkpoint
    pipe = cls.from_pretrained(folder, device_map=device)
    assert pipe.unet.device.type == device
    assert difference(pipe(scenes[0]), cls.from_pretrained(folder)(scenes[0])) < BOUNDS["float32"]


@cases(["latent", "diff"], quick=["latent"])
def test_a_cpus_generator_gives_the_same_on_any_device(device, make_detector, scenes, name):
    pipe = make_detector(name)
    run = partial(pipe, scenes[0], ensemble_size=2)
    expected = run(generator=torch.Generator().manual_seed(3))
    pipe.to(device)
    assert difference(run(generator=torch.Generator().manual_seed(3)), expected) < BOUNDS["float32"]


@cases(["latent", "diff"], quick=["diff"])
def test_a_devices_generator_repeats_itself(device, make_detector, scenes, name):
    pipe = make_detector(name).to(device)
    first, again, other = (pipe(scenes[0], generator=torch.Generator(device).manual_seed(n)) for n in (3, 3, 4))
    assert difference(first, again) < 1e-5 < difference(first, other)


@cases(["latent", "diff"], quick=["latent"])
def test_an_ensemble_equals_the_cpus(device, make_detector, scenes, name):
    pipe = make_detector(name)
    expected = pipe(scenes[0], ensemble_size=3)
    found = pipe.to(device)(scenes[0], ensemble_size=3)
    assert found.uncertainty.max() > 0 and difference(found, expected) < BOUNDS["float32"]


@cases(["latent", "diff"], quick=["latent"])
def test_tiles_in_batches_equal_the_cpus(device, make_detector, name):
    pipe = make_detector(name)
    scene = synthetic_scene(160, 288, seed=5).image
    run = partial(pipe, scene, tile_size=128, tile_overlap=32)
    expected = run(batch_size=1)
    pipe.to(device)
    for batch_size in (1, 4):
        assert difference(run(batch_size=batch_size), expected) < BOUNDS["float32"]


@cases(["latent"])
def test_a_graph_exported_from_the_device_equals_the_cpus(device, make_detector, scenes, name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pipe = make_detector(name)
    inputs = np.stack([scene / np.float32(127.5) - 1 for scene in scenes])
    with torch.no_grad():
        expected = pipe.predict_probability(inputs, [0, 1, 2], 1, 1)
    described = export_detector(pipe.to(device), tmp_path / "onnx", "onnx", model="narrow")
    available = {"CPUExecutionProvider", "CUDAExecutionProvider"} & {*onnxruntime.get_available_providers()}
    for provider in available:
        session = onnxruntime.InferenceSession(described.model_path(tmp_path / "onnx"), providers=[provider])
        (found,) = session.run(None, described.inputs(inputs, [0, 1, 2], 1))
        assert np.abs(found - expected).max() < BOUNDS["tf32"], provider


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory) -> Path:
    """Six scenes of 128x128 in the field's layout."""
    scenes = {str(seed): synthetic_scene(128, 128, num_targets=2, scr=8.0, seed=seed) for seed in range(6)}
    root = write_scenes(tmp_path_factory.mktemp("data") / "own", scenes)
    write_stem_list(root / "train.txt", scenes)
    return root


@pytest.fixture
def last_loss(data_folder, tiny_checkpoint, tiny_diff_checkpoint, tmp_path, monkeypatch):
    """Train for a few steps on a device; returns the loss of the last one."""
    small = GENERATOR_CONFIGURATIONS["gaussian_agnostic_small"]
    narrow = {"embed_dim": 8, "depths": (1,), "num_heads": (2,), "window_size": 4}
    unet = {"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2}
    parts = {"restoration": small["restoration"] | narrow, "vae": small["vae"], "unet": small["unet"] | unet}
    monkeypatch.setitem(GENERATOR_CONFIGURATIONS, "gaussian_agnostic_small", parts)
    starts = {LatentTask: tiny_checkpoint, PixelTask: tiny_diff_checkpoint}
    threads = torch.get_num_threads()

    def run(task, device: str, name: str = "run", **changes) -> float:
        settings = {"train_data_dir": str(data_folder), "output_dir": str(tmp_path / device / name)}
        settings |= {"val_fraction": 0.0, "resolution": 64, "train_batch_size": 2, "max_train_steps": 3}
        settings |= {"lr_warmup_steps": 1, "checkpointing_steps": 100, "num_cpu_threads": 1, "report_to": None}
        if hasattr(task.settings_class, "statistics_crops"):
            settings["statistics_crops"] = 2
        if task in starts:
            settings["pretrained_model_name_or_path"] = str(starts[task])
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", device)
        AcceleratorState._reset_state(reset_partial_state=True)
        task.run(task.settings_class(**settings | changes))
        return json.loads((tmp_path / device / name / "losses.jsonl").read_text().splitlines()[-1])["loss"]

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)


@cases(TRAINERS, quick=["latent"])
def test_a_trainer_equals_the_cpus(device, last_loss, name):
    expected = last_loss(TRAINERS[name], "cpu", "reference")
    assert last_loss(TRAINERS[name], device) == pytest.approx(expected, rel=LOSS_BOUND["no"])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@cases(["latent", "pixel"])
def test_a_trainer_in_half_precision_is_near_float32(device, last_loss, name, precision):
    if (device, precision) == ("cpu", "fp16"):
        pytest.skip("accelerate has fp16 on GPUs alone")
    expected = last_loss(TRAINERS[name], "cpu", "reference")
    found = last_loss(TRAINERS[name], device, mixed_precision=precision)
    assert found == pytest.approx(expected, rel=LOSS_BOUND[precision])


@cases(["latent", "pixel"])
def test_a_resumed_run_is_near_an_uninterrupted_one(device, last_loss, name, tmp_path):
    whole = last_loss(TRAINERS[name], device, "whole", checkpointing_steps=2)
    middle = tmp_path / device / "whole" / "checkpoint-2"
    resumed = last_loss(TRAINERS[name], device, "resumed", resume_from_checkpoint=str(middle))
    assert resumed == (whole if device == "cpu" else pytest.approx(whole, rel=LOSS_BOUND["no"]))


@cases(TRAINERS)
def test_steps_do_not_wait_for_the_device(device, last_loss, name):
    """Runs of 3 and of 9 steps wait equally often: at the start, for the first look at the losses, and at the end."""

    def waits(steps: int) -> int:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            try:
                last_loss(TRAINERS[name], device, f"{steps}", max_train_steps=steps)
            finally:
                if device == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing CUDA operation" in str(one.message) for one in caught)

    last_loss(TRAINERS[name], device)  # sets up the device's libraries
    assert waits(3) == waits(9)


@cases(["generator"])
def test_the_generators_trainers_and_pipeline_equal_the_cpus(device, last_loss, scenes, name, tmp_path):
    def train_all(where: str) -> list[float]:
        unet, restoration = (str(tmp_path / where / part) for part in ("unet", "restoration"))
        return [
            last_loss(RestorationTask, where, "restoration"),
            last_loss(ImageUNetTask, where, "unet"),
            last_loss(
                ControlNetTask, where, "all", restoration=restoration, pretrained_model_name_or_path=unet,
            ),
        ]  # fmt: skip

    expected = train_all("cpu")
    if device == "cuda":
        assert train_all("cuda") == pytest.approx(expected, rel=LOSS_BOUND["no"])
    pipe = GaussianAgnosticPipeline.from_pretrained(tmp_path / "cpu" / "all")
    pipe.set_progress_bar_config(disable=True)
    images = [np.stack(pipe.to(where)(scenes, num_inference_steps=2).images) for where in ("cpu", device)]
    assert np.abs(images[0] - images[1]).max() < BOUNDS["tf32"]


@cases(["latent", "diff"])
def test_compiled_networks_equal_the_cpus(device, make_detector, scenes, name):
    pipe = make_detector(name)
    expected = pipe(scenes[0])
    compile_networks(pipe.to(device))
    assert difference(pipe(scenes[0]), expected) < BOUNDS["float32"]


@cases(["latent", "pixel"])
def test_a_compiled_trainer_equals_the_cpus(device, last_loss, name):
    expected = last_loss(TRAINERS[name], "cpu", "reference")
    assert last_loss(TRAINERS[name], device, compile=True) == pytest.approx(expected, rel=LOSS_BOUND["no"])

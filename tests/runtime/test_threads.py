"""One exported detector called from several threads, copied to other processes, used in forked workers."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.runtime.detector import ExportedDetectorRunner

NUM_THREADS = 16
SETTINGS = [{}, {"ensemble_size": 2}, {"tile_size": 128}, {"tile_size": 128, "batch_size": 2, "tile_overlap": 64}]
IMAGES = [synthetic_scene(128, width, seed=width, num_targets=1).image for width in (128, 160, 192)]


@pytest.fixture(scope="module", params=[("onnx", "onnxruntime"), ("openvino", "openvino")], ids=lambda pair: pair[1])
def runner(request, exported) -> ExportedDetectorRunner:
    format, runtime = request.param
    return ExportedDetectorRunner(exported[format], runtime, num_threads=1)


def call(runner: ExportedDetectorRunner, number: int) -> np.ndarray:
    settings = SETTINGS[number % len(SETTINGS)]
    return runner(IMAGES[number % len(IMAGES)], seed=number % 5, **settings).probability


def assert_alone_and_together(runner: ExportedDetectorRunner, num_calls: int) -> None:
    numbers = [number % 60 for number in range(NUM_THREADS * num_calls)]
    alone = {number: call(runner, number) for number in set(numbers)}
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        together = pool.map(lambda number: call(runner, number), numbers)
        for number, probability in zip(numbers, together, strict=True):
            np.testing.assert_array_equal(probability, alone[number])


def test_sixteen_threads(runner):
    assert_alone_and_together(runner, num_calls=5)


@pytest.mark.slow
def test_sixteen_threads_of_200_calls(runner):
    assert_alone_and_together(runner, num_calls=200)


def test_a_copy_in_another_process(runner, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a relative folder would be looked for here
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(runner, IMAGES[0], **SETTINGS[3]).result()
    np.testing.assert_array_equal(there.probability, runner(IMAGES[0], **SETTINGS[3]).probability)


class Detected(Dataset):
    """Detects in the worker that is asked for an item."""

    def __init__(self, runner: ExportedDetectorRunner):
        self.runner = runner

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> np.ndarray:
        return call(self.runner, index)


def test_forked_workers(runner):
    dataset = Detected(runner)
    alone = [dataset[index] for index in range(len(dataset))]
    loader = DataLoader(dataset, None, num_workers=2, multiprocessing_context="fork", timeout=60)
    if "model.xml" in {path.name for path in runner.files}:  # where it would wait forever
        with pytest.raises(RuntimeError, match="OpenVINO does not run in a forked process"):
            next(iter(loader))
        return
    for there, here in zip(loader, alone, strict=True):
        np.testing.assert_array_equal(there, here)

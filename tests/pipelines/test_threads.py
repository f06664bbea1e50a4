"""One pipeline called from several threads, copied to other processes, used in forked workers: each gives its own."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from irstd_ldm import GaussianAgnosticPipeline, IRSTDDiffPipeline, IRSTDLatentPipeline
from irstd_ldm.data.synthetic import synthetic_scene

from ..conftest import make_tiny_diff_pipeline, make_tiny_pipeline
from .test_gaussian_agnostic import make_pipeline as make_generator

NUM_THREADS = 16
Pipeline = IRSTDLatentPipeline | IRSTDDiffPipeline | GaussianAgnosticPipeline
# Side by side: other numbers of steps, members, tiles and other images.
SETTINGS = [
    {"num_inference_steps": 1},
    {"num_inference_steps": 4, "ensemble_size": 2},
    {"num_inference_steps": 2, "tile_size": 128},
    {"num_inference_steps": 3, "batch_size": 2, "tile_size": 128, "tile_overlap": 64},
]
GENERATED = [{"num_inference_steps": 4, "strength": 0.5}, {"num_inference_steps": 2}, {"num_inference_steps": 3}]
IMAGES = [synthetic_scene(128, width, seed=width, num_targets=1).image for width in (128, 160)]


@pytest.fixture(scope="module", autouse=True)
def one_thread_each() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def call(pipeline: Pipeline, number: int) -> np.ndarray:
    """The arrays of a call whose settings and image depend on its number."""
    image = IMAGES[number % len(IMAGES)]
    generator = torch.Generator().manual_seed(number % 5)
    if isinstance(pipeline, GaussianAgnosticPipeline):
        settings = GENERATED[number % len(GENERATED)]
        return np.stack(pipeline(image[:64, :64], generator=generator, **settings).images)
    return pipeline(image, generator=generator, **SETTINGS[number % len(SETTINGS)]).probability


def assert_alone_and_together(pipeline: Pipeline, num_calls: int) -> None:
    pipeline.set_progress_bar_config(disable=True)
    different = len(IMAGES) * 5 * len(SETTINGS) * len(GENERATED)
    numbers = [number % different for number in range(NUM_THREADS * num_calls)]
    alone = {number: call(pipeline, number) for number in set(numbers)}
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        together = pool.map(lambda number: call(pipeline, number), numbers)
        for number, arrays in zip(numbers, together, strict=True):
            np.testing.assert_array_equal(arrays, alone[number])


MAKERS = [make_tiny_pipeline, make_tiny_diff_pipeline, make_generator]


@pytest.mark.parametrize("make", MAKERS)
def test_sixteen_threads(make: Callable[[], Pipeline]):
    assert_alone_and_together(make(), num_calls=2)


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS)
def test_sixteen_threads_of_200_calls(make: Callable[[], Pipeline]):
    assert_alone_and_together(make(), num_calls=200)


def test_a_copy_in_another_process():
    pipeline = make_tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        there = pool.submit(pipeline, IMAGES[1], **SETTINGS[1]).result()
    np.testing.assert_array_equal(there.probability, pipeline(IMAGES[1], **SETTINGS[1]).probability)


class Detected(Dataset):
    """Detects in the worker that is asked for an item."""

    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> np.ndarray:
        return call(self.pipeline, 4 * index)


def test_forked_workers():
    pipeline = make_tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    dataset = Detected(pipeline)
    alone = [dataset[index] for index in range(len(dataset))]
    loader = DataLoader(dataset, None, num_workers=2, multiprocessing_context="fork")
    for there, here in zip(loader, alone, strict=True):
        np.testing.assert_array_equal(there, here)

"""The scripts do what their tables say."""

import argparse
import shutil
import sys

import ablate
import archive_throughput
import benchmark
import pytest
import torch

from irstd_ldm.data.folder import Sample
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.evaluation.counts import count_image
from irstd_ldm.runtime.exported import BUNDLED_GRAPH


@pytest.fixture
def samples() -> list[Sample]:
    scenes = [synthetic_scene(96, width, num_targets=1, scr=8.0, seed=seed) for seed, width in ((0, 96), (1, 300))]
    return [Sample(f"scene{number}", scene.image, scene.mask) for number, scene in enumerate(scenes)]


def test_the_ablation_scores_the_pipeline_as_it_is_shipped(tiny_pipeline, samples):
    expected = [count_image(tiny_pipeline(sample.image).mask[0, 0], sample.mask) for sample in samples]
    assert ablate.score(tiny_pipeline, samples) == expected


def test_the_ablation_exchanges_the_posterior_of_every_tile(tiny_pipeline, samples):
    recorded = ablate.record_variables(tiny_pipeline, samples)
    assert [len(tiles) for tiles in recorded] == [1, 2]
    calls = []

    def exchange(number, tile, latents):
        assert torch.equal(latents, recorded[number][tile])
        calls.append((number, tile))
        return torch.zeros_like(latents)

    ablate.score(tiny_pipeline, samples, exchange)
    assert calls == [(0, 0), (1, 0), (1, 1)]


def test_the_true_posterior_has_the_grid_of_the_predicted_one(tiny_pipeline, samples):
    recorded = ablate.record_variables(tiny_pipeline, samples)
    for sample, tiles in zip(samples, recorded, strict=True):
        for tile, predicted in enumerate(tiles):
            assert ablate.true_variables(tiny_pipeline, sample.mask, tile).shape == predicted.shape


def test_the_clock_is_the_reference_stack():
    net = benchmark.clock_net()
    convolutions = [layer for layer in net if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == 12
    sides = [256, 256, 256, 128, 128, 128, 64, 64, 64, 32, 32, 32]
    macs = sum(layer.weight.numel() * side**2 for layer, side in zip(convolutions, sides, strict=True))
    assert macs == pytest.approx(1.44e9, rel=0.01)


def run_benchmark(monkeypatch, capsys, *arguments: object) -> list[str]:
    """The lines that the script prints."""
    flags = ["--sizes", "160x128", "--rounds", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments), *flags])
    threads = torch.get_num_threads()
    try:
        benchmark.main()
    finally:
        torch.set_num_threads(threads)
    return capsys.readouterr().out.splitlines()


def test_the_benchmark_of_random_weights(capsys, monkeypatch):
    first, _, _, *rows = run_benchmark(monkeypatch, capsys, "--random", "lgldnet_small")
    assert first == "batch 1, steps 1, tiles of at most 256 px, torch on cpu, 1 threads"
    assert [row.split(" | ")[1] for row in rows] == ["torch", "encoder", "denoiser", "decoder", "networks"]
    assert all(row.endswith("| - | - |") for row in rows)


def test_the_benchmark_runs_detect(tiny_diff_checkpoint, capsys, monkeypatch):
    _, head, _, row = run_benchmark(monkeypatch, capsys, "--model", tiny_diff_checkpoint)
    assert head == "| image | runtime | ms | clocks | frames/s | `detect`, MiB | `detect`, s |"
    *names, ms, clocks, frames, mib, seconds = row.strip("| ").split(" | ")
    assert names == ["160x128", "torch"]
    assert float(ms) * float(frames) == pytest.approx(1000, rel=0.1) and float(clocks) > 0
    assert float(mib) > 100 and float(seconds) > 1


def test_two_exports_of_one_kind_have_a_row_each(tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "READABLE", {"onnxruntime": ("onnx",)})
    again = shutil.copytree(BUNDLED_GRAPH, tmp_path / "again")
    args = argparse.Namespace(model=None, random=None, device="cpu", compile=False, exported=[BUNDLED_GRAPH, again])
    name = "onnxruntime, onnx float32"
    assert [*benchmark.detectors(args, tiny_pipeline)] == ["torch", name, f"{name}, {again}"]


def test_the_throughput_has_a_line_for_each_precision_size_and_batch(tiny_pipeline, tiny_diff_pipeline, monkeypatch):
    monkeypatch.setattr(benchmark, "SIZES", ((64, 96),))
    monkeypatch.setattr(benchmark, "MODES", benchmark.MODES[:2])  # compilation takes a minute
    for pipe in (tiny_pipeline, tiny_diff_pipeline):
        lines = list(benchmark.throughput(pipe, rounds=1))
        assert [line.split()[:3] for line in lines[1:]] == [
            [precision, "96x64", batch] for precision in ("float32", "bfloat16") for batch in ("1", "16")
        ]
        for line in lines[1:]:
            ms, per_second, peak = map(float, line.split()[3:])
            assert per_second == pytest.approx(1e3 * int(line.split()[2]) / ms, rel=0.1) and peak > 0


def test_subjects_are_timed_in_turns():
    calls = []
    subjects = {name: lambda name=name: calls.append(name) for name in "ab"}
    measured = benchmark.in_turns(subjects, torch.device("cpu"), rounds=2)
    assert calls == ["a", "b"] * 5  # three warm-ups, two rounds
    assert set(measured) == {"a", "b"} and all(0 < value < 1 for value in measured["a"])


@pytest.mark.slow
def test_the_rates_of_an_archive(monkeypatch, capsys):
    # The frames take longer than starts of Ray differ by, a second.
    monkeypatch.setattr(sys, "argv", ["archive_throughput.py", "--frames", "80", "--workers", "1"])
    archive_throughput.main()
    *_, detect, one = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert detect[0] == "detect" and one[0] == "detect-archive, workers: 1"
    assert all(float(row[1]) > float(row[3]) > 0 for row in (detect, one))

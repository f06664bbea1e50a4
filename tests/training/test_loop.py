import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset

from irstd_ldm.training.loop import StepSampler, Task, step_generator, train
from irstd_ldm.training.runs import is_finished, keep_until, list_checkpoints
from irstd_ldm.training.settings import TrainSettings, parse_plan


class Points(Dataset):
    """Item k is drawn from k alone; (4,) float32."""

    def __getitem__(self, k):
        return {"x": torch.randn(4, generator=torch.Generator().manual_seed(k))}


class Regression(Task):
    """The smallest task: a linear map learns the sum of its input."""

    headline = "iou"

    def __init__(self, factor=1.0):
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1)
        self.factor = factor
        self.seen = []

    def loss(self, model, batch, step, generator):
        self.seen.append(step)
        noise = 0.01 * torch.randn(len(batch["x"]), generator=generator)
        distance = (model(batch["x"])[:, 0] - batch["x"].sum(1) + noise) * self.factor
        return (distance**2).mean(), {"iou": torch.zeros(())}

    def validate(self):
        raise AssertionError("there are no validation images")

    def save_pretrained(self, folder):
        torch.save(self.model.state_dict(), folder / "model.pt")


@pytest.fixture
def settings(tmp_path):
    def make(**changes):
        values = {
            "train_data_dir": "data",
            "output_dir": str(tmp_path / "run"),
            "val_fraction": 0.0,
            "train_batch_size": 3,
            "max_train_steps": 9,
            "checkpointing_steps": 2,
            "learning_rate": 0.05,
            "lr_warmup_steps": 0,
            "num_cpu_threads": 1,
            "report_to": None,
        }
        return TrainSettings(**values | changes)

    return make


def names(folder):
    return [path.name for path in list_checkpoints(folder)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_processes_of_a_step_share_its_items(world):
    samplers = [list(StepSampler(0, 5, 4, rank, world)) for rank in range(world)]
    assert all(len(items) == 5 * 4 == len(StepSampler(0, 5, 4, 0, world)) for items in samplers)
    assert sorted(sum(samplers, [])) == list(range(5 * 4 * world))
    for step in range(5):
        of_step = sum((items[step * 4 : step * 4 + 4] for items in samplers), [])
        assert of_step == list(range(step * 4 * world, (step + 1) * 4 * world))


def test_a_resumed_sampler_is_the_tail_of_a_whole_one():
    for rank in range(2):
        whole = list(StepSampler(0, 10, 3, rank, 2))
        assert list(StepSampler(7, 10, 3, rank, 2)) == whole[7 * 3 :]


def test_a_steps_randomness_depends_on_seed_step_and_rank():
    draws = {
        key: tuple(torch.randn(3, generator=step_generator(*key)).tolist())
        for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    assert len(set(draws.values())) == 4
    assert tuple(torch.randn(3, generator=step_generator(0, 1, 0)).tolist()) == draws[0, 1, 0]


def test_checkpoints_are_pruned_to_the_limit(settings, tmp_path):
    train(settings(checkpoints_total_limit=2), Regression(), Points(), {})
    assert names(tmp_path / "run") == ["checkpoint-8", "checkpoint-9"]
    assert not list((tmp_path / "run").glob("partial-*"))


def test_only_complete_checkpoints_are_listed_oldest_first(tmp_path):
    partial = ("partial-checkpoint-12", "partial-checkpoint-8-old")
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-final", *partial):
        (tmp_path / name).mkdir()
    assert names(tmp_path) == ["checkpoint-9", "checkpoint-10"]


def test_it_learns_and_logs(settings, tmp_path):
    task = Regression()
    train(settings(max_train_steps=200, checkpointing_steps=200, use_ema=False), task, Points(), {})
    assert torch.allclose(task.model.weight, torch.ones(1, 4), atol=0.05)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["num_processes"], run["device"], run["num_cpu_threads"], run["first_step"]) == (1, "cpu", 1, 0)
    assert len(run["weights_sha256"]) == 1
    saved = parse_plan(TrainSettings, ["--config", str(tmp_path / "run" / "settings.yaml")]).stages[0]
    assert saved == settings(max_train_steps=200, checkpointing_steps=200, use_ema=False)


def test_the_moving_average_is_saved(settings, tmp_path):
    task = Regression()
    train(settings(ema_decay=0.5), task, Points(), {})
    saved = torch.load(tmp_path / "run" / "model.pt")["weight"]
    shadow = load_file(tmp_path / "run" / "checkpoint-9" / "average.safetensors")["module.weight"]
    assert torch.equal(saved, shadow) and not torch.equal(saved, task.model.weight)


def test_minutes_end_a_run_and_its_schedule(settings, tmp_path):
    run = settings(max_train_steps=10**6, max_train_minutes=0.02, checkpointing_steps=10**6)
    train(run, Regression(), Points(), {})
    records = [json.loads(line) for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    rates = [record["learning_rate"] for record in records]
    assert rates == sorted(rates, reverse=True) and rates[0] > 0.9 * 0.05 and rates[-1] < 0.1 * 0.05
    assert 2 < records[-1]["step"] < 10**6 and names(tmp_path / "run") == [f"checkpoint-{records[-1]['step']}"]
    assert is_finished(run) and run.sha256 == settings(max_train_steps=10**6).sha256


def test_a_finished_run_trains_no_further(settings, tmp_path):
    train(settings(), Regression(), Points(), {})
    weights = torch.load(tmp_path / "run" / "model.pt")
    again = Regression()
    train(settings(), again, Points(), {})
    assert again.seen == []
    assert all(torch.equal(value, weights[name]) for name, value in torch.load(tmp_path / "run" / "model.pt").items())


def test_a_named_checkpoint_is_resumed(settings, tmp_path):
    train(settings(checkpoints_total_limit=9), Regression(), Points(), {})
    task = Regression()
    middle = tmp_path / "run" / "checkpoint-4"
    train(settings(output_dir=str(tmp_path / "other"), resume_from_checkpoint=str(middle)), task, Points(), {})
    assert task.seen == [4, 5, 6, 7, 8]
    first, second = (torch.load(tmp_path / run / "model.pt") for run in ("run", "other"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_named_checkpoint_must_exist(settings, tmp_path):
    for name in ("checkpoint-4", "somewhere"):
        with pytest.raises(ValueError, match=f"`resume_from_checkpoint` must be latest or a folder .*{name}"):
            train(settings(resume_from_checkpoint=str(tmp_path / name)), Regression(), Points(), {})
    (tmp_path / "somewhere").mkdir()
    with pytest.raises(ValueError, match="`resume_from_checkpoint`"):
        train(settings(resume_from_checkpoint=str(tmp_path / "somewhere")), Regression(), Points(), {})


def test_another_runs_checkpoints_are_neither_pruned_nor_mixed_in(settings, tmp_path):
    train(settings(), Regression(), Points(), {})
    with pytest.raises(ValueError, match="holds checkpoints after step 0.*checkpoint-8, checkpoint-9"):
        train(settings(resume_from_checkpoint=None), Regression(), Points(), {})
    with pytest.raises(ValueError, match="holds checkpoints after step 8.*: checkpoint-9;"):
        train(settings(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8")), Regression(), Points(), {})
    assert names(tmp_path / "run") == ["checkpoint-8", "checkpoint-9"]


def test_a_loss_that_is_not_finite_stops_the_run(settings, tmp_path):
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 0"):
        train(settings(), Regression(factor=float("nan")), Points(), {})
    with pytest.raises(FloatingPointError, match="the loss is not finite at step [12]"):
        train(settings(learning_rate=1e30, lr_scheduler="constant"), Regression(), Points(), {})


def test_a_gradient_that_is_not_finite_reaches_no_checkpoint(settings, tmp_path):
    class RootOfZero(Regression):
        def loss(self, model, batch, step, generator):
            return (0 * model.weight).abs().sum().sqrt(), {"iou": torch.zeros(())}

    with pytest.raises(FloatingPointError, match="the gradient's norm is not finite at step 0"):
        train(settings(max_train_steps=1), RootOfZero(), Points(), {})
    assert names(tmp_path / "run") == []


def test_all_cores_work_on_a_cpu_unless_told_otherwise(settings, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as `accelerate launch` sets it
    train(settings(max_train_steps=1, num_cpu_threads=0), Regression(), Points(), {})
    assert torch.get_num_threads() == 3


class Noiseless(Regression):
    def loss(self, model, batch, step, generator):
        distance = model(batch["x"])[:, 0] - batch["x"].sum(1)
        return (distance**2).mean(), {"iou": distance.mean()}


class WithStatistics(Regression):
    """Its normalisation has running statistics."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.factor, self.seen = 1.0, []


def losses(folder):
    return [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]


def test_accumulated_gradients_are_those_of_one_large_batch(settings, tmp_path):
    large, parts = Noiseless(), Noiseless()
    train(settings(output_dir=str(tmp_path / "large"), train_batch_size=6), large, Points(), {})
    accumulating = settings(output_dir=str(tmp_path / "parts"), train_batch_size=2, gradient_accumulation_steps=3)
    train(accumulating, parts, Points(), {})
    torch.testing.assert_close(parts.model.weight, large.model.weight)
    (first,), (second,) = losses(tmp_path / "large"), losses(tmp_path / "parts")
    assert first == pytest.approx(second, rel=1e-4) and first["step"] == 9


@pytest.mark.parametrize("optimizer", ("adamw", "muon"))
def test_with_batch_statistics_and_accumulation_a_resumed_run_has_the_same_bits(settings, tmp_path, optimizer):
    changes = {"gradient_accumulation_steps": 2, "checkpoints_total_limit": 9, "optimizer": optimizer}
    train(settings(output_dir=str(tmp_path / "whole"), **changes), WithStatistics(), Points(), {})
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", resumed / "checkpoint-4")
    train(settings(output_dir=str(resumed), **changes), WithStatistics(), Points(), {})
    first, second = (torch.load(tmp_path / run / "model.pt") for run in ("whole", "resumed"))
    assert first["1.num_batches_tracked"] == 18
    assert all(torch.equal(first[name], second[name]) for name in first)
    digests = [json.loads((tmp_path / run / "run.json").read_text()) for run in ("whole", "resumed")]
    assert digests[0]["saved_sha256"] == digests[1]["saved_sha256"]


def test_the_saved_statistics_are_averaged(settings, tmp_path):
    task = WithStatistics()
    train(settings(), task, Points(), {})
    saved = torch.load(tmp_path / "run" / "model.pt")
    assert not torch.equal(saved["1.running_mean"], task.model[1].running_mean)
    assert saved["1.num_batches_tracked"] == task.model[1].num_batches_tracked


def test_the_first_step_that_is_not_finite_is_named_before_anything_is_saved(settings, tmp_path):
    class Failing(Regression):
        def loss(self, model, batch, step, generator):
            loss, scalars = super().loss(model, batch, step, generator)
            return loss * (float("nan") if step == 6 else 1), scalars

    with pytest.raises(FloatingPointError, match="the loss is not finite at step 6"):
        train(settings(checkpointing_steps=4), Failing(), Points(), {})
    assert names(tmp_path / "run") == ["checkpoint-4"] and not (tmp_path / "run" / "model.pt").exists()


def test_changed_settings_of_checkpoints_are_refused_and_other_lists_too(settings, tmp_path):
    lists = {"train": ["a", "b"], "val": ["c"]}
    with pytest.raises(AssertionError):  # Regression has no validation images
        train(settings(val_fraction=0.1, validation_steps=6), Regression(), Points(), lists)
    with pytest.raises(ValueError, match="other settings: val_fraction: 0.1 -> 0.2; seed: 0 -> 1;"):
        train(settings(val_fraction=0.2, seed=1), Regression(), Points(), lists)
    with pytest.raises(ValueError, match="from images on other lists"):
        train(settings(val_fraction=0.1), Regression(), Points(), {**lists, "val": ["d"]})
    other = Regression()
    other.model.bias.data += 1
    with pytest.raises(ValueError, match="from other weights"):
        train(settings(val_fraction=0.1), other, Points(), lists)
    train(settings(val_fraction=0.1, validation_steps=0, checkpointing_steps=3), Regression(), Points(), lists)
    assert names(tmp_path / "run") == ["checkpoint-6", "checkpoint-9"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train_data_dir": ["old/first", "old/third"]}, r"train_data_dir: \[.*second'\] -> \[.*third'\]"),
        ({"train_list": ["old/a.txt", "old/c.txt"]}, r"train_list: \[.*b.txt'\] -> \[.*c.txt'\]"),
        ({"background_dir": "old/sea"}, "background_dir: old/sky -> old/sea"),
        ({"background_dir": None}, "background_dir: old/sky -> None"),
        ({"pretrained_model_name_or_path": "runs/other"}, "pretrained_model_name_or_path: None -> runs/other"),
    ],
)
def test_a_finished_run_is_of_the_same_data_and_weights_wherever_they_lie(settings, changes, named):
    values = {
        "train_data_dir": ["old/first", "old/second"],
        "train_list": ["old/a.txt", "old/b.txt"],
        "background_dir": "old/sky",
        "max_train_steps": 1,
    }
    train(settings(**values), Regression(), Points(), {})
    moved = {"train_data_dir": ["/new/first/", "second"], "train_list": ["/a.txt", "b.txt"], "background_dir": "sky"}
    assert is_finished(settings(**values | moved))
    with pytest.raises(ValueError, match=f"holds a run of other settings: {named};"):
        is_finished(settings(**values | changes))


def test_a_log_loses_what_comes_later_and_a_half_written_last_line(tmp_path):
    log = tmp_path / "losses.jsonl"
    log.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"step": 8, "lo')
    keep_until(log, 4)
    assert log.read_text() == '{"step": 2}\n{"step": 4}\n'
    keep_until(log, 4)
    assert log.read_text() == '{"step": 2}\n{"step": 4}\n'
    log.write_text('{"st\n{"step": 4}\n')
    with pytest.raises(ValueError):
        keep_until(log, 4)


def test_a_failed_start_may_be_repaired(settings, tmp_path):
    with pytest.raises(FloatingPointError):
        train(settings(checkpointing_steps=9), Regression(factor=float("nan")), Points(), {})
    train(settings(learning_rate=0.01), Regression(), Points(), {})


def test_bf16_without_the_processors_help_is_said_to_be_slow(settings, monkeypatch, caplog):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(f"torch.cpu.{name}", lambda: False)
    train(settings(max_train_steps=1, mixed_precision="bf16"), Regression(), Points(), {})
    assert "many times slower" in caplog.text
    train(settings(max_train_steps=1, output_dir=settings().output_dir + "-2"), Regression(), Points(), {})
    assert caplog.text.count("many times slower") == 1


def test_a_compiled_model_learns_the_same(settings, tmp_path):
    plain, compiled = Noiseless(), Noiseless()
    train(settings(), plain, Points(), {})
    train(settings(compile=True, output_dir=str(tmp_path / "compiled")), compiled, Points(), {})
    torch.testing.assert_close(compiled.model.weight, plain.model.weight)

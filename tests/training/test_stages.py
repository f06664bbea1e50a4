"""Stages of the Mask-VAE's training, as one command, one by one, and interrupted."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from irstd_ldm.models.mask_vae import MaskAutoencoderKL
from irstd_ldm.training import train_latent, train_mask_vae, train_restoration
from irstd_ldm.training.runs import _check_start
from irstd_ldm.training.settings import parse_plan
from irstd_ldm.training.train_latent import LatentSettings
from irstd_ldm.training.train_mask_vae import MaskVAESettings, MaskVAETask

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def recipe(few_steps, tmp_path):
    """Write a recipe of two stages; returns its flag."""

    def write(name="recipe", stages=None, **changes):
        values = few_steps | {"val_fraction": 0.2, "validation_steps": 2, "statistics_crops": 4, "seed": 3} | changes
        values["stages"] = stages or [{"max_train_steps": 2}, {"train_batch_size": 3, "val_fraction": 0.1}]
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return ["--config", str(path)]

    return write


def record(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.fixture
def whole(recipe, tmp_path):
    """Both stages by one command."""
    train_mask_vae.main([*recipe(), "--output_dir", str(tmp_path / "whole")])
    return tmp_path / "whole"


def test_one_command_equals_stage_by_stage(recipe, whole, tmp_path):
    parts = tmp_path / "parts"
    for stage in ("1", "2"):
        train_mask_vae.main([*recipe(), "--output_dir", str(parts), "--stage", stage])
    first, second = (record(whole / f"stage-{k}") for k in (1, 2))
    for k, expected in ((1, first), (2, second)):
        for name in ("settings_sha256", "data_sha256", "start_sha256", "saved_sha256", "weights_sha256"):
            assert record(parts / f"stage-{k}")[name] == expected[name], name
    assert second["start_sha256"] == first["saved_sha256"] != first["start_sha256"]
    assert second["data_sha256"] != first["data_sha256"]  # another share is held out
    for run in (whole, parts):
        saved = load_file(run / WEIGHTS)
        assert {tensor.dtype for tensor in saved.values() if tensor.is_floating_point()} == {torch.float16}
        of_stage = load_file(whole / "stage-2" / WEIGHTS)
        assert all(torch.equal(saved[name], of_stage[name]) for name in of_stage)
        assert (run / "val.txt").read_bytes() == (whole / "stage-2" / "val.txt").read_bytes()
        assert not (run / "run.json").exists()
    MaskAutoencoderKL.from_pretrained(whole, subfolder="vae")
    for k, steps in ((1, 2), (2, 4)):
        for log in ("losses.jsonl", "validation.jsonl"):
            lines = [json.loads(line) for line in (whole / f"stage-{k}" / log).read_text().splitlines()]
            assert lines[-1]["step"] == steps


def test_an_interrupted_stage_goes_on_and_a_finished_one_is_skipped(recipe, whole, tmp_path, monkeypatch, caplog):
    flags = [*recipe(), "--output_dir", str(tmp_path / "broken")]
    loss = MaskVAETask.loss

    def interrupted(task, model, batch, step, generator):
        if task.settings.seed == 3 + 2 and step == 3:
            raise KeyboardInterrupt
        return loss(task, model, batch, step, generator)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MaskVAETask, "loss", interrupted)
        train_mask_vae.main(flags)
    assert not (tmp_path / "broken" / "vae").exists()
    with caplog.at_level("INFO"):
        train_mask_vae.main(flags)
        assert record(tmp_path / "broken" / "stage-2")["first_step"] == 2
        train_mask_vae.main(flags)
    assert caplog.text.count(f"{tmp_path / 'broken' / 'stage-1'} is finished: nothing to do") == 2
    assert caplog.text.count(f"{tmp_path / 'broken' / 'stage-2'} is finished: nothing to do") == 1
    for name in ("saved_sha256", "weights_sha256"):
        assert record(tmp_path / "broken" / "stage-2")[name] == record(whole / "stage-2")[name]
    for log in ("losses.jsonl", "validation.jsonl"):
        assert (tmp_path / "broken" / "stage-2" / log).read_text() == (whole / "stage-2" / log).read_text()


def test_changed_settings_are_refused(recipe, whole, monkeypatch):
    settings = (whole / "stage-1" / "settings.yaml").read_bytes()
    with pytest.raises(ValueError, match=r"stage-1 holds a run of other settings: learning_rate: 0.001 -> 0.5;"):
        train_mask_vae.main([*recipe(), "--output_dir", str(whole), "--learning_rate", "0.5"])
    assert (whole / "stage-1" / "settings.yaml").read_bytes() == settings
    stages = [{"max_train_steps": 2}, {"train_batch_size": 2, "val_fraction": 0.1}]
    with pytest.raises(ValueError, match="stage-2 holds a run of other settings: train_batch_size: 3 -> 2;"):
        train_mask_vae.main([*recipe("other", stages), "--output_dir", str(whole)])
    train_mask_vae.main([*recipe(), "--output_dir", str(whole), "--dataloader_num_workers", "1"])  # changes nothing


def test_a_stage_needs_the_one_before(recipe, whole, tmp_path):
    flags = [*recipe(), "--output_dir"]
    with pytest.raises(ValueError, match=f"stage 2 starts from the weights in {tmp_path}/new/stage-1, where there is"):
        train_mask_vae.main([*flags, str(tmp_path / "new"), "--stage", "2"])
    shutil.rmtree(whole / "stage-1")
    train_mask_vae.main([*flags, str(whole), "--stage", "1"])  # the same again
    train_mask_vae.main([*flags, str(whole)])
    shutil.rmtree(whole / "stage-1")
    other = recipe("other", [{"max_train_steps": 2, "seed": 8}, {"train_batch_size": 3, "val_fraction": 0.1}])
    with pytest.raises(ValueError, match="stage-2 was trained from other weights than .*stage-1 holds now"):
        train_mask_vae.main([*other, "--output_dir", str(whole)])


def write_record(output_dir, stage, **digests):
    folder = output_dir / f"stage-{stage}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(digests))


def test_every_stage_before_must_have_started_from_the_one_before_it(tmp_path):
    write_record(tmp_path, 1, start_sha256="a", saved_sha256="b")
    write_record(tmp_path, 2, start_sha256="b", saved_sha256="c")
    _check_start(tmp_path, 3, finished=False)
    write_record(tmp_path, 1, start_sha256="a", saved_sha256="new")
    with pytest.raises(ValueError, match="stage-2 was trained from other .*stage-1 holds now; remove .*stage-2 and"):
        _check_start(tmp_path, 3, finished=False)
    write_record(tmp_path, 2, start_sha256="new", saved_sha256="d")
    _check_start(tmp_path, 3, finished=False)
    write_record(tmp_path, 3, start_sha256="c", saved_sha256="e")
    with pytest.raises(ValueError, match="stage-3 was trained from other .*stage-2 holds now; remove .*stage-3 and"):
        _check_start(tmp_path, 3, finished=True)
    (tmp_path / "stage-1" / "run.json").unlink()  # a stage whose weights are no longer needed may be gone
    _check_start(tmp_path, 3, finished=False)


def test_lists_that_the_last_stage_does_not_have_go(recipe, whole):
    for name in ("train_old.txt", "val_backgrounds.txt", "notes.txt"):
        (whole / name).write_text("a\n")
    train_mask_vae.main([*recipe(), "--output_dir", str(whole)])
    assert sorted(path.name for path in whole.glob("*.txt")) == ["notes.txt", "train.txt", "val.txt"]


def test_one_checkpoint_is_not_that_of_every_stage(recipe):
    flags = [*recipe(), "--output_dir", "run"]
    checkpoint = ["--resume_from_checkpoint", "run/stage-2/checkpoint-2"]
    with pytest.raises(ValueError, match="`resume_from_checkpoint` run/.*checkpoint-2 is of one stage: .*--stage"):
        parse_plan(MaskVAESettings, [*flags, *checkpoint])
    plan = parse_plan(MaskVAESettings, [*flags, *checkpoint, "--stage", "2"])
    assert plan.stages[1].resume_from_checkpoint == checkpoint[1]
    for value in ("null", "latest"):
        parse_plan(MaskVAESettings, [*flags, "--resume_from_checkpoint", value])


def test_how_stages_follow_each_other(recipe, tmp_path):
    flags = [*recipe(stages=[{}, {"seed": 70}, {}]), "--output_dir", "run"]
    plan = parse_plan(MaskVAESettings, flags)
    assert [stage.output_dir for stage in plan.stages] == ["run/stage-1", "run/stage-2", "run/stage-3"]
    starts = [stage.pretrained_model_name_or_path for stage in plan.stages]
    assert starts == [None, "run/stage-1", "run/stage-2"]
    assert [stage.seed for stage in plan.stages] == [4, 70, 6]
    assert all(stage.half_precision and stage.hub_repo_id == "run" for stage in plan.stages)
    plan = parse_plan(MaskVAESettings, [*flags, "--pretrained_model_name_or_path", "start", "--seed", "10"])
    assert plan.stages[0].pretrained_model_name_or_path == "start"
    assert [stage.seed for stage in plan.stages] == [11, 12, 13]
    with pytest.raises(ValueError, match="`--stage` must be one of the recipe's 3 stages, got 4"):
        parse_plan(MaskVAESettings, [*flags, "--stage", "4"])


@pytest.mark.parametrize(
    ("stages", "named"),
    [
        ([{"learning_rat": 1}], "stage 1` has settings that MaskVAESettings does not know: learning_rat"),
        ([{}, {"output_dir": "x"}], "stage 2 of .* must not set output_dir"),
        ([1], "`stages` must be a list of mappings"),
        ([{"max_train_steps": "many"}], "`max_train_steps` must be of type int"),
    ],
)
def test_bad_stages_are_refused(recipe, stages, named):
    with pytest.raises(ValueError, match=named):
        parse_plan(MaskVAESettings, [*recipe(stages=stages), "--output_dir", "run"])


def test_a_trainer_that_cannot_go_on_has_no_stages(recipe):
    with pytest.raises(ValueError, match="has `stages`, and RestorationSettings is of a trainer that cannot go on"):
        train_restoration.main([*recipe(), "--output_dir", "run"])


def test_a_detector_in_stages(few_steps, recipe, whole, tmp_path):
    values = few_steps | {"mask_vae": str(whole), "output_dir": str(tmp_path / "run"), "max_train_steps": 1}
    path = tmp_path / "latent.yaml"
    second = {"resolution": 96, "mixed_precision": "bf16"}
    path.write_text(yaml.safe_dump(values | {"stages": [{}, second]}))
    plan = parse_plan(LatentSettings, ["--config", str(path)])
    assert [stage.mask_vae for stage in plan.stages] == [str(whole), None]
    for _ in range(2):  # the second time, all is finished
        train_latent.main(["--config", str(path)])
    first, second = (record(tmp_path / "run" / f"stage-{k}") for k in (1, 2))
    assert second["start_sha256"] == first["saved_sha256"]

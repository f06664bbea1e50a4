import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from irstd_ldm.data.crops import CropSettings
from irstd_ldm.data.folder import read_stem_list
from irstd_ldm.training import train_mask_vae
from irstd_ldm.training.settings import TrainSettings
from irstd_ldm.training.train_mask_vae import MaskVAESettings
from irstd_ldm.training.training_data import read_training_data, write_split

LISTS = ("train", "val", "train_backgrounds", "val_backgrounds")


def test_the_lists_of_a_run_say_what_was_held_out(tmp_path, synthetic_root):
    root = str(synthetic_root)
    settings = TrainSettings(train_data_dir=root, output_dir=str(tmp_path), background_dir=root, val_fraction=0.4)
    data = read_training_data(settings, CropSettings())
    write_split(data, tmp_path)
    lists = {name: read_stem_list(tmp_path / f"{name}.txt") for name in LISTS}
    assert lists["val"] == [sample.stem for sample in data.val_samples] and not set(lists["val"]) & set(lists["train"])
    assert lists == data.lists
    assert lists["val_backgrounds"] == list(data.val_backgrounds) and len(data.val_backgrounds) == 8
    assert lists["train_backgrounds"] == list(data.train_backgrounds) and len(data.train_backgrounds) == 12
    assert not set(lists["train_backgrounds"]) & set(lists["val_backgrounds"])


def test_frames_that_are_all_trained_on_are_on_a_list(tmp_path, synthetic_root, second_root):
    first, second = (
        read_training_data(
            TrainSettings(
                train_data_dir=str(synthetic_root), output_dir="run", background_dir=str(root), val_fraction=0
            ),
            CropSettings(),
        )
        for root in (synthetic_root, second_root)
    )
    write_split(first, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.txt", "train_backgrounds.txt", "val.txt"]
    assert first.lists["train_backgrounds"] != second.lists["train_backgrounds"]


def test_no_data_set_may_have_the_name_of_the_frames_lists():
    for roots in ("DATA/backgrounds", ["DATA/own", "DATA/backgrounds"]):
        with pytest.raises(ValueError, match="`train_data_dir` must name no folder `backgrounds`"):
            TrainSettings(train_data_dir=roots, output_dir="run")


def test_without_backgrounds_there_is_no_list_of_them(tmp_path, synthetic_root):
    settings = TrainSettings(train_data_dir=str(synthetic_root), output_dir=str(tmp_path), val_fraction=0.4)
    write_split(read_training_data(settings, CropSettings()), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.txt", "val.txt"]


def test_runs_of_other_seeds_hold_out_the_same_images(tmp_path, synthetic_root):
    root = str(synthetic_root)
    first, second = (
        read_training_data(
            TrainSettings(train_data_dir=root, output_dir="", background_dir=root, val_fraction=0.4, seed=seed),
            CropSettings(),
        )
        for seed in (0, 1)
    )
    assert [sample.stem for sample in first.val_samples] == [sample.stem for sample in second.val_samples]
    assert list(first.val_backgrounds) == list(second.val_backgrounds)
    assert not np.array_equal(first.crops[0]["image"], second.crops[0]["image"])


def run_mask_vae(few_steps, folder, **changes):
    """The saved weights and the log of the losses."""
    values = few_steps | {"output_dir": str(folder), "statistics_crops": 4} | changes
    train_mask_vae.MaskVAETask.run(MaskVAESettings(**values))
    weights = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    return weights, json.loads((folder / "losses.jsonl").read_text())


def test_workers_change_no_bit_and_the_memory_format_little(few_steps, tmp_path):
    weights, losses = run_mask_vae(few_steps, tmp_path / "plain")
    by_workers, _ = run_mask_vae(few_steps, tmp_path / "workers", dataloader_num_workers=2)
    assert all(torch.equal(by_workers[name], tensor) for name, tensor in weights.items())
    by_format, other_losses = run_mask_vae(few_steps, tmp_path / "format", channels_last=True)
    assert by_format.keys() == weights.keys()
    # some of the 10 / 1690 pixels of a network that learned nothing lie on the threshold itself
    assert other_losses.pop("iou") == pytest.approx(losses.pop("iou"), rel=1e-2)
    assert other_losses == pytest.approx(losses, rel=1e-3)

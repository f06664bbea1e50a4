import json

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.data.crops import CropSettings
from irstd_ldm.data.folder import read_stem_list, write_stem_list
from irstd_ldm.evaluation.counts import count_image
from irstd_ldm.training import train_latent
from irstd_ldm.training.detectors import scores_of_data_sets
from irstd_ldm.training.settings import TrainSettings, parse_plan
from irstd_ldm.training.train_latent import LatentSettings
from irstd_ldm.training.training_data import read_training_data, write_split

ONLY_TARGETS = CropSettings(
    target_probability=1.0,
    image_probability=0.0,
    background_probability=0.0,
    implant_probability=0.0,
    rescale_probability=0.0,
)


def write_squares(root, side, num_images):
    """Images of 64x64 with one square target each: a crop's mask tells where it is from."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    stems = [f"{side}_{number}" for number in range(num_images)]
    for stem in stems:
        mask = np.zeros((64, 64), np.uint8)
        mask[30 : 30 + side, 30 : 30 + side] = 255
        Image.fromarray(mask // 2 + 40).save(root / "images" / f"{stem}.png")
        Image.fromarray(mask).save(root / "masks" / f"{stem}.png")
    write_stem_list(root / "train.txt", stems)
    return str(root)


@pytest.mark.parametrize(("shares", "expected"), [(None, 100), ([3.0, 1.0], 150)])
def test_shares_are_of_the_crops_not_of_the_images(tmp_path, shares, expected):
    roots = [write_squares(tmp_path / "few", 2, 1), write_squares(tmp_path / "many", 5, 8)]
    settings = TrainSettings(
        train_data_dir=roots, output_dir="run", val_fraction=0, train_data_shares=shares, resolution=64
    )
    crops = read_training_data(settings, ONLY_TARGETS).crops
    areas = [int(crops[k]["mask"].sum()) for k in range(200)]
    assert set(areas) == {2 * 2, 5 * 5}
    assert abs(areas.count(2 * 2) - expected) < 25  # of 200 draws; three deviations are 21


def test_each_data_set_has_its_own_lists(tmp_path, synthetic_root, second_root):
    roots = [str(synthetic_root), str(second_root)]
    own_list = tmp_path / "own.txt"
    write_stem_list(own_list, [f"frame_{k:02d}" for k in range(6)])
    settings = TrainSettings(
        train_data_dir=roots,
        output_dir="run",
        val_fraction=0.3,
        train_list=[str(own_list), f"{second_root}/train.txt"],
    )
    data = read_training_data(settings, CropSettings())
    write_split(data, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*_*.txt")) == [
        "train_own.txt",
        "train_second.txt",
        "val_own.txt",
        "val_second.txt",
    ]
    for name, num_images in (("own", 6), ("second", 10)):
        train, val = (read_stem_list(tmp_path / f"{kind}_{name}.txt") for kind in ("train", "val"))
        assert (len(train) + len(val), len(val)) == (num_images, round(0.3 * num_images))
        assert not set(train) & set(val)
    alone = read_training_data(
        TrainSettings(train_data_dir=roots[1], output_dir="run", val_fraction=0.3), CropSettings()
    )
    assert alone.lists == {"train": data.lists["train_second"], "val": data.lists["val_second"]}


def test_scores_are_those_of_each_data_set_and_of_all(synthetic_root, second_root):
    settings = TrainSettings(
        train_data_dir=[str(synthetic_root), str(second_root)], output_dir="run", val_fraction=0.2
    )
    data = read_training_data(settings, CropSettings())
    nothing = np.zeros((128, 128), bool)
    found = [sample.mask for sample in data.data_sets[0].val_samples]
    found += [nothing for _ in data.data_sets[1].val_samples]
    counts = [count_image(mask, sample.mask) for mask, sample in zip(found, data.val_samples, strict=True)]
    scores = scores_of_data_sets(data, counts)
    areas = [sum(sample.mask.sum() for sample in data_set.val_samples) for data_set in data.data_sets]
    of_iou = {name: value for name, value in scores.items() if name.startswith("iou")}
    assert of_iou == {"iou": pytest.approx(areas[0] / sum(areas)), "iou/own": 1, "iou/second": 0}


def test_a_detector_is_validated_on_each_data_set(few_steps, tiny_checkpoint, synthetic_root, second_root, tmp_path):
    run = tmp_path / "run"
    flags = f"--pretrained_model_name_or_path {tiny_checkpoint} --output_dir {run} --val_fraction 0.2 --report_to null"
    flags += " --resolution 64 --train_batch_size 2 --max_train_steps 1 --num_cpu_threads 1 --validation_steps 1"
    train_latent.main(["--train_data_dir", str(synthetic_root), str(second_root), *flags.split()])
    scores = json.loads((run / "validation.jsonl").read_text())
    for name in ("iou", "niou", "pd", "fa_per_million_px"):
        assert {name, f"{name}/own", f"{name}/second"} <= set(scores)
    low, high = sorted((scores["fa_per_million_px/own"], scores["fa_per_million_px/second"]))
    assert low <= scores["fa_per_million_px"] <= high
    assert (run / "val_own.txt").is_file() and not (run / "val.txt").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train_data_dir": ["SECOND", "nowhere"]}, "no folder 'nowhere/images'"),
        ({"background_dir": "nowhere"}, "no folder 'nowhere/images'"),
        ({"train_list": ["nowhere.txt", "nowhere.txt"]}, "nowhere.txt"),
        ({"train_list": "nowhere.txt"}, "`train_list` must have one file per data set, 2"),
        ({"train_data_dir": ["SECOND", "SECOND"]}, "`train_data_dir` must name folders of different names"),
        ({"train_data_shares": [1.0]}, "`train_data_shares` must be 2 positive numbers, one per data set"),
        ({"train_data_shares": [1.0, 0.0]}, "`train_data_shares` must be 2 positive numbers, one per data set"),
        ({"train_data_flip_probabilities": [0.5, 2.0]}, "`train_data_flip_probabilities` must be 2 numbers in"),
        ({"train_data_variation_factors": [1.0]}, "`train_data_variation_factors` must be 2 numbers in"),
    ],
)
def test_what_is_missing_or_wrong_is_named_before_weights_are_looked_for(
    few_steps, synthetic_root, second_root, changes, named
):
    values = few_steps | {"train_data_dir": [str(synthetic_root), str(second_root)], "output_dir": "run"} | changes
    roots = [str(second_root) if root == "SECOND" else root for root in values.pop("train_data_dir")]
    with pytest.raises((ValueError, OSError), match=named):
        train_latent.LatentTask.run(LatentSettings(train_data_dir=roots, mask_vae="not there", **values))


def test_one_or_several_on_the_command_line_and_in_a_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train_data_dir: [A, B]\ntrain_data_shares: [2, 1.5]\noutput_dir: run\n")
    settings = parse_plan(TrainSettings, ["--config", str(recipe)]).stages[0]
    assert (settings.roots, settings.train_data_shares) == (["A", "B"], [2.0, 1.5])
    flags = ["--config", str(recipe), "--train_data_dir", "A", "B", "C", "--train_data_shares", "1", "2", "1"]
    assert parse_plan(TrainSettings, flags).stages[0].train_data_shares == [1.0, 2.0, 1.0]
    one = parse_plan(TrainSettings, ["--train_data_dir", "A", "--output_dir", "run"]).stages[0]
    assert (one.train_data_dir, one.roots, one.lists) == ("A", ["A"], [None])

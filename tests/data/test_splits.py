from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from irstd_ldm.data.folder import IRSTDFolder
from irstd_ldm.data.splits import scene_groups, split_by_scene

SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared/data"


def validation_split(folder, fraction, seed):
    return split_by_scene(folder.stems, [sample.image for sample in folder], fraction, seed)


def scene(seed, shape=(96, 128)):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 4)
    return (127 + 40 * values / values.std()).clip(0, 255).astype(np.uint8)


def make_set(root, frames):
    for stem, image in frames.items():
        for part, pixels in (("images", image), ("masks", np.zeros_like(image))):
            (root / part).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / part / f"{stem}.png")
    return IRSTDFolder(root)


@pytest.fixture
def frames():
    """Ten scenes; scene 0 again with another gain and at another size, scene 1 again shifted, with the next number."""
    frames = {f"s_{10 * number}": scene(number) for number in range(10)}
    frames["brighter_99"] = (20 + 0.6 * frames["s_0"]).astype(np.uint8)
    frames["larger_98"] = np.asarray(Image.fromarray(frames["s_0"]).resize((200, 150)))
    frames["s_11"] = np.roll(frames["s_10"], (20, 30), (0, 1))
    return frames


def test_frames_of_one_scene_are_one_group(frames):
    groups = dict(zip(frames, scene_groups(list(frames), list(frames.values())), strict=True))
    assert groups["s_0"] == groups["brighter_99"] == groups["larger_98"]
    assert groups["s_10"] == groups["s_11"]
    assert len(set(groups.values())) == 10


def test_close_numbers_alone_make_no_scene():
    stems = ["s_1", "s_2", "s_3"]
    assert scene_groups(stems, [scene(1), scene(2), scene(3)]).tolist() == [0, 1, 2]


def test_flat_images_are_not_alike():
    assert len(set(scene_groups(["a_1", "a_2"], [np.zeros((40, 40), np.uint8)] * 2))) == 2


@pytest.mark.parametrize("seed", range(6))
def test_scenes_stay_on_one_side(tmp_path, frames, seed):
    folder = make_set(tmp_path, frames)
    train, val = validation_split(folder, 0.4, seed)
    assert sorted(train + val) == folder.stems and not set(train) & set(val)
    assert len(val) == 5
    for members in ({"s_0", "brighter_99", "larger_98"}, {"s_10", "s_11"}):
        assert members <= set(train) or members <= set(val)


def test_the_split_depends_on_the_seed_alone(tmp_path, frames):
    folder = make_set(tmp_path, frames)
    assert validation_split(folder, 0.4, 3) == validation_split(folder, 0.4, 3)
    assert len({tuple(validation_split(folder, 0.4, seed)[1]) for seed in range(8)}) > 1


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_the_fraction_is_checked(tmp_path, frames, fraction):
    with pytest.raises(ValueError, match="`fraction`"):
        validation_split(make_set(tmp_path, frames), fraction, 0)


def test_an_empty_side_is_refused(tmp_path, frames):
    with pytest.raises(ValueError, match="leaves a side empty"):
        validation_split(make_set(tmp_path, frames), 0.01, 0)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"{SHARED_DATA} is absent")
def test_nuaa_sirst():
    folder = IRSTDFolder(SHARED_DATA / "NUAA-SIRST", "train")
    train, val = validation_split(folder, 0.19, seed=0)
    assert len(folder) == 213 and sorted(train + val) == sorted(folder.stems)
    assert len(val) == 40
    for pair in ({"Misc_27", "Misc_31"}, {"Misc_263", "Misc_264"}, {"Misc_282", "Misc_283"}):
        assert pair <= set(train) or pair <= set(val)

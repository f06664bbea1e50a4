"""The files and folders that the pages speak of, small and synthetic."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
from PIL import Image

from irstd_ldm import bundled_checkpoint
from irstd_ldm.data.folder import read_stem_list, write_stem_list
from irstd_ldm.data.planted_targets import SyntheticScene
from irstd_ldm.data.synthetic import synthetic_scene

from ..conftest import write_scenes
from .blocks import ROOT

SIDE_PX = 96
LINKS = ("CHANGELOG.md", "constraints.txt", "irstd_ldm", "scripts", "setup.py", "training")


def scene(seed: int, bit_depth: int = 8) -> SyntheticScene:
    return synthetic_scene(SIDE_PX, SIDE_PX, num_targets=1, scr=8.0, seed=seed, bit_depth=bit_depth)


def write_data_set(root: Path, lists: dict[str, list[str]]) -> None:
    """A data set in the field's layout; a list's file by its name below the root -> its stems."""
    all_stems = dict.fromkeys(stem for stems in lists.values() for stem in stems)
    write_scenes(root, {stem: scene(seed) for seed, stem in enumerate(all_stems)})
    for name, stems in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_stem_list(root / name, stems)


def write_samples(folder: Path, tiny: Path, tiny_diff: Path) -> None:
    """Everything a page may name, in `folder`.

    Args:
        tiny, tiny_diff: checkpoints of small random networks, for the models that are not the bundled one.
    """
    for name in LINKS:
        (folder / name).symlink_to(ROOT / name)
    Image.fromarray(scene(0, bit_depth=16).image).save(folder / "frame.png")
    Image.fromarray(scene(3, bit_depth=16).image).save(folder / "one.tif")
    for name, seeds in (("frames", (1, 2)), ("more", (4,))):
        (folder / name).mkdir()
        for seed in seeds:
            Image.fromarray(scene(seed).image).save(folder / name / f"{name}_{seed}.png")

    Image.fromarray(synthetic_scene(160, 288, num_targets=2, scr=8.0, seed=5).image).save(folder / "panorama.png")
    _write_video(folder / "clip.mp4", [scene(6).image] * 4)

    stems = [f"own_{number:02d}" for number in range(8)]
    write_data_set(folder / "DATA", {"train.txt": stems[:6], "val.txt": stems[6:]})
    for name in ("NUAA-SIRST", "IRSTD-1k", "NUDT-SIRST"):
        validation = read_stem_list(bundled_checkpoint() / f"val_{name}.txt")  # `--split val` reads these
        train, test = [*validation, *(f"train_{number}" for number in range(6))], ["test_0", "test_1"]
        write_data_set(folder / name, {f"img_idx/train_{name}.txt": train, f"img_idx/test_{name}.txt": test})
    for other in ("masks-of-another-detector", "OTHER-DETECTOR"):
        shutil.copytree(folder / "NUAA-SIRST" / "masks", folder / other)
    (folder / "backgrounds" / "images").mkdir(parents=True)
    held_out = read_stem_list(bundled_checkpoint() / "val_backgrounds.txt")  # docs/large_images.md names it
    for seed, stem in enumerate((*held_out, "S2_1", "S2_2", "S2_3", "S4_1", "S7_1", "S7_2")):
        image = synthetic_scene(SIDE_PX, SIDE_PX, num_targets=0, seed=seed).image
        Image.fromarray(image).save(folder / "backgrounds" / "images" / f"{stem}.png")
    for camera in ("FRAMES", "MY-CAMERA"):
        shutil.copytree(folder / "backgrounds", folder / camera)
    _write_hf_data_set(folder / "hf-data" / "test")

    for model in ("CHECKPOINT", "CHECKPOINT-A", "CHECKPOINT-B"):
        shutil.copytree(tiny, folder / model)
    shutil.copytree(tiny_diff, folder / "runs" / "irstd_diff_small")
    for model in ("DIR", "runs/mine"):
        shutil.copytree(bundled_checkpoint(), folder / model)
    for model in ("CHECKPOINT", "runs/irstd_diff_small", "runs/mine"):
        write_stem_list(folder / model / "val.txt", stems[6:])


def _write_video(path: Path, images: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = images[0].shape
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())


def _write_hf_data_set(folder: Path) -> None:
    folder.mkdir(parents=True)
    lines = []
    for seed in range(2):
        made, name = scene(seed), f"image_{seed}"
        Image.fromarray(made.image).save(folder / f"{name}.png")
        Image.fromarray(made.mask.astype(np.uint8) * 255).save(folder / f"{name}_mask.png")
        lines.append(json.dumps({"file_name": f"{name}.png", "mask_file_name": f"{name}_mask.png"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")

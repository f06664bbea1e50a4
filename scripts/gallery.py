"""The pictures of the README and the docs, made of synthetic scenes by what comes with the package.

python scripts/gallery.py --output docs/pictures
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from irstd_ldm import GaussianAgnosticPipeline, IRSTDDiffPipeline, IRSTDLatentPipeline
from irstd_ldm.data.ggs import squeeze_with_targets
from irstd_ldm.data.planted_targets import TargetModel, plant_targets
from irstd_ldm.data.synthetic import SyntheticScene, synthetic_scene

GAP_PX = 6
SCENES = (("sky", 1), ("sea", 1), ("ground", 9))  # kind, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    scenes = [synthetic_scene(256, 320, kind=kind, num_targets=3, scr=8, seed=seed) for kind, seed in SCENES]
    pictures = {
        "scenes": detected(scenes),
        "posterior": posterior(scenes[-1]),
        "samples": samples(),
        "made": made(),
        "generated": generated(scenes),
    }
    for name, picture in pictures.items():
        picture.save(args.output / f"{name}.jpg", quality=88)


def row(pictures: Sequence[np.ndarray | Image.Image], height: int, resample: Image.Resampling) -> Image.Image:
    """Pictures side by side at one height; arrays (H, W) between their 0.1 and 99.9 percentiles."""
    shown = [one if isinstance(one, Image.Image) else Image.fromarray(stretched(one)) for one in pictures]
    sized = [one.convert("RGB").resize((one.width * height // one.height, height), resample) for one in shown]
    strip = Image.new("RGB", (sum(one.width + GAP_PX for one in sized) - GAP_PX, height), "white")
    left = 0
    for one in sized:
        strip.paste(one, (left, 0))
        left += one.width + GAP_PX
    return strip


def stretched(values: np.ndarray, high_percentile: float = 99.9) -> np.ndarray:
    low, high = np.percentile(values, (0.1, high_percentile))  # a dead pixel would take the whole range
    return (np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def cut(values: np.ndarray, scene: SyntheticScene, side: int = 64) -> np.ndarray:
    """The square around a scene's first target, inside the image."""
    target, (height, width) = scene.targets[0], values.shape
    top = int(np.clip(target.y - side // 2, 0, height - side))
    left = int(np.clip(target.x - side // 2, 0, width - side))
    return values[top : top + side, left : left + side]


def detected(scenes: Sequence[SyntheticScene]) -> Image.Image:
    """What the bundled detector finds in three scenes."""
    output = IRSTDLatentPipeline.from_pretrained("tiny")([scene.image for scene in scenes])
    return row([output.plot(index) for index in range(len(scenes))], 320, Image.Resampling.LANCZOS)


def posterior(scene: SyntheticScene) -> Image.Image:
    """A target, the probability and the uncertainty of eight samples of the posterior, and the mask."""
    output = IRSTDLatentPipeline.from_pretrained("tiny")(scene.image, ensemble_size=8)
    maps = (output.probability[0, 0], output.uncertainty[0, 0], output.mask[0, 0].astype(float))
    shown = [Image.fromarray(stretched(cut(one, scene), 100)) for one in maps]
    return row([cut(scene.image, scene), *shown], 192, Image.Resampling.NEAREST)


def samples() -> Image.Image:
    """A dim target and four samples of its mask by IRSTD-Diff."""
    pipeline = IRSTDDiffPipeline.from_pretrained("irstd_diff_small")
    pipeline.set_progress_bar_config(disable=True)
    scene = synthetic_scene(128, 128, kind="sea", num_targets=1, scr=3, seed=4)
    found = [pipeline(scene.image, num_inference_steps=4, seed=seed).probability[0, 0] for seed in range(4)]
    return row([cut(one, scene) for one in (scene.image, *found)], 192, Image.Resampling.NEAREST)


def made() -> Image.Image:
    """An image, a squeezed form of it, what the generator makes of it, and its scene with another target planted."""
    scene = synthetic_scene(128, 128, kind="horizon", num_targets=1, scr=8, seed=2)
    pixels, mask = torch.from_numpy(scene.image / np.float32(255))[None], torch.from_numpy(scene.mask)  # (1, H, W)
    squeezed = squeeze_with_targets(pixels, mask, torch.Generator().manual_seed(1)).image[0].numpy()
    image = generator()(scene.image, mask=scene.mask).images[0]
    empty = synthetic_scene(128, 128, kind="horizon", num_targets=0, seed=2).image
    planted = plant_targets(empty, TargetModel((1, 1), (8.0, 12.0)), np.random.default_rng(3)).image
    return row([scene.image, squeezed, image, planted], 192, Image.Resampling.LANCZOS)


def generated(scenes: Sequence[SyntheticScene]) -> Image.Image:
    """Each scene, and three images that the generator makes of it."""
    images = [scene.image for scene in scenes]
    output = generator()(images, mask=[scene.mask for scene in scenes], num_images_per_prompt=3, batch_size=3)
    rows = [
        row([image, *output.images[3 * k : 3 * k + 3]], 256, Image.Resampling.LANCZOS)
        for k, image in enumerate(images)
    ]
    sheet = Image.new("RGB", (rows[0].width, sum(one.height + GAP_PX for one in rows) - GAP_PX), "white")
    for k, one in enumerate(rows):
        sheet.paste(one, (0, k * (one.height + GAP_PX)))
    return sheet


def generator() -> GaussianAgnosticPipeline:
    pipeline = GaussianAgnosticPipeline.from_pretrained("gaussian_agnostic_small")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


if __name__ == "__main__":
    main()

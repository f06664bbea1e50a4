"""The worth of synthetic images where labelled ones are scarce: a detector trained on shares of a training list.

    python scripts/scarcity.py --data DATA/NUAA-SIRST --backgrounds DATA/backgrounds --output runs/scarcity

Arms: `originals`; `squeezed`, the same with the Gaussian Group Squeezer on half of the crops; `generated`, that and as
many images again from both stages of the generator; `planted`, the originals and as many modelled targets on frames of
--backgrounds (S7 is left out). The generator's base, which stands for Stable Diffusion, is trained once, on those
frames and the smallest share; stage 1 and the control branch on each share alone. All arms take the same number of
optimiser steps from scratch; the Mask-VAE of the latent detector is trained on the share's masks, of the pixel
detector there is the conditional encoder alone. Scored on the test list, on that of --test-data, or on the stems of
--test-list, at threshold 0.5, in tiles of the training crops' size: arms are chosen on validation images. What is done
is kept in --output, scores by the names of data set and list, and not done again; settings (SETTINGS) other than those
that it was made with are then refused.
The plot needs matplotlib.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markdown_tables import SEED_COLUMNS, count_images, kept_counts, markdown, pool, publish, seed_row

from irstd_ldm.cli.main import main as irstd_ldm
from irstd_ldm.data.folder import IRSTDFolder, refuse_held_out, write_stem_list
from irstd_ldm.evaluation.counts import ImageCounts
from irstd_ldm.evaluation.metrics import iou
from irstd_ldm.pipelines.detection import detector_class
from irstd_ldm.tiling import MIN_PADDED_SIZE
from irstd_ldm.training import (
    train_controlnet,
    train_image_unet,
    train_latent,
    train_mask_vae,
    train_pixel,
    train_restoration,
)

ARMS = ("originals", "squeezed", "generated", "planted")
SQUEEZE_PROBABILITY = 0.5  # share of the crops that the arms with squeezing squeeze
PASSED_ON = ("resolution", "train_batch_size", "mixed_precision", "num_cpu_threads")  # every trainer gets these
SETTINGS = (  # the kept work depends on these; shares, arms and seeds may be added
    *("data", "backgrounds", "list", "max_train_steps", "mask_vae_steps", "generator_steps", "num_inference_steps"),
    *PASSED_ON[:-1],
)
Counts = dict[tuple[float, int], dict[str, list[list[ImageCounts]]]]  # by share and its images, by arm, seed and image
LEFT_OUT = "S7*"  # background family that nothing in this project is trained on


def check_settings(arguments: argparse.Namespace) -> None:
    """Note the settings in --output before the first training; refuse other ones than those noted."""
    settings = {name: getattr(arguments, name) for name in SETTINGS} | {"smallest_fraction": min(arguments.fractions)}
    settings |= {name: str(value.resolve()) for name, value in settings.items() if isinstance(value, Path)}
    path = arguments.output / "settings.json"
    if not any(arguments.output.glob("share-*/*/settings.yaml")):  # a training writes it before its first step
        arguments.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    kept = json.loads(path.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if kept[name] != value:
            raise ValueError(f"`{name}` must be {kept[name]}, as in {path}, got {value}; give another --output")


def share_of(stems: Sequence[str], fraction: float) -> list[str]:
    """The first images of a fixed random order, so that smaller shares lie in larger ones."""
    order = np.random.default_rng(0).permutation(len(stems))
    return [stems[index] for index in sorted(order[: max(round(fraction * len(stems)), 1)])]


class Share:
    """One share of the training list and everything that is trained on it."""

    def __init__(self, arguments: argparse.Namespace, fraction: float):
        self.arguments = arguments
        self.folder = arguments.output / f"share-{fraction:g}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.list = self.folder / "train.list"
        stems = IRSTDFolder(arguments.data, split="train", list_file=arguments.list).stems
        refuse_held_out(arguments.data, stems, "`--list`")
        self.stems = share_of(stems, fraction)
        write_stem_list(self.list, self.stems)

    def train(self, trainer: Any, name: str, steps: int, data: Path | None = None, **settings: Any) -> Path:
        """Run a trainer, by default on the share, and return its folder; it leaves a finished run as it is."""
        folder = self.folder / name
        values = {
            "train_data_dir": data or self.arguments.data,
            "output_dir": folder,
            "val_fraction": 0,
            "max_train_steps": steps,
            "lr_warmup_steps": max(steps // 20, 1),
            "report_to": "null",
            **{name: getattr(self.arguments, name) for name in PASSED_ON},
            **({"train_list": self.list} if data is None else {}),
            **settings,
        }
        trainer.main([part for key, value in values.items() for part in (f"--{key}", str(value))])
        return folder

    def generator_base(self) -> Path:
        """The generator's VAE and base denoiser, trained on this share and the frames without targets."""
        steps = self.arguments.generator_steps
        frames: dict[str, Any] = {"background_dir": self.arguments.backgrounds, "background_exclude": LEFT_OUT}
        return self.train(train_image_unet, "image_unet", 2 * steps, learning_rate=5e-4, **frames)

    def generator(self) -> Path:
        """Both stages over the smallest share's base."""
        steps = self.arguments.generator_steps
        unet = Share(self.arguments, min(self.arguments.fractions)).generator_base()
        restoration = self.train(train_restoration, "restoration", steps)
        base: dict[str, Any] = {"restoration": restoration, "pretrained_model_name_or_path": unet}
        return self.train(train_controlnet, "generator", steps, learning_rate=5e-4, **base)

    def synthesized(self, mode: str) -> Path:
        """The originals and as many synthetic images, a data set of its own."""
        folder = self.folder / f"data-{mode}"
        if (folder / "train.txt").exists():
            return folder
        command = ["synthesize", "--data", self.arguments.data, "--list", self.list, "--originals", "--mode", mode]
        command += ["--count", len(self.stems), "--output", folder]
        if mode == "generated":
            command += ["--model", self.generator(), "--num-inference-steps", self.arguments.num_inference_steps]
        else:
            command += ["--backgrounds", self.arguments.backgrounds, "--exclude", LEFT_OUT]
        if irstd_ldm([str(part) for part in command]):
            raise SystemExit(f"synthesize --mode {mode} failed")
        return folder

    def detector(self, arm: str, seed: int) -> Path:
        """The detector of one arm."""
        steps = self.arguments.max_train_steps
        settings: dict[str, Any] = {"seed": seed, "optimizer": "muon", "learning_rate": 2e-3}
        settings |= {"target_probability": 0.6, "image_probability": 0.2}
        settings |= {"implant_probability": 0.2, "background_probability": 0}
        if arm in ("squeezed", "generated"):
            settings["squeeze_probability"] = SQUEEZE_PROBABILITY
        data = self.synthesized(arm) if arm in ("generated", "planted") else None
        if self.arguments.detector == "pixel":
            settings |= {"diffusion_weight": 0, "sample_dice_weight": 0}
            return self.train(train_pixel, f"pixel-{arm}-{seed}", steps, data, **settings)
        mask_vae = self.train(train_mask_vae, "mask_vae", self.arguments.mask_vae_steps, learning_rate=2e-3)
        settings |= {"mask_vae": mask_vae, "klda_warmup_steps": steps // 4}
        return self.train(train_latent, f"{arm}-{seed}", steps, data, **settings)


def count_test_images(detector: Path, arguments: argparse.Namespace) -> list[ImageCounts]:
    """Counts per scored image, in tiles of the training crops' size; kept beside the detector."""

    data, stems = arguments.test_data or arguments.data, arguments.test_list

    def count() -> list[ImageCounts]:
        pipe, samples = detector_class(str(detector)).from_pretrained(detector), IRSTDFolder(data, "test", stems)
        settings = {"tile_size": max(arguments.resolution, MIN_PADDED_SIZE)}
        settings |= {"num_inference_steps": 0} if arguments.detector == "pixel" else {}
        return count_images(pipe, samples, detector.name, **settings)

    name = data.name if stems is None else f"{data.name}-{stems.stem}"
    return kept_counts(detector / f"counts-{name}.json", count)


def count_all(arguments: argparse.Namespace) -> Counts:
    """Train and score everything that is not there yet: counts per image by share, arm and seed."""
    found: Counts = {}
    for fraction in arguments.fractions:
        share = Share(arguments, fraction)
        found[fraction, len(share.stems)] = {
            arm: [count_test_images(share.detector(arm, seed), arguments) for seed in arguments.seeds]
            for arm in arguments.arms
        }
    return found


def table(arguments: argparse.Namespace, found: Counts) -> str:
    """The counts laid out under a caption."""
    rows = []
    for (fraction, number), arms in found.items():
        first = pool(next(iter(arms.values())))
        rows += [[f"{100 * fraction:g} % ({number})", arm, *seed_row(seeds, first)] for arm, seeds in arms.items()]
    return (
        f"{arguments.max_train_steps} steps of {arguments.train_batch_size} crops of {arguments.resolution} px, "
        f"seeds {', '.join(map(str, arguments.seeds))}; percent.\n\n"
        + markdown(("share (images)", "arm", *SEED_COLUMNS), rows)
    )


def plot(found: Counts, path: Path) -> None:
    """IoU, mean and range of the seeds, against the share's images, a line per arm."""
    from matplotlib.figure import Figure  # matplotlib is an extra
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    numbers = [number for _, number in found]
    for arm in next(iter(found.values())):
        scores = np.array(
            [[100 * iou(sum(seed, ImageCounts.zero())) for seed in arms[arm]] for arms in found.values()]
        )
        mean = scores.mean(axis=1)
        spans = [mean - scores.min(axis=1), scores.max(axis=1) - mean]
        axes.errorbar(numbers, mean, yerr=spans, marker="o", capsize=3, linewidth=1, label=arm)
    axes.set(xscale="log", xlabel="labelled images", ylabel="IoU in percent, mean and range of seeds")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set in the field's layout, with a test list")
    parser.add_argument("--backgrounds", type=Path, required=True, help="frames without targets, images/")
    parser.add_argument("--output", type=Path, required=True, help="everything that is made")
    parser.add_argument("--list", type=Path, help="file of training stems; default: the data set's own training list")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 0.3, 1.0], help="shares of the list")
    parser.add_argument("--detector", choices=("latent", "pixel"), default="latent", help="what is trained")
    parser.add_argument("--test-data", type=Path, help="data set whose test list is scored; default: that of --data")
    parser.add_argument("--test-list", type=Path, help="file of stems to score, such as validation images")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="the first is compared with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-train-steps", type=int, default=1000, help="optimiser steps of every detector")
    parser.add_argument("--mask-vae-steps", type=int, default=500)
    parser.add_argument("--generator-steps", type=int, default=800, help="per part; the base denoiser takes twice")
    parser.add_argument("--num-inference-steps", type=int, default=20, help="denoising steps")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--train-batch-size", type=int, default=16)
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="no", help="precision of every training")
    parser.add_argument("--num-cpu-threads", type=int, default=0, help="threads of every training; 0 = all cores")
    parser.add_argument("--document", type=Path, help="Markdown file whose table is replaced")
    parser.add_argument("--plot", type=Path, help="a file for the plot, .svg or .png")
    arguments = parser.parse_args(argv)
    check_settings(arguments)
    found = count_all(arguments)
    publish("scarcity.py", table(arguments, found), arguments.document)
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()

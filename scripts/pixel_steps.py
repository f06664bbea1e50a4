"""The worth of denoising steps to the pixel detector: quality and time, from the conditional encoder alone to many.

    python scripts/pixel_steps.py --model runs/irstd_diff_small --data DATA/NUAA-SIRST --plot steps.svg

0 steps are the conditional encoder alone. A row runs the checkpoint's scheduler, or that of --scheduler, at the
checkpoint's threshold, image by image at native size, and is compared with the first row on the same images. Clocks
are those of `benchmark.py`: one 256x256 image through the whole pipeline. `--split val` reads the checkpoint's own
list. The plot needs matplotlib.

    python scripts/pixel_steps.py --model runs/irstd_diff_small --data DATA/NUAA-SIRST --split val --diagnosis 20

`--diagnosis` follows a number of steps instead, from pure noise to the mask: how well the denoiser answers on true
masks with noise, on the states that its own answers lead to, and without what the encoder hands it. A target's pixel
is visible where the noisy mask alone has its sign, beyond chance.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from benchmark import Subjects, in_turns
from markdown_tables import QUALITY, count_images, markdown, percent, publish, quality, samples_of_split, scores
from tqdm import tqdm

from irstd_ldm import IRSTDDiffPipeline
from irstd_ldm.data.folder import Sample
from irstd_ldm.data.images import normalize_image
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.evaluation.counts import ImageCounts
from irstd_ldm.evaluation.metrics import paired_bootstrap
from irstd_ldm.tiling import pad_image

STEPS = (0, 1, 2, 4, 10, 20, 100)
CLOCK_IMAGE_PX = 256
DIAGNOSIS = (
    "timestep",
    "target visible",
    "IoU, true noisy mask",
    "IoU, own states",
    "IoU, without the encoder's residuals",
    "area, own states / truth",
)


def measure(
    pipe: IRSTDDiffPipeline, samples: list[Sample], steps: Sequence[int], members: int, rounds: int
) -> list[dict[str, Any]]:
    """One row per number of steps; differences are from the first row."""
    image = synthetic_scene(CLOCK_IMAGE_PX, CLOCK_IMAGE_PX, seed=0).image
    rows: list[dict[str, Any]] = []
    first: list[ImageCounts] = []
    for number in steps:
        counts = count_images(pipe, samples, f"{number} steps", num_inference_steps=number, ensemble_size=members)
        first = first or counts
        difference = paired_bootstrap(first, counts, "iou")
        row = {"steps": number, **scores(counts), "iou_difference": difference.difference}
        row["iou_difference_interval_95"] = (difference.low, difference.high)
        timed: Subjects = {"": partial(pipe, image, num_inference_steps=number, ensemble_size=members, tile_size=0)}
        rows.append(row | {"clocks": in_turns(timed, pipe.device, rounds)[""][1]})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, quality in percent."""
    first = "encoder alone" if rows[0]["steps"] == 0 else f"{rows[0]['steps']} steps"
    lines = []
    for row in rows:
        iou, *others = quality(row)
        interval = percent(*row["iou_difference_interval_95"], form="+.1f")
        difference = f"{percent(row['iou_difference'], form='+.1f')} ({interval})" if row is not rows[0] else "-"
        lines.append([row["steps"] or "encoder alone", iou, difference, *others, f"{row['clocks']:.1f}"])
    return markdown(("steps", QUALITY[0], f"IoU - that of {first} (95 %)", *QUALITY[1:], "clocks"), lines)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """IoU with its interval against clocks, a point per number of steps."""
    from matplotlib.figure import Figure  # matplotlib is an extra
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    values = [100 * row["iou"] for row in rows]
    spans = [[100 * abs(row["iou_interval_95"][side] - row["iou"]) for row in rows] for side in (0, 1)]
    axes.errorbar([row["clocks"] for row in rows], values, yerr=spans, marker="o", capsize=3, linewidth=1)
    for row, value in zip(rows, values, strict=True):
        label, offset = (str(row["steps"]), (5, 5)) if row["steps"] else ("encoder", (5, -14))
        axes.annotate(label, (row["clocks"], value), textcoords="offset points", xytext=offset)
    axes.set(xscale="log", xlabel="clocks per 256x256 image", ylabel="IoU in percent, 95 % over images")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title("IRSTD-Diff: denoising steps (at the points) against quality and time", fontsize=10)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def diagnose(pipe: IRSTDDiffPipeline, samples: list[Sample], num_steps: int) -> str:
    """A Markdown table, a row per timestep: pooled IoU of the denoiser's answers in percent, over whole images."""
    generator, scheduler = torch.Generator().manual_seed(0), pipe.scheduler
    scheduler.set_timesteps(num_steps)
    # timestep -> counts over the images: of each answer its hits and the union, and of pixels seen and all.
    sums = {int(timestep): np.zeros((4, 2)) for timestep in scheduler.timesteps}
    areas = dict.fromkeys(sums, 0)
    for sample in tqdm(samples, disable=None):
        gray = pad_image(normalize_image(sample.image, None, pipe.config.normalization))
        image = torch.from_numpy(gray)[None, None]  # (1, 1, PH, PW)
        mask = torch.from_numpy(pad_image(sample.mask))[None, None]
        with torch.no_grad():
            encoded = pipe.conditional_encoder(image)
            seen, residuals = pipe.unet.condition(image, encoded.logits), encoded.residuals
            state = torch.randn(image.shape, generator=generator)
            for timestep in scheduler.timesteps:
                noise = torch.randn(image.shape, generator=generator)
                noisy = scheduler.add_noise(mask * 2.0 - 1, noise, timestep[None])
                asked = ((noisy, residuals), (state, residuals), (noisy, [torch.zeros_like(one) for one in residuals]))
                answers = [pipe.unet(torch.cat([seen, x], dim=1), timestep, given).sample for x, given in asked]
                row = sums[int(timestep)]
                for index, answer in enumerate(answers):
                    row[index] += [((answer > 0) & mask).sum(), ((answer > 0) | mask).sum()]
                row[3] += [(noisy[mask] > 0).sum() - 0.5 * mask.sum(), 0.5 * mask.sum()]
                areas[int(timestep)] += int((answers[1] > 0).sum())
                state = scheduler.step(answers[1], timestep, state).prev_sample
    truth = sum(int(sample.mask.sum()) for sample in samples)
    cells = {t: [percent(hits / max(union, 1)) for hits, union in row] for t, row in sums.items()}
    rows = [[t, row[3], row[0], row[1], row[2], f"{areas[t] / truth:.2f}"] for t, row in cells.items()]
    return markdown(DIAGNOSIS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a pixel detector")
    parser.add_argument("--data", required=True, help="data set in the field's layout")
    parser.add_argument("--split", choices=("train", "test", "val"), default="test")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--scheduler", help="a scheduler of diffusers in place of the checkpoint's")
    parser.add_argument("--members", type=int, default=1, help="members, fused by their mean")
    parser.add_argument("--diagnosis", type=int, metavar="STEPS", help="what goes wrong in so many steps, instead")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the clocks")
    parser.add_argument("--document", type=Path, help="a Markdown file with marks, whose table is replaced")
    parser.add_argument("--plot", type=Path, help="a file for the plot, .svg or .png")
    parser.add_argument("--output", type=Path, help="a JSON file for the rows")
    arguments = parser.parse_args()

    pipe = IRSTDDiffPipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    if arguments.scheduler:
        pipe.scheduler = getattr(diffusers, arguments.scheduler).from_config(pipe.scheduler.config)
    samples = samples_of_split(arguments.model, arguments.data, arguments.split)
    if arguments.diagnosis:
        print(diagnose(pipe, samples, arguments.diagnosis))
        return
    rows = measure(pipe, samples, arguments.steps, arguments.members, arguments.rounds)
    caption = (
        f"{Path(arguments.data).name} {arguments.split}, {len(samples)} images, {rows[0]['targets']} targets, "
        f"native size, threshold {pipe.config.default_mask_threshold}, members: {arguments.members}, "
        f"{type(pipe.scheduler).__name__} ({pipe.scheduler.config.prediction_type} prediction):"
    )
    text = f"{caption}\n\n{table(rows)}"
    publish("pixel_steps.py", text, arguments.document, rows, arguments.output)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()

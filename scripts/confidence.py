"""The effect of ensembles and denoising steps on quality and on the meaning of a target's confidence.

    python scripts/confidence.py --data DATA/NUAA-SIRST [--model CHECKPOINT] [--backgrounds DATA/backgrounds] \
        [--ensemble-sizes 1 4 16] [--steps 1 4 20] [--output confidence.json]

The first row has no diffusion: the decoder sees a posterior of zeros. The images are those of the checkpoint's val.txt
(and, with --backgrounds, its val_backgrounds.txt), which it never saw. "after Platt" is fitted anew for every image on
all the others.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch
from markdown_tables import markdown, percent
from tqdm import tqdm

from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.cli.image_set import ImageSet
from irstd_ldm.data.folder import validation_list
from irstd_ldm.evaluation.confidence import (
    Reliability,
    ScoredTarget,
    confidences_and_hits,
    fit_platt,
    reliability,
    scored_targets,
)
from irstd_ldm.evaluation.counts import ImageCounts, count_components
from irstd_ldm.evaluation.matching import label_image
from irstd_ldm.evaluation.metrics import detection_scores
from irstd_ldm.files import write_json

NUM_BINS = 5


def zero_posterior(pipe: IRSTDLatentPipeline, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
    return {"latents": torch.zeros_like(tensors["latents"])}


def measure(pipe: IRSTDLatentPipeline, image_sets: list[ImageSet], name: str, **arguments: Any) -> dict[str, Any]:
    """One row: the arguments are those of the pipeline's call."""
    counts, per_image = [], []
    for _, image, mask in tqdm(itertools.chain(*image_sets), desc=name, unit="image", disable=None):
        output = pipe(image, **arguments)
        components = label_image(output.mask[0, 0], mask > 0)
        matches = components.match()
        counts.append(count_components(components, matches))
        per_image.append(scored_targets(components, matches, output.probability[0, 0]))
    total = sum(counts, ImageCounts.zero())
    return {
        **detection_scores(counts),
        "num_images": total.images,
        "num_predicted": total.predicted,
        "num_hits": total.hits,
        "as predicted": _calibration(reliability(per_image, num_targets=total.targets, num_bins=NUM_BINS)),
        "after Platt": _calibration(
            reliability(_leave_one_out(per_image), num_targets=total.targets, num_bins=NUM_BINS)
        ),
    }


def _leave_one_out(per_image: list[list[ScoredTarget]]) -> list[list[ScoredTarget]]:
    calibrated = []
    for index, targets in enumerate(per_image):
        fitted = fit_platt(*confidences_and_hits(per_image[:index] + per_image[index + 1 :]))
        calibrated.append([ScoredTarget(float(fitted.apply(target.confidence)), target.hit) for target in targets])
    return calibrated


def _calibration(found: Reliability) -> dict[str, Any]:
    return {
        "ece": found.ece.value,
        "brier": found.brier.value,
        "brier_interval_95": [found.brier.low, found.brier.high],
        "bins": [
            {"confidence": b.mean_confidence, "hit_rate": b.hit_rate.value, "num_predicted": b.num_predicted}
            for b in found.bins
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set in the field's layout")
    parser.add_argument("--model", type=Path, default=bundled_checkpoint(), help="default: the bundled checkpoint")
    parser.add_argument("--backgrounds", type=Path, help="frames without targets")
    parser.add_argument("--ensemble-sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 20])
    parser.add_argument("--output", type=Path, help="a JSON file for the table")
    arguments = parser.parse_args()

    image_sets = [ImageSet(arguments.data, split="val", list_file=validation_list(arguments.model, arguments.data))]
    if arguments.backgrounds is not None:
        held_out = arguments.model / "val_backgrounds.txt"
        image_sets.append(ImageSet(arguments.backgrounds, list_file=held_out, no_targets=True))
    pipe = IRSTDLatentPipeline.from_pretrained(arguments.model)
    table = {"no diffusion": measure(pipe, image_sets, "no diffusion", callback_on_step_end=zero_posterior)}
    for ensemble_size, steps in itertools.product(arguments.ensemble_sizes, arguments.steps):
        name = f"E = {ensemble_size}, {steps} steps"
        settings = {"ensemble_size": ensemble_size, "num_inference_steps": steps}
        table[name] = measure(pipe, image_sets, name, **settings)

    columns = ["row", "IoU", "Pd", "Fa / million px", "predicted", "hits"]
    columns += [f"{name}{after}" for after in ("", " after Platt") for name in ("ECE", "Brier")]
    rows = [
        (
            name,
            *(percent(row[key]) for key in ("iou", "pd")),
            f"{row['fa_per_million_px']:.1f}",
            row["num_predicted"],
            row["num_hits"],
            *(f"{row[fit][key]:.3f}" for fit in ("as predicted", "after Platt") for key in ("ece", "brier")),
        )
        for name, row in table.items()
    ]
    print(markdown(columns, rows))
    if arguments.output:
        write_json(arguments.output, table)


if __name__ == "__main__":
    main()

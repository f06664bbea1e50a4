"""The effect of ensembles and denoising steps on quality and on the meaning of a target's confidence.

    python scripts/confidence.py --data DATA/NUAA-SIRST [--model CHECKPOINT] [--ensemble-sizes 1 4 16] \
        [--steps 1 4 20] [--output confidence.json]

The first row has no diffusion: the decoder sees a posterior of zeros. The images are those of the checkpoint's
validation list, which it never saw. "after Platt" is fitted anew for every image on all the others.
"""

import argparse
import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from markdown_tables import markdown, percent, samples_of_split
from tqdm import tqdm

from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.data.folder import Sample
from irstd_ldm.evaluation.confidence import ScoredTarget, confidences_and_hits, fit_platt, reliability, scored_targets
from irstd_ldm.evaluation.counts import count_components
from irstd_ldm.evaluation.matching import label_image
from irstd_ldm.evaluation.metrics import detection_scores
from irstd_ldm.files import write_json

COLUMNS = ("row", "IoU", "Pd", "Fa / million px", "predicted", "hits", "ECE", "Brier", "ECE, Platt", "Brier, Platt")


def zero_posterior(pipe: IRSTDLatentPipeline, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
    return {"latents": torch.zeros_like(tensors["latents"])}


def measure(pipe: IRSTDLatentPipeline, samples: list[Sample], name: str, **arguments: Any) -> dict[str, Any]:
    """One row: the arguments are those of the pipeline's call."""
    counts, predicted, calibrated = [], [], []
    for sample in tqdm(samples, desc=name, unit="image", disable=None):
        output = pipe(sample.image, **arguments)
        components = label_image(output.mask[0, 0], sample.mask)
        matches = components.match()
        counts.append(count_components(components, matches))
        predicted.append(scored_targets(components, matches, output.probability[0, 0]))
    for index, targets in enumerate(predicted):
        fitted = fit_platt(*confidences_and_hits(predicted[:index] + predicted[index + 1 :]))
        calibrated.append([ScoredTarget(float(fitted.apply(target.confidence)), target.hit) for target in targets])
    num_targets = sum(one.targets for one in counts)
    named = {"as predicted": predicted, "after Platt": calibrated}
    reliabilities = {
        kind: asdict(reliability(scored, num_targets=num_targets, num_bins=5)) for kind, scored in named.items()
    }
    return detection_scores(counts) | reliabilities


def cells(name: str, row: dict[str, Any]) -> list[Any]:
    """One line of the table."""
    kinds = [row["as predicted"], row["after Platt"]]
    fits = [f"{kind[key]['value']:.3f}" for kind in kinds for key in ("ece", "brier")]
    fa = f"{row['fa_per_million_px']:.1f}"
    return [name, percent(row["iou"]), percent(row["pd"]), fa, kinds[0]["num_predicted"], kinds[0]["num_hits"], *fits]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set in the field's layout")
    parser.add_argument("--model", type=Path, default=bundled_checkpoint(), help="default: the bundled checkpoint")
    parser.add_argument("--ensemble-sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 20])
    parser.add_argument("--output", type=Path, help="a JSON file for the table")
    arguments = parser.parse_args()

    samples = samples_of_split(arguments.model, arguments.data, "val")
    pipe = IRSTDLatentPipeline.from_pretrained(arguments.model)
    table = {"no diffusion": measure(pipe, samples, "no diffusion", callback_on_step_end=zero_posterior)}
    for size, steps in itertools.product(arguments.ensemble_sizes, arguments.steps):
        name = f"E = {size}, {steps} steps"
        table[name] = measure(pipe, samples, name, ensemble_size=size, num_inference_steps=steps)
    print(markdown(COLUMNS, [cells(name, row) for name, row in table.items()]))
    if arguments.output:
        write_json(arguments.output, table)


if __name__ == "__main__":
    main()

"""Which score ranks targets from clutter best, and whether a lower second level delineates them better.

    python scripts/target_scores.py --model irstd_ldm/checkpoints/tiny \
        --data NUAA-SIRST IRSTD-1k NUDT-SIRST --backgrounds backgrounds

reads the validation lists of the checkpoint and prints two tables in Markdown. Pd in percent at budgets of false
targets per megapixel and of false-alarm pixels per million, in brackets the paired 95 % bootstrap interval of its
difference to the mean's, images drawn as a whole. IoU in percent of each data set at mask thresholds, and where a
component of a lower level is kept that holds a pixel above 0.5.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from irstd_ldm import IRSTDLatentPipeline
from irstd_ldm.cli.image_set import ImageSet
from irstd_ldm.data.folder import validation_list
from irstd_ldm.evaluation.counts import count_image
from irstd_ldm.evaluation.matching import label_image
from irstd_ldm.evaluation.metrics import METRICS

BUDGETS = {"false targets per Mpx": (1, (0.25, 0.5, 1, 2)), "false-alarm px per million": (2, (5, 10, 20, 40))}
SCORES: dict[str, Callable[[np.ndarray], float]] = {  # Each takes the probabilities of a component's pixels.
    "mean": np.mean,
    "peak": np.max,
    "mean x peak": lambda p: float(np.mean(p) * np.max(p)),
    "mean of the 5 highest": lambda p: float(np.sort(p)[-5:].mean()),
    "sum": np.sum,
}
Image = tuple[str, np.ndarray, np.ndarray]
Events = tuple[np.ndarray, np.ndarray]


def probabilities(arguments: argparse.Namespace) -> Iterator[Image]:
    """Data set, probability (H, W) and truth (H, W) bool of every image."""
    pipeline = IRSTDLatentPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    sets = [ImageSet(root, list_file=validation_list(arguments.model, root)) for root in arguments.data]
    sets.append(ImageSet(arguments.backgrounds, list_file=arguments.model / "val_backgrounds.txt", no_targets=True))
    for images in sets:
        for _, image, mask in tqdm(images, desc=images.root.name):
            yield images.root.name, pipeline(image).probability[0, 0], mask > 0


def events(images: list[Image], score: Callable[[np.ndarray], float]) -> Events:
    """What each component adds when thresholds fall past it, by falling score: image (K,), hits, false, px (K, 3)."""
    found = []
    for index, (_, probability, truth) in enumerate(images):
        components = label_image(probability > 0.5, truth)
        labels = range(1, len(components.predicted) + 1)
        scores = [score(probability[components.prediction_labels == label]) for label in labels]
        before = np.zeros(3, dtype=np.int64)
        for k in np.argsort(scores)[::-1]:
            kept = np.isin(components.prediction_labels, 1 + np.flatnonzero(np.array(scores) >= scores[k]))
            counts = count_image(kept, truth)
            now = np.array([counts.hits, counts.predicted - counts.hits, counts.false_alarm_px])
            found.append((scores[k], index, now - before))
            before = now
    found.sort(key=lambda one: -one[0])
    return np.array([one[1] for one in found]), np.array([one[2] for one in found])


def pd_at(found: Events, sizes: np.ndarray, drawn: np.ndarray, column: int, budget: float) -> float:
    """Pd in percent at a budget; `sizes`: each image's megapixels and targets (N, 2), `drawn`: how often it counts."""
    image, added = found
    sums = np.cumsum(added * drawn[image, None], axis=0)
    megapixels, num_targets = drawn @ sizes
    kept = np.searchsorted(sums[:, column], budget * megapixels, side="right")
    return 100 * sums[kept - 1, 0] / num_targets if kept else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--backgrounds", type=Path, required=True)
    parser.add_argument("--resamples", type=int, default=200)
    arguments = parser.parse_args()
    images = list(probabilities(arguments))
    sizes = np.array([(truth.size / 1e6, ndimage.label(truth, np.ones((3, 3)))[1]) for _, _, truth in images])
    rng = np.random.default_rng(0)
    resamples = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), size=arguments.resamples)
    found = {name: events(images, score) for name, score in SCORES.items()}
    columns = [(column, budget) for column, budgets in BUDGETS.values() for budget in budgets]
    print(f"| score | {' | '.join(f'{b:g} {kind}' for kind, (_, budgets) in BUDGETS.items() for b in budgets)} |")
    print("|---" * (1 + len(columns)) + "|")
    once = np.ones(len(images), dtype=np.int64)
    for name, one in found.items():
        cells = []
        for column, budget in columns:
            differences = [
                pd_at(one, sizes, drawn, column, budget) - pd_at(found["mean"], sizes, drawn, column, budget)
                for drawn in (resamples if name != "mean" else [])
            ]
            low_high = " ({:+.0f} to {:+.0f})".format(*np.quantile(differences, [0.025, 0.975])) if differences else ""
            cells.append(f"{pd_at(one, sizes, once, column, budget):.1f}{low_high}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    names = [root.name for root in arguments.data]
    print(f"\n| mask | {' | '.join(names)} |\n{'|---' * (1 + len(names))}|")
    for level in (0.5, 0.4, 0.3, 0.2):
        for kind in ("threshold", "holds a core above 0.5"):
            rows = []
            for name in names:
                counts = []
                for data, probability, truth in images:
                    if data == name:
                        labels = ndimage.label(probability > level, np.ones((3, 3)))[0]
                        cores = np.unique(labels[probability > 0.5])
                        kept = np.isin(labels, cores) & (labels > 0) if kind != "threshold" else labels > 0
                        counts.append(count_image(kept, truth))
                rows.append(f"{100 * METRICS['iou'].value(counts):.1f}")
            print(f"| {kind}, {level:g} | {' | '.join(rows)} |", flush=True)


if __name__ == "__main__":
    main()

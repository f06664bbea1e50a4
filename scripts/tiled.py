"""The effect of tiles: each image whole and in tiles of a given size, on the labelled images of a split.

    python scripts/tiled.py --data DATA/NUAA-SIRST --split val [--tile-size 192 --tile-overlap 32]

An image no larger than a tile is one tile, its result that of the whole: it is left out of the second row. A target is
the same where a target found whole and one found in tiles are matched, by centroids nearer than 3 px, one to one.
`true both ways` counts the labelled targets that both find, of those that either finds.
`--split val` reads the checkpoint's own list. Both runs are at the checkpoint's own threshold.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markdown_tables import markdown, percent, samples_of_split
from tqdm import tqdm

from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.data.folder import Sample
from irstd_ldm.evaluation.counts import ImageCounts, count_image
from irstd_ldm.evaluation.matching import label_image
from irstd_ldm.evaluation.metrics import iou

COLUMNS = ("images", "IoU whole", "IoU tiled", "targets whole", "targets tiled", "the same", "true both ways")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val")
    parser.add_argument("--model", type=Path, default=bundled_checkpoint(), metavar="DIR")
    parser.add_argument("--tile-size", type=int, default=192, metavar="PX")
    parser.add_argument("--tile-overlap", type=int, default=32, metavar="PX")
    args = parser.parse_args()
    samples = samples_of_split(args.model, args.data, args.split)
    pipeline = IRSTDLatentPipeline.from_pretrained(args.model)
    rows = [compare(pipeline, sample, args.tile_size, args.tile_overlap) for sample in tqdm(samples, disable=None)]
    tiled = [row for row, sample in zip(rows, samples, strict=True) if max(sample.image.shape) > args.tile_size]
    print(f"{args.data.name} {args.split}, tiles of {args.tile_size} px that overlap by {args.tile_overlap} px")
    groups = (("all", rows), ("larger than a tile", tiled))
    print(markdown(COLUMNS, [row_of(f"{name}: {len(chosen)}", chosen) for name, chosen in groups]))


class Comparison(NamedTuple):
    """Counts of the whole image, of the tiled one, and of the tiled one with the whole one's mask as the truth."""

    whole: ImageCounts
    tiled: ImageCounts
    between: ImageCounts
    hits_of_both: int
    hits_of_either: int


def compare(pipeline: IRSTDLatentPipeline, sample: Sample, tile_size: int, tile_overlap: int) -> Comparison:
    """An image, run whole and in tiles."""
    whole, tiled = (pipeline(sample.image, tile_size=size, tile_overlap=tile_overlap) for size in (0, tile_size))
    return compare_masks(whole.mask[0, 0], tiled.mask[0, 0], sample.mask)


def compare_masks(whole: np.ndarray, tiled: np.ndarray, truth: np.ndarray) -> Comparison:
    """The masks (H, W) bool of one image."""
    first, second = ({target for target, _ in label_image(mask, truth).match()} for mask in (whole, tiled))
    counts = (count_image(whole, truth), count_image(tiled, truth), count_image(tiled, whole))
    return Comparison(*counts, len(first & second), len(first | second))


def row_of(name: str, rows: Sequence[Comparison]) -> tuple[str, ...]:
    """One line of the table."""
    whole, tiled, between = (
        sum((getattr(row, part) for row in rows), ImageCounts.zero()) for part in ("whole", "tiled", "between")
    )
    both, either = sum(row.hits_of_both for row in rows), sum(row.hits_of_either for row in rows)
    same = f"{between.hits} ({percent(between.hits / max(whole.predicted, 1))} %)"
    true = f"{both} of {either} ({percent(both / max(either, 1))} %)"
    return name, f"{iou(whole):.4f}", f"{iou(tiled):.4f}", f"{whole.predicted}", f"{tiled.predicted}", same, true


if __name__ == "__main__":
    main()

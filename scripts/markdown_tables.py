"""Common to the scripts: the images of a split, their scores, and Markdown tables, also inside documents."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from irstd_ldm.data.folder import IRSTDFolder, Sample, validation_list
from irstd_ldm.evaluation.counts import ImageCounts, count_image
from irstd_ldm.evaluation.metrics import bootstrap_interval, detection_scores, iou, paired_bootstrap

QUALITY = ("IoU (95 %)", "nIoU", "Pd", "Fa / million px")
SEED_COLUMNS = ("IoU, mean of seeds (range)", "95 % over images", "IoU - first arm (95 %)", "Pd", "Fa / million px")
END = "<!-- end of the table -->"
BEGINNING = "<!-- table of scripts/"


def samples_of_split(model: str | Path, data: str | Path, split: str) -> list[Sample]:
    """The labelled images of a split; ``val`` is the checkpoint's own list, which it never saw."""
    if split == "val":
        return list(IRSTDFolder(data, list_file=validation_list(model, data)))
    return list(IRSTDFolder(data, split))


def count_images(pipe: Any, samples: Sequence[Sample], name: str = "", **arguments: Any) -> list[ImageCounts]:
    """Counts per image of the masks that a pipeline, called with the arguments, finds; `name` labels the progress."""
    progress = tqdm(samples, desc=name, disable=None)
    return [count_image(pipe(sample.image, **arguments).mask[0, 0], sample.mask) for sample in progress]


def kept_counts(path: Path, count: Callable[[], list[ImageCounts]]) -> list[ImageCounts]:
    """Counts per image from a file, or made and written there."""
    if not path.exists():
        path.write_text(json.dumps([asdict(one) for one in count()]), encoding="utf-8")
    return [ImageCounts(**one) for one in json.loads(path.read_text(encoding="utf-8"))]


def pool(seeds: Sequence[Sequence[ImageCounts]]) -> list[ImageCounts]:
    """Each image's counts, summed over the seeds."""
    return [sum(of_image, ImageCounts.zero()) for of_image in zip(*seeds, strict=True)]


def scores(counts: Sequence[ImageCounts]) -> dict[str, Any]:
    """Pooled scores, the 95 % interval of the IoU over images, and the number of targets."""
    interval, targets = bootstrap_interval(counts, "iou"), sum(image.targets for image in counts)
    return {**detection_scores(counts), "iou_interval_95": interval, "targets": targets}


def percent(*values: float, form: str = ".1f") -> str:
    """Values in percent, an interval as "LOW to HIGH"."""
    return " to ".join(f"{100 * value:{form}}" for value in values)


def quality(row: Mapping[str, Any]) -> list[str]:
    """The cells under `QUALITY`, of what `scores` returns."""
    iou = f"{percent(row['iou'])} ({percent(*row['iou_interval_95'])})"
    return [iou, percent(row["niou"]), percent(row["pd"]), f"{row['fa_per_million_px']:.1f}"]


def seed_row(seeds: Sequence[Sequence[ImageCounts]], first: Sequence[ImageCounts]) -> list[str]:
    """The cells under `SEED_COLUMNS`: an image's counts are summed over the seeds, then images are resampled.

    `first` are the pooled counts of the arm that all are compared with.
    """
    pooled = pool(seeds)
    of_arm, difference = scores(pooled), paired_bootstrap(first, pooled, "iou")
    single = [iou(sum(counts, ImageCounts.zero())) for counts in seeds]
    interval = percent(difference.low, difference.high, form="+.1f")
    return [
        f"{percent(float(np.mean(single)))} ({percent(min(single), max(single))})",
        percent(*of_arm["iou_interval_95"]),
        f"{percent(difference.difference, form='+.1f')} ({interval})",
        percent(of_arm["pd"]),
        f"{of_arm['fa_per_million_px']:.1f}",
    ]


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines).replace(" --- ", "---")


def publish(
    script: str, text: str, document: Path | None = None, rows: Any = None, output: Path | None = None
) -> None:
    """Print a script's table, and write it into a document and its rows into a JSON file where these are named."""
    print(text)
    if document is not None:
        insert(document, script, text)
    if output is not None:
        output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def insert(document: Path, script: str, text: str) -> None:
    """Put `text` between the mark of a script, such as pixel_steps.py, and the first end mark after it.

    Raises:
        ValueError: The document has not exactly one mark of the script, or no end mark before the next table.
    """
    content, mark = document.read_text(encoding="utf-8"), f"{BEGINNING}{script} -->"
    before, _, rest = content.partition(mark)
    old, end, after = rest.partition(END)
    if content.count(mark) != 1 or not end or BEGINNING in old:
        raise ValueError(f"{document} must have one line {mark!r} and, before the next table, one line {END!r}")
    document.write_text(f"{before}{mark}\n{text}\n{END}{after}", encoding="utf-8")

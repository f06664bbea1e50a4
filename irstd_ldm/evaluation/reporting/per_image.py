"""A row per image."""

import csv
import io
from collections.abc import Sequence
from dataclasses import fields

from ..counts import ImageCounts
from ..metrics import iou
from .named import NamedEvaluation

COUNT_FIELDS = tuple(field.name for field in fields(ImageCounts) if field.name != "images")
FIELDS = ("detector", "data", "stem", "image", "protocol", "matching", "threshold", "iou", *COUNT_FIELDS)


def per_image_csv(evaluations: Sequence[NamedEvaluation], addresses: Sequence[dict[str, str]]) -> str:
    """The counts of every image as CSV; `image` is the file relative to the report, empty where there is none.

    Args:
        evaluations: the report's.
        addresses: stem -> address of its image file, of each evaluation.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for evaluation, files in zip(evaluations, addresses, strict=True):
        result = evaluation.result
        for found in result.per_image:
            writer.writerow(
                {
                    "detector": evaluation.detector,
                    "data": evaluation.data,
                    "stem": found.stem,
                    "image": files.get(found.stem, ""),
                    "protocol": result.protocol.name,
                    "matching": result.matching,
                    "threshold": result.threshold,
                    "iou": iou(found.counts),
                    **{name: getattr(found.counts, name) for name in COUNT_FIELDS},
                }
            )
    return text.getvalue()

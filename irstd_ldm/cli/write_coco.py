"""detections_coco.json: images and targets in the format of COCO, masks as compressed run lengths (pycocotools)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..targets import label_components
from .growing_file import GrowingFile
from .kinds import TABLE_NAMES
from .outputs import finite
from .writers import Ending, ImageResult

CATEGORIES = [{"id": 1, "name": "target"}]


class COCOFile:
    """An image per input and an annotation per target, which has a `score`, its confidence, beside COCO's fields."""

    def __init__(self, folder: Path):
        self._file = GrowingFile(folder / TABLE_NAMES["coco"])
        self._images = GrowingFile(folder / "detections_coco_images.json")  # joined to the other in the end
        self._num_images = self._num_annotations = 0
        self._counts_before = (0, 0)

    def begin(self, header: Mapping[str, Any]) -> None:
        self._file.open()
        self._images.open()
        self._file.append(f'{{"info": {json.dumps(finite(header))},\n"categories": {json.dumps(CATEGORIES)},\n')
        self._file.append('"annotations": [')

    def add(self, result: ImageResult) -> None:
        self._file.mark()
        self._images.mark()
        self._counts_before = (self._num_images, self._num_annotations)
        self._num_images += 1
        height, width = result.mask.shape
        image = {"id": self._num_images, "file_name": str(result.item.path), "width": width, "height": height}
        self._images.append(_item(self._num_images, image))
        labels, components = label_components(result.mask)
        for target, component in zip(result.targets, components, strict=True):
            self._num_annotations += 1
            box = (target.left, target.top, target.width, target.height)
            window = np.s_[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
            annotation = {
                "id": self._num_annotations,
                "image_id": self._num_images,
                "category_id": 1,
                "segmentation": run_lengths(labels[window] == component.label, box[0], box[1], height, width),
                "area": target.area_px,
                "bbox": box,
                "iscrowd": 0,
                "score": target.confidence,
            }
            self._file.append(_item(self._num_annotations, annotation))

    def take_back(self) -> None:
        self._file.take_back()
        self._images.take_back()
        self._num_images, self._num_annotations = self._counts_before

    def finish(self, ending: Ending) -> None:
        self._file.append('],\n"images": [')
        self._file.append_file(self._images)
        self._file.append("]}\n")
        self._file.finish()
        self._images.discard()

    def discard(self) -> None:
        self._file.discard()
        self._images.discard()


def run_lengths(inside: np.ndarray, left: int, top: int, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed run lengths, column by column, of a mask that is empty outside of a window.

    Args:
        inside: (h, w) bool, the window.
        left, top: its place.
        height, width: of the whole mask.

    Returns:
        {"size": [height, width], "counts": text}.
    """
    columns, rows = np.nonzero(inside.T)
    places = (columns + left) * height + rows + top  # ascending, in the order of columns
    breaks = np.flatnonzero(np.diff(places) > 1)
    starts = places[np.concatenate(([0], breaks + 1))]
    ends = places[np.concatenate((breaks, [len(places) - 1]))] + 1
    edges = np.concatenate(([0], np.stack((starts, ends), axis=1).ravel(), [height * width]))
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": np.diff(edges).tolist()}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode()}


def _item(number: int, content: Mapping[str, Any]) -> str:
    return ("\n" if number == 1 else ",\n") + json.dumps(finite(content))

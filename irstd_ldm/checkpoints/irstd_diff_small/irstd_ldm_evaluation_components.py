"""The one labelling function: a target is an 8-connected component of a mask."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

EIGHT_CONNECTIVITY = np.ones((3, 3), dtype=bool)
STRIP_PX = 2**20  # a foreground pixel takes some 50 bytes while it is counted


@dataclass(frozen=True)
class Component:
    """One 8-connected component of a mask.

    Attributes:
        label: its value in the label image, from 1.
        area_px: number of pixels.
        x, y: unweighted centroid in pixels, origin top left, pixel centres at integers.
        left, top, width, height: the smallest box of whole pixels that holds it.
    """

    label: int
    area_px: int
    x: float
    y: float
    left: int
    top: int
    width: int
    height: int


def label_components(mask: np.ndarray) -> tuple[np.ndarray, list[Component]]:
    """Labels the 8-connected components of a mask.

    Args:
        mask: (H, W) bool.

    Returns:
        The label image (H, W) int32, 0 where the mask is False, and the components, `components[k]` having
        label k + 1. Labels follow the raster order of each component's first pixel.

    Raises:
        TypeError: `mask` is not a bool array.
        ValueError: `mask` is not two-dimensional.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"`mask` must be a bool array, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.ndim != 2:
        raise ValueError(f"`mask` must have shape (H, W), got {mask.shape}")
    labels = np.zeros(mask.shape, dtype=np.int32)  # (H, W)
    count = ndimage.label(mask, structure=EIGHT_CONNECTIVITY, output=labels)
    area_px, sum_x, sum_y = np.zeros(count + 1, np.int64), np.zeros(count + 1), np.zeros(count + 1)
    strip = -(-STRIP_PX // max(labels[:1].size, 1))
    for top in range(0, len(labels), strip):
        rows, columns = np.nonzero(labels[top : top + strip])  # (area of all in the strip,)
        index = labels[top + rows, columns]
        area_px += np.bincount(index, minlength=count + 1)
        sum_x += np.bincount(index, weights=columns, minlength=count + 1)
        sum_y += np.bincount(index, weights=top + rows, minlength=count + 1)
    components = []
    for label, (row_slice, column_slice) in enumerate(ndimage.find_objects(labels), start=1):
        components.append(
            Component(
                label=label,
                area_px=int(area_px[label]),
                x=float(sum_x[label] / area_px[label]),
                y=float(sum_y[label] / area_px[label]),
                left=int(column_slice.start),
                top=int(row_slice.start),
                width=int(column_slice.stop - column_slice.start),
                height=int(row_slice.stop - row_slice.start),
            )
        )
    return labels, components

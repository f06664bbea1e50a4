"""Tables for other programs: COCO's JSON, and GeoJSON (RFC 7946) of GeoTIFF images."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..files import finite
from ..targets import label_components
from .outputs import Ending, Record, Records, list_elements

COCO_CATEGORIES = [{"id": 1, "name": "target"}]
WGS84 = "EPSG:4326"
DIGITS = 9  # decimals of a degree, 0.1 mm on the ground
Position = tuple[float, float]  # x and y in pixels of the image, or degrees


def coco_table(header: Mapping[str, Any], records: Records, ending: Ending) -> Iterator[str]:
    """detections_coco.json: an image per still, an annotation per target with a `score`, its confidence."""
    yield f'{{"info": {json.dumps(finite(header))},\n"categories": {json.dumps(COCO_CATEGORIES)},\n"annotations": ['
    numbered = ((number, one) for number, record in enumerate(records(), start=1) for one in _annotations(record))
    yield from list_elements({"id": k, "image_id": number, **one} for k, (number, one) in enumerate(numbered, start=1))
    yield '],\n"images": ['
    images = (
        {"id": number, "file_name": record.file, "width": record.width, "height": record.height}
        for number, record in enumerate(records(), start=1)
    )
    yield from list_elements(images)
    yield "]}\n"


def _annotations(record: Record) -> Iterator[dict[str, Any]]:
    from pycocotools import mask as coco_mask

    height, width = record.mask.shape
    labels, components = label_components(record.mask)
    for target, component in zip(record.targets, components, strict=True):
        window = np.s_[target.top : target.top + target.height, target.left : target.left + target.width]
        counts = _run_lengths_of_window(labels[window] == component.label, target.left, target.top, height, width)
        encoded = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        yield {
            "category_id": 1,
            "segmentation": {"size": [height, width], "counts": encoded["counts"].decode()},
            "area": target.area_px,
            "bbox": [target.left, target.top, target.width, target.height],
            "iscrowd": 0,
            "score": target.confidence,
        }


def _run_lengths_of_window(inside: np.ndarray, left: int, top: int, height: int, width: int) -> list[int]:
    """COCO's run lengths of a mask (height, width) that is `inside` (h, w) in a window and empty around it."""
    columns, rows = np.nonzero(inside.T)
    positions = (columns + left) * height + rows + top  # ascending, in the order of columns
    breaks = np.flatnonzero(np.diff(positions) > 1)
    starts = positions[np.append(0, breaks + 1)]
    ends = positions[np.append(breaks, -1)] + 1
    return np.diff(np.stack([starts, ends], axis=1).ravel(), prepend=0, append=height * width).tolist()


def geojson_table(header: Mapping[str, Any], records: Records, ending: Ending) -> Iterator[str]:
    """detections.geojson: two features per target of a GeoTIFF, its centroid and its box."""
    yield '{"type": "FeatureCollection", "features": ['
    yield from list_elements(feature for record in records() for feature in _features(record))
    yield "\n]}\n"


def _features(record: Record) -> Iterator[dict[str, Any]]:
    """A target's centroid, a point, and its box, a polygon from its lower left corner on.

    Geometries are null in images without a coordinate reference system, and where they reach beyond it (the limb of a
    full-disk image).
    """
    georeference = _georeference(Path(record.file))
    for target, row in zip(record.targets, record.row()["targets"], strict=True):
        left, top, right, bottom = target.left, target.top, target.left + target.width, target.top + target.height
        box = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
        corner_origin = (target.x + 0.5, target.y + 0.5)  # GDAL's origin is the corner of the top left pixel
        for kind, geometry in (
            ("centroid", _geometry("Point", [corner_origin], georeference)),
            ("box", _geometry("Polygon", box, georeference)),
        ):
            properties = {"file": record.file, "name": record.name, "kind": kind, **row}
            yield {"type": "Feature", "geometry": geometry, "properties": properties}


def _georeference(path: Path) -> tuple[Any, Any] | None:
    """The coordinate reference system of a GeoTIFF and the transform from pixels to it."""
    import rasterio

    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as file:
                return (file.crs, file.transform) if file.crs and not file.transform.is_identity else None
        except rasterio.errors.RasterioIOError:  # a TIFF that Pillow or tifffile reads and GDAL does not
            return None


def _geometry(kind: str, positions: Sequence[Position], georeference: tuple[Any, Any] | None) -> dict[str, Any] | None:
    """A point, or a counter-clockwise polygon that is cut in two where it crosses the date line (RFC 7946)."""
    if georeference is None:
        return None
    from rasterio.warp import transform

    crs, to_map = georeference
    xs = [to_map.a * x + to_map.b * y + to_map.c for x, y in positions]
    ys = [to_map.d * x + to_map.e * y + to_map.f for x, y in positions]
    try:
        longitudes, latitudes = transform(crs, WGS84, xs, ys)
    except Exception:  # GDAL's error for a position outside of the projection has no public class
        return None
    if not np.isfinite([longitudes, latitudes]).all():
        return None
    degrees = [[round(x, DIGITS), round(y, DIGITS)] for x, y in zip(longitudes, latitudes, strict=True)]
    if kind == "Point":
        return {"type": kind, "coordinates": [round((degrees[0][0] + 180) % 360 - 180, DIGITS), degrees[0][1]]}
    wraps = np.ptp(longitudes) > 180 or np.abs(longitudes).max() > 180
    ring = [(x % 360 if wraps else x, y) for x, y in degrees]
    parts = [(ring, 360 if max(ring)[0] > 180 else 0)]
    if min(ring)[0] < 180 < max(ring)[0]:
        parts = [(_beyond(ring, lambda x: x <= 180), 0), (_beyond(ring, lambda x: x > 180), 360)]
    polygons = [[_counter_clockwise([[round(x - turn, DIGITS), y] for x, y in part])] for part, turn in parts]
    is_cut = len(polygons) > 1
    return {"type": "MultiPolygon" if is_cut else kind, "coordinates": polygons if is_cut else polygons[0]}


def _beyond(ring: list[Position], keeps: Callable[[float], bool]) -> list[Position]:
    """The part of a closed ring, longitudes in [0, 360), on one side of the date line."""
    kept: list[Position] = []
    for (x0, y0), (x1, y1) in pairwise(ring):
        kept += [(x0, y0)] if keeps(x0) else []
        kept += [(180.0, round(y0 + (180 - x0) / (x1 - x0) * (y1 - y0), DIGITS))] if keeps(x0) != keeps(x1) else []
    return [*kept, kept[0]]


def _counter_clockwise(ring: list[list[float]]) -> list[list[float]]:
    """The closed ring, turned about where it runs clockwise."""
    twice_area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring))
    return ring if twice_area > 0 else ring[::-1]

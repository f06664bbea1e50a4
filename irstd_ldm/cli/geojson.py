"""Targets of GeoTIFF images in longitude and latitude (RFC 7946), by rasterio."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.warp import transform

from ..targets import Target

if TYPE_CHECKING:
    from .records import Record

WGS84 = "EPSG:4326"
DIGITS = 9  # of a degree: 0.1 mm
Position = tuple[float, float]  # pixels of the image


def features(record: "Record") -> Iterator[dict[str, Any]]:
    """Two features per target: its centroid, a point, and its box, a polygon; see `kind` in their properties.

    Of images without a coordinate reference system the geometries are null, as are those that reach beyond it (the
    limb of a full-disk image).
    """
    georeference = Georeference(Path(record.file))
    for target, row in zip(record.targets, record.row()["targets"], strict=True):
        for kind, geometry in (("centroid", georeference.point(target)), ("box", georeference.polygon(target))):
            properties = {"file": record.file, "name": record.name, "kind": kind, **row}
            yield {"type": "Feature", "geometry": geometry, "properties": properties}


class Georeference:
    """From pixels of a file to longitude and latitude; to nothing where the file does not tell."""

    def __init__(self, path: Path):
        self._crs = None
        if path.suffix.lower() not in (".tif", ".tiff"):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            try:
                with rasterio.open(path) as file:
                    self._crs, self._to_map = file.crs, file.transform
            except RasterioIOError:  # a TIFF that Pillow or tifffile reads and GDAL does not
                return

    def point(self, target: Target) -> dict[str, Any] | None:
        """The centroid."""
        corner_origin = [(target.x + 0.5, target.y + 0.5)]  # GDAL's origin is the corner of the top left pixel
        return self._geometry("Point", corner_origin)

    def polygon(self, target: Target) -> dict[str, Any] | None:
        """The box, from its lower left corner on; counter-clockwise where the map's y axis points up."""
        left, top, right, bottom = target.left, target.top, target.left + target.width, target.top + target.height
        corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
        return self._geometry("Polygon", corners)

    def _geometry(self, kind: str, positions: Sequence[Position]) -> dict[str, Any] | None:
        if self._crs is None:
            return None
        map_ = self._to_map
        xs = [map_.a * x + map_.b * y + map_.c for x, y in positions]
        ys = [map_.d * x + map_.e * y + map_.f for x, y in positions]
        try:
            longitudes, latitudes = transform(self._crs, WGS84, xs, ys)
        except Exception:  # of GDAL, for a place outside of the projection; it has no public class
            return None
        if not np.isfinite([longitudes, latitudes]).all():
            return None
        places = [[round(x, DIGITS), round(y, DIGITS)] for x, y in zip(longitudes, latitudes, strict=True)]
        return {"type": kind, "coordinates": places[0] if kind == "Point" else [places]}

"""Each output of `irstd-ldm detect`, read back by what reads it in the field."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.cli.detection_writer import DetectionWriter
from irstd_ldm.cli.inputs import Failure, InputFile
from irstd_ldm.cli.kinds import KINDS, TABLE_NAMES
from irstd_ldm.cli.writers import ImageResult
from irstd_ldm.targets import Target, extract_targets

HEADER = {"version": "0", "model": "none", "settings": {"threshold": 0.5}}
FAILED = Failure("broken.png", "not an image")


def make_result(path: Path, height: int = 30, width: int = 40, seed: int = 0) -> ImageResult:
    """An image with some components of every shape, among them some at the borders."""
    rng = np.random.default_rng(seed)
    probability = rng.random((height, width), np.float32) ** 4
    probability[0, :3] = probability[-1, -2:] = 0.9
    probability[5:9, 5:9] = 0.8
    probability[6, 6] = 0.1  # a hole
    image = rng.integers(0, 256, (height, width), np.uint8)
    mask = probability > 0.5
    return ImageResult(InputFile(path, path.stem), image, probability, mask, extract_targets(probability, mask, image))


def empty_result(path: Path) -> ImageResult:
    blank = np.zeros((7, 5), np.float32)
    return ImageResult(InputFile(path, path.stem), blank, blank, blank > 0.5, [])


def write(folder: Path, results: list[ImageResult], *kinds: str) -> None:
    writer = DetectionWriter(folder, kinds)
    writer.begin(HEADER)
    for result in results:
        writer.add(result)
    writer.finish([FAILED], complete=True)
    assert not list(folder.rglob("*.part"))


@pytest.fixture
def results(tmp_path) -> list[ImageResult]:
    return [
        make_result(tmp_path / "a.png"),
        empty_result(tmp_path / "nothing.png"),
        make_result(tmp_path / "b.png", 25, 50, seed=1),
    ]


def test_coco_is_loaded_back_with_the_masks_that_were_found(results, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    write(tmp_path / "out", results, "coco")
    loaded = coco.COCO(tmp_path / "out" / "detections_coco.json")
    images = loaded.loadImgs(loaded.getImgIds())
    assert [(image["file_name"], image["height"], image["width"]) for image in images] == [
        (str(result.item.path), *result.mask.shape) for result in results
    ]
    assert [category["name"] for category in loaded.loadCats(loaded.getCatIds())] == ["target"]
    for image, result in zip(images, results, strict=True):
        annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=image["id"]))
        union = np.zeros(result.mask.shape, np.uint8)
        for annotation, target in zip(annotations, result.targets, strict=True):
            mask = loaded.annToMask(annotation)
            assert mask.shape == result.mask.shape
            assert annotation["area"] == target.area_px == mask.sum()
            assert annotation["bbox"] == [target.left, target.top, target.width, target.height]
            rows, columns = np.nonzero(mask)
            assert (columns.min(), rows.min()) == (target.left, target.top)
            assert annotation["score"] == target.confidence
            union += mask
        np.testing.assert_array_equal(union, result.mask)
    assert loaded.dataset["info"] == HEADER
    assert len(loaded.getAnnIds()) > 10


def test_coco_evaluates_its_own_detections_as_perfect(results, tmp_path, capsys):
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    write(tmp_path / "out", results, "coco")
    truth = coco.COCO(tmp_path / "out" / "detections_coco.json")
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(truth.dataset["annotations"]), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_json_lines_are_an_image_each_and_then_the_failures(results, tmp_path):
    write(tmp_path / "out", results, "jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out" / "detections.jsonl").read_text().splitlines()]
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert lines == [*content["images"], {"file": "broken.png", "error": "not an image"}]
    assert [len(line["targets"]) for line in lines[:3]] == [len(result.targets) for result in results]


def test_json_lines_are_there_before_the_run_ends(results, tmp_path):
    writer = DetectionWriter(tmp_path / "out", ["jsonl"])
    writer.begin(HEADER)
    for number, result in enumerate(results, start=1):
        writer.add(result)
        assert len((tmp_path / "out" / "detections.jsonl").read_text().splitlines()) == number


def test_16_bit_probabilities_are_exact_to_half_a_step(results, tmp_path):
    write(tmp_path / "out", results, "probability")
    for result in results:
        with Image.open(tmp_path / "out" / "probability" / f"{result.item.name}.png") as picture:
            stored = np.asarray(picture)
        assert stored.dtype == np.uint16
        np.testing.assert_allclose(stored / 65535, result.probability, atol=0.501 / 65535)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["detections.json", "probability"]


def write_geotiff(path: Path, epsg: int | None, seed: int = 0) -> ImageResult:
    """30 m pixels, the top left corner at easting 500000, northing 5000000."""
    rasterio = pytest.importorskip("rasterio")
    result = make_result(path, seed=seed)
    keywords = {"driver": "GTiff", "height": 30, "width": 40, "count": 1, "dtype": "uint8"}
    place = rasterio.Affine(30, 0, 500_000, 0, -30, 5_000_000)
    with rasterio.open(path, "w", crs=epsg and f"EPSG:{epsg}", transform=place, **keywords) as file:
        file.write(result.image, 1)
    return result


def test_geojson_has_the_targets_of_a_geotiff_in_longitude_and_latitude(tmp_path):
    result = write_geotiff(tmp_path / "a.tif", 32633)  # UTM zone 33 north, central meridian 15 degrees east
    write(tmp_path / "out", [result], "geojson")
    from rasterio.warp import transform, transform_geom

    content = json.loads((tmp_path / "out" / "detections.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    points, boxes = content["features"][::2], content["features"][1::2]
    assert len(points) == len(boxes) == len(result.targets) > 5
    for target, point, box in zip(result.targets, points, boxes, strict=True):
        assert (point["properties"]["kind"], box["properties"]["kind"]) == ("centroid", "box")
        assert point["properties"]["confidence"] == target.confidence and point["properties"]["name"] == "a"
        assert (point["geometry"]["type"], box["geometry"]["type"]) == ("Point", "Polygon")
        longitude, latitude = point["geometry"]["coordinates"]
        assert 14.99 < longitude < 15.02 and 45.1 < latitude < 45.2
        (easting,), (northing,) = transform("EPSG:4326", "EPSG:32633", [longitude], [latitude])
        assert (easting - 500_000) / 30 - 0.5 == pytest.approx(target.x, abs=1e-4)
        assert (5_000_000 - northing) / 30 - 0.5 == pytest.approx(target.y, abs=1e-4)
        (ring,) = transform_geom("EPSG:4326", "EPSG:32633", box["geometry"])["coordinates"]
        assert ring[0] == ring[-1]
        pixels = (np.array(ring[:-1])[:, :2] - (500_000, 5_000_000)) / (30, -30)
        right, bottom = target.left + target.width, target.top + target.height
        expected = [(target.left, bottom), (right, bottom), (right, target.top), (target.left, target.top)]
        np.testing.assert_allclose(pixels, expected, atol=1e-4)
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring[:-1], ring[1:], strict=True)) / 2
        assert area > 0  # counter-clockwise, as RFC 7946 asks


def test_geojson_of_targets_beyond_the_limb_has_no_geometry(tmp_path):
    """A full-disk image of a geostationary satellite: in its corners there is no earth."""
    rasterio = pytest.importorskip("rasterio")
    result = make_result(tmp_path / "disk.tif")
    half = 5_500_000  # metres from the centre to the border
    place = rasterio.transform.from_bounds(-half, -half, half, half, 40, 30)
    keywords = {"driver": "GTiff", "height": 30, "width": 40, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "disk.tif", "w", crs="+proj=geos +h=35785831 +lon_0=0", transform=place, **keywords
    ) as file:
        file.write(result.image, 1)
    targets = [
        Target(x=x, y=y, width=3, height=3, left=int(x) - 1, top=int(y) - 1, area_px=9, confidence=1, peak=1, scr=5)
        for x, y in ((20, 15), (1, 1))
    ]
    write(tmp_path / "out", [dataclasses.replace(result, targets=targets)], "geojson")
    features = json.loads((tmp_path / "out" / "detections.geojson").read_text())["features"]
    assert [feature["geometry"] is None for feature in features] == [False, False, True, True]


def test_geojson_of_images_without_a_place_has_no_geometry(tmp_path):
    pytest.importorskip("rasterio")
    results = [write_geotiff(tmp_path / "no_crs.tif", None), make_result(tmp_path / "a.png")]
    Image.fromarray(results[1].image).save(tmp_path / "a.png")
    write(tmp_path / "out", [*results, empty_result(tmp_path / "nothing.png")], "geojson")
    features = json.loads((tmp_path / "out" / "detections.geojson").read_text())["features"]
    assert len(features) == 2 * sum(len(result.targets) for result in results)
    assert {feature["geometry"] for feature in features} == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_whose_writing_fails_is_in_no_table(results, tmp_path, kind, monkeypatch):
    pytest.importorskip("pycocotools")
    pytest.importorskip("rasterio")
    writer = DetectionWriter(tmp_path / "out", KINDS)
    writer.begin(HEADER)
    place = KINDS.index(kind)
    for number, result in enumerate(results):
        if number == 1:
            with monkeypatch.context() as patch:
                failing = writer._writers[place]
                add = failing.add

                def fail(result, add=add):
                    add(result)
                    raise OSError(28, "No space left on device")

                patch.setattr(failing, "add", fail)
                with pytest.raises(OSError, match="No space"):
                    writer.add(make_result(tmp_path / "lost.png", seed=9))
        writer.add(result)
    writer.finish([], complete=False)
    write(tmp_path / "expected", results, *KINDS)
    for name in TABLE_NAMES.values():
        found = (tmp_path / "out" / name).read_text()
        assert "lost" not in found
        if name.endswith((".csv", "geojson", "_coco.json")):
            assert found == (tmp_path / "expected" / name).read_text()
        elif name.endswith(".json"):
            expected = json.loads((tmp_path / "expected" / name).read_text())
            assert json.loads(found)["images"] == expected["images"]
    assert not list((tmp_path / "out").rglob("lost.png"))
    assert writer.num_images == 3


def test_a_run_that_writes_masks_alone_may_be_repeated(results, tmp_path):
    for _ in range(2):
        write(tmp_path / "out", results, "masks")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["detections.json", "masks"]


def test_tables_without_any_image_are_whole(tmp_path):
    pytest.importorskip("pycocotools")
    pytest.importorskip("rasterio")
    write(tmp_path / "out", [], *KINDS)
    assert json.loads((tmp_path / "out" / "detections_coco.json").read_text())["images"] == []
    assert json.loads((tmp_path / "out" / "detections.geojson").read_text())["features"] == []
    assert json.loads((tmp_path / "out" / "detections.json").read_text())["images"] == []

"""Each output of `irstd-ldm detect`, read back by what reads it in the field."""

import csv
import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.cli import KINDS, TABLE_NAMES, Failure
from irstd_ldm.cli.outputs import Ending, FolderOutputs, Record
from irstd_ldm.results import mask_of_run_lengths, run_lengths
from irstd_ldm.targets import Decision, Target, extract_targets

HEADER = {"version": "0", "model": "none", "settings": {"threshold": 0.5}}
FAILED = Failure("broken.png", "not an image")
UTM = (30, 0, 500_000, 0, -30, 5_000_000)


@dataclasses.dataclass(frozen=True)
class Result:
    """A still and what was found in it."""

    image: np.ndarray
    probability: np.ndarray
    record: Record

    @property
    def mask(self) -> np.ndarray:
        return self.record.mask

    @property
    def targets(self) -> list[Target]:
        return self.record.targets


def record_of(path: Path, mask: np.ndarray, targets: list[Target]) -> Record:
    return Record(str(path), path.stem, mask.shape[1], mask.shape[0], targets, mask)


def make_result(path: Path, height: int = 30, width: int = 40, seed: int = 0) -> Result:
    """An image with some components of every shape, among them some at the borders."""
    rng = np.random.default_rng(seed)
    probability = rng.random((height, width), np.float32) ** 4
    probability[0, :3] = probability[-1, -2:] = 0.9
    probability[5:9, 5:9] = 0.8
    probability[6, 6] = 0.1  # a hole
    image = rng.integers(0, 256, (height, width), np.uint8)
    return Result(image, probability, record_of(path, *extract_targets(probability, image, Decision(0.5, 0.0))))


def empty_result(path: Path) -> Result:
    blank = np.zeros((7, 5), np.float32)
    return Result(blank, blank, record_of(path, blank > 0.5, []))


def write(folder: Path, results: list[Result], *kinds: str) -> None:
    outputs = FolderOutputs(folder, kinds)
    outputs.begin()
    for result in results:
        outputs.add(result.image, result.probability, result.record)
    outputs.finish(HEADER, Ending([FAILED], [], complete=True))
    assert not list(folder.rglob("*.part"))


@pytest.fixture
def results(tmp_path) -> list[Result]:
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
        (result.record.file, *result.mask.shape) for result in results
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
    for line, result in zip(lines[:3], results, strict=True):
        lengths = line.pop("mask")
        assert lengths["size"] == list(result.mask.shape)
        np.testing.assert_array_equal(mask_of_run_lengths(lengths["counts"], *lengths["size"]), result.mask)
    assert lines == [*content["images"], {"file": "broken.png", "error": "not an image"}]
    assert [len(line["targets"]) for line in lines[:3]] == [len(result.targets) for result in results]


def test_run_lengths_by_hand_and_as_pycocotools_decodes_them():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert run_lengths(mask) == [2, 3, 1] and run_lengths(~mask) == [0, 2, 3, 1]
    assert run_lengths(np.zeros((2, 3), bool)) == [6] and run_lengths(np.ones((2, 3), bool)) == [0, 6]
    coco_mask = pytest.importorskip("pycocotools.mask")
    for seed in range(5):
        mask = np.random.default_rng(seed).random((9, 14)) > 0.6
        encoded = coco_mask.frPyObjects({"size": [9, 14], "counts": run_lengths(mask)}, 9, 14)
        np.testing.assert_array_equal(coco_mask.decode(encoded), mask)
    with pytest.raises(ValueError):
        mask_of_run_lengths([3], 2, 3)


def test_json_lines_are_there_before_the_run_ends(results, tmp_path):
    outputs = FolderOutputs(tmp_path / "out", ["jsonl"])
    outputs.begin()
    for number, result in enumerate(results, start=1):
        outputs.add(result.image, result.probability, result.record)
        assert len((tmp_path / "out" / "detections.jsonl").read_text().splitlines()) == number


def test_16_bit_probabilities_are_exact_to_half_a_step(results, tmp_path):
    write(tmp_path / "out", results, "probability")
    for result in results:
        with Image.open(tmp_path / "out" / "probability" / f"{result.record.name}.png") as picture:
            stored = np.asarray(picture)
        assert stored.dtype == np.uint16
        np.testing.assert_allclose(stored / 65535, result.probability, atol=0.501 / 65535)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["detections.json", "probability"]


def write_geotiff(path: Path, epsg: int | None, seed: int = 0, place: tuple[float, ...] = UTM) -> Result:
    """30 m pixels, by default the top left corner at easting 500000, northing 5000000."""
    rasterio = pytest.importorskip("rasterio")
    result = make_result(path, seed=seed)
    keywords = {"driver": "GTiff", "height": 30, "width": 40, "count": 1, "dtype": "uint8"}
    georeference = {"crs": epsg and f"EPSG:{epsg}", "transform": rasterio.Affine(*place) if place else None}
    with rasterio.open(path, "w", **georeference, **keywords) as file:
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


def test_boxes_are_counter_clockwise_on_a_map_with_the_south_up_and_cut_at_the_date_line(tmp_path):
    places = {"south_up": (30, 0, 500_000, 0, 30, 5_000_000), "date_line": (0.01, 0, 179.93, 0, -0.01, 10)}
    results = [
        write_geotiff(tmp_path / f"{name}.tif", epsg, place=places[name])
        for name, epsg in {"south_up": 32633, "date_line": 4326}.items()
    ]
    write(tmp_path / "out", results, "geojson")
    features = json.loads((tmp_path / "out" / "detections.geojson").read_text())["features"]
    boxes = [feature["geometry"] for feature in features if feature["properties"]["kind"] == "box"]
    assert {box["type"] for box in boxes} == {"Polygon", "MultiPolygon"}
    for box in boxes:
        parts = box["coordinates"] if box["type"] == "MultiPolygon" else [box["coordinates"]]
        assert len(parts) == (2 if box["type"] == "MultiPolygon" else 1)
        for (ring,) in parts:
            assert sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring[:-1], ring[1:], strict=True)) > 0
            assert ring[0] == ring[-1] and -180 <= min(ring)[0] <= max(ring)[0] <= 180
            assert max(ring)[0] - min(ring)[0] < 1
    whole = next(box for box in boxes if box["type"] == "MultiPolygon")
    sides = sorted((min(ring)[0], max(ring)[0]) for (ring,) in whole["coordinates"])
    assert sides[0][0] == -180 and sides[1][1] == 180


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
        Target(
            x=x,
            y=y,
            width=3,
            height=3,
            left=int(x) - 1,
            top=int(y) - 1,
            area_px=9,
            score=1,
            confidence=1,
            peak=1,
            scr=5,
        )
        for x, y in ((20, 15), (1, 1))
    ]
    write(
        tmp_path / "out",
        [Result(result.image, result.probability, record_of(tmp_path / "disk.tif", result.mask, targets))],
        "geojson",
    )
    features = json.loads((tmp_path / "out" / "detections.geojson").read_text())["features"]
    assert [feature["geometry"] is None for feature in features] == [False, False, True, True]


def test_geojson_of_images_without_a_place_has_no_geometry(tmp_path):
    pytest.importorskip("rasterio")
    results = [write_geotiff(tmp_path / "no_crs.tif", None), make_result(tmp_path / "a.png")]
    results.append(write_geotiff(tmp_path / "no_transform.tif", 4326, place=()))
    Image.fromarray(results[1].image).save(tmp_path / "a.png")
    write(tmp_path / "out", [*results, empty_result(tmp_path / "nothing.png")], "geojson")
    features = json.loads((tmp_path / "out" / "detections.geojson").read_text())["features"]
    assert len(features) == 2 * sum(len(result.targets) for result in results)
    assert {feature["geometry"] for feature in features} == {None}


class HalfALine(io.FileIO):
    """A file on a disk that is full after nine more bytes."""

    def write(self, data) -> int:
        super().write(data[:9])
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("failing", ["masks", "overlays", "probability", "log"])
def test_an_image_whose_writing_fails_is_in_no_table(results, tmp_path, failing, monkeypatch):
    pytest.importorskip("pycocotools")
    pytest.importorskip("rasterio")
    outputs = FolderOutputs(tmp_path / "out", KINDS)
    outputs.begin()
    for number, result in enumerate(results):
        if number == 1:
            lost = make_result(tmp_path / "lost.png", seed=9)
            with monkeypatch.context() as patch:
                if failing == "log":
                    patch.setattr(outputs._log, "_file", HalfALine(outputs._log.path, "a"))
                else:
                    (tmp_path / "out" / failing / ".lost.png.part").mkdir()
                with pytest.raises(OSError):
                    outputs.add(lost.image, lost.probability, lost.record)
            if failing != "log":
                (tmp_path / "out" / failing / ".lost.png.part").rmdir()
        outputs.add(result.image, result.probability, result.record)
    outputs.finish(HEADER, Ending([], [], complete=False))
    write_all = tmp_path / "expected"
    write(write_all, results, *KINDS)
    for name in TABLE_NAMES.values():
        found = (tmp_path / "out" / name).read_text()
        assert "lost" not in found
        if name.endswith((".csv", "geojson", "_coco.json")):
            assert found == (write_all / name).read_text()
        elif name.endswith(".json"):
            assert json.loads(found)["images"] == json.loads((write_all / name).read_text())["images"]
    assert not list((tmp_path / "out").rglob("lost.png"))
    assert outputs.num_images == 3


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


def test_an_interruption_at_any_line_leaves_an_image_in_all_outputs_or_in_none(results, tmp_path):
    first, _, second = results

    def interrupted_at(moment: int, folder: Path) -> bool:
        """Writes two images, the second interrupted before the n-th line of our own; whether it came so far."""
        outputs = FolderOutputs(folder, ("masks", "csv", "jsonl"))
        outputs.begin()
        outputs.add(first.image, first.probability, first.record)
        lines = iter(range(moment))

        def trace(frame, event, argument):
            if Path(frame.f_code.co_filename).name not in ("outputs.py", "files.py"):
                return None
            if event == "line" and next(lines, None) is None:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        earlier = sys.gettrace()
        try:
            sys.settrace(trace)
            outputs.add(second.image, second.probability, second.record)
            return False
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(earlier)
            outputs.finish(HEADER, Ending([], [], complete=False))

    moment = 0
    while interrupted_at(moment, folder := tmp_path / str(moment)):
        masks = sorted(path.stem for path in (folder / "masks").glob("*.png"))
        lines = [json.loads(line)["name"] for line in (folder / "detections.jsonl").read_text().splitlines()]
        with (folder / "detections.csv").open() as file:
            rows = sorted({row["name"] for row in csv.DictReader(file)})
        assert masks == lines == rows and masks[0] == "a", moment
        assert not list(folder.rglob("*.part"))
        moment += 1
    assert moment > 30 and masks == ["a", "b"]

"""Hugging Face data sets written to the disk by `datasets` itself and read without a network."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from irstd_ldm.cli.main import main
from irstd_ldm.data.hf_dataset import HFDataset
from irstd_ldm.data.readers import ImageReadError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write(folder: Path, stems: str = "ab", mask_value: int = 255) -> Path:
    """Images of 12 x 20 px in 16 bit and their masks, 2 target pixels each."""
    folder.mkdir(parents=True)
    lines = []
    for seed, stem in enumerate(stems):
        image = np.random.default_rng(seed).integers(0, 65536, (12, 20)).astype(np.uint16)
        mask = np.zeros((12, 20), np.uint8)
        mask[3:5, 4] = mask_value
        mask[9, 9] = mask_value // 2
        Image.fromarray(image).save(folder / f"{stem}.png")
        Image.fromarray(mask).save(folder / f"{stem}_mask.png")
        lines.append(json.dumps({"file_name": f"{stem}.png", "mask_file_name": f"{stem}_mask.png"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder.parent


def test_a_folder_of_images_with_metadata(tmp_path):
    root = write(tmp_path / "set" / "test")
    samples = HFDataset(str(root), "test")
    assert (len(samples), samples.stems) == (2, ["a", "b"])
    stored = np.asarray(Image.open(root / "test" / "b.png"))
    np.testing.assert_array_equal(samples[1].image, stored)
    assert samples[1].image.dtype == np.uint16
    assert np.argwhere(samples[0].mask).tolist() == [[3, 4], [4, 4]]
    assert sorted(np.unique(samples.stored_mask(0))) == [0, 127, 255]
    assert [sample.stem for sample in samples[::-1]] == ["b", "a"]


def test_parquet_holds_the_same(tmp_path):
    root = write(tmp_path / "set" / "test")
    (tmp_path / "parquet").mkdir()
    datasets.load_dataset(str(root), split="test").to_parquet(tmp_path / "parquet" / "test.parquet")
    files, parquet = HFDataset(str(root), "test"), HFDataset(str(tmp_path / "parquet"), "test")
    assert parquet.stems == ["a", "b"]
    for ours, theirs in zip(parquet, files, strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.mask, theirs.mask)


def test_rows_are_read_as_files_are(tmp_path):
    """Alpha of 16 bits is refused, and no foreign program is started for PostScript."""
    root = write(tmp_path / "set" / "test")
    (root / "test" / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    kelvin = np.linspace(280, 290, 240, dtype=np.float16).reshape(12, 20)
    tifffile.imwrite(root / "test" / "b.png", kelvin)
    samples = HFDataset(str(root), "test")
    with pytest.raises(ImageReadError, match=r"row 0 \(a\): image cannot be read: not an image or truncated$"):
        samples[0]
    np.testing.assert_array_equal(samples[1].image, kelvin.astype(np.float32))


def test_rows_without_names_are_numbered(tmp_path):
    gray = [Image.new("L", (8, 8))] * 2
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    datasets.Dataset.from_dict({"image": gray, "mask": gray}, features).to_parquet(tmp_path / "test.parquet")
    assert HFDataset(str(tmp_path), "test").stems == ["000000", "000001"]


def test_errors_name_the_data_set_and_the_row(tmp_path):
    root = write(tmp_path / "set" / "test")
    with pytest.raises(ValueError, match="split 'val'"):
        HFDataset(str(root), "val")
    with pytest.raises(ValueError, match=f"data set '{tmp_path / 'none'}'"):
        HFDataset(str(tmp_path / "none"), "test")
    plain = tmp_path / "plain" / "test"
    plain.mkdir(parents=True)
    Image.new("L", (8, 8)).save(plain / "a.png")
    with pytest.raises(ValueError, match="must have the image columns 'image' and 'mask', got image"):
        HFDataset(str(plain.parent), "test")
    with pytest.raises(ValueError, match=r"mask of data set .*, row 0 \(a\) has 3 values"):
        HFDataset(str(write(tmp_path / "grays" / "test", mask_value=100)), "test")[0]
    ones = HFDataset(str(write(tmp_path / "ones" / "test", mask_value=1)), "test")
    assert np.argwhere(ones[0].mask).tolist() == [[3, 4], [4, 4]]
    broken = write(tmp_path / "broken" / "test")
    (broken / "test" / "b.png").write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=r"row 1 \(b\): image cannot be read"):
        HFDataset(str(broken), "test")[1]


def test_without_the_package_the_extra_is_named():
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from irstd_ldm.data.hf_dataset import HFDataset; HFDataset('a', 'test')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'ImportError: Hugging Face data sets need datasets: pip install "datasets>=4" ' in done.stderr


def test_evaluate_scores_it_as_it_scores_the_folder(tmp_path):
    root = write(tmp_path / "set" / "test")
    field, predictions = tmp_path / "field", tmp_path / "predictions"
    for folder in (field / "images", field / "masks", predictions):
        folder.mkdir(parents=True)
    found = np.zeros((12, 20), np.uint8)
    found[3:5, 4:6] = 255
    for stem in "ab":
        (field / "images" / f"{stem}.png").write_bytes((root / "test" / f"{stem}.png").read_bytes())
        (field / "masks" / f"{stem}.png").write_bytes((root / "test" / f"{stem}_mask.png").read_bytes())
        Image.fromarray(found).save(predictions / f"{stem}.png")
    (field / "test.txt").write_text("a\nb\n")
    metrics = []
    for data in (f"hf:{root}", str(field)):
        out = tmp_path / f"out-{len(metrics)}"
        assert main(["evaluate", "--data", data, "--predictions", str(predictions), "--output", str(out)]) == 0
        metrics.append(json.loads((out / "metrics.json").read_text()) | {"data": None})
    assert metrics[0] == metrics[1] and metrics[0]["iou"] == 0.5

"""The page in a real browser: files in, targets, pictures and downloads out."""

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.data.images import to_gray
from irstd_ldm.data.synthetic import synthetic_scene

SCENE = synthetic_scene(192, 224, kind="sea", num_targets=3, scr=8.0, seed=4, bit_depth=16)


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "harbour.png"
    Image.fromarray(SCENE.image).save(path)
    return path


def upload(page, path) -> None:
    page.locator("#file input[type=file]").set_input_files(path)


def upload_and_wait(page, path, number: int | None = None) -> None:
    """Uploads a file and waits for its targets, of the number given."""
    upload(page, path)
    page.locator(f"#viewer .port[data-name='{path.name}']").wait_for()
    wait_for_targets(page, number)


def table_rows(page) -> list[list[float]]:
    """The numbers of the table's visible rows, in the order shown."""
    rows = page.locator("#table [data-row]").evaluate_all(
        "cells => cells.map(cell => [cell.dataset.row, cell.dataset.col, cell.innerText])"
    )
    table: dict[int, dict[int, float]] = {}
    for row, column, text in rows:
        table.setdefault(int(row), {})[int(column)] = float(text)
    return [[cells[column] for column in sorted(cells)] for cells in table.values()]


def wait_for_targets(page, number: int | None = None) -> None:
    page.locator("#summary strong").wait_for()
    if number is not None:
        page.wait_for_function(
            "number => document.querySelectorAll('#viewer .mark').length == number"
            " && document.querySelector('#summary').innerText.startsWith(`${number} target`)",
            arg=number,
        )


def download(page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as started:
        page.locator(button).click()
    return started.value.suggested_filename, started.value.path().read_bytes()


def near(target, x: float, y: float) -> bool:
    return math.hypot(target.x - x, target.y - y) < 1.5


def test_an_uploaded_frame_gives_its_planted_targets(open_page, scene_file):
    page = open_page()
    upload_and_wait(page, scene_file, 3)
    rows = table_rows(page)
    assert len(rows) == 3
    for planted in SCENE.targets:
        assert any(near(planted, row[1], row[2]) for row in rows)

    name, content = download(page, "#json")
    record = json.loads(content)
    assert name == "harbour.json"
    assert record["model"] == "bundled" and record["settings"]["score_threshold"] == 0.5
    (image,) = record["images"]
    assert (image["file"], image["width"], image["height"]) == ("harbour.png", 224, 192)
    assert sorted(round(target["x"], 2) for target in image["targets"]) == sorted(row[1] for row in rows)

    name, content = download(page, "#mask")
    mask = np.asarray(Image.open(io.BytesIO(content)))
    assert name == "harbour-mask.png"
    assert mask.shape == (192, 224) and set(np.unique(mask)) == {0, 255}
    assert np.count_nonzero(mask) == sum(target["area_px"] for target in image["targets"])
    for planted in SCENE.targets:
        assert mask[round(planted.y), round(planted.x)] == 255


def test_it_begins_dark_with_a_scene_and_what_was_planted_in_it(open_page, scene_file):
    page = open_page()
    assert page.evaluate("document.body.classList.contains('dark')")
    wait_for_targets(page, 3)
    assert page.locator("#viewer .marks i").count() == 3
    circles, marks = (
        page.locator(f"#viewer .marks {name}").evaluate_all(
            "all => all.map(one => { const box = one.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2] })"
        )
        for name in ("i", ".mark")
    )
    for mark in marks:
        assert min(math.dist(mark, circle) for circle in circles) < 15  # on screen
    upload_and_wait(page, scene_file, 3)
    assert page.locator("#viewer .marks i").count() == 0


def test_a_palette_is_of_the_image_alone(open_page):
    page = open_page()
    image = page.locator("#viewer img")
    assert image.evaluate("image => getComputedStyle(image).filter") == "none"
    page.locator("#viewer .palette select").select_option("ironbow")
    assert "ironbow" in image.evaluate("image => getComputedStyle(image).filter")
    page.locator("#viewer button[data-layer=probability]").click()
    assert image.evaluate("image => getComputedStyle(image).filter") == "none"


def test_it_fits_a_phone(open_page):
    page = open_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in ("#file", "#scenes", "#viewer .port", "#table", "#json"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, part


def test_a_program_calls_the_endpoint(server, scene_file):
    code = (
        "import json, sys\n"
        "from gradio_client import Client, handle_file\n"
        "client = Client(sys.argv[1], verbose=False)\n"
        "print(json.dumps([client.predict(handle_file(sys.argv[2]), score, api_name='/detect')"
        " for score in (None, 1)]))"
    )
    done = subprocess.run([sys.executable, "-c", code, server.url, scene_file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, none = json.loads(done.stdout)
    pipeline = IRSTDLatentPipeline.from_pretrained("tiny")
    (expected,) = pipeline(scene_file).targets
    (image,) = found["images"]
    assert image["file"] == "harbour.png" and len(image["targets"]) == len(expected) == 3
    for ours, theirs in zip(image["targets"], expected, strict=True):
        assert (ours["x"], ours["y"]) == pytest.approx((theirs.x, theirs.y), abs=1e-3)
    assert none["images"][0]["targets"] == [] and none["settings"]["score_threshold"] == 1


def test_the_page_gives_what_the_pipeline_gives(open_page, scene_file):
    from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint

    page = open_page()
    upload_and_wait(page, scene_file, 3)
    record = json.loads(download(page, "#json")[1])
    pipeline = IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())
    (expected,) = pipeline(scene_file).targets
    for ours, theirs in zip(record["images"][0]["targets"], expected, strict=True):
        assert ours["x"] == pytest.approx(theirs.x, abs=1e-3)
        assert ours["area_px"] == theirs.area_px
        assert ours["confidence"] == pytest.approx(theirs.confidence, abs=1e-3)


def test_threshold_and_budget_decide_without_another_run(open_page, scene_file):
    page = open_page()
    upload_and_wait(page, scene_file, 3)
    number = page.locator("#score_threshold input[type=number]")
    number.fill("1")
    number.press("Enter")
    wait_for_targets(page, 0)
    assert "score > 1 " in page.locator("#summary").inner_text()
    assert json.loads(download(page, "#json")[1])["images"][0]["targets"] == []
    page.locator("#budget label", has_text="False targets ≤ 0.5").click()
    calibration = IRSTDLatentPipeline.load_config(bundled_checkpoint())["calibration"]
    calibrated = calibration["score_thresholds"]["max_false_targets_per_megapixel"]["0.5"]
    page.wait_for_function(f"document.querySelector('#summary').innerText.includes('score > {calibrated:.6g}')")
    settings = json.loads(download(page, "#json")[1])["settings"]
    assert (settings["max_false_targets_per_megapixel"], settings["max_fa_per_million_px"]) == (0.5, None)
    assert (settings["mask_threshold"], settings["score_threshold"]) == (0.5, calibrated)
    assert number.is_disabled() and float(number.input_value()) == pytest.approx(calibrated, abs=5e-4)


def test_an_ensemble_shows_its_uncertainty_and_the_table_sorts_and_focuses(open_page, scene_file):
    page = open_page()
    upload_and_wait(page, scene_file, 3)
    uncertainty = page.locator("#viewer button[data-layer=uncertainty]")
    assert uncertainty.is_disabled()
    number = page.locator("#ensemble input[type=number]")
    number.fill("3")
    number.press("Enter")
    page.locator("#again").click()
    page.wait_for_function("document.querySelector('#summary').innerText.includes('ensemble of 3')")
    page.wait_for_function("!document.querySelector('#viewer button[data-layer=uncertainty]').disabled")
    uncertainty.click()
    assert "standard deviation" in page.locator("#viewer .caption").inner_text()

    for label, is_descending in (("Sort ascending", False), ("Sort descending", True)):
        header = page.locator("#table th[title='x']").first
        header.hover()
        header.locator("button.cell-menu-button").click()
        page.get_by_text(label).click()
        page.wait_for_timeout(1000)
        columns = [row[1] for row in table_rows(page)]
        assert columns == sorted(columns, reverse=is_descending) and len(columns) == 3
    row = table_rows(page)[-1]
    page.locator("#table [data-row][data-col='1']").last.click()
    focused = page.locator("#viewer .mark.focus")
    focused.wait_for()
    assert focused.inner_text().startswith(f"{int(row[0])}:")
    assert float(page.locator("#viewer .scale").inner_text().rstrip("×")) >= 8
    port, mark = (page.locator(name).bounding_box() for name in ("#viewer .port", "#viewer .mark.focus"))
    for start, length in (("x", "width"), ("y", "height")):
        assert mark[start] + mark[length] / 2 == pytest.approx(port[start] + port[length] / 2, abs=20)


def test_zoom_keeps_pixels_crisp_and_marks_in_place(open_page, scene_file):
    page = open_page()
    upload_and_wait(page, scene_file, 3)
    image = page.locator("#viewer img")
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    before = image.bounding_box()
    for _ in range(3):
        page.locator("#viewer button[data-zoom=in]").click()
    after = image.bounding_box()
    assert after["width"] == pytest.approx(before["width"] * 1.4**3, rel=1e-3)
    scale = after["width"] / 224
    mark = page.locator("#viewer .mark").first.bounding_box()
    centres = [(after["x"] + (t.x + 0.5) * scale, after["y"] + (t.y + 0.5) * scale) for t in SCENE.targets]
    middle = mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2
    assert min(math.dist(middle, centre) for centre in centres) < 2 * scale
    page.locator("#viewer button[data-zoom=fit]").click()
    assert image.bounding_box() == before


def test_black_hot_frames_are_mirrored(open_page, tmp_path):
    path = tmp_path / "black_hot.tif"
    Image.fromarray((65535 - SCENE.image.astype(np.int64)).astype(np.uint16)).save(path)
    page = open_page()
    page.locator("#polarity label", has_text="black-hot").click()
    upload_and_wait(page, path, 3)
    rows = table_rows(page)
    assert all(any(near(planted, row[1], row[2]) for row in rows) for planted in SCENE.targets)


def test_an_example_scene_is_detected(open_page):
    page = open_page()
    page.locator("#scenes button").nth(0).click()
    wait_for_targets(page, 3)
    assert json.loads(download(page, "#json")[1])["images"][0]["file"] == "synthetic-sky.png"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.png", b"\x89PNG\r\n\x1a\nnothing", "cannot read image 'broken.png'"),
        ("empty.png", b"", "empty.png"),
        ("letter.txt", b"Dear engineer", "cannot read image 'letter.txt'"),
        ("stack.npy", b"\x93NUMPY\x01\x00", "stack.npy"),
        ("clip.mp4", b"no video at all", "clip.mp4"),
    ],
)
def test_a_bad_file_is_one_line(open_page, tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    page = open_page()
    upload(page, path)
    toast = page.locator(".toast-body.error")
    toast.wait_for()
    text = toast.inner_text()
    assert said in text and "Traceback" not in text and "/tmp" not in text
    assert page.locator("#viewer .port").get_attribute("data-name") == "synthetic-sky.png"  # what was there stays


def test_a_file_beyond_the_limit_is_refused(open_page, tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(3_000_000))
    page = open_page()
    upload(page, path)
    toast = page.locator(".toast-body.error")
    toast.wait_for()
    assert "maximum allowed size" in toast.inner_text()


def test_a_real_frame(open_page, nuaa_root):
    path = nuaa_root / "images" / "Misc_1.png"
    page = open_page()
    upload_and_wait(page, path)
    height, width = to_gray(path).shape
    assert f"{width} x {height} px" in page.locator("#summary").inner_text()
    mask = np.asarray(Image.open(nuaa_root / "masks" / "Misc_1.png").convert("L")) >= 128
    rows = table_rows(page)
    assert rows and any(mask[round(row[2]), round(row[1])] for row in rows)


def frames(number: int) -> list[np.ndarray]:
    """Frames of one scene whose target moves by 6 px a frame."""
    background = synthetic_scene(128, 160, kind="sky", num_targets=0, seed=3).image.astype(np.float64)
    rows, columns = np.indices(background.shape)
    moved = []
    for index in range(number):
        spot = 120 * np.exp(-0.5 * ((rows - 64) ** 2 + (columns - 40 - 6 * index) ** 2) / 1.2**2)
        moved.append(np.clip(background + spot, 0, 255).astype(np.uint8))
    return moved


def write_video(path, images) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = images[0].shape
        stream.pix_fmt = "gray"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())


@pytest.mark.parametrize("name", ["clip.mkv", "stack.npy"])
def test_frames_of_a_video_or_a_stack(open_page, tmp_path, name):
    path, images = tmp_path / name, frames(3)
    if name == "stack.npy":
        np.save(path, np.stack(images))
    else:
        write_video(path, images)
    page = open_page()
    upload_and_wait(page, path)
    assert "3 frames" in page.locator("#summary").inner_text()
    rows = table_rows(page)  # frame, #, x, y, ...
    for index in range(3):
        assert any(row[0] == index and math.hypot(row[2] - 40 - 6 * index, row[3] - 64) < 1.5 for row in rows)
    last = next(place for place, row in enumerate(rows) if row[0] == 2)
    page.locator(f"#table [data-row='{last}'][data-col='2']").click()
    page.locator("#viewer .mark.focus").wait_for()
    page.wait_for_timeout(1000)  # longer than any event that the row's frame may set off
    assert page.locator("#viewer .mark.focus").count() == 1
    assert page.locator("#frame input[type=number]").input_value() == "2"
    record = json.loads(download(page, "#json")[1])
    assert [image["frame"] for image in record["images"]] == [0, 1, 2]
    assert name == "stack.npy" or record["images"][1]["time_s"] == pytest.approx(1 / 25)

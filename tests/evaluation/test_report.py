"""Reports of two small detectors: what is on the page, beside it, and in the pictures."""

import csv
import io
import pickle
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from irstd_ldm.evaluation.bootstrap import PairedDifference
from irstd_ldm.evaluation.counts import ImageCounts
from irstd_ldm.evaluation.metrics import Metric, iou, metrics_of
from irstd_ldm.evaluation.report.comparison import Comparison
from irstd_ldm.evaluation.report.outcomes import (
    FALSE_ALARM_COLOUR,
    HIT_COLOUR,
    MISS_COLOUR,
    NamedEvaluation,
    TargetCrop,
    WorstImages,
)
from irstd_ldm.evaluation.report.paper import draw_grid
from irstd_ldm.evaluation.report.write import COUNT_FIELDS, write_report
from irstd_ldm.evaluation.result import compare_results, evaluate_probabilities
from irstd_ldm.targets import PlattCalibration

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NUM_IMAGES = 8
SHAPE = (40, 60)


def make_pairs(seed, noise):
    """A target of 3 x 3 px in each image but the last; the detector fires on it and, by chance, elsewhere."""
    rng = np.random.default_rng(seed)
    pairs = []
    for k in range(NUM_IMAGES):
        mask = np.zeros(SHAPE, bool)
        if k < NUM_IMAGES - 1:
            mask[10 + k : 13 + k, 20:23] = True
        probability = np.where(mask, rng.uniform(0.4, 1.0), 0).astype(np.float32)
        if rng.random() < noise:
            probability[30:32, 40:42] = rng.uniform(0.5, 0.9)
        image = (rng.integers(80, 120, SHAPE) + 60 * mask).astype(np.uint8)
        pairs.append((f"frame {k}#", probability, mask, image))
    return pairs


def make_evaluation(detector, pairs, *, data="toy", num_worst=3, curves=True, **others):
    worst = WorstImages(num_worst)
    result = evaluate_probabilities(pairs, curves=curves, num_resamples=50, observe=worst.observe)
    settings = {"split": "test", "settings": {"num_inference_steps": 4, "max_fa_per_million_px": None}}
    return NamedEvaluation(detector, data, settings, result, worst.images, **others)


@dataclass
class Page(HTMLParser):
    """What a report holds."""

    text: str
    elements: list[tuple[str, dict]] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    words: str = ""

    def __post_init__(self):
        super().__init__(convert_charrefs=True)
        self._in_cell, self._in_style = False, False
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._in_style = tag == "style"
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self._in_cell = True
        elif tag == "br" and self._in_cell:
            self.tables[-1][-1][-1] += "\n"

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self._in_cell = False
        if tag == "style":
            self._in_style = False

    def handle_data(self, data):
        if self._in_cell:
            self.tables[-1][-1][-1] += data
        if not self._in_style:
            self.words += data

    def of(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]

    def table(self, *header):
        """Rows by their first cell of the first table with this header's beginning."""
        (found, *_) = [table for table in self.tables if table[0][: len(header)] == list(header)]
        return {row[0]: row[1:] for row in found[1:]}


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    """Detector a hits most; detector <b> fires more often. Image files lie beside the report's folder."""
    images = tmp_path_factory.mktemp("data") / "images of # one"
    images.mkdir()
    paths = {}
    for stem, _, _, image in make_pairs(0, 0.3)[1:]:
        paths[stem] = images / f"{stem}.png"
        Image.fromarray(image).save(paths[stem])
    calibration = PlattCalibration(slope=0.5, intercept=0.1)
    return [
        make_evaluation("a", make_pairs(0, 0.3), images=paths, calibration=calibration),
        make_evaluation('<b> & "c"', make_pairs(1, 0.9), images=paths),
    ]


@pytest.fixture(scope="module")
def report(evaluations, tmp_path_factory) -> Path:
    return write_report(tmp_path_factory.mktemp("out") / "new" / "report", evaluations)


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report.read_text(encoding="utf-8"))


def test_nothing_is_fetched_and_nothing_runs(page):
    assert not page.of("script", "link", "iframe", "object", "embed")
    sources = [attributes["src"] for attributes in page.of("img")]
    sources += [attributes["srcset"] for attributes in page.of("source")]
    assert len(sources) > 10
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any(re.match(r"\w+:|//", attributes["href"]) for attributes in page.of("a"))
    assert "url(" not in page.text and "@import" not in page.text
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_pictures_have_words_and_tables_have_headers(page):
    assert all(attributes.get("alt", "").strip() for attributes in page.of("img"))
    assert page.of("html")[0]["lang"] == "en"
    assert [attributes["name"] for attributes in page.of("meta") if "name" in attributes] == ["viewport"]
    assert {attributes.get("scope") for attributes in page.of("th")} == {"col", "row"}
    assert len(page.tables) == len(page.of("caption")) == len(page.of("thead"))
    for header, *rows in page.tables:
        assert rows and {len(row) for row in rows} == {len(header)}
    # Elements are balanced: what opens closes.
    for tag in {tag for tag, _ in page.elements} - {"img", "source", "meta", "br", "rect", "circle", "path"}:
        assert page.text.count(f"</{tag}>") == len(page.of(tag)), tag


def test_names_are_escaped(page):
    assert "<b>" not in page.text
    assert 'Is <b> & "c" better than a on toy?' in page.words


def test_numbers_are_those_of_the_summary(page, evaluations):
    summary = evaluations[0].result.summary()
    rows = page.table("metric", "value")
    for label, key, decimals in (
        ("IoU", "iou", 4),
        ("nIoU", "niou", 4),
        ("hIoU", "hiou", 4),
        ("Pd (target recall)", "pd", 4),
        ("Fa (1e-6)", "fa_per_million_px", 2),
        ("target F1", "f1_targets", 4),
        ("pixel F1", "f1_px", 4),
        ("ROC AUC (pixels)", "roc_auc", 4),
    ):
        low, high = summary["intervals_95"][key]
        assert rows[label][:2] == [f"{summary[key]:.{decimals}f}", f"{low:.{decimals}f} to {high:.{decimals}f}"]
    assert list(rows) == [metric.title for metric in metrics_of("printed")]
    assert all(f"{metric.title}{metric.meaning}" in page.words for metric in metrics_of("printed"))
    assert rows["Pd (target recall)"][2] == f"{summary['num_hits']} of {NUM_IMAGES - 1} targets"
    assert page.table("budget")["Fa (1e-6) ≤ 10"][0] == f"{summary['pd_at_fa_per_million_px']['10']['pd']:.4f}"
    assert page.table("targets", "Pd")["area 9-24 px"][2:] == [f"{summary['num_hits']}", f"{NUM_IMAGES - 1}"]
    overview = page.table("evaluation")
    low, high = summary["intervals_95"]["iou"]
    assert list(overview) == ["a on toy", '<b> & "c" on toy']
    assert overview["a on toy"][0] == f"{summary['iou']:.3f}\n{low:.3f} to {high:.3f}"
    assert overview["a on toy"][-5:] == [f"{NUM_IMAGES}", f"{NUM_IMAGES - 1}", "0.5", "0.5", "native"]


def test_settings_are_stated(page):
    for text in ("num inference steps", "probability > 0.5", "centroid distance < 3 px", "50 resampled sets, seed 0"):
        assert text in page.words
    assert "max fa per million px" not in page.words  # None: not given


def test_missed_targets_stand_beside_the_calibration(page, evaluations):
    total = evaluations[0].result.counts
    assert f"Missed targets, not in these numbers: {total.targets - total.hits}." in page.words
    assert "conditional on being detected" in page.words
    rows = page.table("confidences")
    assert [label.partition(",")[0] for label in rows] == ["as predicted", "calibrated (platt)"] * 2


def test_comparison_is_the_paired_bootstrap(page, evaluations):
    a, b = (evaluation.result for evaluation in evaluations)
    paired = compare_results(a, b)["fa_per_million_px"]
    row = page.table("metric", "A")["Fa (1e-6) (lower is better)"]
    shown = [float(cell.replace("−", "-").replace("+", "")) for cell in row[:3]]
    values = [result.summary()["fa_per_million_px"] for result in (a, b)]
    assert shown == pytest.approx([*values, paired.difference], abs=0.01)
    assert row[-1] == f"{100 * (1 - paired.probability_b_above_a):.1f} %"


@pytest.mark.parametrize(
    ("low", "high", "lower_is_better", "words"),
    [
        (0.1, 0.3, False, "X: new is better by 0.20 (95 % interval 0.10 to 0.30)."),
        (0.1, 0.3, True, "X: old is better by 0.20 (95 % interval 0.10 to 0.30)."),
        (-0.3, -0.1, True, "X: new is better by 0.20 (95 % interval 0.10 to 0.30)."),
        (-0.3, -0.1, False, "X: old is better by 0.20 (95 % interval 0.10 to 0.30)."),
        (-0.1, 0.3, False, "X: not told apart by these 9 images."),
        (0.0, 0.3, True, "X: not told apart by these 9 images."),
        (float("nan"), float("nan"), False, "X: undefined for one of the two, by these 9 images."),
    ],
)
def test_sentences(low, high, lower_is_better, words):
    difference = float("nan") if low != low else (0.2 if low + high > 0 else -0.2)
    paired = PairedDifference(difference, low, high, 0.75, 9)
    found = Comparison(Metric("x", "X", "", decimals=2, lower_is_better=lower_is_better), paired)
    assert found.sentence("old", "new") == words
    assert found.share_b_better == (0.25 if lower_is_better else 0.75)


def test_a_detector_is_not_told_apart_from_itself(tmp_path):
    twins = [make_evaluation(name, make_pairs(0, 0.3), curves=False) for name in ("one", "two")]
    page = Page(write_report(tmp_path, twins).read_text())
    words = page.words
    assert words.count(f": not told apart by these {NUM_IMAGES} images.") == len(page.table("metric", "A")) > 10
    assert "is better by" not in words


def test_only_evaluations_of_the_same_images_are_compared(tmp_path, evaluations):
    a, b = evaluations
    others = [
        NamedEvaluation("a", "other data", {}, a.result),
        NamedEvaluation("part", "toy", {}, evaluate_probabilities(make_pairs(0, 0.3)[:4], num_resamples=20)),
    ]
    words = Page(write_report(tmp_path, [a, *others]).read_text()).words
    assert "better than" not in words
    assert "Curves on toy" in words and "Curves on other data" in words


def test_links_lead_to_the_images(page, report, evaluations):
    links = [attributes["href"] for attributes in page.of("a")]
    paths = {(report.parent / unquote(link)).resolve() for link in links}
    assert all(path.is_file() for path in paths)
    worst = {image.stem for evaluation in evaluations for image in evaluation.worst}
    linked = {path.stem for path in paths if path.parent.name == "images of # one"}
    assert linked == worst - {"frame 0#"}  # which has no file
    assert report.parent / "per_image.csv" in paths


def test_plots_lie_beside_the_page_and_on_it(report, page):
    names = {path.name for path in (report.parent / "plots").iterdir()}
    assert names == {
        *(f"toy-{plot}.png" for plot in ("roc", "precision_recall", "pd_fa", "froc")),
        "a-on-toy-reliability.png",
        "b-c-on-toy-reliability.png",
    }
    on_page = {b64decode(attributes["src"].partition(",")[2]) for attributes in page.of("img")}
    for path in (report.parent / "plots").iterdir():
        assert path.read_bytes() in on_page
        with Image.open(path) as plot:
            assert min(plot.size) >= 500
    assert len(page.of("source")) == len(names)  # a dark one of each
    assert not list(report.parent.rglob("*.part"))


def test_csv_gives_the_counts_back(report, evaluations):
    rows = list(csv.DictReader(io.StringIO((report.parent / "per_image.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 2 * NUM_IMAGES
    for evaluation, part in zip(evaluations, (rows[:NUM_IMAGES], rows[NUM_IMAGES:]), strict=True):
        for found, row in zip(evaluation.result.per_image, part, strict=True):
            assert ImageCounts(**{name: int(row[name]) for name in COUNT_FIELDS}) == found.counts
            assert (row["detector"], row["data"], row["stem"]) == (evaluation.detector, "toy", found.stem)
            assert float(row["iou"]) == iou(found.counts)
            assert (row["mask_threshold"], row["score_threshold"]) == ("0.5", "0.5")
            assert (row["protocol"], row["matching"]) == ("native", "greedy")
    assert rows[0]["image"] == ""
    assert (report.parent / unquote(rows[1]["image"])).resolve().stem == "frame 1#"


def test_the_same_evaluations_give_the_same_report(report, evaluations, tmp_path):
    again = write_report(report.parent.parent / "again", evaluations)
    for path in (*report.parent.glob("*.*"), *report.parent.glob("plots/*")):
        assert (again.parent / path.relative_to(report.parent)).read_bytes() == path.read_bytes()


def pair(stem, truth_boxes, predicted_boxes, shape=(40, 60)):
    mask, probability = np.zeros(shape, bool), np.zeros(shape, np.float32)
    for top, left in truth_boxes:
        mask[top : top + 2, left : left + 2] = True
    for top, left in predicted_boxes:
        probability[top : top + 2, left : left + 2] = 0.9
    return stem, probability, mask, np.full(shape, 100, np.uint8)


def worst_of(pairs, num_worst=12, **settings):
    worst = WorstImages(num_worst)
    evaluate_probabilities(pairs, curves=False, num_resamples=1, observe=worst.observe, **settings)
    return worst.images


RANKED = [
    pair("clean", [], []),
    pair("hit", [(10, 10)], [(10, 10)]),
    pair("both", [(10, 10)], [(30, 40)]),
    pair("missed", [(10, 10), (30, 40)], [(30, 40)]),
    pair("false", [(30, 40)], [(10, 10), (30, 40)]),
]


def test_the_worst_images_are_kept_in_order():
    worst = worst_of(RANKED, num_worst=3)
    assert [(image.stem, image.misses, image.false_targets) for image in worst] == [
        ("both", 1, 1),
        ("false", 0, 1),  # equally bad as "missed": by the alphabet
        ("missed", 1, 0),
    ]
    assert (worst[0].targets, worst[0].iou, worst[1].iou) == (1, 0.0, 0.5)
    assert [len(image.details) for image in worst] == [2, 1, 1]
    assert [image.stem for image in worst_of(RANKED[::-1], num_worst=4)][3] == "clean"
    assert worst_of(RANKED, num_worst=0) == []


def test_two_processes_keep_the_images_that_one_does():
    one, merged = worst_of(RANKED, num_worst=2), WorstImages(2)
    for k in (0, 1):
        merged.add(*pickle.loads(pickle.dumps(worst_of(RANKED[k::2], num_worst=2))))
    assert [(image.stem, image.picture, image.details) for image in merged.images] == [
        (image.stem, image.picture, image.details) for image in one
    ]


def colours(png):
    with Image.open(io.BytesIO(png)) as image:
        return set(map(tuple, np.asarray(image).reshape(-1, 3)))


@pytest.mark.parametrize(
    ("stem", "marks"),
    [
        ("clean", set()),
        ("hit", {HIT_COLOUR}),
        ("both", {MISS_COLOUR, FALSE_ALARM_COLOUR}),
        ("missed", {HIT_COLOUR, MISS_COLOUR}),
        ("false", {HIT_COLOUR, FALSE_ALARM_COLOUR}),
    ],
)
def test_marks_by_outcome(stem, marks):
    (found,) = [image for image in worst_of(RANKED) if image.stem == stem]
    assert colours(found.picture) & {HIT_COLOUR, MISS_COLOUR, FALSE_ALARM_COLOUR} == marks


def test_marks_leave_their_targets_free():
    (found,) = worst_of([pair("hit", [(10, 10)], [(10, 10)])])
    with Image.open(io.BytesIO(found.picture)) as image:
        picture = np.asarray(image)  # 11 times the 40 x 60 px
    assert picture.shape == (440, 660, 3)
    assert (picture[110:132, 110:132] == 100).all()
    rows, columns = np.nonzero((picture == HIT_COLOUR).all(axis=2))
    assert (rows.min() + rows.max()) / 2 == pytest.approx(120.5, abs=1.5)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(120.5, abs=1.5)


def test_cut_outs_outline_truth_and_prediction():
    (found,) = worst_of([pair("shifted", [(20, 20)], [(20, 26)])])
    with Image.open(io.BytesIO(found.details[0])) as image:
        detail = np.asarray(image)  # 8 times the 24 x 24 px around (20.5, 20.5): columns and rows 8 to 31
    for colour, box in ((MISS_COLOUR, (94, 114, 94, 114)), (FALSE_ALARM_COLOUR, (96, 112, 144, 160))):
        rows, columns = np.nonzero((detail == colour).all(axis=2))
        assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == box


@pytest.mark.parametrize(("shape", "size"), [((2, 3), (642, 428)), ((1200, 3000), (960, 384)), ((1, 1), (640, 640))])
def test_pictures_of_any_image_have_a_size_for_the_eye(shape, size):
    stem, probability, mask = "x", np.zeros(shape, np.float32), np.ones(shape, bool)
    found = worst_of([(stem, probability, mask, np.full(shape, 7.0, np.float32))])[0]
    with Image.open(io.BytesIO(found.picture)) as picture, Image.open(io.BytesIO(found.details[0])) as detail:
        assert picture.size == size
        assert detail.size == (8 * min(24, shape[1]), 8 * min(24, shape[0]))


def test_pictures_follow_the_protocol():
    pairs = [pair("big", [(20, 40)], [(20, 40)], shape=(512, 512))]
    settings = {"protocol": "resize256", "mask_threshold": 0.4}
    (found,) = worst_of(pairs, **settings)
    assert found.iou == evaluate_probabilities(pairs, num_resamples=1, **settings).summary()["iou"]
    with Image.open(io.BytesIO(found.picture)) as picture:
        assert picture.size == (768, 768)  # 3 times 256
    (black,) = worst_of([one[:3] for one in pairs], **settings)  # no image was given
    with Image.open(io.BytesIO(black.picture)) as picture:
        assert picture.size == (768, 768) and picture.getpixel((0, 0)) == (0, 0, 0)


# Linear RGB as a dichromat sees it, Machado et al. 2009, severity 1.
SEEN = {
    "everyone": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("eyes", SEEN)
def test_the_colour_blind_tell_the_marks_apart(eyes):
    srgb = np.array([HIT_COLOUR, MISS_COLOUR, FALSE_ALARM_COLOUR]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(SEEN[eyes]).T, 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(seen[None])[0]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert deltaE_ciede2000(lab[first], lab[second]) > 20


def test_without_curves_targets_and_predictions(tmp_path):
    pairs = [pair(f"{k}", [], []) for k in range(3)]
    found = make_evaluation("silent", pairs, curves=False)
    page = Page(write_report(tmp_path, [found]).read_text())
    assert "No target was predicted. Missed targets: 0." in page.words
    assert page.table("metric", "value")["Pd (target recall)"][:2] == ["-", "- to -"]
    assert not list((tmp_path / "plots").iterdir())
    write_report(tmp_path, [make_evaluation("silent", pairs)])  # with curves, all undefined or 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda good: [], "`evaluations` must hold at least one"),
        (lambda good: [good, good], "`evaluations` must have different names, got twice: a on toy"),
    ],
)
def test_refuses(make, message, evaluations, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path, make(evaluations[0]))


def test_a_negative_number_of_worst_images_is_refused():
    with pytest.raises(ValueError, match="`num_worst` must be at least 0, got -1"):
        WorstImages(-1)


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_before_anything_is_written(monkeypatch, evaluations, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "irstd_ldm.evaluation.report.plots", raising=False)
    with pytest.raises(ModuleNotFoundError, match=package):
        write_report(tmp_path / "out", evaluations)
    assert not (tmp_path / "out").exists()


def test_writing_imports_matplotlib_late():
    code = "import sys, irstd_ldm.evaluation.report.write; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_a_browser_without_network_shows_it(report, tmp_path):
    shot = tmp_path / "shot.png"
    command = [
        str(BROWSER),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,6000"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"),
        *(f"--screenshot={shot}", report.as_uri()),
    ]
    subprocess.run(command, capture_output=True, timeout=180, check=True)
    with Image.open(shot) as image:
        shown = image.convert("RGB")
    assert shown.size == (1000, 6000)
    found = {colour for _, colour in shown.getcolors(maxcolors=2**24)}
    assert {(0, 114, 178), (213, 94, 0)} <= found  # the lines of both detectors


def test_a_grid_begins_with_the_targets_that_detectors_draw_most_differently():
    """Of four pixels of each target the two detectors draw these many."""
    drawn = {"both_none": (0, 0), "half_apart": (4, 2), "alike": (3, 3), "one_none": (0, 4), "lower_half": (2, 0)}
    result = evaluate_probabilities(make_pairs(0, 0.3)[:1], num_resamples=20)
    crops: list[dict[str, TargetCrop]] = [{}, {}]
    for stem, areas in drawn.items():
        for of_detector, area in zip(crops, areas, strict=True):
            predicted = np.arange(9).reshape(3, 3) < area
            of_detector[stem] = TargetCrop(np.zeros((3, 3), np.uint8), np.arange(9).reshape(3, 3) < 4, predicted)
    figure = draw_grid(
        [NamedEvaluation(name, "toy", {}, result, crops=one) for name, one in zip("ab", crops, strict=True)]
    )
    rows = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert rows == ["one_none", "lower_half", "half_apart", "both_none", "alike"]

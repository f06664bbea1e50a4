import math

import numpy as np
import pytest

from irstd_ldm.evaluation.bootstrap import estimate
from irstd_ldm.evaluation.counts import AREA_STRATA, SCR_STRATA, TargetRecord, target_records
from irstd_ldm.evaluation.matching import label_image
from irstd_ldm.evaluation.result import stratum_statistic
from irstd_ldm.targets import RING_PX


def record(area_px=4, scr=None, hit=True):
    return TargetRecord(x=0.0, y=0.0, area_px=area_px, scr=scr, hit=hit)


def names_of(strata, target):
    return [stratum.name for stratum in strata if stratum.holds(target)]


@pytest.mark.parametrize(
    ("area_px", "name"),
    [
        (1, "1-8 px"),
        (8, "1-8 px"),
        (9, "9-24 px"),
        (25, "25-48 px"),
        (80, "49-80 px"),
        (81, ">= 81 px"),
        (9999, ">= 81 px"),
    ],
)
def test_every_area_has_one_stratum(area_px, name):
    assert names_of(AREA_STRATA, record(area_px)) == [f"area {name}"]


@pytest.mark.parametrize(
    ("scr", "name"),
    [
        (-5.0, "< 2"),
        (2.0, "2-4"),
        (3.99, "2-4"),
        (4.0, "4-8"),
        (8.0, "8-16"),
        (16.0, ">= 16"),
        (math.nan, "undefined"),
    ],
)
def test_every_scr_has_one_stratum(scr, name):
    assert names_of(SCR_STRATA, record(scr=scr)) == [f"SCR {name}"]


def test_without_an_image_no_target_has_an_scr():
    assert names_of(SCR_STRATA, record(scr=None)) == []


def test_records_of_one_image():
    rng = np.random.default_rng(0)
    image = rng.integers(50, 60, (60, 80)).astype(np.uint16)
    truth = np.zeros((60, 80), dtype=bool)
    truth[10:12, 10:12] = truth[40, 50:53] = True
    image[truth] += 500
    components = label_image(np.roll(truth, 1, axis=0) & (np.arange(60)[:, None] < 30), truth)
    found = target_records(components, components.match(), image)
    assert [(r.x, r.y, r.area_px, r.hit) for r in found] == [(10.5, 10.5, 4, True), (51.0, 40.0, 3, False)]
    around = np.s_[10 - RING_PX : 12 + RING_PX, 10 - RING_PX : 12 + RING_PX]
    clutter = image[around][~truth[around]]
    expected = (image[10:12, 10:12].mean() - clutter.mean()) / clutter.std()
    assert found[0].scr == pytest.approx(expected, rel=1e-12) and expected > 100
    assert target_records(components, [], None)[0].scr is None


def test_pd_of_a_stratum_with_its_interval():
    # Small targets: 30 of 40 found, spread over images; one image has none, large ones do not count.
    targets = [[record(4, hit=k % 4 != 0), record(100, hit=False)] for k in range(40)] + [[]]
    small, large = (stratum_statistic(targets, stratum) for stratum in (AREA_STRATA[0], AREA_STRATA[4]))
    found = estimate({"small": small, "large": large})
    assert found["small"].value == 0.75
    deviation = math.sqrt(0.75 * 0.25 / 40)
    assert found["small"].low == pytest.approx(0.75 - 1.96 * deviation, abs=0.25 * deviation)
    assert found["small"].high == pytest.approx(0.75 + 1.96 * deviation, abs=0.25 * deviation)
    assert (found["large"].value, found["large"].high) == (0, 0)
    assert math.isnan(stratum_statistic(targets, AREA_STRATA[1]).point())

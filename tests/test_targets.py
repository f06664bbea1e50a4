"""Components of a mask, and fields of `Target`, computed by hand."""

import math
import time

import numpy as np
import pytest

from irstd_ldm import targets
from irstd_ldm.targets import Component, Decision, Target, extract_targets, label_components, resolve_decision

HALF = Decision(0.5, 0.5)


def extract(probability: np.ndarray, gray: np.ndarray | None = None) -> list[Target]:
    probability = probability.astype(np.float32)
    return extract_targets(probability, np.zeros_like(probability) if gray is None else gray, HALF)[1]


def test_centroid_box_area_confidence_and_peak():
    probability = np.full((6, 8), 0.25)
    probability[1, 2], probability[1, 3], probability[2, 3] = 0.6, 0.8, 1.0
    (target,) = extract(probability)
    assert target.x == pytest.approx((2 * 0.6 + 3 * 0.8 + 3 * 1.0) / 2.4)  # 2.75
    assert target.y == pytest.approx((1 * 0.6 + 1 * 0.8 + 2 * 1.0) / 2.4)  # 1.4167
    assert (target.left, target.top, target.width, target.height) == (2, 1, 2, 2)
    assert target.area_px == 3
    assert target.score == target.confidence == pytest.approx(0.8)
    assert target.peak == 1.0
    kinds = {"left": int, "top": int, "width": int, "height": int, "area_px": int}
    assert all(type(value) is kinds.get(name, float) for name, value in vars(target).items())


def test_targets_come_in_raster_order_and_diagonal_neighbours_are_one():
    probability = np.zeros((6, 12))
    probability[4, 0] = 0.6
    probability[[1, 2], [9, 8]] = 0.7
    probability[1, 3] = 0.9
    assert [(target.left, target.top, target.area_px) for target in extract(probability)] == [
        (3, 1, 1),
        (8, 1, 2),
        (0, 4, 1),
    ]


def test_a_target_inside_the_box_of_another_keeps_its_own_values():
    """A ring of 5x5 around a single pixel: two components, one box inside the other."""
    probability = np.zeros((9, 9))
    probability[2:7, 2:7] = 0.6
    probability[3:6, 3:6] = 0
    probability[4, 4] = 0.8
    outer, inner = extract(probability)
    assert (outer.area_px, outer.x, outer.y) == (16, pytest.approx(4), pytest.approx(4))
    assert outer.peak == outer.confidence == pytest.approx(0.6)
    assert (inner.area_px, inner.left, inner.top, inner.width) == (1, 4, 4, 1)
    assert inner.peak == pytest.approx(0.8)


def test_the_score_decides_and_the_mask_threshold_delineates():
    probability = np.zeros((8, 30), np.float32)
    probability[2, 2:5] = 0.4, 0.9, 0.4  # mean 0.57 above 0.3, 0.9 above 0.5
    probability[2, 12], probability[6, 20:22] = 0.7, 0.6
    gray = np.zeros_like(probability)
    for decision, columns in (
        (Decision(0.5, 0.5), [3, 12, 20, 21]),
        (Decision(0.3, 0.3), [2, 3, 4, 12, 20, 21]),
        (Decision(0.3, 0.58), [12, 20, 21]),
        (Decision(0.5, 0.65), [3, 12]),
        (Decision(0.5, 0.95), []),
        (Decision(0.65, 0.1), [3, 12]),
    ):
        mask, targets = extract_targets(probability, gray, decision)
        assert np.flatnonzero(mask.any(axis=0)).tolist() == columns
        assert np.array_equal(mask, decision.mask(probability))
        assert len(targets) == label_components(mask)[0].max()
        assert all(target.score > decision.score_threshold for target in targets)


def test_what_was_dropped_is_clutter_in_the_ring():
    probability, gray = scene()
    probability[14, 25], gray[14, 25] = 0.6, 60000
    assert extract(probability, gray)[0].scr > 3.9
    (target,) = extract_targets(probability.astype(np.float32), gray, Decision(0.5, 0.8))[1]
    assert target.scr < 0


def test_100000_components_of_4096_by_4096_pixels():
    """3 s on a quiet machine; what grows with the square of their number takes minutes."""
    rng = np.random.default_rng(0)
    probability = np.zeros((4096, 4096), np.float32)
    rows, columns = (6 * rng.integers(0, 680, 127_000) for _ in range(2))
    for row, column in ((0, 0), (0, 1), (1, 0)):
        probability[rows + row, columns + column] = rng.uniform(0.5, 1, len(rows))
    start = time.process_time()
    _, targets = extract_targets(probability, (probability * 1000).astype(np.uint16), Decision(0.5, 0.6))
    assert len(targets) > 100_000 and time.process_time() - start < 15


CONFIG = {"default_mask_threshold": 0.5, "default_score_threshold": 0.6, "calibration": None}
BUDGETS = {"max_false_targets_per_megapixel": {"1": 0.9}, "max_fa_per_million_px": {"10": 0.95, "0.5": 0.99}}


@pytest.mark.parametrize(
    ("calibration", "arguments", "expected"),
    [
        (None, {}, (0.5, 0.6)),
        (None, {"threshold": 0.7}, (0.7, 0.7)),
        (None, {"mask_threshold": 0.3}, (0.3, 0.6)),
        (None, {"score_threshold": 0.8}, (0.5, 0.8)),
        (None, {"mask_threshold": 0.3, "score_threshold": 0}, (0.3, 0)),
        ({"score_thresholds": BUDGETS}, {"max_false_targets_per_megapixel": 1}, (0.5, 0.9)),
        ({"score_thresholds": BUDGETS}, {"max_fa_per_million_px": 10.0, "mask_threshold": 0.2}, (0.2, 0.95)),
        ({"thresholds": {"10": 0.999}}, {"max_fa_per_million_px": 10}, (0.999, 0.999)),  # of older calibrations
    ],
)
def test_thresholds_of_a_call(calibration, arguments, expected):
    assert resolve_decision({**CONFIG, "calibration": calibration}, **arguments) == Decision(*expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, r"`threshold` must lie in \[0, 1\], got 1.5"),
        ({"mask_threshold": -1}, r"`mask_threshold` must lie in \[0, 1\], got -1"),
        ({"score_threshold": float("nan")}, r"`score_threshold` must lie in \[0, 1\], got nan"),
        ({"threshold": 0.5, "mask_threshold": 0.5}, "`mask_threshold` and `threshold` exclude each other"),
        (
            {"score_threshold": 0.5, "max_fa_per_million_px": 10},
            "`max_fa_per_million_px` and `score_threshold` exclude each other",
        ),
        (
            {"max_false_targets_per_megapixel": 1, "max_fa_per_million_px": 10},
            "`max_fa_per_million_px` and `max_false_targets_per_megapixel` exclude each other",
        ),
        ({"max_fa_per_million_px": 5}, "`max_fa_per_million_px` 5 was never calibrated .*; stored: 10, 0.5"),
    ],
)
def test_refused_thresholds(arguments, message):
    with pytest.raises(ValueError, match=message):
        resolve_decision({**CONFIG, "calibration": {"score_thresholds": BUDGETS}}, **arguments)


def test_no_targets():
    assert extract(np.full((5, 5), 0.5)) == []


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Target of 20 at rows 14..15 and columns 19..20; columns of its ring are 10 and 14 in turn; 1000 beyond it."""
    gray = np.full((40, 50), 1000, np.uint16)
    gray[4:26, 9:31:2], gray[4:26, 10:31:2] = 10, 14
    gray[14:16, 19:21] = 20
    probability = np.zeros((40, 50))
    probability[14:16, 19:21] = 0.9
    return probability, gray


def test_scr_by_hand():
    """The ring's mean is 12, its standard deviation 2: (20 - 12) / 2."""
    (target,) = extract(*scene())
    assert target.scr == pytest.approx(4.0)


def test_other_targets_do_not_count_in_the_ring():
    probability, gray = scene()
    probability[5, 10:12], gray[5, 10:12] = 0.9, 60000  # one column of each kind leaves the ring
    first, second = extract(probability, gray)
    assert (first.top, second.top) == (5, 14)
    assert second.scr == pytest.approx(4.0)


def test_a_dark_target_has_a_negative_scr():
    probability, gray = scene()
    gray[14:16, 19:21] = 2
    assert extract(probability, gray)[0].scr == pytest.approx(-5.0)


def test_the_ring_ends_at_the_border():
    """One pixel of 9 in the corner; the ring is rows and columns 0..10 without it, half 2 and half 4 on average 3."""
    gray = np.full((30, 30), 500, np.int32)
    gray[:11, :11] = np.where(np.arange(121).reshape(11, 11) % 2, 2, 4)
    gray[0, 0] = 9
    probability = np.zeros((30, 30))
    probability[0, 0] = 1
    assert extract(probability, gray)[0].scr == pytest.approx((9 - 3) / 1)


@pytest.mark.parametrize("kind", ("constant ring", "empty ring"))
def test_scr_is_nan_where_the_ring_says_nothing(kind):
    probability = np.full((5, 5), 0.9)
    if kind == "constant ring":
        probability[:, 2:] = 0
    gray = np.where(probability > 0.5, np.arange(25.0).reshape(5, 5), 7).astype(np.float32)
    (target,) = extract(probability, gray)
    assert math.isnan(target.scr)


def test_area_centroid_and_box_of_an_l_shape():
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, 2] = True
    mask[3, 3] = True
    labels, components = label_components(mask)
    assert components == [Component(label=1, area_px=4, x=2.25, y=2.25, left=2, top=1, width=2, height=3)]
    assert labels.dtype == np.int32
    assert np.array_equal(labels > 0, mask)


def test_diagonal_neighbours_are_one_component():
    _, components = label_components(np.eye(4, dtype=bool))
    assert components == [Component(label=1, area_px=4, x=1.5, y=1.5, left=0, top=0, width=4, height=4)]


def test_a_gap_of_one_pixel_separates():
    mask = np.zeros((1, 3), dtype=bool)
    mask[0, [0, 2]] = True
    assert [component.x for component in label_components(mask)[1]] == [0.0, 2.0]


def test_labels_follow_the_first_pixel_in_raster_order():
    # The U's left arm starts at (0, 0), its right arm at (0, 4); the dot between them starts at (0, 2).
    mask = np.array([[1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype=bool)
    labels, components = label_components(mask)
    assert labels[0].tolist() == [1, 0, 2, 0, 1]
    assert [component.area_px for component in components] == [9, 1]


def test_labels_are_raster_ordered_on_noise():
    rng = np.random.default_rng(0)
    for density in (0.1, 0.2, 0.3, 0.4):
        labels, components = label_components(rng.random((40, 50)) < density)
        values, first = np.unique(labels, return_index=True)
        first = first[values > 0]
        assert len(components) == len(first) > 0
        assert np.all(np.diff(first) > 0)
        for component in components:
            rows, columns = np.nonzero(labels == component.label)
            assert component.area_px == rows.size
            assert (component.x, component.y) == (columns.sum() / rows.size, rows.sum() / rows.size)
            assert (component.left, component.top) == (columns.min(), rows.min())
            assert (component.width, component.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)


def test_empty_mask_has_no_component():
    labels, components = label_components(np.zeros((3, 5), dtype=bool))
    assert components == []
    assert labels.shape == (3, 5) and not labels.any()


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.zeros((3, 3), dtype=np.uint8), TypeError, "`mask` must be a bool array, got uint8"),
        ([[True]], TypeError, "`mask` must be a bool array, got list"),
        (np.zeros((1, 3, 3), dtype=bool), ValueError, r"`mask` must have shape \(H, W\), got \(1, 3, 3\)"),
    ],
)
def test_refuses(mask, error, message):
    with pytest.raises(error, match=message):
        label_components(mask)


def test_a_mask_of_several_strips_is_measured_as_one(monkeypatch):
    mask = np.random.default_rng(0).random((60, 40)) > 0.6
    _, expected = label_components(mask)
    monkeypatch.setattr(targets, "STRIP_PX", 100)  # 3 rows
    assert label_components(mask)[1] == expected

import numpy as np
import pytest

from irstd_ldm.evaluation import components
from irstd_ldm.evaluation.components import Component, label_components


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
    monkeypatch.setattr(components, "STRIP_PX", 100)  # 3 rows
    assert label_components(mask)[1] == expected

"""Properties of what is written and cut: any name, any number, any size."""

import csv
import io
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from irstd_ldm.files import csv_line, finite, write_json
from irstd_ldm.tiling import blend_weight, pad_image, tile_windows

LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text()
CONTENT = st.dictionaries(st.text(), LEAVES | st.lists(LEAVES, max_size=4), max_size=6)


@given(CONTENT)
def test_json_is_strict_and_keeps_what_is_finite(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    try:
        write_json(path, content)
    except UnicodeEncodeError:  # half a surrogate, which no UTF-8 holds
        return

    def refuse(text):
        raise AssertionError(text)

    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse) == finite(content)


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_a_row_of_a_table_is_read_back(cells):
    (row,) = csv.reader(io.StringIO(csv_line(cells), newline=""), strict=True)
    assert len(row) == len(cells)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(128, 400), st.integers(0, 127))
def test_tiles_cover_every_pixel(height, width, tile_size, tile_overlap):
    weight = np.zeros((height, width), np.float32)
    for rows, columns in tile_windows((height, width), tile_size, tile_overlap):
        part = weight[rows, columns]
        assert part.size
        part += blend_weight(*part.shape, tile_overlap)
    assert (weight > 0).all()


@given(st.integers(1, 200), st.integers(1, 200))
def test_padding_continues_the_image(height, width):
    image = np.arange(height * width, dtype=np.float32).reshape(height, width)
    padded = pad_image(image)
    assert (padded[:height, :width] == image).all()
    assert all(side % 32 == 0 and side >= 128 for side in padded.shape)

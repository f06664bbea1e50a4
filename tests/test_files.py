"""Files that appear whole or not at all, and strict JSON."""

import json

import numpy as np
import pytest

from irstd_ldm.files import finite, part_path, replacing, write_json


def test_a_file_appears_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as part:
        part.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and not part_path(path).exists()


def test_json_is_strict_and_holds_pythons_numbers(tmp_path):
    content = {
        "nan": float("nan"),
        "numpy": (np.float32(0.5), np.int64(3), np.bool_(True), np.float64("inf")),
        7: [{"name": "\udcff.png"}, -float("inf"), 0.1 + 0.2],
    }
    expected = {"nan": None, "numpy": [0.5, 3, True, None], "7": [{"name": "\udcff.png"}, None, 0.1 + 0.2]}
    assert finite(content) == expected
    write_json(tmp_path / "a.json", {"nan": np.float32("nan")})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {"nan": None}

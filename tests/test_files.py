"""Files and folders that appear whole or not at all, one writer to a folder, safe texts, and strict JSON."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from irstd_ldm import files
from irstd_ldm.files import (
    LOCK,
    FolderInUseError,
    csv_line,
    finite,
    only_writer,
    part_path,
    printable,
    replacing,
    replacing_folder,
    unfinished_folder,
    write_json,
)

CHANGES = {"open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "ctypes.dlsym"}


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


def killed_at(change: int, act: Callable[..., None], *arguments: Path) -> bool:
    """Acts in a forked process that is killed before its n-th change of a file; whether it came so far."""
    process = os.fork()
    if process == 0:
        left = iter(range(change))

        def count(event: str, details: tuple) -> None:
            if event in CHANGES and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        act(*arguments)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


OLD = {"index": "old", "a/weights": "old", "a/part": "old", "mine": "kept", "a/mine": "kept", "b/deep/mine": "kept"}
NEW = {
    "index": "new",
    "a/weights": "new",
    "c/weights": "new",
    **{n: text for n, text in OLD.items() if text == "kept"},
}


def write_old(folder: Path) -> None:
    for name, text in OLD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def replace_by_new(folder: Path) -> None:
    with replacing_folder(folder, "index", {Path("a/part")}.__contains__) as unfinished:
        for name, text in NEW.items():
            if text == "new":
                (unfinished / name).parent.mkdir(exist_ok=True)
                (unfinished / name).write_text(text)


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchanged", "moved one by one"])
def test_a_folder_killed_at_any_moment_is_old_or_new(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(files, "_exchange_with_rest", lambda *arguments: False)
    seen, change = [], 0
    while True:
        home = tmp_path / str(change)
        write_old(home / "folder")
        if not killed_at(change, replace_by_new, home / "folder"):
            break
        seen.append(tree(home / "folder"))
        replace_by_new(home / "folder")
        assert tree(home / "folder") == NEW
        assert all(name == "folder" or (name.endswith(".new") and not tree(home / name)) for name in os.listdir(home))
        change += 1
    assert seen[0] == OLD and tree(home / "folder") == NEW and len(seen) > 20
    assert all(one in (OLD, NEW) or (not exchanges and "index" not in one) for one in seen)
    assert all(text in one.values() for one in seen for text in ("kept",))


def test_the_working_folder_may_be_replaced(tmp_path, monkeypatch):
    write_old(tmp_path / "folder")
    monkeypatch.chdir(tmp_path / "folder")
    replace_by_new(Path())
    assert tree(Path()) == NEW and Path("index").read_text() == "new"


def test_a_failure_leaves_the_old_folder_and_nothing_beside_it(tmp_path):
    write_old(tmp_path / "folder")
    with (
        pytest.raises(KeyboardInterrupt),
        replacing_folder(tmp_path / "folder", "index", OLD.__contains__) as unfinished,
    ):
        (unfinished / "index").write_text("new")
        raise KeyboardInterrupt
    assert tree(tmp_path / "folder") == OLD and os.listdir(tmp_path) == ["folder"]


def test_an_unfinished_folder_of_a_living_process_stays(tmp_path):
    with unfinished_folder(tmp_path / "x") as first, unfinished_folder(tmp_path / "x") as second:
        assert first.is_dir() and second.is_dir() and first != second
    assert not os.listdir(tmp_path)


HOLD = """
import sys, time
from pathlib import Path
from irstd_ldm.files import only_writer
with only_writer(Path(sys.argv[1]), "a test"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_writer_to_a_folder_until_its_death(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(FolderInUseError, match=f"is being written by a test, process {other.pid} on "):
        with only_writer(tmp_path, "me"):
            pass
    other.kill()
    other.communicate()
    assert (tmp_path / LOCK).exists()
    with only_writer(tmp_path, "me"):
        with pytest.raises(FolderInUseError, match=f"by me, process {os.getpid()} on "), only_writer(tmp_path, "I"):
            pass
    assert not os.listdir(tmp_path)


def test_texts_are_safe_for_terminals_and_spreadsheets():
    assert printable("a\x1b[31m\nb\u202ec é\udcff目") == "a\\x1b[31m\\nb\\u202ec é\udcff目"
    line = csv_line(["=1+1", "+a", "-b", "@c", "\t=d", "e=f", -1.5, None, "a\x1bb", 'say "x", y'])
    (cells,) = csv.reader([line])
    assert cells == ["'=1+1", "'+a", "'-b", "'@c", "'\\t=d", "e=f", "-1.5", "", "a\\x1bb", 'say "x", y']

"""Files, folders and globs -> files with names of their own."""

from pathlib import Path

import pytest

from irstd_ldm.cli.detect import collect_inputs, unique_names


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Two folders with images (collecting looks at names only) and other files."""
    for name in ("b.png", "a.TIF", "notes.txt", ".hidden.png", "deep/c.jpg", "deep/b.bmp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def names(arguments: list[Path]) -> list[tuple[str, str]]:
    files, failures = collect_inputs([str(argument) for argument in arguments])
    assert failures == []
    return [(file.path.name, file.name) for file in files]


def test_a_folder_gives_its_images_sorted_without_subfolders_and_hidden_files(frames):
    assert names([frames]) == [("a.TIF", "a"), ("b.png", "b")]


def test_a_file_of_any_suffix_is_taken_as_it_is(frames):
    assert names([frames / "notes.txt"]) == [("notes.txt", "notes")]


def test_a_glob_is_sorted_and_crosses_folders_where_asked(frames):
    assert names([frames / "*.png"][:0] + [frames / "**/*.[jb][pm][gp]"]) == [("b.bmp", "b"), ("c.jpg", "c")]


def test_an_existing_file_wins_over_its_reading_as_a_glob(frames):
    (frames / "x[1].png").touch()
    (frames / "x1.png").touch()
    assert names([frames / "x[1].png"]) == [("x[1].png", "x[1]")]


def test_a_file_named_twice_is_done_once(frames):
    assert names([frames / "b.png", frames, frames / "deep" / ".." / "b.png"]) == [("b.png", "b"), ("a.TIF", "a")]


def test_a_second_file_of_one_stem_gets_a_number(frames):
    assert names([frames / "b.png", frames / "deep"]) == [("b.png", "b"), ("b.bmp", "b-2"), ("c.jpg", "c")]


def test_numbers_avoid_the_stems_that_are_there_and_the_case_of_letters():
    paths = [Path(name) for name in ("1/a.png", "2/a.png", "a-2.png", "3/A.png")]
    assert [file.name for file in unique_names(paths)] == ["a", "a-2", "a-2-2", "A-3"]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [("deep/*.png", "no file matches"), ("folder.png", "folder without images"), ("fol*", "no image in the folders")],
)
def test_an_argument_that_names_no_image_is_one_failure(frames, argument, reason):
    files, failures = collect_inputs([str(frames / argument), str(frames / "b.png")])
    assert [file.name for file in files] == ["b"]
    assert len(failures) == 1
    assert str(failures[0]).startswith(f"{frames / argument}: {reason}")


def test_a_missing_file_is_kept_for_the_reader_to_name(frames):
    assert names([frames / "missing.png"]) == [("missing.png", "missing")]

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irstd_ldm.data.folder import (
    IRSTDFolder,
    files_by_stem,
    held_out_stems,
    read_backgrounds,
    read_stem_list,
    write_stem_list,
)
from irstd_ldm.data.readers import ImageReadError

SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared/data"
needs_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"{SHARED_DATA} is absent")


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def make_set(root, stems=("a_1", "b_2", "c_3")):
    for number, stem in enumerate(stems):
        write(root / f"images/{stem}.png", np.full((4, 6), number))
        write(root / f"masks/{stem}.png", np.eye(4, 6) * 255)
    return root


def write_list(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def test_samples_are_read_in_list_order(tmp_path):
    write_list(make_set(tmp_path / "SET") / "img_idx/train_SET.txt", "c_3\na_1\n")
    folder = IRSTDFolder(tmp_path / "SET", "train")
    assert folder.name == "SET" and folder.stems == ["c_3", "a_1"] and len(folder) == 2
    assert folder[0].stem == "c_3" and folder[0].image.tolist() == [[2] * 6] * 4
    assert folder[0].mask.dtype == bool and folder[0].mask.tolist() == np.eye(4, 6, dtype=bool).tolist()
    assert [sample.stem for sample in folder] == ["c_3", "a_1"]
    assert [sample.stem for sample in folder[-1:]] == ["a_1"]
    with pytest.raises(IndexError):
        folder[2]


def test_without_a_split_every_image_in_alphabetical_order(tmp_path):
    assert IRSTDFolder(make_set(tmp_path)).stems == ["a_1", "b_2", "c_3"]


@pytest.mark.parametrize(
    ("split", "list_path"),
    [
        ("train", "img_idx/train_SET.txt"),
        ("train", "img_idx/train_OTHER.txt"),
        ("train", "50_50/train.txt"),
        ("train", "idx_427/trainval.txt"),
        ("train", "train.txt"),
        ("train", "trainval.txt"),
        ("test", "img_idx/test_SET.txt"),
        ("test", "50_50/test.txt"),
        ("test", "idx_427/test.txt"),
        ("test", "test.txt"),
        ("val", "idx_427/val.txt"),
        ("val", "val.txt"),
    ],
)
def test_the_fields_list_names(tmp_path, split, list_path):
    root = make_set(tmp_path / "SET")
    write_list(root / list_path, "b_2\r\n\r\na_1")
    assert IRSTDFolder(root, split).stems == ["b_2", "a_1"]


def test_a_train_list_goes_before_trainval_that_holds_the_validation_images(tmp_path):
    root = make_set(tmp_path)
    write_list(root / "trainval.txt", "a_1\nb_2\n")
    write_list(root / "train.txt", "a_1\n")
    assert IRSTDFolder(root, "train").stems == ["a_1"]


def test_a_list_file_wins_over_the_split(tmp_path):
    root = make_set(tmp_path / "SET")
    write_list(root / "train.txt", "a_1\n")
    write_list(tmp_path / "run/val.txt", "c_3\n")
    assert IRSTDFolder(root, "train", list_file=tmp_path / "run/val.txt").stems == ["c_3"]


def test_a_missing_list_is_named(tmp_path):
    root = make_set(tmp_path / "SET")
    with pytest.raises(ValueError, match=r"split 'val'.*img_idx/val_SET\.txt, 50_50/val\.txt.*, val\.txt"):
        IRSTDFolder(root, "val")
    write_list(root / "img_idx/val_X.txt", "a_1\n")
    write_list(root / "img_idx/val_Y.txt", "a_1\n")
    with pytest.raises(ValueError, match="no list of the split 'val'"):
        IRSTDFolder(root, "val")
    with pytest.raises(ValueError, match="`split`.*'dev'"):
        IRSTDFolder(root, "dev")


def test_a_stem_without_image_or_mask_is_named(tmp_path):
    write_list(make_set(tmp_path) / "train.txt", "a_1\nz_9\n")
    with pytest.raises(ValueError, match="'z_9' has no image"):
        IRSTDFolder(tmp_path, "train")
    write(tmp_path / "images/z_9.png", np.zeros((4, 6)))
    with pytest.raises(ValueError, match="'z_9' has no mask"):
        IRSTDFolder(tmp_path, "train")


def test_masks_named_pixels0_and_other_suffixes(tmp_path):
    write(tmp_path / "images/Misc_7.bmp", np.zeros((2, 2)))
    write(tmp_path / "masks/Misc_7_pixels0.png", [[0, 255], [0, 0]])
    assert IRSTDFolder(tmp_path)[0].mask.tolist() == [[False, True], [False, False]]


def test_masks_are_binarised_at_128(tmp_path):
    write(tmp_path / "images/a.png", np.zeros((1, 5)))
    write(tmp_path / "masks/a.png", [[0, 64, 127, 128, 255]])
    assert IRSTDFolder(tmp_path)[0].mask.tolist() == [[False, False, False, True, True]]


def test_masks_of_zeros_and_ones_are_read_and_those_that_cannot_be_told_refused(tmp_path):
    write(tmp_path / "images/a.png", np.zeros((1, 3)))
    write(tmp_path / "masks/a.png", [[0, 1, 0]])
    folder = IRSTDFolder(tmp_path)
    assert folder[0].mask.tolist() == [[False, True, False]] and folder.stored_mask(0).tolist() == [[0, 255, 0]]
    write(tmp_path / "masks/a.png", [[0, 1, 2]])
    with pytest.raises(ValueError, match=r"mask '.*masks/a\.png' has 3 values; a mask is gray with 0 and 255"):
        folder[0]


def test_a_mask_of_another_size_names_both_files_and_sizes(tmp_path):
    write(tmp_path / "images/a.png", np.zeros((22, 32)))
    write(tmp_path / "masks/a.png", np.zeros((40, 59)))
    with pytest.raises(ValueError, match=r"masks/a\.png' is 59x40 .*images/a\.png' is 32x22"):
        IRSTDFolder(tmp_path)[0]


def test_an_unreadable_image_is_named_when_read(tmp_path):
    root = make_set(tmp_path)
    (root / "images/b_2.png").write_text("no image")
    folder = IRSTDFolder(root)
    assert folder[0].stem == "a_1"
    with pytest.raises(ImageReadError, match=r"b_2\.png"):
        folder[1]


def test_two_files_of_one_stem_and_a_missing_folder(tmp_path):
    write(make_set(tmp_path) / "images/a_1.bmp", np.zeros((4, 6)))
    with pytest.raises(ValueError, match=r"a_1\.bmp' and '.*a_1\.png' share one stem"):
        IRSTDFolder(tmp_path)
    with pytest.raises(ValueError, match="no folder '.*elsewhere/images'"):
        IRSTDFolder(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("content", "stems"),
    [
        (b"a.png\r\nb.TIF\r\n", ["a", "b"]),
        (b"# the test split\n\na\rb\r", ["a", "b"]),
        (b"images/a.png\nimages\\b.png\n", ["a", "b"]),
        (b"/41/1(1)\n", ["41/1(1)"]),
        ("Ko\u0308ln.v2\n".encode(), ["K\u00f6ln.v2"]),
    ],
)
def test_a_list_holds_stems_however_it_writes_them(tmp_path, content, stems):
    (tmp_path / "list.txt").write_bytes(content)
    assert read_stem_list(tmp_path / "list.txt") == stems


@pytest.mark.parametrize("encoding", ["utf-16", "gbk"])
def test_a_list_of_another_encoding_is_refused_by_name(tmp_path, encoding):
    (tmp_path / "list.txt").write_bytes("目标_4\n".encode(encoding))
    with pytest.raises(ValueError, match=r"list '.*list\.txt' is not UTF-8 text: save it in that encoding"):
        read_stem_list(tmp_path / "list.txt")


def test_test_lists_of_any_writing_hold_out_and_logs_do_not(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "test_Fri_Jan_19.txt").write_text("NUAA-SIRST\nNUAA-SIRST\npixAcc, mIoU: 0.7\n")
    (tmp_path / "test.txt").write_text("a.png\nimages/b.bmp\n")
    assert {"a", "b"} <= held_out_stems(tmp_path) <= {"a", "b", "NUAA-SIRST", "pixAcc, mIoU: 0.7"}


def test_files_by_stem_are_the_images_in_alphabetical_order(tmp_path):
    for name in ("b.png", "a.TIF", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert list(files_by_stem(tmp_path).items()) == [("a", tmp_path / "a.TIF"), ("b", tmp_path / "b.png")]


def test_stem_lists_round_trip(tmp_path):
    write_stem_list(tmp_path / "val.txt", ["b", "a 1", "000000_1"])
    assert (tmp_path / "val.txt").read_bytes() == b"b\na 1\n000000_1\n"
    assert read_stem_list(tmp_path / "val.txt") == ["b", "a 1", "000000_1"]
    assert [path.name for path in tmp_path.iterdir()] == ["val.txt"]
    write_list(tmp_path / "bom.txt", "\ufeffa\r\n b \r\n")
    assert read_stem_list(tmp_path / "bom.txt") == ["a", "b"]


def test_empty_and_repeating_lists_are_refused(tmp_path):
    write_list(tmp_path / "empty.txt", "\r\n\n")
    with pytest.raises(ValueError, match=r"empty\.txt' holds no stems"):
        read_stem_list(tmp_path / "empty.txt")
    write_list(tmp_path / "twice.txt", "a\nb\na\n")
    with pytest.raises(ValueError, match="the stem 'a' twice"):
        read_stem_list(tmp_path / "twice.txt")


def test_backgrounds_and_their_exclusion(tmp_path):
    for number, stem in enumerate(("S2_1", "S7_1", "S7_2")):
        write(tmp_path / f"images/{stem}.png", np.full((2, 3), number))
    frames = read_backgrounds(tmp_path, exclude=["S7_*"])
    assert list(frames) == ["S2_1"] and frames["S2_1"].dtype == np.uint8 and frames["S2_1"].shape == (2, 3)
    assert list(read_backgrounds(tmp_path)) == ["S2_1", "S7_1", "S7_2"]


@needs_data
def test_nuaa_sirst_lists_and_pixels():
    train = IRSTDFolder(SHARED_DATA / "NUAA-SIRST", "train")
    test = IRSTDFolder(SHARED_DATA / "NUAA-SIRST", "test")
    assert len(train) == 213 and len(test) == 214 and not set(train.stems) & set(test.stems)
    assert sum(int(sample.mask.sum()) for sample in train) == 9133


@needs_data
def test_the_stray_grey_pixel_of_irstd_1k_is_no_target():
    sample = IRSTDFolder(SHARED_DATA / "samples/IRSTD-1K")[0]
    assert sample.stem == "XDU0" and sample.image.shape == (512, 512)
    assert int(sample.mask.sum()) == 32 and not sample.mask[32, 509]


@needs_data
@pytest.mark.parametrize(("name", "stem", "area"), [("NUDT-SIRST", "000001", 9), ("NUST-SIRST", "000000_1", 43)])
def test_other_sets(name, stem, area):
    sample = IRSTDFolder(SHARED_DATA / "samples" / name)[0]
    assert sample.stem == stem and int(sample.mask.sum()) == area


@pytest.mark.parametrize(
    "line",
    [
        "41/1(1)",
        "/41/1(1)",
        "41/1(1).png",
        "images/41/1(1).PNG",
        "SET\\images\\41\\1(1).png",
        "images/41/1(1).png masks/x.png",
    ],
)
def test_lines_that_name_files(tmp_path, line):
    root = make_set(tmp_path / "SET", ["41/1(1)", "2/1(1)"])
    write_list(root / "test_SET.txt", f"# a remark\n{line}\n")
    folder = IRSTDFolder(root, "test")
    assert folder.stems == ["41/1(1)"] and folder[0].mask.sum() == 4


def test_accents_composed_or_not_are_one_stem(tmp_path):
    root = make_set(tmp_path, ["Ko\u0308ln"])
    write_list(root / "test.txt", "K\u00f6ln\n")
    assert IRSTDFolder(root, "test")[0].stem == "K\u00f6ln"


def test_a_log_does_not_hide_the_test_lists(tmp_path):
    write_list(tmp_path / "img_idx/test_SET.txt", "a_1.png\nb_2\n")
    write_list(tmp_path / "log/test_Fri_Jan_19.txt", "NUAA\nIoU 0.7\n\nNUAA\n")
    write_list(tmp_path / "log/test_empty.txt", "")
    assert held_out_stems(tmp_path) >= {"a_1", "b_2"}

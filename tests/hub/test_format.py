"""What a folder holds is told from its files alone, and no doubt is resolved in its favour."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from irstd_ldm.hub.format import (
    FORMAT_VERSION,
    PICKLE_SUFFIXES,
    check_format_version,
    checkpoint_files,
    read_safetensors_header,
)


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def test_the_files_of_a_checkpoint_are_all_that_save_pretrained_writes(checkpoint):
    written = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())
    assert checkpoint_files(checkpoint) == written


def test_cards_and_lists_belong_to_it_and_other_files_do_not(checkpoint):
    written = set(checkpoint_files(checkpoint))
    for name in ("README.md", "example.png", "val.txt", "unet/weights.fp16.safetensors"):
        save_file({}, checkpoint / name)
    for name in ("run.json", "settings.yaml", "validation.png", "events.tfevents", "unet/notes.txt"):
        (checkpoint / name).touch()
    (checkpoint / "checkpoint-4").mkdir()
    (checkpoint / "checkpoint-4/optimizer.bin").touch()
    added = {path.as_posix() for path in set(checkpoint_files(checkpoint)) - written}
    assert added == {"README.md", "example.png", "val.txt", "unet/weights.fp16.safetensors"}


@pytest.mark.parametrize("suffix", PICKLE_SUFFIXES)
@pytest.mark.parametrize("folder", ["", "vae", "scheduler"])
def test_a_pickle_beside_the_files_is_refused(checkpoint, folder, suffix):
    path = checkpoint / folder / f"anything{suffix.upper()}"
    path.touch()
    with pytest.raises(ValueError, match="may be a pickle") as caught:
        checkpoint_files(checkpoint)
    assert str(path) in str(caught.value)


def test_a_folder_without_an_index_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="model_index.json"):
        checkpoint_files(tmp_path)


@pytest.mark.parametrize(("text", "words"), [("{", "is not valid JSON"), ("[]", "must hold a JSON object, got list")])
def test_a_broken_index_is_named(checkpoint, text, words):
    (checkpoint / "model_index.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        checkpoint_files(checkpoint)


@pytest.mark.parametrize("version", [None, True, 0, "1", 1.0, FORMAT_VERSION + 1])
def test_format_versions_that_are_not_known(version):
    with pytest.raises(ValueError, match="source: `format_version`"):
        check_format_version(version, "source")
    check_format_version(FORMAT_VERSION, "source")


def test_the_header_of_safetensors(tmp_path):
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(5, dtype=torch.float16)}, tmp_path / "x", {"format": "pt"})
    assert read_safetensors_header(tmp_path / "x") == {"a": ("F32", [2, 3]), "b": ("F16", [5])}


def long_header(path: Path) -> None:
    path.write_bytes((10**12).to_bytes(8, "little") + b"{}")


def wrong_header(path: Path) -> None:
    text = json.dumps({"a": {"dtype": "F32"}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"0"),
        lambda path: path.write_bytes(path.read_bytes()[:12]),
        lambda path: path.write_bytes(pickle.dumps(list(range(1000)))),
        lambda path: zipfile.ZipFile(path, "w").writestr("data.pkl", b"0" * 100),
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        long_header,
        wrong_header,
    ],
)
def test_what_is_not_whole_safetensors_is_named(tmp_path, spoil):
    save_file({"a": torch.zeros(20)}, tmp_path / "weights")
    spoil(tmp_path / "weights")
    with pytest.raises(ValueError, match="weights is not a safetensors file"):
        read_safetensors_header(tmp_path / "weights")

"""Every code block of README.md and docs does what it says, or has a visible decision why another test shows it."""

import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from .blocks import ROOT, Block, blocks, commands, pages
from .decisions import ELSEWHERE, NOT_RUN, decide
from .samples import write_samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory, tiny_checkpoint, tiny_diff_checkpoint) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "work"
    folder.mkdir()
    write_samples(folder, tiny_checkpoint, tiny_diff_checkpoint)
    return folder


@pytest.fixture
def folder(samples, tmp_path, monkeypatch) -> Path:
    """A fresh copy of the samples, as the working directory."""
    shutil.copytree(samples, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work")
    threads = torch.get_num_threads()
    yield tmp_path / "work"
    torch.set_num_threads(threads)  # a training sets those of its process


def run_python(block: Block, namespace: dict) -> None:
    for words, test in ELSEWHERE.items():
        if words in block.text:
            assert (ROOT / test).is_file()
            return
    # the lines keep their numbers in the page
    exec(compile("\n" * block.line + block.text, block.page, "exec"), namespace)


@pytest.mark.parametrize("document", pages())
def test_the_blocks_of_a_page_run_in_its_order(document, folder, monkeypatch):
    program = ModuleType("page")  # where diffusers looks classes of the page up
    monkeypatch.setitem(sys.modules, "page", program)
    namespace = vars(program)
    for block in blocks(document):
        if block.language == "python":
            run_python(block, namespace)
        elif block.language == "bash":
            for command in commands(block):
                decide(command)(command)
        elif block.language == "yaml":
            assert yaml.safe_load(block.text)  # a cluster of the cloud is not to be had here
        elif block.language.partition(" ")[0] not in NOT_RUN:
            pytest.fail(f"{block}: no test knows blocks of the language {block.language!r}")


def test_a_command_that_nobody_decided_on_fails():
    with pytest.raises(LookupError, match="curl"):
        decide("curl https://example.org")


def test_every_page_has_its_blocks_found():
    for page in pages():
        fences = [line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if line.startswith("```")]
        assert len(fences) == 2 * len(blocks(page)), page


def test_continued_lines_are_one_command():
    block = Block("page", 1, "bash", "# a comment\nirstd-ldm detect \\\n    a.png\n\nirstd-ldm info    # what\n")
    assert commands(block) == ["irstd-ldm detect a.png", "irstd-ldm info # what"]

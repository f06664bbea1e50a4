"""How each command of the documentation is tested: by how it begins, the first entry that fits. None fits: failure.

Python blocks run as they are, those of a page in one namespace, but for the blocks in `ELSEWHERE`.
"""

import dataclasses
import importlib
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from irstd_ldm.cli.main import build_parser, main

from .blocks import ROOT

# What a page calls by a name that nothing here can have.
STANDS_FOR = {"hf:OWNER/NAME": "hf:hf-data"}
# Of a training: a few steps on small crops.
FEW_STEPS = {
    "max_train_steps": 2,
    "train_batch_size": 2,
    "resolution": 64,
    "lr_warmup_steps": 1,
    "validation_steps": 0,
    "checkpointing_steps": 2,
    "num_cpu_threads": 1,
    "mixed_precision": "no",  # bf16 is slow where the processor has none
    "report_to": "null",
}
OF_ONE_TRAINER = {name: {"statistics_crops": 8} for name in ("train_mask_vae", "train_image_unet")}
# A Python block, by words of it, that another test runs -> that test.
ELSEWHERE = {
    "gradio_client": "tests/app/test_page.py",
    "detector.stream(": "tests/test_stream.py",
    "push_to_hub(": "tests/hub/test_readme.py",
}
NOT_RUN = ("{toctree}", "{eval-rst}", "{command-help}", "bibtex")  # tests/docs/test_site.py shows the first three


def run(command: str) -> None:
    """An `irstd-ldm` command, in this process."""
    words = [STANDS_FOR.get(word, word) for word in shlex.split(command, comments=True)]
    try:
        assert main(words[1:]) == 0, command
    except SystemExit as usage:
        pytest.fail(f"{command}: exit {usage.code}")


def parsed(command: str) -> None:
    """An `irstd-ldm` command that another test runs: its arguments exist."""
    build_parser().parse_args(shlex.split(command, comments=True)[1:])


def card(command: str) -> None:
    """A model card, after the evaluation that the text before it asks for."""
    assert main(shlex.split("evaluate --data DATA --split val --model runs/mine")) == 0
    run(command)


def trained(command: str) -> None:
    """A training: its recipe and flags, then those that make it short; the run's folder is made anew."""
    words = shlex.split(command, comments=True)
    if words[:2] == ["irstd-ldm", "train"]:
        module, flags = f"train_{words[2]}", words[3:]
    else:
        module, flags = Path(words[words.index("launch") + 1]).stem, words[words.index("launch") + 2 :]
    short = FEW_STEPS | OF_ONE_TRAINER.get(module, {})
    shutil.rmtree(flags[flags.index("--output_dir") + 1], ignore_errors=True)
    trainer = importlib.import_module(f"irstd_ldm.training.{module}")
    trainer.main([*flags, *(part for name, value in short.items() for part in (f"--{name}", str(value)))])


def of_a_gpu(command: str) -> None:
    """A training of the published size: its recipe is there, and the trainer knows the flags."""
    words = shlex.split(command, comments=True)
    trainer = importlib.import_module(f"irstd_ldm.training.{Path(words[2]).stem}")
    assert (ROOT / words[words.index("--config") + 1]).is_file()
    known = {field.name for field in dataclasses.fields(trainer.main.__self__.settings_class)} | {"config"}
    assert {word[2:] for word in words if word.startswith("--")} <= known


def two_processes(command: str) -> None:
    """A launch by torchrun; tests/cli/test_evaluate.py and tests/training/test_two_processes.py make real ones."""
    words = shlex.split(command, comments=True)
    assert words[:3] == ["torchrun", "--nproc_per_node", "2"]
    assert words[3:5] == ["-m", "irstd_ldm.cli"]
    parsed(" ".join(words[4:]))


def installed(command: str) -> None:
    """A pip line: the extras and the files that it names exist, torch's version is the tested one."""
    setup = (ROOT / "setup.py").read_text()
    for extras in re.findall(r"\[([\w,]+)\]", command):
        for extra in extras.split(","):
            assert f'    "{extra}": ' in setup, extra
    for name in re.findall(r"-c (\S+)", command):
        assert (ROOT / name).is_file()
    for version in re.findall(r"torch==(\S+)", command):
        assert f"torch=={version}\n" in (ROOT / "constraints.txt").read_text()


def made(command: str) -> None:
    """A make line: the target exists."""
    target = shlex.split(command, comments=True)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def scripted(command: str) -> None:
    """A script of minutes, tested in tests/test_scripts.py and its like: it exists and knows the flags."""
    words = shlex.split(command, comments=True)
    text = (ROOT / words[1]).read_text()
    for flag in (word for word in words[2:] if word.startswith("--")):
        assert f'"{flag}"' in text, flag


DECISIONS: tuple[tuple[str, Callable[[str], None]], ...] = (
    ("irstd-ldm app", parsed),  # tests/app
    ("irstd-ldm push", parsed),  # tests/hub/test_readme.py
    ("irstd-ldm pull", parsed),  # tests/hub/test_readme.py
    ("irstd-ldm export", parsed),  # tests/runtime
    ("irstd-ldm detect --runtime", parsed),  # tests/runtime
    ("irstd-ldm detect rtsp", parsed),  # tests/test_stream.py
    ("irstd-ldm evaluate --runtime", parsed),  # tests/runtime
    ("irstd-ldm synthesize --data NUAA-SIRST --list", parsed),  # tests/cli/test_synthesize.py
    ("irstd-ldm card", card),
    ("irstd-ldm detect-archive s3", parsed),  # tests/test_archive.py
    ("irstd-ldm train ", trained),
    ("irstd-ldm ", run),
    ("OMP_WAIT_POLICY=PASSIVE accelerate launch training/", trained),
    ("accelerate launch training/", of_a_gpu),
    ("torchrun --nnodes", lambda command: None),  # tests/training/test_two_processes.py
    ("torchrun ", two_processes),
    ("pip install ", installed),
    ("IRSTD_LDM_DISTRIBUTION=irstd-ldm-runtime pip install ", installed),  # tests/test_packaging.py
    ("make ", made),
    ("python scripts/", scripted),
    ("mkdir -p space", lambda command: None),  # tests/app/test_space.py
    ("cp -rL irstd_ldm space/", lambda command: None),
)


def decide(command: str) -> Callable[[str], None]:
    """The test of a command line."""
    for start, test in DECISIONS:
        if command.startswith(start):
            return test
    raise LookupError(f"no entry of tests/docs/decisions.py says how to test {command!r}")

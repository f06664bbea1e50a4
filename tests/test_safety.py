"""Nothing that comes with the package, or that it loads, runs unasked; and the bundled weights load at once."""

import ast
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from irstd_ldm.hub.format import PICKLE_SUFFIXES

ROOT = Path(__file__).resolve().parents[1]
CODE = ("irstd_ldm", "pipelines", "training", "scripts")
FOLDERS = (*CODE, "model_cards", "tests", ".ci")

LOAD = """
import time
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel  # imports lazily otherwise
times = [time.perf_counter()]
from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
times.append(time.perf_counter())
for _ in range(3):
    IRSTDLatentPipeline.from_pretrained(bundled_checkpoint())
    times.append(time.perf_counter())
print(*(end - start for start, end in zip(times, times[1:])))
"""


def repository_files() -> list[Path]:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    return [path for path in files if "__pycache__" not in path.parts]


def is_pickle(path: Path) -> bool:
    """By its content: a pickle of protocol 2 or newer, or an archive that holds one, as torch writes them."""
    if zipfile.is_zipfile(path):
        return any(name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist())
    data = path.read_bytes()
    if data[:1] != b"\x80":
        return False
    try:
        return any(operation.name == "STOP" for operation, _, _ in pickletools.genops(data))
    except Exception:
        return False


def trusting(tree: ast.AST) -> list[int]:
    """Lines that set `trust_remote_code` to anything but the constant False."""
    lines = []
    for node in ast.walk(tree):
        pairs: list[tuple[str | None, ast.AST | None]] = []
        if isinstance(node, ast.Call):
            pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        elif isinstance(node, ast.Dict):
            items = zip(node.keys, node.values, strict=True)
            pairs = [(key.value, value) for key, value in items if isinstance(key, ast.Constant)]
        elif isinstance(node, ast.Assign):
            pairs = [(ast.unparse(target), node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign):
            pairs = [(ast.unparse(node.target), node.value)]
        elif isinstance(node, ast.arguments):
            named = [*node.posonlyargs, *node.args][::-1]
            pairs = [(arg.arg, value) for arg, value in zip(named, node.defaults[::-1], strict=False)]
            pairs += [(arg.arg, value) for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        for name, value in pairs:
            refused = isinstance(value, ast.Constant) and value.value is False
            if name is not None and "trust_remote_code" in str(name) and not refused:
                lines.append(getattr(value, "lineno", 0))
    return lines


def test_no_file_of_the_repository_is_a_pickle():
    files = repository_files()
    assert len(files) > 100
    for path in files:
        assert path.suffix.lower() not in PICKLE_SUFFIXES, path
        assert not is_pickle(path), path


def test_pickles_are_recognised(tmp_path):
    import pickle

    import torch

    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x").write_bytes(pickle.dumps({"a": 1}, protocol))
        assert is_pickle(tmp_path / "x")
    torch.save({"a": torch.zeros(2)}, tmp_path / "x")
    assert is_pickle(tmp_path / "x")


def test_the_package_never_trusts_remote_code():
    paths = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 50
    for path in paths:
        assert trusting(ast.parse(path.read_text(encoding="utf-8"))) == [], path


@pytest.mark.parametrize(
    "source",
    [
        "load(x, trust_remote_code=True)",
        "load(x, trust_remote_code=flag)",
        "options = {'trust_remote_code': True}",
        "options['trust_remote_code'] = True",
        "trust_remote_code = True",
        "trust_remote_code: bool = True",
        "def load(x, trust_remote_code=True): pass",
        "def load(x, *, trust_remote_code=True): pass",
    ],
)
def test_trust_is_recognised(source):
    assert trusting(ast.parse(source)) == [1]
    assert trusting(ast.parse(source.replace("True", "False").replace("flag", "False"))) == []


def test_the_bundled_checkpoint_loads_in_two_seconds():
    """In a fresh process, beyond importing torch and diffusers: the best of three, where others hold the cores."""
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, capture_output=True, text=True, check=True)
    importing, *loading = map(float, done.stdout.split())
    assert importing + min(loading) < 2

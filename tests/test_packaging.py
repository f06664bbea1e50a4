"""What the sdist and the wheel hold, and the lazy public names."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import irstd_ldm

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"irstd_ldm": "irstd_ldm", "pipelines": "irstd_ldm/pipelines", "training": "irstd_ldm/training"}
NOT_TRACKED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "*-output", "build", "dist", "runs")
PICKLES = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> tuple[set[str], set[str], str]:
    """Names in the sdist (below its folder), names in the wheel built from it, and the wheel's entry points."""
    tree, dist = tmp_path_factory.mktemp("tree") / "irstd-ldm", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=NOT_TRACKED)
    weights = tree / "irstd_ldm" / "checkpoints" / "tiny" / "unet"
    weights.mkdir(parents=True, exist_ok=True)
    for name in ("stray.bin", "stray.pt", "stray.safetensors"):
        (weights / name).touch()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(tree)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        in_sdist = {str(PurePosixPath(*PurePosixPath(item.name).parts[1:])) for item in sdist if item.isfile()}
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        return in_sdist, set(wheel.namelist()), wheel.read(entry_points).decode()


@pytest.mark.slow
def test_the_dockerfile_installs_a_detector_without_torch(tmp_path):
    """What it runs, in a virtual environment instead of a container."""
    tree = tmp_path / "irstd-ldm"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=NOT_TRACKED)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "clean"], check=True)
    (line,) = re.findall(r"^RUN --mount=\S+ (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    command = line.replace("pip install", f"{tmp_path}/clean/bin/pip install").replace("/source", str(tree))
    subprocess.run(command, shell=True, check=True)
    subprocess.run([tmp_path / "clean/bin/pip", "check"], check=True)
    files = [path for path in (tmp_path / "clean").rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < 400 * 10**6
    detect = [tmp_path / "clean/bin/irstd-ldm", "detect", "--output", tmp_path / "out"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(detect, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "runtime: onnxruntime" in done.stdout
    done = subprocess.run(
        [*detect, "--runtime", "torch"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "irstd-ldm detect: needs torch: pip install irstd-ldm\n")


def checkpoint_files() -> list[Path]:
    files = [path for path in (ROOT / "irstd_ldm" / "checkpoints").rglob("*") if path.is_file()]
    return [path for path in files if "__pycache__" not in path.parts]


def source_files() -> set[str]:
    """Every module, recipe and file of a bundled checkpoint, by its name in the wheel."""
    names = {"irstd_ldm/py.typed"}
    names |= {str(PurePosixPath(*path.relative_to(ROOT).parts)) for path in checkpoint_files()}
    for folder, package in SOURCES.items():
        for path in (*(ROOT / folder).rglob("*.py"), *(ROOT / folder).glob("recipes/*.yaml")):
            relative = path.relative_to(ROOT / folder)
            if folder != "irstd_ldm" or relative.parts[0] not in ("pipelines", "training"):
                names.add(str(PurePosixPath(package, *relative.parts)))
    return names


def test_the_wheel_from_the_sdist_holds_every_module(distributions):
    _, wheel, entry_points = distributions
    assert source_files() <= wheel
    assert "irstd_ldm/checkpoints/tiny/unet/stray.safetensors" in wheel
    assert "irstd-ldm = irstd_ldm.cli.main:main" in entry_points


def test_the_wheel_leaks_no_other_package(distributions):
    _, wheel, _ = distributions
    assert {name.split("/")[0] for name in wheel} == {"irstd_ldm", f"irstd_ldm-{irstd_ldm.__version__}.dist-info"}


def test_no_pickled_weights_are_distributed(distributions):
    for names in distributions[:2]:
        assert not [name for name in names if PurePosixPath(name).suffix in PICKLES]


def test_the_sdist_holds_what_its_tests_need(distributions):
    sdist, _, _ = distributions
    tests = {str(PurePosixPath(*path.relative_to(ROOT).parts)) for path in (ROOT / "tests").rglob("*.py")}
    assert tests | {"LICENSE", "README.md", "constraints.txt", "Makefile", "pyproject.toml"} <= sdist


def test_bundled_weights_stay_small():
    sizes = [path.stat().st_size for path in checkpoint_files()]
    assert max(sizes, default=0) <= 16 * 2**20
    assert sum(sizes) <= 24 * 2**20


def test_links_lead_to_the_real_folders():
    for name in ("pipelines", "training"):
        assert (ROOT / "irstd_ldm" / name).resolve() == ROOT / name


def test_public_names_are_what_their_modules_define():
    for name in irstd_ldm.__all__:
        assert getattr(irstd_ldm, name) is not None
        assert name in dir(irstd_ldm)
    for name, module in irstd_ldm.PUBLIC.items():
        assert getattr(irstd_ldm, name) is getattr(importlib.import_module(module, "irstd_ldm"), name)
    with pytest.raises(AttributeError, match="module 'irstd_ldm' has no attribute 'Detector'"):
        _ = irstd_ldm.Detector


def test_the_package_and_the_checkpoints_place_need_no_torch():
    code = "import sys, irstd_ldm; print(irstd_ldm.bundled_checkpoint().parts[-3:], 'torch' in sys.modules)"
    probe = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert probe.stdout.split("\n")[0] == "('irstd_ldm', 'checkpoints', 'tiny') False"


def test_constraints_pin_every_core_dependency_to_one_version():
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    setup = (ROOT / "setup.py").read_text()
    requirements = re.findall(r"^(?:CORE|TORCH_FREE) = \[(.*?)\]", setup, re.DOTALL | re.MULTILINE)
    for name in re.findall(r'"([\w-]+)[><=]', "".join(requirements)):
        assert name.lower() in pinned
    assert pinned["torch"] == "2.13.0"


def test_the_version_is_the_citations():
    assert f"version: {irstd_ldm.__version__}\n" in (ROOT / "CITATION.cff").read_text()

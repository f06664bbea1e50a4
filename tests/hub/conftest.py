"""A Hub on loopback, fresh processes that speak to it, and an environment without this package."""

import os
import site
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from .server import TOKEN, HubServer

ROOT = Path(__file__).resolve().parents[2]
Client = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module", autouse=True)
def as_many_threads_as_the_clients() -> Iterator[None]:
    """One: the last bit of a sum depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.stop()


def environment(endpoint: str, home: Path, token: str | None, with_package: bool) -> dict[str, str]:
    """A user's environment whose Hub is `endpoint` and whose cache and login are in `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "PYTHONPATH"))}
    kept |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    kept |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HOME": str(home)}  # xet is not plain HTTP
    kept |= {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    kept |= {"PYTHONPATH": str(ROOT)} if with_package else {}
    return kept | ({"HF_TOKEN": token} if token else {})


@pytest.fixture(scope="module")
def start(hub, tmp_path_factory) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `python ARGUMENTS` in a new process; `home` defaults to a fresh cache."""
    started = []

    def start(
        *arguments: object,
        cwd: Path,
        home: Path | None = None,
        token: str | None = None,
        endpoint: str | None = None,
        python: Path | None = None,
    ) -> subprocess.Popen:
        home = home or tmp_path_factory.mktemp("home")
        process = subprocess.Popen(
            [str(python or sys.executable), *map(str, arguments)],
            cwd=cwd,
            env=environment(endpoint or hub.endpoint, home, token, with_package=python is None),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def client(start) -> Client:
    """Runs `python ARGUMENTS` in a new process to its end. No output may hold the token."""

    def client(*arguments: object, **keywords) -> subprocess.CompletedProcess:
        process = start(*arguments, **keywords)
        out, err = process.communicate(timeout=300)
        assert TOKEN not in out + err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return client


@pytest.fixture(scope="session")
def python_without_package(tmp_path_factory) -> Path:
    """The interpreter of a second environment: every distribution of this one but irstd-ldm, by links."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    for source in dict.fromkeys([*sysconfig.get_paths().values(), *site.getsitepackages()]):
        if Path(source).name in ("site-packages", "dist-packages"):
            for entry in Path(source).iterdir():
                if "irstd_ldm" not in entry.name.replace("-", "_") and not (packages / entry.name).exists():
                    (packages / entry.name).symlink_to(entry)
    python = folder / "bin" / "python"
    command = [python, "-c", "import irstd_ldm"]
    absent = subprocess.run(
        command, cwd=folder, env=environment("", folder, None, with_package=False), capture_output=True, text=True
    )
    assert "ModuleNotFoundError: No module named 'irstd_ldm'" in absent.stderr
    return python

"""Packages that not everybody needs, and how they are installed."""

import re
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from typing import Any


def required(name: str, extra: str = "export") -> Any:
    """A module of an extra; ModuleNotFoundError names the extra."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error.name} is not installed: {install_command(extra)}") from error


def install_command(extra: str) -> str:
    """The command that installs what an extra of this package names, wherever the package came from."""
    for name in ("irstd-ldm", "irstd-ldm-runtime"):
        with suppress(PackageNotFoundError):
            named = [line.partition(";") for line in requires(name) or ()]
            needed = [f'"{one.strip()}"' for one, _, marker in named if re.search(rf"extra == .{extra}\b", marker)]
            if needed:
                return f"pip install {' '.join(needed)}"
    return f'pip install "irstd-ldm[{extra}]"'

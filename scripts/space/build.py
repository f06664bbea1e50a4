"""Gathers what a Hugging Face Space of the page consists of: its three files, and the package beside them."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "irstd_ldm"
FILES = ("README.md", "app.py", "requirements.txt")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, help="the folder, new or a clone of the Space: what it holds is renewed"
    )
    output = parser.parse_args(argv).output
    output.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(HERE / name, output / name)
    package = output / PACKAGE.name
    if package.exists():
        shutil.rmtree(package)
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))  # links become folders


if __name__ == "__main__":
    main()

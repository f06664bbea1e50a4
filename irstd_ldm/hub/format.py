"""The files of a checkpoint and the check that a folder is one, without torch and without running anything."""

import json
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

FORMAT_VERSION = 2  # layout of a checkpoint, 2 with the normalisation; a checkpoint of a newer one is refused
INDEX = "model_index.json"
CARD = "README.md"
PICTURE = "example.png"
ROOT_FILES = (INDEX, CARD, PICTURE, "*.py", "*.txt")  # *.txt: lists of the images that a model was trained on
COMPONENT_FILES = ("*.json", "*.py", "*.safetensors")
SAFE_PATTERNS = ("*.json", "*.md", "*.png", "*.py", "*.safetensors", "*.txt")  # files that are fetched from the Hub
PICKLE_SUFFIXES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
_MODELS = f"{__name__.partition('.')[0]}.models"
# A component's library in the index: its module, or the file of its remote code now and in the first checkpoints.
_LIBRARY = re.compile(rf"(?:{re.escape(_MODELS)}\.|irstd_|load_{_MODELS.replace('.', '_')}_)([a-z]\w*)")


def bundled_checkpoint(name: str = "tiny") -> Path:
    """Folder of weights that come with the package, for a pipeline's `from_pretrained`.

    Args:
        name: "tiny" for [`IRSTDLatentPipeline`], "irstd_diff_small" for [`IRSTDDiffPipeline`].

    Raises:
        ValueError: no such checkpoint.
    """
    folder = Path(__file__).parents[1] / "checkpoints" / name
    names = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
    if name not in names:
        raise ValueError(f"`name` must be one of {', '.join(names)}, got {name!r}")
    return folder


def check_format_version(version: Any, source: str | PathLike) -> None:
    """Checks that this version of the package reads the checkpoint `source`.

    Raises:
        ValueError: If `version` is not an integer from 1 to `FORMAT_VERSION`.
    """
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"{source}: `format_version` must be an integer from 1 on, got {version!r}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{source}: `format_version` is {version}; this version of irstd-ldm reads up to {FORMAT_VERSION}"
        )


def component_module(library: str) -> str | None:
    """Module of this package that a checkpoint's index names as the library of a component; None = another's."""
    match = _LIBRARY.fullmatch(library)
    module = f"{_MODELS}.{match[1]}" if match else None
    return module if module and find_spec(module) else None


def checkpoint_files(folder: str | PathLike) -> list[Path]:
    """The files of a checkpoint, relative to `folder`, sorted; training state, logs and what else lies there are none.

    Raises:
        OSError: If a file is missing or cannot be read.
        ValueError: If this is no checkpoint of a known format, or there are pickles or broken weights among its files.
    """
    folder = Path(folder)
    index = read_json(folder / INDEX)
    if "_class_name" not in index:
        raise ValueError(f"{folder / INDEX} must have `_class_name`")
    check_format_version(index.get("format_version"), folder)
    components = [name for name, value in index.items() if isinstance(value, list) and name != "_class_name"]
    return safe_files(folder, [name for name in components if index[name][:1] != [None]])


def safe_files(folder: Path, components: Iterable[str]) -> list[Path]:
    """The files of a checkpoint with these component folders, relative to `folder`, sorted.

    Raises:
        OSError: If a component's folder, config or weights are missing, or a file cannot be read.
        ValueError: If there is a pickle at the root or in a component's folder, or weights are no whole safetensors.
    """
    found = _matching(folder, ROOT_FILES)
    for name in components:
        files = _matching(folder / name, COMPONENT_FILES) if (folder / name).is_dir() else []
        configs = {path.name for path in files} & {"config.json", "scheduler_config.json"}
        if not configs:
            raise FileNotFoundError(f"{folder} has no config of its component `{name}`")
        weights = [path for path in files if path.suffix == ".safetensors"]
        if "config.json" in configs and not weights:
            raise FileNotFoundError(f"{folder / name} has no weights *.safetensors")
        for path in weights:
            read_safetensors_header(path)
        found += files
    return sorted(path.relative_to(folder) for path in found)


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_safetensors_header(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Tensor name -> (type such as "F32", shape) of a safetensors file, all of whose bytes must be there.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no safetensors file, or a part of one.
    """
    try:
        with safe_open(path, "numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {name: (one.get_dtype(), one.get_shape()) for name, one in slices.items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or only a part of one: {error}") from error


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    files = [path for path in folder.iterdir() if path.is_file()]
    for path in files:
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise ValueError(f"{path} may be a pickle, which can run code when it is loaded: a checkpoint has none")
    return [path for path in files if any(fnmatchcase(path.name, pattern) for pattern in patterns)]

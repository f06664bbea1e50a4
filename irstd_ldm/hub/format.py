"""The files of a checkpoint and the check that a folder is one, without torch and without running anything."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..files import file_sha256, write_text

FORMAT_VERSION = 2  # layout of a checkpoint, 2 with the normalisation; a checkpoint of a newer one is refused
INDEX = "model_index.json"
SHA256 = "_sha256"  # the index's entry {COMPONENT/FILE: digest} of all weights; diffusers passes such names over
CARD = "README.md"
PICTURE = "example.png"
ROOT_FILES = (INDEX, CARD, PICTURE, "*.py", "*.txt")  # *.txt: lists of the images that a model was trained on
COMPONENT_FILES = ("*.json", "*.py", "*.safetensors")
# The files at the root that are fetched from the Hub, beside the code that the index names.
NAMED_FILES = (INDEX, CARD, PICTURE, "train.txt", "val.txt", "train_*.txt", "val_*.txt")
PICKLE_SUFFIXES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
_WEIGHTS = re.compile(
    r"[^.]+?(?:-\d{5}-of-\d{5})?(?:\.(?P<variant>(?!safetensors)[^.]+?))?(?:-\d{5}-of-\d{5})?\.safetensors"
    r"(?:\.index(?:\.(?P<of_index>[^.]+))?\.json)?"
)
_MODELS = f"{__name__.partition('.')[0]}.models"
# A component's library in the index: its module, or the file of its remote code now and in the first checkpoints.
_LIBRARY = re.compile(rf"(?:{re.escape(_MODELS)}\.|irstd_|load_{_MODELS.replace('.', '_')}_)([a-z]\w*)")


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


def class_name(index: Mapping[str, Any]) -> str:
    """The class that a config or a model_index.json names, also one that names the file of remote code beside it."""
    name = index["_class_name"]
    return name[1] if isinstance(name, list) else name


def checkpoint_files(folder: str | PathLike) -> list[Path]:
    """The files of a checkpoint, relative to `folder`, sorted; training state, logs and what else lies there are none.

    Raises:
        OSError: If a file is missing, cannot be read, or is not the one that was saved.
        ValueError: If this is no checkpoint of a known format, or there are pickles, links or broken weights among its
            files.
    """
    folder = Path(folder)
    index = read_json(folder / INDEX)
    if "_class_name" not in index:
        raise ValueError(f"{folder / INDEX} must have `_class_name`")
    check_format_version(index.get("format_version"), folder)
    components = [name for name, value in index.items() if isinstance(value, list) and name != "_class_name"]
    files = safe_files(folder, [name for name in components if index[name][:1] != [None]])
    check_digests(folder)
    return files


def digests(folder: Path) -> dict[str, str]:
    """COMPONENT/FILE -> SHA-256 of all weights in a checkpoint."""
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(folder.glob("*/*.safetensors"))}


def seal(folder: Path, earlier: Path | None = None, stale: Collection[Path] = ()) -> None:
    """Writes the digests of the weights into the index of `folder`, and those of an earlier one's that stay."""
    kept: dict[str, str] = {}
    if earlier is not None:
        with suppress(OSError, ValueError):
            kept = {name: digest for name, digest in saved_digests(earlier).items() if Path(name) not in stale}
    index = read_json(folder / INDEX) | {SHA256: kept | digests(folder)}
    write_text(folder / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")


def saved_digests(folder: Path) -> dict[str, str]:
    """The digests in a checkpoint's index; none before format version 2 had them.

    Raises:
        OSError, ValueError: The index cannot be read, or its digests are not of that form.
    """
    saved = read_json(folder / INDEX).get(SHA256, {})
    if not isinstance(saved, dict):
        raise ValueError(f"{folder / INDEX}: `{SHA256}` must be an object of digests by file, got {saved!r}")
    return saved


def check_digests(folder: Path, passed: Collection[str] = ()) -> None:
    """Checks the weights that are there, but for those of the components `passed`, against the index.

    Raises:
        OSError: The index cannot be read, or weights are not those that were saved with it.
        ValueError: As of `saved_digests`.
    """
    for name, digest in saved_digests(folder).items():
        if Path(name).parts[0] not in passed and (folder / name).is_file() and file_sha256(folder / name) != digest:
            raise OSError(
                f"{folder / name} is damaged or of another checkpoint: its SHA-256 is not that in {INDEX}; "
                f"remove `{SHA256}` there if you have changed it yourself"
            )


def stale_files(folder: Path, new: Path, variant: str | None) -> set[Path]:
    """The files of the checkpoint in `folder` that one saved over it, in `new`, makes stale, relative to the folder.

    Weights of other variants than that of `new` stay where the components' configs are the same: they are the same
    networks in another precision.
    """
    try:
        index = read_json(folder / INDEX)
    except (OSError, ValueError):
        index = {}
    components = {name for name, value in index.items() if isinstance(value, list) and name != "_class_name"}
    components |= {path.name for path in new.iterdir() if path.is_dir()}
    files = {file for name in components if (folder / name).is_dir() for file in (folder / name).iterdir()}
    configs = [file.relative_to(folder) for file in files if file.name.endswith("config.json")]
    is_same = all(_public(folder / config) == _public(new / config) for config in configs)
    stale = {
        file.relative_to(folder)
        for file in files
        if any(fnmatchcase(file.name, pattern) for pattern in COMPONENT_FILES)
        and not (is_same and weights_variant(file.name) not in (None, variant or ""))
    }
    return stale | {Path(f"{value[0]}.py") for value in [index.get("_class_name")] if isinstance(value, list)}


def _public(config: Path) -> dict[str, Any] | None:
    """A component's config without what says who wrote it; None where there is none."""
    try:
        return {name: value for name, value in read_json(config).items() if not name.startswith("_")}
    except (OSError, ValueError):
        return None


def weights_variant(name: str) -> str | None:
    """The variant in the name of a file of weights or of the index of their parts, "" for none; None = another file.

    "diffusion_pytorch_model.fp16-00001-of-00002.safetensors" and "model.safetensors.index.fp16.json" are of fp16.
    """
    match = _WEIGHTS.fullmatch(name)
    return match and (match["variant"] or match["of_index"] or "")


def safe_files(folder: Path, components: Iterable[str]) -> list[Path]:
    """The files of a checkpoint with these component folders, relative to `folder`, sorted.

    Raises:
        OSError: If a component's folder, config or weights are missing, or a file cannot be read.
        ValueError: If there is a pickle or a link at the root or in a component's folder, or weights are no whole
            safetensors.
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
    for path in [*(folder / name for name in components), *found]:
        if path.is_symlink():
            raise ValueError(f"{path} is a link: a checkpoint holds its files itself")
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

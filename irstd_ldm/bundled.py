"""The checkpoints that come with the package, and what a model's name stands for. It needs no other package."""

import logging
from functools import cache
from os import PathLike
from pathlib import Path

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "checkpoints"
DEFAULT = "tiny"  # the checkpoint that is taken where none is named
GENERATOR = "gaussian_agnostic_small"  # and where images are to be made


def bundled_names() -> list[str]:
    """Names of the checkpoints that come with the package, sorted."""
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def bundled_checkpoint(name: str = DEFAULT) -> Path:
    """Folder of weights that come with the package, for a pipeline's `from_pretrained`.

    Args:
        name: "tiny" for [`IRSTDLatentPipeline`], "irstd_diff_small" for [`IRSTDDiffPipeline`],
            "gaussian_agnostic_small" for [`GaussianAgnosticPipeline`].

    Raises:
        ValueError: no such checkpoint.
    """
    if name not in bundled_names():
        raise ValueError(f"`name` must be one of {', '.join(bundled_names())}, got {name!r}")
    return FOLDER / name


def resolve_model(source: str | PathLike | None = None) -> str | PathLike:
    """The folder that the name of a bundled checkpoint stands for; a folder or a Hub id as it is; None = "tiny".

    Where a folder has the name of a bundled checkpoint, the folder is meant, and the log says so.
    """
    if source is None:
        return bundled_checkpoint()
    if str(source) not in bundled_names():
        return source
    if Path(source).is_dir():
        _tell_of(Path(source).absolute())
        return source
    return bundled_checkpoint(str(source))


@cache
def _tell_of(folder: Path) -> None:
    logger.warning("%s is the folder %s, not the bundled checkpoint of this name", folder.name, folder)


def is_default(source: str | PathLike | None) -> bool:
    """Whether a model's name stands for the bundled checkpoint that is taken where none is named."""
    return source is None or (str(source) == DEFAULT and not Path(source).is_dir())

"""The folder of an exported detector: a model file and `detector.json`, which says how to run it."""

import json
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..data.images import check_normalization

DESCRIPTION = "detector.json"
FORMAT_VERSION = 2  # 2 brought the normalisation
CONFIG_FIELDS = {
    "calibration",
    "default_ensemble_size",
    "default_num_inference_steps",
    "default_threshold",
    "default_tile_overlap",
    "default_tile_size",
}
MODEL_FILES = {"onnx": "model.onnx", "openvino": "model.xml"}  # OpenVINO's weights lie beside it, in model.bin


@dataclass(frozen=True)
class ExportedDetector:
    """What `detector.json` holds.

    Attributes:
        format: ``onnx`` or ``openvino``.
        num_inference_steps: Denoising steps of the graph.
        pad_multiple: Images are padded to a multiple of this, in pixels.
        latent_downscale: PH / h.
        latent_channels: Channels of the mask latent; the noisy posterior variables have twice as many.
        config: The checkpoint's defaults, calibration and normalisation, named as in its model_index.json.
        model: Name of the checkpoint.
        version: Of the package that exported it.
        quantization: How the int8 weights and activations were found; None for float32.
        format_version: Of this file.
    """

    format: str
    num_inference_steps: int
    pad_multiple: int
    latent_downscale: int
    latent_channels: int
    config: dict[str, Any]
    model: str
    version: str
    quantization: dict[str, Any] | None = None
    format_version: int = FORMAT_VERSION

    def model_path(self, folder: Path) -> Path:
        return folder / MODEL_FILES[self.format]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


def read_description(folder: str | PathLike) -> ExportedDetector:
    """The description of an exported detector.

    Raises:
        OSError: A file is missing or cannot be read.
        ValueError: `detector.json` is not of this form, or of a newer version.
    """
    path = Path(folder) / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(f"{path}: `format_version` must be an integer from 1 to {FORMAT_VERSION}, got {version!r}")
    try:
        description = ExportedDetector(**content)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(description.config, dict) or not description.config.keys() >= CONFIG_FIELDS:
        raise ValueError(f"{path}: `config` must hold {', '.join(sorted(CONFIG_FIELDS))}, got {description.config!r}")
    description.config.setdefault("normalization", "range")  # detectors of an earlier version had no other
    try:
        check_normalization(description.config["normalization"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if description.format not in MODEL_FILES:
        raise ValueError(f"{path}: `format` must be one of {', '.join(MODEL_FILES)}, got {description.format!r}")
    if not description.model_path(Path(folder)).is_file():
        raise FileNotFoundError(f"{folder} has no file {MODEL_FILES[description.format]}")
    return description

"""From pairs of probability and truth to a result that prints and serialises itself."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .counts import ImageCounts, count_image
from .metrics import bootstrap_interval, fa_per_million_px, iou, niou, pd, precision_px, recall_px, union_px
from .protocols import Protocol, get_protocol

logger = logging.getLogger(__name__)

PREDICTION_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class ImageResult:
    """The counts of the image `stem`."""

    stem: str
    counts: ImageCounts


@dataclass(frozen=True)
class EvaluationResult:
    """Counts per image with the settings they were made with.

    Attributes:
        per_image: one entry per image, in the order given.
        threshold: a pixel is foreground if its probability is greater, strictly.
        protocol: how images and truth were prepared.
        matching: "greedy", "optimal" or "opdc".
        centroid_tolerance_px: a hit is nearer than this, strictly.
        legacy_false_alarms: Fa is the equal-area count of older code.
        num_resamples, seed: of the bootstrap intervals.
    """

    per_image: list[ImageResult]
    threshold: float
    protocol: Protocol
    matching: str
    centroid_tolerance_px: float
    legacy_false_alarms: bool
    num_resamples: int
    seed: int

    @property
    def counts(self) -> ImageCounts:
        """The sum over the images."""
        return reduce(add, (image.counts for image in self.per_image), ImageCounts.zero())

    def summary(self) -> dict[str, Any]:
        """Every number and setting, ready for `json.dumps`.

        IoU, nIoU, Pd and the pixel precision and recall are in [0, 1]; None stands for an undefined value.
        `intervals_95` maps each metric to [low, high].
        """
        total = self.counts
        per_image = [image.counts for image in self.per_image]
        fa_name = "legacy_fa_per_million_px" if self.legacy_false_alarms else "fa_per_million_px"
        intervals: dict[str, list[float | None]] = {}
        for key in ("iou", "niou", "pd", "fa_per_million_px", "precision_px", "recall_px"):
            metric = fa_name if key == "fa_per_million_px" else key
            low, high = bootstrap_interval(per_image, metric, num_resamples=self.num_resamples, seed=self.seed)
            intervals[key] = [_json_number(low), _json_number(high)]
        return {
            "iou": _json_number(iou(total)),
            "niou": _json_number(niou(per_image)),
            "pd": _json_number(pd(total)),
            "fa_per_million_px": _json_number(fa_per_million_px(total, legacy=self.legacy_false_alarms)),
            "precision_px": _json_number(precision_px(total)),
            "recall_px": _json_number(recall_px(total)),
            "intervals_95": intervals,
            "num_images": total.images,
            "num_images_empty_in_both": sum(union_px(counts) == 0 for counts in per_image),
            "num_targets": total.targets,
            "num_hits": total.hits,
            "num_predicted": total.predicted,
            "num_px": total.area_px,
            "tp_px": total.tp_px,
            "fp_px": total.fp_px,
            "fn_px": total.fn_px,
            "false_alarm_px": total.legacy_false_alarm_px if self.legacy_false_alarms else total.false_alarm_px,
            "false_alarm_count": "legacy equal-area" if self.legacy_false_alarms else "exact",
            "threshold": float(self.threshold),
            "protocol": self.protocol.name,
            "protocol_description": self.protocol.description,
            "connectivity": 8,
            "matching": self.matching,
            "centroid_tolerance_px": float(self.centroid_tolerance_px),
            "num_resamples": self.num_resamples,
            "bootstrap_seed": self.seed,
        }

    def table(self) -> str:
        """The result as plain text, settings first."""
        summary = self.summary()
        lines = [
            f"protocol {self.protocol.name}: {self.protocol.description}",
            f"foreground: probability > {self.threshold:g}; targets: 8-connectivity",
            f"hit: {self.matching} matching, centroid distance < {self.centroid_tolerance_px:g} px",
            f"false alarms: {summary['false_alarm_count']} pixel count",
            f"{summary['num_images']} images ({summary['num_images_empty_in_both']} empty in truth and prediction), "
            f"{summary['num_targets']} targets, {summary['num_px']} px",
            "",
            f"{'metric':<16}{'value':>10}    95 % interval",
        ]
        for key, label, decimals in (
            ("iou", "IoU", 4),
            ("niou", "nIoU", 4),
            ("pd", "Pd", 4),
            ("fa_per_million_px", "Fa (1e-6)", 2),
            ("precision_px", "pixel precision", 4),
            ("recall_px", "pixel recall", 4),
        ):
            low, high = (_format_number(end, decimals) for end in summary["intervals_95"][key])
            lines.append(f"{label:<16}{_format_number(summary[key], decimals):>10}    {low} to {high}")
        return "\n".join(lines)


def evaluate_probabilities(
    pairs: Iterable[tuple[str, np.ndarray, np.ndarray]],
    *,
    threshold: float = 0.5,
    protocol: str = "native",
    matching: str = "greedy",
    centroid_tolerance_px: float = 3.0,
    legacy_false_alarms: bool = False,
    num_resamples: int = 1000,
    seed: int = 0,
) -> EvaluationResult:
    """Scores probability maps against masks, one pair at a time.

    Args:
        pairs: (stem, probability, mask). probability (H, W) floating point in [0, 1], at the mask's size or at the
            protocol's. Under `resize256` a probability of the mask's size is resized bilinearly to 256x256; to
            reproduce the published protocol the pipeline has to run on `Protocol.prepare_image` instead. mask (H, W)
            uint8 as stored, or bool; `basicirstd` needs the former.
        threshold: foreground is probability > threshold, in [0, 1].
        protocol: "native", "basicirstd" or "resize256".
        matching: "greedy", "optimal" or "opdc".
        centroid_tolerance_px: a hit is nearer than this, strictly, in pixels of the protocol's size.
        legacy_false_alarms: report the equal-area count of older code as Fa.
        num_resamples, seed: of the bootstrap intervals.

    Raises:
        TypeError: an array has the wrong type.
        ValueError: an argument is not allowed, `pairs` is empty, or an array has the wrong shape or values.
    """
    chosen = get_protocol(protocol)
    if not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` must be in [0, 1], got {threshold}")
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` must be at least 1, got {num_resamples}")
    per_image = []
    for stem, probability, mask in pairs:
        _check_probability(stem, probability)
        truth = chosen.prepare_truth(mask)
        if probability.shape not in (mask.shape, truth.mask.shape):
            allowed = " or ".join(str(shape) for shape in dict.fromkeys((mask.shape, truth.mask.shape)))
            raise ValueError(f"`probability` of {stem} must have shape {allowed}, got {probability.shape}")
        counts = count_image(
            chosen.prepare_probability(probability) > threshold,
            truth.mask,
            centroid_tolerance_px=centroid_tolerance_px,
            matching=matching,
            union_truth=truth.union_mask,
        )
        per_image.append(ImageResult(stem, counts))
    if not per_image:
        raise ValueError("`pairs` must hold at least one image, got none")
    return EvaluationResult(
        per_image=per_image,
        threshold=threshold,
        protocol=chosen,
        matching=matching,
        centroid_tolerance_px=centroid_tolerance_px,
        legacy_false_alarms=legacy_false_alarms,
        num_resamples=num_resamples,
        seed=seed,
    )


def read_prediction(path: str | Path) -> np.ndarray:
    """Reads a predicted mask or probability map.

    Args:
        path: a gray image of 1 bit, 8 bit (/255) or 16 bit (/65535), or RGB of 8 bit with equal channels.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be decoded, or holds another kind of image.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            mode = image.mode
            values = np.asarray(image)  # (H, W) or (H, W, 3)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    if mode == "RGB":
        if np.any(values != values[..., :1]):
            raise ValueError(f"{path} is a colour image: a prediction must be gray")
        values = values[..., 0]  # (H, W)
    elif mode not in ("1", "L", "I;16", "I;16B"):
        raise ValueError(f"{path} has Pillow mode {mode}: a prediction must be gray of 1, 8 or 16 bit")
    if mode == "1":
        return values.astype(np.float32)
    full_scale = 65535 if mode.startswith("I;16") else 255
    if values.max() == 1:
        logger.warning("%s: highest value 1 of %d, read as a probability of %.2g", path, full_scale, 1 / full_scale)
    return values.astype(np.float32) / np.float32(full_scale)


def find_predictions(root: str | Path, stems: Sequence[str]) -> dict[str, Path]:
    """Finds ROOT/stem.png (or .bmp, .tif, .tiff) for every stem.

    Returns:
        The files by stem, in the order of `stems`.

    Raises:
        ValueError: `root` is no folder, or stems have no file or several.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"`root` must be a folder of predictions, got {root}")
    files: dict[str, list[Path]] = {}
    for path in sorted(root.iterdir()):
        if path.suffix.lower() in PREDICTION_SUFFIXES:
            files.setdefault(path.stem, []).append(path)
    missing = [stem for stem in stems if stem not in files]
    if missing:
        raise ValueError(f"{root} has no prediction for {len(missing)} of {len(stems)} images: {_shorten(missing)}")
    several = [path.name for stem in stems if len(files[stem]) > 1 for path in files[stem]]
    if several:
        raise ValueError(f"{root} has several predictions of one image: {_shorten(several)}")
    return {stem: files[stem][0] for stem in stems}


def _check_probability(stem: str, probability: np.ndarray) -> None:
    if not isinstance(probability, np.ndarray) or not np.issubdtype(probability.dtype, np.floating):
        kind = getattr(probability, "dtype", type(probability).__name__)
        raise TypeError(f"`probability` of {stem} must be a floating point array, got {kind}")
    if probability.ndim != 2 or probability.size == 0:
        raise ValueError(f"`probability` of {stem} must have shape (H, W), got {probability.shape}")
    if not (probability.min() >= 0 and probability.max() <= 1):
        raise ValueError(
            f"`probability` of {stem} must be in [0, 1], got {probability.min():g} to {probability.max():g}"
        )


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _format_number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

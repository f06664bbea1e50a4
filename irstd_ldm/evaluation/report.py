"""From pairs of probability and truth to a result."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .bootstrap import PairedDifference, paired_differences
from .counts import count_components
from .hierarchical import count_hierarchical
from .matching import label_image
from .protocols import get_protocol
from .result import EvaluationResult, ImageResult
from .strata import target_records
from .thresholds import count_image_at, default_thresholds

Pair = tuple[str, np.ndarray, np.ndarray] | tuple[str, np.ndarray, np.ndarray, np.ndarray]


def evaluate_probabilities(
    pairs: Iterable[Pair],
    *,
    threshold: float = 0.5,
    protocol: str = "native",
    matching: str = "greedy",
    centroid_tolerance_px: float = 3.0,
    legacy_false_alarms: bool = False,
    num_thresholds: int = 101,
    num_resamples: int = 1000,
    seed: int = 0,
) -> EvaluationResult:
    """Scores probability maps against masks, one pair at a time.

    Args:
        pairs: (stem, probability, mask) or (stem, probability, mask, image). probability (H, W) floating point in
            [0, 1], at the mask's size or at the protocol's. Under `resize256` a probability of the mask's size is
            resized bilinearly to 256x256; to reproduce the published protocol the pipeline has to run on
            `Protocol.prepare_image` instead. mask (H, W) uint8 as stored, or bool; `basicirstd` needs the former.
            image (H, W), raw, at the mask's size: with it Pd is reported by SCR too.
        threshold: foreground is probability > threshold, in [0, 1].
        protocol: "native", "basicirstd" or "resize256".
        matching: "greedy", "optimal" or "opdc"; hIoU is always matched by OPDC.
        centroid_tolerance_px: a hit is nearer than this, strictly, in pixels of the protocol's size.
        legacy_false_alarms: report the equal-area count of older code as Fa.
        num_thresholds: of the curves, in equal steps from 0 to 1; `default_thresholds` adds 32. 0 for no curves.
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
    if num_thresholds < 0:
        raise ValueError(f"`num_thresholds` must be at least 0, got {num_thresholds}")
    threshold = float(threshold)  # NumPy compares a Python float in the probability's type
    thresholds = default_thresholds(num_thresholds) if num_thresholds else None
    matched_by: dict[str, Any] = {"centroid_tolerance_px": centroid_tolerance_px, "matching": matching}
    per_image = []
    for stem, probability, mask, *images in pairs:
        _check_probability(stem, probability)
        truth = chosen.prepare_truth(mask)
        if probability.shape not in (mask.shape, truth.mask.shape):
            allowed = " or ".join(str(shape) for shape in dict.fromkeys((mask.shape, truth.mask.shape)))
            raise ValueError(f"`probability` of {stem} must have shape {allowed}, got {probability.shape}")
        if images and images[0].shape != mask.shape:
            raise ValueError(f"`image` of {stem} must have shape {mask.shape}, got {images[0].shape}")
        probability = chosen.prepare_probability(probability)
        components = label_image(probability > threshold, truth.mask)
        matches = components.match(**matched_by)
        at_thresholds = None
        if thresholds is not None:
            at_thresholds = count_image_at(
                probability, truth.mask, thresholds, union_truth=truth.union_mask, **matched_by
            )
        per_image.append(
            ImageResult(
                stem=stem,
                counts=count_components(components, matches, union_truth=truth.union_mask),
                hierarchical=count_hierarchical(components, centroid_tolerance_px=centroid_tolerance_px),
                targets=target_records(components, matches, chosen.prepare_image(images[0]) if images else None),
                at_thresholds=at_thresholds,
            )
        )
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


def compare_results(a: EvaluationResult, b: EvaluationResult) -> dict[str, PairedDifference]:
    """B - A for every metric of two detectors on the same images, bootstrapped in pairs.

    Args:
        a, b: results on the same stems in the same order, under one protocol.

    Raises:
        ValueError: the stems or the protocols differ.
    """
    if [image.stem for image in a.per_image] != [image.stem for image in b.per_image]:
        raise ValueError("`b` must be of the images of `a`, in the same order")
    if a.protocol != b.protocol:
        raise ValueError(f"`b` must be under the protocol of `a` {a.protocol.name!r}, got {b.protocol.name!r}")
    return paired_differences(a.statistics, b.statistics, num_resamples=a.num_resamples, seed=a.seed)


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

"""hIoU and its split into errors of localisation and of segmentation (arXiv 2509.16888).

hIoU = loc_iou * seg_iou over OPDC matching: loc_iou = matched / (matched + unmatched predicted + unmatched targets),
seg_iou = the mean IoU of the matched pairs. What is missing from 1 is split by cause, in the names of PyIRSTDMetrics:

- segmentation, as shares of a pair's union, averaged over the pairs: `seg_mrg_err` predicted pixels on other targets
  (merging), `seg_itf_err` predicted pixels on background (interference), `seg_pcp_err` target pixels that are not
  predicted (perception);
- localisation, as shares of the denominator of loc_iou: `loc_itf_err` predicted components that are near no target,
  `loc_pcp_err` targets with no predicted component near, `loc_m2s_err` predicted components that are near a target
  which another one took (several on one target), `loc_s2m_err` targets near a predicted component which another
  target took (one on several targets). Near: an IoU of at least 0.5, or a centroid distance within the tolerance.

PyIRSTDMetrics counts a placeholder for every image without predicted components (one more unmatched predicted
component, of interference) and for every image without targets (one more unmatched target, of perception). hIoU is
what it computes, so published values can be compared; `placeholders=False` leaves them out.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from .bootstrap import Statistic, divide
from .matching import OPDC_MIN_IOU, ImageComponents, areas_px

SEGMENTATION_SPLIT = ("seg_iou", "seg_mrg_err", "seg_itf_err", "seg_pcp_err")
LOCALISATION_SPLIT = ("loc_iou", "loc_s2m_err", "loc_m2s_err", "loc_itf_err", "loc_pcp_err")
HIERARCHICAL_METRICS = ("hiou", "hiou_without_placeholders", *SEGMENTATION_SPLIT, *LOCALISATION_SPLIT)


@dataclass(frozen=True)
class HierarchicalCounts:
    """What one image adds to hIoU and its split.

    Attributes:
        matched: pairs of a target and a predicted component.
        far_predicted: predicted components near no target.
        far_targets: targets near no predicted component.
        lost_predicted: predicted components near a target, but unmatched.
        lost_targets: targets near a predicted component, but unmatched.
        without_predicted, without_targets: 1 where the image has no predicted component, no target.
        iou, merging, interference, perception: sums over the pairs of tp, of predicted pixels on other targets, of
            predicted pixels on background, and of missed target pixels, each divided by the pair's union.
    """

    matched: int
    far_predicted: int
    far_targets: int
    lost_predicted: int
    lost_targets: int
    without_predicted: int
    without_targets: int
    iou: float
    merging: float
    interference: float
    perception: float


def count_hierarchical(components: ImageComponents, *, centroid_tolerance_px: float = 3.0) -> HierarchicalCounts:
    """Counts one image, matched by OPDC whatever matching its other counts use.

    Args:
        components: of the image, from `label_image`.
        centroid_tolerance_px: see `match_pairs`.
    """
    pairs = components.match(centroid_tolerance_px=centroid_tolerance_px, matching="opdc")
    near = (components.overlap >= OPDC_MIN_IOU) | (components.distance_px < centroid_tolerance_px)
    num_targets, num_predicted = near.shape
    far_targets = int(np.count_nonzero(~near.any(axis=1)))
    far_predicted = int(np.count_nonzero(~near.any(axis=0)))
    rows, columns = np.array(pairs, dtype=np.intp).reshape(-1, 2).T  # (pairs,) twice
    tp_px = components.intersection_px[rows, columns]
    target_px = areas_px(components.targets)[rows]
    predicted_px = areas_px(components.predicted)[columns]
    on_targets_px = components.intersection_px.sum(axis=0)[columns]
    union_px = target_px + predicted_px - tp_px
    return HierarchicalCounts(
        matched=len(pairs),
        far_predicted=far_predicted,
        far_targets=far_targets,
        lost_predicted=num_predicted - len(pairs) - far_predicted,
        lost_targets=num_targets - len(pairs) - far_targets,
        without_predicted=int(num_predicted == 0),
        without_targets=int(num_targets == 0),
        iou=float((tp_px / union_px).sum()),
        merging=float(((on_targets_px - tp_px) / union_px).sum()),
        interference=float(((predicted_px - on_targets_px) / union_px).sum()),
        perception=float(((target_px - tp_px) / union_px).sum()),
    )


def hierarchical_metrics(counts: Sequence[HierarchicalCounts], *, placeholders: bool = True) -> dict[str, float]:
    """hIoU and its split over a set of images, by the names of PyIRSTDMetrics.

    Where nothing is matched, hIoU is 0 and the segmentation split undefined (NaN; PyIRSTDMetrics says 0). Without
    placeholders, a set empty in both has hIoU 1 and an undefined localisation split.

    Args:
        counts: one entry per image.
        placeholders: count images without predicted components or without targets as PyIRSTDMetrics does.

    Returns:
        "hiou", then SEGMENTATION_SPLIT and LOCALISATION_SPLIT.
    """
    sums = _terms(counts).sum(axis=0, keepdims=True)
    names = ("hiou", *SEGMENTATION_SPLIT, *LOCALISATION_SPLIT)
    return {name: float(_value(sums, name, placeholders)[0]) for name in names}


def hierarchical_statistics(counts: Sequence[HierarchicalCounts]) -> dict[str, Statistic]:
    """HIERARCHICAL_METRICS for `bootstrap.estimate`; one entry of `counts` per image."""
    terms = _terms(counts)

    def statistic(name: str) -> Statistic:
        if name == "hiou_without_placeholders":
            return Statistic(terms, lambda sums: _value(sums, "hiou", placeholders=False))
        return Statistic(terms, lambda sums: _value(sums, name, placeholders=True))

    return {name: statistic(name) for name in HIERARCHICAL_METRICS}


def _terms(counts: Sequence[HierarchicalCounts]) -> np.ndarray:
    """(N, fields of HierarchicalCounts) float64."""
    return np.array([astuple(c) for c in counts], dtype=np.float64).reshape(-1, len(fields(HierarchicalCounts)))


def _value(sums: np.ndarray, name: str, placeholders: bool) -> np.ndarray:
    """A metric (R,) from sums (R, fields of HierarchicalCounts)."""
    s = {field.name: sums[:, column] for column, field in enumerate(fields(HierarchicalCounts))}
    far_predicted = s["far_predicted"] + placeholders * s["without_predicted"]
    far_targets = s["far_targets"] + placeholders * s["without_targets"]
    located = s["matched"] + far_predicted + far_targets + s["lost_predicted"] + s["lost_targets"]
    if name == "hiou":
        # loc_iou * seg_iou, of which `matched` cancels.
        return divide(s["iou"], located, empty=1.0)
    if name in SEGMENTATION_SPLIT:
        parts = dict(zip(SEGMENTATION_SPLIT, ("iou", "merging", "interference", "perception"), strict=True))
        return divide(s[parts[name]], s["matched"])
    numerators = {
        "loc_iou": s["matched"],
        "loc_s2m_err": s["lost_targets"],
        "loc_m2s_err": s["lost_predicted"],
        "loc_itf_err": far_predicted,
        "loc_pcp_err": far_targets,
    }
    return divide(numerators[name], located)

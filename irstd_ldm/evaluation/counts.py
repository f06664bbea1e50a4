"""Integer counts of one image, of its pixels, components and targets; every metric is a ratio of their sums."""

import math
from dataclasses import astuple, dataclass

import numpy as np

from ..targets import signal_to_clutter_ratios
from .matching import ImageComponents, areas_px, check_mask, label_image


@dataclass(frozen=True)
class ImageCounts:
    """Counts of one image, or, after addition, of a set of images.

    Attributes:
        tp_px, fp_px, fn_px: True positive, false positive and false negative pixels.
        targets: Components of the truth.
        hits: Targets matched one to one with a predicted component.
        predicted: Predicted components; `predicted - hits` of them are false alarms.
        false_alarm_px: Pixels of the predicted components that match no target.
        legacy_false_alarm_px: The same without every component whose area equals that of a matched component of
            the same image, as DNANet, MSHNet, SCTransNet and IRSTD-Diff count. Never above `false_alarm_px`.
        area_px: Pixels of the image.
        images: 1.
    """

    tp_px: int
    fp_px: int
    fn_px: int
    targets: int
    hits: int
    predicted: int
    false_alarm_px: int
    legacy_false_alarm_px: int
    area_px: int
    images: int = 1

    @classmethod
    def zero(cls) -> "ImageCounts":
        """The counts of no image, the neutral element of `+`."""
        return cls(0, 0, 0, 0, 0, 0, 0, 0, 0, images=0)

    def __add__(self, other: "ImageCounts") -> "ImageCounts":
        return ImageCounts(*(mine + others for mine, others in zip(astuple(self), astuple(other), strict=True)))

    @property
    def union_px(self) -> int:
        """Pixels that are foreground in the prediction or the truth."""
        return self.tp_px + self.fp_px + self.fn_px


def count_image(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    centroid_tolerance_px: float = 3.0,
    matching: str = "greedy",
    union_truth: np.ndarray | None = None,
) -> ImageCounts:
    """Counts one image.

    Args:
        prediction: (H, W) bool.
        truth: (H, W) bool. Its 8-connected components are the targets.
        centroid_tolerance_px: A predicted component hits a target if their centroids are nearer than this, strictly.
        matching: "greedy", "optimal" or "opdc", see `matching.match_pairs`.
        union_truth: (H, W) bool, truth pixels that count in the union tp + fp + fn (`fn_px` is their number minus
            `tp_px`). None: `truth`. Only the protocol `basicirstd` needs another one.

    Raises:
        TypeError: An array is not bool.
        ValueError: The shapes differ, or `matching` or `centroid_tolerance_px` is not allowed.
    """
    components = label_image(prediction, truth)
    pairs = components.match(centroid_tolerance_px=centroid_tolerance_px, matching=matching)
    return count_components(components, pairs, union_truth=union_truth)


def count_components(
    components: ImageComponents, pairs: list[tuple[int, int]], *, union_truth: np.ndarray | None = None
) -> ImageCounts:
    """Counts one image whose components are labelled and matched.

    Args:
        components, pairs: `label_image` of the image, and the pairs of its `match`.
        union_truth: See `count_image`.
    """
    truth, prediction = components.truth_labels > 0, components.prediction_labels > 0
    union_truth = truth if union_truth is None else union_truth
    check_mask("union_truth", union_truth, prediction.shape)
    predicted = components.predicted
    matched = {index for _, index in pairs}
    matched_areas_px = {predicted[index].area_px for index in matched}
    tp_px = int(np.count_nonzero(prediction & truth))
    return ImageCounts(
        tp_px=tp_px,
        fp_px=int(np.count_nonzero(prediction)) - tp_px,
        fn_px=int(np.count_nonzero(union_truth)) - tp_px,
        targets=len(components.targets),
        hits=len(pairs),
        predicted=len(predicted),
        false_alarm_px=sum(c.area_px for index, c in enumerate(predicted) if index not in matched),
        legacy_false_alarm_px=sum(c.area_px for c in predicted if c.area_px not in matched_areas_px),
        area_px=prediction.size,
    )


@dataclass(frozen=True)
class HierarchicalCounts:
    """Terms that one image adds to hIoU and its split into errors (arXiv 2509.16888).

    A predicted component and a target are near with an IoU of at least 0.5, or with a centroid distance within the
    tolerance.

    Attributes:
        matched: Pairs of a target and a predicted component.
        far_predicted: Predicted components near no target.
        far_targets: Targets near no predicted component.
        lost_predicted: Predicted components near a target, but unmatched.
        lost_targets: Targets near a predicted component, but unmatched.
        without_predicted, without_targets: 1 where the image has no predicted component, no target.
        iou, merging, interference, perception: Sums over the pairs of tp, of predicted pixels on other targets, of
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

    @property
    def objects(self) -> int:
        """Matched pairs, unmatched predicted components and unmatched targets."""
        return self.matched + self.far_predicted + self.far_targets + self.lost_predicted + self.lost_targets

    @property
    def objects_and_placeholders(self) -> int:
        """The objects, and one for no predicted component and one for no target, as PyIRSTDMetrics counts."""
        return self.objects + self.without_predicted + self.without_targets


def count_hierarchical(components: ImageComponents, *, centroid_tolerance_px: float = 3.0) -> HierarchicalCounts:
    """Counts one image that `label_image` labelled, matched by OPDC whatever matching its other counts use."""
    pairs = components.match(centroid_tolerance_px=centroid_tolerance_px, matching="opdc")
    num_targets, num_predicted = len(components.targets), len(components.predicted)
    near_targets, near_predicted = (
        len(np.unique(np.concatenate(sides)))
        for sides in zip(components.overlapping(), components.near_pairs(centroid_tolerance_px)[:2], strict=True)
    )
    rows, columns = np.array(pairs, dtype=np.intp).reshape(-1, 2).T  # (pairs,) twice
    in_common = zip(*(side.tolist() for side in components.common_px), strict=True)
    common_px = {(row, column): common for row, column, common in in_common}
    tp_px = np.array([common_px.get(pair, 0) for pair in pairs], dtype=np.int64)  # (pairs,)
    target_px = areas_px(components.targets)[rows]
    predicted_px = areas_px(components.predicted)[columns]
    on_targets = np.bincount(components.common_px[1], components.common_px[2], num_predicted)  # (predicted,)
    on_targets_px = on_targets[columns]
    union_px = target_px + predicted_px - tp_px
    return HierarchicalCounts(
        matched=len(pairs),
        far_predicted=num_predicted - near_predicted,
        far_targets=num_targets - near_targets,
        lost_predicted=near_predicted - len(pairs),
        lost_targets=near_targets - len(pairs),
        without_predicted=int(num_predicted == 0),
        without_targets=int(num_targets == 0),
        iou=float((tp_px / union_px).sum()),
        merging=float(((on_targets_px - tp_px) / union_px).sum()),
        interference=float(((predicted_px - on_targets_px) / union_px).sum()),
        perception=float(((target_px - tp_px) / union_px).sum()),
    )


@dataclass(frozen=True)
class TargetRecord:
    """One target of one image.

    Attributes:
        x, y: Its centroid in pixels.
        area_px: Its pixels.
        scr: Signal-to-clutter ratio on the image the detector saw, None without an image, NaN where the ring around
            the target is empty or constant.
        hit: Whether a predicted component was matched with it.
    """

    x: float
    y: float
    area_px: int
    scr: float | None
    hit: bool


def target_records(
    components: ImageComponents, pairs: list[tuple[int, int]], image: np.ndarray | None = None
) -> list[TargetRecord]:
    """A record per target of one image, in label order.

    Args:
        components, pairs: See `count_components`.
        image: (H, W), the raw image, for the SCR (`signal_to_clutter_ratios`).
    """
    hit = {target for target, _ in pairs}
    scrs: list[float | None] = [None] * len(components.targets)
    if image is not None:
        scrs = signal_to_clutter_ratios(image, components.truth_labels, components.targets).tolist()
    return [
        TargetRecord(target.x, target.y, target.area_px, scr, index in hit)
        for index, (target, scr) in enumerate(zip(components.targets, scrs, strict=True))
    ]


@dataclass(frozen=True)
class Stratum:
    """The targets whose property lies in [low, high); bounds of NaN hold those whose property is NaN.

    Attributes:
        name: Name in tables, such as "area 9-24 px".
        property: "area_px" or "scr".
        low, high: Bounds.
    """

    name: str
    property: str
    low: float
    high: float

    def holds(self, record: TargetRecord) -> bool:
        """Whether the target belongs here; never where its property is None."""
        value = getattr(record, self.property)
        if value is None:
            return False
        return math.isnan(self.low) if math.isnan(value) else self.low <= value < self.high


# Squares of 3, 5, 7 and 9 px; 80 px (0.12 % of 256x256) is the usual limit of a small target.
AREA_STRATA = (
    Stratum("area 1-8 px", "area_px", 1, 9),
    Stratum("area 9-24 px", "area_px", 9, 25),
    Stratum("area 25-48 px", "area_px", 25, 49),
    Stratum("area 49-80 px", "area_px", 49, 81),
    Stratum("area >= 81 px", "area_px", 81, math.inf),
)
SCR_STRATA = (
    Stratum("SCR < 2", "scr", -math.inf, 2),
    Stratum("SCR 2-4", "scr", 2, 4),
    Stratum("SCR 4-8", "scr", 4, 8),
    Stratum("SCR 8-16", "scr", 8, 16),
    Stratum("SCR >= 16", "scr", 16, math.inf),
    Stratum("SCR undefined", "scr", math.nan, math.nan),
)

"""Integer counts of one image; every metric is a ratio of their sums."""

from dataclasses import astuple, dataclass

import numpy as np

from .matching import MATCHINGS as MATCHINGS
from .matching import ImageComponents, check_mask, label_image


@dataclass(frozen=True)
class ImageCounts:
    """Counts of one image, or, after addition, of a set of images.

    Attributes:
        tp_px, fp_px, fn_px: true positive, false positive and false negative pixels.
        targets: components of the truth.
        hits: targets matched one to one with a predicted component.
        predicted: predicted components; `predicted - hits` of them are false alarms.
        false_alarm_px: pixels of the predicted components that match no target.
        legacy_false_alarm_px: the same without every component whose area equals that of a matched component of
            the same image, as DNANet, MSHNet, SCTransNet and IRSTD-Diff count. Never above `false_alarm_px`.
        area_px: pixels of the image.
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
        centroid_tolerance_px: a predicted component hits a target if their centroids are nearer than this, strictly.
        matching: "greedy", "optimal" or "opdc", see `matching.match_pairs`.
        union_truth: (H, W) bool, truth pixels that count in the union tp + fp + fn (`fn_px` is their number minus
            `tp_px`). None: `truth`. Only the protocol `basicirstd` needs another one.

    Raises:
        TypeError: an array is not bool.
        ValueError: the shapes differ, or `matching` or `centroid_tolerance_px` is not allowed.
    """
    components = label_image(prediction, truth)
    pairs = components.match(centroid_tolerance_px=centroid_tolerance_px, matching=matching)
    return count_components(components, pairs, union_truth=union_truth)


def count_components(
    components: ImageComponents, pairs: list[tuple[int, int]], *, union_truth: np.ndarray | None = None
) -> ImageCounts:
    """Counts one image whose components are labelled and matched.

    Args:
        components: of the image.
        pairs: (index in `components.targets`, index in `components.predicted`), each index once.
        union_truth: as in `count_image`.
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

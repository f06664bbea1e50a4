"""Bootstrap over images: every metric is a function of sums over images, all metrics share the resampled sets.

An image is drawn with replacement as a whole. A resampled set is a row of weights, how often each image was drawn, and
its sums are the weights times what each image adds: one product of matrices serves all metrics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# Number of draws that are held at once, 8 bytes each in two arrays.
BOOTSTRAP_CHUNK = 2**20


@dataclass(frozen=True, eq=False)
class Statistic:
    """A metric as a function of sums over images.

    Attributes:
        terms: (N, K) float64, the terms that each image adds to the K sums.
        value: Maps sums (R, K) to the metric (R,), NaN where it is undefined.
    """

    terms: np.ndarray
    value: Callable[[np.ndarray], np.ndarray]

    def point(self) -> float:
        """The metric of the set itself."""
        return float(self.value(self.terms.sum(axis=0, keepdims=True))[0])


@dataclass(frozen=True)
class Estimate:
    """A metric and the ends of its percentile interval; NaN where undefined."""

    value: float
    low: float
    high: float

    def interval(self) -> list[float | None]:
        """[low, high] for JSON, None where undefined."""
        return [json_number(self.low), json_number(self.high)]


@dataclass(frozen=True)
class PairedDifference:
    """How much higher a metric is for B than for A on the same images.

    Attributes:
        difference: B - A; NaN where either is undefined.
        low, high: Ends of its percentile interval.
        probability_b_above_a: Share of the resampled sets on which B is higher, ties counting half. For a metric
            that is better when lower (Fa, errors) it is the share on which B is worse.
        num_images: N.
    """

    difference: float
    low: float
    high: float
    probability_b_above_a: float
    num_images: int


def json_number(value: float) -> float | None:
    """None for NaN, which JSON does not know."""
    return None if np.isnan(value) else float(value)


def ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float = float("nan")) -> Statistic:
    """The ratio of two sums over images.

    Args:
        numerator, denominator: (N,), the terms that each image adds.
        empty: The value where the denominator is 0.
    """

    def value(sums: np.ndarray) -> np.ndarray:
        return divide(sums[:, 0], sums[:, 1], empty)

    return Statistic(np.stack([numerator, denominator], axis=1).astype(np.float64), value)


def divide(numerator: np.ndarray, denominator: np.ndarray, empty: float = float("nan")) -> np.ndarray:
    """`numerator` / `denominator`, `empty` where the denominator is 0; arrays of one shape, or that broadcast."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, empty, dtype=np.float64)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def estimate(
    statistics: Mapping[str, Statistic], *, num_resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Estimate]:
    """Values and percentile bootstrap intervals of metrics on one set of images.

    A resampled set on which a metric is undefined (no target for Pd) is left out of that metric's interval.

    Args:
        statistics: Statistics by name, all of the same N images in the same order.
        num_resamples: Number of resampled sets.
        seed: Seed of the draws; the same seed and N draw the same sets.
        level: Probability mass of the intervals, in (0, 1).

    Raises:
        ValueError: There is no image, `statistics` differ in N, or an argument is not allowed.
    """
    drawn = _resampled_values(statistics, num_resamples, seed, level)
    return {
        name: Estimate(statistic.point(), *_interval(drawn[name], level)) for name, statistic in statistics.items()
    }


def paired_differences(
    a: Mapping[str, Statistic],
    b: Mapping[str, Statistic],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, PairedDifference]:
    """B - A for every metric that both have, on the same images, drawn together.

    Args:
        a, b: Statistics by name; image n of `a` is image n of `b`.
        num_resamples, seed, level: See `estimate`.

    Raises:
        ValueError: See `estimate`.
    """
    names = [name for name in a if name in b]
    both = {f"{side} {name}": of[name] for side, of in (("a", a), ("b", b)) for name in names}
    drawn = _resampled_values(both, num_resamples, seed, level)
    differences = {}
    for name in names:
        resampled = drawn[f"b {name}"] - drawn[f"a {name}"]
        defined = resampled[~np.isnan(resampled)]
        above = float(np.mean((defined > 0) + 0.5 * (defined == 0))) if defined.size else float("nan")
        differences[name] = PairedDifference(
            b[name].point() - a[name].point(), *_interval(resampled, level), above, len(a[name].terms)
        )
    return differences


def _resampled_values(
    statistics: Mapping[str, Statistic], num_resamples: int, seed: int, level: float
) -> dict[str, np.ndarray]:
    """Every metric on every resampled set: (num_resamples,) each."""
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` must be at least 1, got {num_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}")
    sizes = {len(statistic.terms) for statistic in statistics.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"`statistics` must be of the same images, at least one, got {sorted(sizes)}")
    num_images = sizes.pop()
    blocks = {id(statistic.terms): statistic.terms for statistic in statistics.values()}  # metrics may share theirs
    terms = np.concatenate(list(blocks.values()), axis=1)  # (N, all K)
    ends = np.cumsum([block.shape[1] for block in blocks.values()])
    rng = np.random.default_rng(seed)
    rows_per_chunk = max(1, BOOTSTRAP_CHUNK // num_images)
    chunks = []
    for start in range(0, num_resamples, rows_per_chunk):
        rows = min(rows_per_chunk, num_resamples - start)
        drawn = rng.integers(num_images, size=(rows, num_images))  # (rows, N)
        drawn += np.arange(rows)[:, None] * num_images
        weights = np.bincount(drawn.ravel(), minlength=rows * num_images).reshape(rows, num_images)
        chunks.append(weights.astype(np.float64) @ terms)
    sums = dict(zip(blocks, np.split(np.concatenate(chunks), ends[:-1], axis=1), strict=True))  # (num_resamples, K)
    return {name: statistic.value(sums[id(statistic.terms)]) for name, statistic in statistics.items()}


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

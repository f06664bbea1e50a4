"""Targets over time: tracks, by one-to-one assignment inside gates; and the evidence of successive frames, fused."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import median

import numpy as np
from scipy.ndimage import label, maximum_filter
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import KDTree
from scipy.special import expit, logit

from .targets import Target

# Evidence, in log odds. The weight and the offset were chosen on synthetic sequences: tests/test_evidence.py.
MIN_PROBABILITY, FIRST_VARIANCE, USUAL_WEIGHT, SURPRISE_RANGE = 1e-6, 4.0, 0.12, (-1, 3)
SURPRISE_WEIGHT, EVIDENCE_OFFSET, LEAST_EVIDENCE = 10.0, 9.0, -5.0
PEAK_PX, OUTLINE_ODDS = 3, 2.0  # a summit is sought so far from a peak, and reaches down so far
SPREAD_PX = 8  # as far as a peak's own evidence spreads, there is no other
MAX_REACH_FRAMES = 5
UNASSIGNED = 1e9  # cost of a track without a detection, far above any inside a gate
RATE_FRAMES = 32  # the frame interval is the median of so many
ID, TARGET, HITS, FRAMES, MISSES = range(5)  # columns of the tracks' counts; an id of 0 is not confirmed


@dataclass(frozen=True)
class TrackerParameters:
    """Assumptions of [`Tracker`]; lengths in pixels, time in frames.

    Sources: (a) Bar-Shalom, Li, Kirubarajan, "Estimation with Applications to Tracking and Navigation", Wiley 2001;
    (b) Blackman, Popoli, "Design and Analysis of Modern Tracking Systems", Artech House 1999; (c) our choice.

    Attributes:
        acceleration_px: standard deviation of the random acceleration in px/frame^2, half to one of the largest that a
            target or the camera shows ((a) section 6.3.2); 0.5 (c).
        position_px: standard deviation of a detection's position in px; 0.7, half of the 3 px within which the field
            counts a hit being about two deviations (c).
        speed_px: standard deviation of a new target's speed per axis in px/frame; 3 (c).
        gate: squared Mahalanobis distance beyond which a detection is not a track's; 9.21, the 0.99 quantile of
            chi-square with 2 degrees of freedom ((b) section 6.3).
        birth_hits, birth_frames: a track is confirmed by detections in `birth_hits` of its first `birth_frames`
            frames, and dropped as soon as that cannot happen any more ((b) section 6.2, M of N); 3 of 5 (c).
        max_misses: a confirmed track ends with more missed frames in a row than this; 5 (c).
        max_gap_frames: all tracks end where more frames than this were not looked at; 25, beyond which the random
            acceleration alone is 36 px (c).
    """

    acceleration_px: float = 0.5
    position_px: float = 0.7
    speed_px: float = 3.0
    gate: float = 9.21
    birth_hits: int = 3
    birth_frames: int = 5
    max_misses: int = 5
    max_gap_frames: float = 25.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "max_misses" else 1
            if field.type == "int" or isinstance(field.default, int):
                if not isinstance(value, int) or value < least:
                    raise ValueError(f"`{field.name}` must be an integer of at least {least}, got {value!r}")
            elif not 0 < value < float("inf"):
                raise ValueError(f"`{field.name}` must be positive and finite, got {value!r}")
        if self.birth_hits > self.birth_frames:
            raise ValueError(
                f"`birth_hits` must be at most `birth_frames` ({self.birth_frames}), got {self.birth_hits}"
            )


class ConstantVelocityFilter:
    """Positions and speeds of T targets, each for itself.

    Attributes:
        state: (T, 4), x, y in px, their speeds in px/frame.
        covariance: (T, 4, 4).
    """

    def __init__(self, positions: np.ndarray, parameters: TrackerParameters):
        self.state = np.concatenate([positions, np.zeros_like(positions)], axis=1)
        new = np.diag([parameters.position_px] * 2 + [parameters.speed_px] * 2) ** 2
        self.covariance = np.tile(new, (len(positions), 1, 1))
        self._acceleration = parameters.acceleration_px**2
        self._noise = parameters.position_px**2 * np.eye(2)

    def predict(self, num_frames: float = 1.0) -> None:
        """Moves on, with a random acceleration that is constant within a frame.

        That of one frame is equation 6.3.2-4 of Bar-Shalom, Li, Kirubarajan 2001, several are its sum.
        """
        transition = np.eye(4) + num_frames * np.eye(4, k=2)
        whole = max(num_frames, 1.0)
        process = np.array([[whole * (4 * whole**2 - 1) / 12, whole**2 / 2], [whole**2 / 2, whole]])
        self.state = self.state @ transition.T
        self.covariance = transition @ self.covariance @ transition.T
        self.covariance += self._acceleration * np.kron(process, np.eye(2))

    def near(self, rows: np.ndarray, positions: np.ndarray, gate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of a target of `rows` and a position of (M, 2) within the gate, a squared Mahalanobis distance.

        Returns:
            Indices in `rows` and in `positions`, and the distances plus ln det of the innovations' covariances.
        """
        covariance = self.covariance[rows, :2, :2] + self._noise  # (R, 2, 2)
        reach = np.sqrt(gate * np.linalg.eigvalsh(covariance)[:, 1]) * (1 + 1e-9)  # (R,)
        found = KDTree(positions).query_ball_point(self.state[rows, :2], reach, return_sorted=True)
        row = np.repeat(np.arange(len(rows)), [len(of_row) for of_row in found])  # (pairs,)
        column = np.concatenate([*found, []]).astype(np.int64)
        innovation = positions[column] - self.state[rows[row], :2]
        squared = np.einsum("pi,pij,pj->p", innovation, np.linalg.inv(covariance)[row], innovation)
        inside = squared <= gate
        return row[inside], column[inside], (squared + np.log(np.linalg.det(covariance))[row])[inside]

    def update(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """Takes a detection's position in for each target of `rows`, (R, 2)."""
        before = self.covariance[rows]
        gain = before[:, :, :2] @ np.linalg.inv(before[:, :2, :2] + self._noise)  # (R, 4, 2)
        innovation = positions - self.state[rows, :2]
        self.state[rows] += (gain @ innovation[..., None])[..., 0]
        kept = np.tile(np.eye(4), (len(rows), 1, 1))
        kept[:, :, :2] -= gain
        # Joseph's form keeps the covariance symmetric and positive.
        transposed = gain.transpose(0, 2, 1)
        self.covariance[rows] = kept @ before @ kept.transpose(0, 2, 1) + gain @ self._noise @ transposed


@dataclass(frozen=True)
class Track:
    """A confirmed track in one frame.

    Attributes:
        id: from 1, in the order of confirmation.
        x, y: filtered position in px; predicted where the frame has no detection of it.
        speed_x, speed_y: in px/frame.
        position_std_px: standard deviation of the position, the larger of the two axes.
        target: index of its detection among the frame's, None for a missed frame.
        num_hits: detections so far.
        num_frames: frames looked at since its first detection, that one included.
    """

    id: int
    x: float
    y: float
    speed_x: float
    speed_y: float
    position_std_px: float
    target: int | None
    num_hits: int
    num_frames: int


class FrameClock:
    """How many frame intervals lie between successive frames of a stream."""

    def __init__(self) -> None:
        self._last: tuple[int | None, float | None] = None, None
        self._intervals_s: deque[float] = deque(maxlen=RATE_FRAMES)

    def elapsed(self, index: int | None, time_s: float | None) -> float:
        """Frame intervals since the last frame, by time stamps, else by numbers, else 1."""
        (last_index, last_time_s), self._last = self._last, (index, time_s)
        by_index = 1 if index is None or last_index is None else max(index - last_index, 1)
        if time_s is None or last_time_s is None or time_s <= last_time_s:
            return by_index
        self._intervals_s.append((time_s - last_time_s) / by_index)
        return (time_s - last_time_s) / median(self._intervals_s)


class Tracker:
    """Follows targets through successive frames.

    In each frame every track is predicted; confirmed tracks, then the others, are assigned to detections one to one,
    so that the sum of squared Mahalanobis distance plus ln det of the innovation's covariance (the negative logarithm
    of the likelihood, but for a factor and a constant) is least; each detection that is left starts a track.

    Args:
        parameters: None = the defaults.
    """

    def __init__(self, parameters: TrackerParameters | None = None):
        self.parameters = parameters or TrackerParameters()
        self._filter = ConstantVelocityFilter(np.empty((0, 2)), self.parameters)
        self._counts = np.empty((0, 5), np.int64)  # (T, 5)
        self._num_confirmed = 0
        self._clock = FrameClock()

    def update(self, positions: np.ndarray, index: int | None = None, time_s: float | None = None) -> list[Track]:
        """Takes the detections of the next frame in.

        Args:
            positions: (M, 2), x and y in px, M may be 0.
            index: The frame's number; frames in between were not looked at, and miss no target. None = the next one.
            time_s: Time stamp, which tells of frames that the camera itself has dropped; None = unknown.

        Returns:
            The confirmed tracks in this frame, in the order of their ids.

        Raises:
            ValueError: `positions` is not (M, 2) or not finite.
        """
        positions = np.asarray(positions, np.float64)
        if positions.ndim != 2 or positions.shape[1] != 2 or not np.isfinite(positions).all():
            raise ValueError(f"`positions` must be finite, of shape (M, 2), got the shape {positions.shape}")
        num_frames = self._clock.elapsed(index, time_s)
        if num_frames > self.parameters.max_gap_frames:
            self._keep(np.zeros(len(self._counts), bool))
        self._filter.predict(num_frames)
        counts = self._counts
        counts[:, TARGET] = -1
        counts[:, FRAMES] += 1
        free = np.arange(len(positions))
        for group in (np.flatnonzero(counts[:, ID]), np.flatnonzero(counts[:, ID] == 0)):
            free = self._assign(group, positions, free)
        counts[:, MISSES] = np.where(counts[:, TARGET] < 0, counts[:, MISSES] + 1, 0)
        frames_left = np.maximum(self.parameters.birth_frames - counts[:, FRAMES], 0)
        can_be_born = counts[:, HITS] + frames_left >= self.parameters.birth_hits
        self._keep(np.where(counts[:, ID], counts[:, MISSES] <= self.parameters.max_misses, can_be_born))
        self._begin(positions, free)
        counts = self._counts
        born = np.flatnonzero((counts[:, ID] == 0) & (counts[:, HITS] >= self.parameters.birth_hits))
        counts[born, ID] = self._num_confirmed + 1 + np.arange(len(born))
        self._num_confirmed += len(born)
        std = np.sqrt(np.diagonal(self._filter.covariance, axis1=1, axis2=2)[:, :2].max(axis=1))  # (T,)
        tracks = [self._track(int(row), float(std[row])) for row in np.flatnonzero(counts[:, ID])]
        return sorted(tracks, key=lambda track: track.id)

    def _track(self, row: int, std_px: float) -> Track:
        number, target, num_hits, num_frames, _ = map(int, self._counts[row])
        x, y, speed_x, speed_y = map(float, self._filter.state[row])
        return Track(number, x, y, speed_x, speed_y, std_px, None if target < 0 else target, num_hits, num_frames)

    def update_targets(
        self, targets: Sequence[Target], index: int | None = None, time_s: float | None = None
    ) -> list[Track]:
        """As `update`, with the positions of a frame's targets."""
        return self.update(np.array([(target.x, target.y) for target in targets]).reshape(-1, 2), index, time_s)

    def _keep(self, kept: np.ndarray) -> None:
        """Ends the tracks (T,) that are not kept."""
        self._counts = self._counts[kept]
        self._filter.state, self._filter.covariance = self._filter.state[kept], self._filter.covariance[kept]

    def _begin(self, positions: np.ndarray, indices: np.ndarray) -> None:
        """Starts a track with each detection of `indices`."""
        new, old = ConstantVelocityFilter(positions[indices], self.parameters), self._filter
        old.state, old.covariance = (
            np.concatenate([old.state, new.state]),
            np.concatenate([old.covariance, new.covariance]),
        )
        counts = np.tile([0, 0, 1, 1, 0], (len(indices), 1))
        counts[:, TARGET] = indices
        self._counts = np.concatenate([self._counts, counts])

    def _assign(self, group: np.ndarray, positions: np.ndarray, free: np.ndarray) -> np.ndarray:
        """Gives detections to the tracks of `group`; returns those that stay free."""
        if not len(group) or not len(free):
            return free
        row, column, cost = self._filter.near(group, positions[free], self.parameters.gate)
        if not len(row):
            return free
        # Every track may also stay without a detection, in a column of its own; a cost of 0 would be no edge.
        alone = np.arange(len(group))
        rows, columns = np.concatenate([row, alone]), np.concatenate([column, len(free) + alone])
        costs = np.concatenate([cost - cost.min() + 1, np.full(len(group), UNASSIGNED)])
        graph = csr_array((costs, (rows, columns)), shape=(len(group), len(free) + len(group)))
        row, column = min_weight_full_bipartite_matching(graph)
        row, column = row[column < len(free)], column[column < len(free)]
        tracks, detections = group[row], free[column]
        self._filter.update(tracks, positions[detections])
        self._counts[tracks, TARGET] = detections
        self._counts[tracks, HITS] += 1
        return np.delete(free, column)


class EvidenceFilter:
    """Track before detect: weighs the probability maps of successive frames together, by dynamic programming.

    A pixel's evidence is a mean over time, and passes on to its neighbours as far as a target moves: the larger
    prevails (Barniv, "Dynamic programming solution for detecting dim moving targets", IEEE TAES 21(1), 1985; Tonissen
    and Evans, "Performance of dynamic programming techniques for track-before-detect", IEEE TAES 32(4), 1996). There
    are two kinds: log odds, and how many standard deviations they are above what the pixel has shown before, which
    clutter that stays in its place never is. Where their sum has a peak, the summit of the frame's own log odds beside
    it is raised to the peak's: a target keeps its outline and its place, and nothing that one frame shows is lost.

    Args:
        memory_frames: Frames that the means reach back, about.
        max_speed_px: Largest movement of a target in px/frame.
    """

    def __init__(self, memory_frames: float = 10.0, max_speed_px: int = 1):
        if not (memory_frames >= 1 and max_speed_px >= 0):
            raise ValueError(
                f"`memory_frames` must be at least 1 and `max_speed_px` 0, got {memory_frames} and {max_speed_px}"
            )
        self._weight, self._max_speed_px = 1 / memory_frames, max_speed_px
        self._clock, self._count = FrameClock(), 0

    def update(self, probability: np.ndarray, index: int | None = None, time_s: float | None = None) -> np.ndarray:
        """The probability of targets, (H, W) float32, by this frame's (H, W) and those before, all of one size.

        `index` and `time_s` are as in [`Tracker`].
        """
        num_frames = self._clock.elapsed(index, time_s)
        odds = logit(np.clip(probability, MIN_PROBABILITY, 1 - MIN_PROBABILITY)).astype(np.float32)  # (H, W)
        self._count += 1
        if self._count == 1:
            self._odds, self._surprise = odds, np.zeros_like(odds)
            self._usual, self._variance = maximum_filter(odds, 3), np.full_like(odds, FIRST_VARIANCE)
            return probability
        surprise = np.clip((odds - self._usual) / np.sqrt(self._variance), *SURPRISE_RANGE)
        reach = 2 * self._max_speed_px * min(max(round(num_frames), 1), MAX_REACH_FRAMES) + 1
        self._odds = _mean(maximum_filter(self._odds, reach), odds, max(self._weight, 1 / self._count))
        self._surprise = _mean(maximum_filter(self._surprise, reach), surprise, self._weight)
        weight = max(USUAL_WEIGHT, 1 / self._count)
        self._usual = _mean(self._usual, odds, weight)
        self._variance = np.maximum(_mean(self._variance, (odds - self._usual) ** 2, weight), 1)
        evidence = self._odds + SURPRISE_WEIGHT * self._surprise - EVIDENCE_OFFSET
        fused = np.array(probability, np.float32)
        peaks = (evidence == maximum_filter(evidence, 2 * SPREAD_PX + 1)) & (evidence > LEAST_EVIDENCE)
        for row, column in np.argwhere(peaks):
            window = np.s_[max(row - PEAK_PX, 0) : row + PEAK_PX + 1, max(column - PEAK_PX, 0) : column + PEAK_PX + 1]
            near = odds[window]
            outlines = label(near >= near.max() - OUTLINE_ODDS, np.ones((3, 3)))[0]
            outline = outlines == outlines.flat[near.argmax()]
            fused[window][outline] = np.maximum(fused[window][outline], expit(evidence[row, column]))
        return fused


def _mean(old: np.ndarray, new: np.ndarray, weight: float) -> np.ndarray:
    """Exponential mean of maps (H, W) float32."""
    return old + np.float32(weight) * (new - old)

"""Nearest-neighbour tracking of many targets: one-to-one assignment inside gates, birth by M of N, death by misses."""

from dataclasses import dataclass, fields

import numpy as np
from scipy.optimize import linear_sum_assignment

# State (x, y, speed of x, speed of y).
TRANSITION = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)
# A random acceleration that is constant within a frame: Bar-Shalom, Li, Kirubarajan 2001, equation 6.3.2-4.
ACCELERATION = np.array([[0.5, 0], [0, 0.5], [1, 0], [0, 1]], np.float64)
NOT_ALLOWED = 1e9  # far above any cost inside a gate


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
    """

    acceleration_px: float = 0.5
    position_px: float = 0.7
    speed_px: float = 3.0
    gate: float = 9.21
    birth_hits: int = 3
    birth_frames: int = 5
    max_misses: int = 5

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
    """Position and speed of one target.

    Attributes:
        state: (4,), x, y in px, their speeds in px/frame.
        covariance: (4, 4).
    """

    def __init__(self, position: np.ndarray, parameters: TrackerParameters):
        self.state = np.array([*position, 0, 0], np.float64)
        self.covariance = np.diag([parameters.position_px] * 2 + [parameters.speed_px] * 2) ** 2
        self._process = parameters.acceleration_px**2 * ACCELERATION @ ACCELERATION.T  # (4, 4)
        self._noise = parameters.position_px**2 * np.eye(2)

    def predict(self) -> None:
        """Moves on by one frame."""
        self.state = TRANSITION @ self.state
        self.covariance = TRANSITION @ self.covariance @ TRANSITION.T + self._process

    def distances(self, positions: np.ndarray) -> tuple[np.ndarray, float]:
        """Squared Mahalanobis distances (M,) of positions (M, 2), and ln det of their covariance."""
        innovation = positions - self.state[:2]  # (M, 2)
        covariance = self.covariance[:2, :2] + self._noise
        squared = np.einsum("mi,ij,mj->m", innovation, np.linalg.inv(covariance), innovation)
        return squared, float(np.log(np.linalg.det(covariance)))

    def update(self, position: np.ndarray) -> None:
        """Takes a detection's position (2,) in."""
        gain = self.covariance[:, :2] @ np.linalg.inv(self.covariance[:2, :2] + self._noise)  # (4, 2)
        self.state = self.state + gain @ (position - self.state[:2])
        kept = np.eye(4)
        kept[:, :2] -= gain
        # Joseph's form keeps the covariance symmetric and positive.
        self.covariance = kept @ self.covariance @ kept.T + gain @ self._noise @ gain.T


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
        num_frames: frames since its first detection, that one included.
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


class _Candidate:
    """A track, confirmed or not, that the detection of an index has started."""

    def __init__(self, position: np.ndarray, index: int, parameters: TrackerParameters):
        self.filter = ConstantVelocityFilter(position, parameters)
        self.id: int | None = None
        self.target: int | None = index
        self.num_hits, self.num_frames, self.misses = 1, 1, 0

    def track(self) -> Track:
        x, y, speed_x, speed_y = map(float, self.filter.state)
        std = float(np.sqrt(np.diag(self.filter.covariance)[:2].max()))
        return Track(self.id or 0, x, y, speed_x, speed_y, std, self.target, self.num_hits, self.num_frames)


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
        self._candidates: list[_Candidate] = []
        self._num_confirmed = 0

    def update(self, positions: np.ndarray) -> list[Track]:
        """Takes the detections of the next frame in.

        Args:
            positions: (M, 2), x and y in px, M may be 0.

        Returns:
            The confirmed tracks in this frame, in the order of their ids.

        Raises:
            ValueError: `positions` is not (M, 2) or not finite.
        """
        positions = np.asarray(positions, np.float64)
        if positions.ndim != 2 or positions.shape[1] != 2 or not np.isfinite(positions).all():
            raise ValueError(f"`positions` must be finite, of shape (M, 2), got the shape {positions.shape}")
        for candidate in self._candidates:
            candidate.filter.predict()
            candidate.target = None
            candidate.num_frames += 1
        free = list(range(len(positions)))
        for is_confirmed in (True, False):
            group = [candidate for candidate in self._candidates if (candidate.id is not None) == is_confirmed]
            free = self._assign(group, positions, free)
        for candidate in self._candidates:
            candidate.misses = 0 if candidate.target is not None else candidate.misses + 1
        self._candidates = [candidate for candidate in self._candidates if self._lives(candidate)]
        self._candidates += [_Candidate(positions[index], index, self.parameters) for index in free]
        for candidate in self._candidates:
            if candidate.id is None and candidate.num_hits >= self.parameters.birth_hits:
                self._num_confirmed += 1
                candidate.id = self._num_confirmed
        confirmed = (candidate.track() for candidate in self._candidates if candidate.id is not None)
        return sorted(confirmed, key=lambda track: track.id)

    def _assign(self, group: list[_Candidate], positions: np.ndarray, free: list[int]) -> list[int]:
        """Gives detections to tracks; returns those that stay free."""
        if not group or not free:
            return free
        cost = np.full((len(group), len(free)), NOT_ALLOWED)  # (tracks, detections)
        for row, candidate in enumerate(group):
            squared, log_volume = candidate.filter.distances(positions[free])
            cost[row] = np.where(squared <= self.parameters.gate, squared + log_volume, NOT_ALLOWED)
        taken = set()
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            if cost[row, column] < NOT_ALLOWED:
                candidate, index = group[row], free[column]
                candidate.filter.update(positions[index])
                candidate.target = index
                candidate.num_hits += 1
                taken.add(index)
        return [index for index in free if index not in taken]

    def _lives(self, candidate: _Candidate) -> bool:
        if candidate.id is not None:
            return candidate.misses <= self.parameters.max_misses
        frames_left = self.parameters.birth_frames - candidate.num_frames
        return candidate.num_hits + max(frames_left, 0) >= self.parameters.birth_hits

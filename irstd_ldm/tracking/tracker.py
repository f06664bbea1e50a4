"""Nearest-neighbour tracking of many targets: one-to-one assignment inside gates, birth by M of N, death by misses."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from .kalman import ConstantVelocityFilter
from .parameters import TrackerParameters

NOT_ALLOWED = 1e9  # far above any cost inside a gate


@dataclass(frozen=True)
class Track:
    """A confirmed track in one frame.

    Attributes:
        id: from 1, in the order of confirmation.
        x, y: filtered position in px; predicted where the frame has no detection of it.
        speed_x, speed_y: in px/frame.
        position_std_px: standard deviation of the position, the larger of the two axes.
        target: place of its detection among the frame's, None for a missed frame.
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
    """A track, confirmed or not."""

    def __init__(self, position: np.ndarray, parameters: TrackerParameters):
        self.filter = ConstantVelocityFilter(position, parameters)
        self.id: int | None = None
        self.target: int | None = None
        self.num_hits, self.num_frames, self.misses = 1, 1, 0


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
        self._end_frame()
        for place in free:
            candidate = _Candidate(positions[place], self.parameters)
            candidate.target = place
            self._candidates.append(candidate)
        self._confirm()
        confirmed = [candidate for candidate in self._candidates if candidate.id is not None]
        return sorted((_track(candidate) for candidate in confirmed), key=lambda track: track.id)

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
                candidate, place = group[row], free[column]
                candidate.filter.update(positions[place])
                candidate.target = place
                candidate.num_hits += 1
                taken.add(place)
        return [place for place in free if place not in taken]

    def _end_frame(self) -> None:
        """Counts misses and drops the tracks that have ended."""
        for candidate in self._candidates:
            candidate.misses = 0 if candidate.target is not None else candidate.misses + 1
        self._candidates = [candidate for candidate in self._candidates if self._lives(candidate)]

    def _lives(self, candidate: _Candidate) -> bool:
        if candidate.id is not None:
            return candidate.misses <= self.parameters.max_misses
        frames_left = self.parameters.birth_frames - candidate.num_frames
        return candidate.num_hits + max(frames_left, 0) >= self.parameters.birth_hits

    def _confirm(self) -> None:
        for candidate in self._candidates:
            if candidate.id is None and candidate.num_hits >= self.parameters.birth_hits:
                self._num_confirmed += 1
                candidate.id = self._num_confirmed


def _track(candidate: _Candidate) -> Track:
    x, y, speed_x, speed_y = map(float, candidate.filter.state)
    return Track(
        id=candidate.id or 0,
        x=x,
        y=y,
        speed_x=speed_x,
        speed_y=speed_y,
        position_std_px=float(np.sqrt(np.diag(candidate.filter.covariance)[:2].max())),
        target=candidate.target,
        num_hits=candidate.num_hits,
        num_frames=candidate.num_frames,
    )

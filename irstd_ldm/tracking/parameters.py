"""What the tracker assumes of targets, sensor and clutter."""

from dataclasses import dataclass, fields


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

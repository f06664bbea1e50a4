"""Kalman filter of a point that moves at nearly constant velocity, observed in position, one step per frame."""

import numpy as np

from .parameters import TrackerParameters

# State (x, y, speed of x, speed of y).
TRANSITION = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)
# A random acceleration that is constant within a frame: Bar-Shalom, Li, Kirubarajan 2001, equation 6.3.2-4.
ACCELERATION = np.array([[0.5, 0], [0, 0.5], [1, 0], [0, 1]], np.float64)


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

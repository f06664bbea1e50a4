"""How far a target stands out from what surrounds it."""

import numpy as np

RING_PX = 10  # width of the ring around a target's box


def ring_window(left: int, top: int, width: int, height: int) -> tuple[slice, slice]:
    """Rows and columns of a target's box grown by the ring, for indexing an image."""
    return (
        slice(max(top - RING_PX, 0), top + height + RING_PX),
        slice(max(left - RING_PX, 0), left + width + RING_PX),
    )


def signal_to_clutter_ratio(image: np.ndarray, target: np.ndarray, mask: np.ndarray) -> float:
    """(mean of target - mean of ring) / std of ring, the ring being the target's box grown by 10 px, less `mask`.

    Args:
        image: (H, W).
        target: (H, W) bool, one target.
        mask: (H, W) bool, all targets.

    Returns:
        The ratio; NaN where the ring is empty or constant.
    """
    rows, columns = np.flatnonzero(target.any(axis=1)), np.flatnonzero(target.any(axis=0))
    window = ring_window(columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    clutter = image[window][~mask[window]].astype(np.float64)
    spread = clutter.std() if clutter.size else 0.0
    return float((image[target].mean(dtype=np.float64) - clutter.mean()) / spread) if spread else float("nan")

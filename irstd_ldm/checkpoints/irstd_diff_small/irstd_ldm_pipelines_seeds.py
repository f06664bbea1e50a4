"""One seed per image of a call, whatever the batch."""

import numpy as np


def image_seed(base: int, place: int) -> int:
    """Seed of the image at a place in a call, 63 bits."""
    return int(np.random.SeedSequence((base, place)).generate_state(1, np.uint64)[0] >> 1)

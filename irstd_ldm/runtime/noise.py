"""The numbers that torch's CPU generator draws, by numpy, so that a seed means the same noise in every runtime.

torch draws 32-bit words from MT19937 (Matsumoto and Nishimura, 1998), seeded with the lowest 32 bits of the seed, and
makes normal numbers of them by Box and Muller's method in blocks of 16.
"""

import numpy as np

_BLOCK = 16  # normal numbers that torch makes at a time: 8 radii, 8 angles


class TorchNoise:
    """What `torch.Generator().manual_seed(seed)` would draw.

    Args:
        seed: In [0, 2**64).
    """

    def __init__(self, seed: int):
        self._words = np.random.RandomState(seed % 2**32)  # MT19937, frozen by numpy's policy

    def integer(self, bound: int) -> int:
        """As `torch.randint(bound, (1,))`, for a bound of at least 2**32."""
        high, low = (int(word) for word in self._draw(2))
        return ((high << 32) | low) % bound

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """As `torch.randn(shape)` in float32, to 1e-6.

        Raises:
            ValueError: The shape has fewer than 16 elements; torch draws those in another way.
        """
        size = int(np.prod(shape))
        if size < _BLOCK:
            raise ValueError(f"`shape` must have at least {_BLOCK} elements, got {shape}")
        uniform = self._uniform(size)
        whole = size // _BLOCK * _BLOCK
        normal = np.empty(size, np.float32)
        normal[:whole] = _box_muller(uniform[:whole])
        if whole < size:  # the last block is drawn anew
            normal[-_BLOCK:] = _box_muller(self._uniform(_BLOCK))
        return normal.reshape(shape)

    def _draw(self, count: int) -> np.ndarray:
        return self._words.randint(0, 2**32, count, dtype=np.uint32)

    def _uniform(self, count: int) -> np.ndarray:
        """In [0, 1), of 24 bits."""
        return (self._draw(count) & np.uint32(2**24 - 1)).astype(np.float32) * np.float32(2**-24)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    blocks = uniform.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - blocks[:, 0]))
    angle = np.float32(2 * np.pi) * blocks[:, 1]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)

"""What the command line must know of frames before it reads any, without numpy."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MAX_PIXELS = 100_000_000  # of a frame, by default
WHITE_HOT, BLACK_HOT = POLARITIES = ("white-hot", "black-hot")
RAW_TYPES = {
    "uint8": "|u1",
    "uint16le": "<u2",
    "uint16be": ">u2",
    "int16le": "<i2",
    "int16be": ">i2",
    "int32le": "<i4",
    "int32be": ">i4",
    "float32le": "<f4",
    "float32be": ">f4",
}


@dataclass(frozen=True)
class RawFormat:
    """What a file of raw frames does not say itself: frames of height x width values, row by row, without a header.

    Attributes:
        width, height: in pixels.
        dtype: of a value, with its byte order.
    """

    width: int
    height: int
    dtype: "np.dtype"

    @classmethod
    def parse(cls, text: str) -> "RawFormat":
        """The format that WIDTHxHEIGHT:TYPE names, such as 640x512:uint16le.

        Raises:
            ValueError: another form, or an unknown TYPE.
        """
        import numpy as np  # here: the command line's help needs none

        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*):(\w+)", text)
        if match is None or match[3] not in RAW_TYPES:
            raise ValueError(f"`raw` must be WIDTHxHEIGHT:TYPE with a TYPE of {', '.join(RAW_TYPES)}, got {text!r}")
        return cls(int(match[1]), int(match[2]), np.dtype(RAW_TYPES[match[3]]))

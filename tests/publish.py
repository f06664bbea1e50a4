"""A camera in a process of its own: a target that moves by 2 px a frame, published at 25 frames a second.

python publish.py URL FORMAT NUM_FRAMES DIES_AFTER [OPTION=VALUE ...]
"""

import os
import signal
import sys
import time
from fractions import Fraction

import av
import numpy as np


def picture(number: int) -> np.ndarray:
    image = np.full((128, 160), 60, np.uint8)
    left = 5 + 2 * number % 150
    image[60:63, left : left + 3] = 230
    return image


def main(url: str, format: str, num_frames: str, dies_after: str, *options: str) -> None:
    for _ in range(50):  # until the reader listens
        try:
            container = av.open(url, "w", format=format, options=dict(one.split("=") for one in options))
            stream = container.add_stream("mpeg2video", rate=25, width=160, height=128, options={"g": "5"})
            stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
            for number in range(int(num_frames)):
                frame = av.VideoFrame.from_ndarray(picture(number), format="gray")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
                if number == int(dies_after):
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(0.04)
            container.mux(stream.encode())
            container.close()
            return
        except OSError:
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])

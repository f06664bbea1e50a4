"""A sequence as a video for the eye, with its targets and tracks drawn on it."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.images import displayable
from ..extras import install_command
from ..files import part_path
from ..results import OUTLINE_COLOUR, draw_overlay
from ..targets import Target
from ..tracking import Track
from . import CommandError

DEFAULT_RATE = 25  # frames per second, of a sequence without a rate
TAIL_FRAMES = 30
TRACK_COLOUR, MISSED_COLOUR = (64, 220, 255), (160, 160, 160)
# MP4 in fragments of at most this many frames, written without look-ahead and at once: a kill leaves all but the last.
FRAGMENT_FRAMES = 25
CODECS = {"libx264": {"crf": "20", "preset": "veryfast", "tune": "zerolatency"}, "mpeg4": {"qscale": "3"}}
CONTAINER = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}


class AnnotatedVideo:
    """Writes an MP4 frame by frame: boxes and confidences, and of tracks their ids and where they came from.

    The encoder is H.264 where this PyAV has it, else MPEG-4. Frames are shown at a constant rate. The file has a
    temporary name until `close`. A size that the encoder refuses is a RuntimeError, a full disk an OSError.
    """

    def __init__(self, path: Path, frames_per_second: float | None):
        try:
            import av
        except ImportError as error:
            raise CommandError(f"--annotated-video needs PyAV: {install_command('video')}") from error
        self._av, self._path = av, path
        self._rate = Fraction(frames_per_second or DEFAULT_RATE).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None
        self._tails: dict[int, deque[tuple[float, float]]] = {}

    def add(
        self,
        gray: np.ndarray,
        targets: Sequence[Target],
        tracks: Sequence[Track],
        value_range: tuple[float, float] | None = None,
    ) -> None:
        """Appends a frame (H, W), of one size in all frames; `value_range` is as in `displayable`."""
        picture = draw_overlay(displayable(gray, value_range), targets)
        self._draw_tracks(picture, picture.width // gray.shape[1], tracks)
        even = picture.crop((0, 0, picture.width + picture.width % 2, picture.height + picture.height % 2))  # 4:2:0
        with self._encoding():
            if self._container is None:
                self._open(*even.size)
            frame = self._av.VideoFrame.from_ndarray(np.asarray(even), format="rgb24")
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Ends the file and gives it its name."""
        if self._container is not None:
            with self._encoding():
                self._container.mux(self._stream.encode())
                self._container.close()
            os.replace(part_path(self._path), self._path)

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        try:
            yield
        except self._av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise RuntimeError(f"{self._path.name} cannot be encoded: {error.strerror}") from error

    def _open(self, width: int, height: int) -> None:
        codec = next(name for name in CODECS if name in self._av.codecs_available)
        self._container = self._av.open(str(part_path(self._path)), "w", format="mp4", options=CONTAINER)
        self._stream = self._container.add_stream(
            codec, rate=self._rate, width=width, height=height, options={**CODECS[codec], "g": str(FRAGMENT_FRAMES)}
        )
        self._stream.pix_fmt = "yuv420p"

    def _draw_tracks(self, picture: Image.Image, scale: int, tracks: Sequence[Track]) -> None:
        """Draws tails and ids on a picture of `scale` times the frame; gray where this frame missed the target."""
        draw = ImageDraw.Draw(picture)
        long_side = max(picture.size)
        font = ImageFont.load_default(size=max(14, long_side // 50))
        line_px = max(2, long_side // 500)
        earlier, self._tails = self._tails, {}  # those of tracks that live
        for track in tracks:
            tail = earlier.get(track.id, deque[tuple[float, float]](maxlen=TAIL_FRAMES))
            tail.append(((track.x + 0.5) * scale, (track.y + 0.5) * scale))
            self._tails[track.id] = tail
            colour = MISSED_COLOUR if track.target is None else TRACK_COLOUR
            if len(tail) > 1:
                draw.line(list(tail), fill=colour, width=line_px)
            x, y = tail[-1]
            if track.target is None:
                draw.circle((x, y), 2 * line_px, outline=colour, width=line_px)
            below = y + max(long_side // 60, 4 * line_px)
            draw.text((x, below), f"#{track.id}", font=font, fill=colour, stroke_width=2, stroke_fill=OUTLINE_COLOUR)

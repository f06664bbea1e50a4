"""Gray frames of video, of a file, a network address or a camera, decoded one by one by PyAV (FFmpeg)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import install_command
from ..images import to_gray
from .frame import MAX_PIXELS, TIMEOUT_S, Address, Frame, FrameSource, ImageReadError, check_size

GRAY_FORMATS = ("gray", "gray10le", "gray12le", "gray16le", "gray16be")
# An address leads to no files, whatever a server's playlist says.
PROTOCOLS = "http,https,httpproxy,rtp,srtp,tcp,tls,udp"
OPEN_TIMEOUT_S = 20.0


class VideoFrames(FrameSource):
    """Frames of MP4, AVI, MKV and whatever else FFmpeg reads.

    Gray formats keep their values, as uint8 or uint16 (10 and 12 bits too). Of colours of 8 bits the luma is taken, as
    uint8 in full range; RGB becomes gray as in `to_gray`; deeper colours become uint16 in full range. A rotation that
    the file asks of its player is ignored: positions are those of the stored pixels. Frames may differ in size.

    Args:
        path: the file.
        max_pixels: refuse larger frames, before they are decoded.

    Raises:
        ImageReadError: not a video, without a video stream, or with larger frames.
        ImportError: PyAV is not installed.
        OSError: a path that is missing, a folder, or not readable.
    """

    can_seek = False

    def __init__(self, path: Path, max_pixels: int = MAX_PIXELS):
        self.path, self._max_pixels = path, max_pixels
        with path.open("rb"):  # the file system's errors, by their own names
            pass
        with self._open() as container:
            stream = container.streams.video[0]
            check_size(path, stream.codec_context.width, stream.codec_context.height, max_pixels)
            self.num_frames = stream.frames or None  # MKV does not tell
            self.frames_per_second = float(stream.average_rate) if stream.average_rate else None

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The frames from `start` on; those before it are decoded and dropped, so that the index is exact.

        Raises:
            ImageReadError: a damaged frame, or a file that ends before its header says.
        """
        import av

        with self._open() as container:
            stream = container.streams.video[0]
            index = num_packets = 0
            end_s = 0.0  # where the last packet's frame ends
            try:
                for packet in container.demux(stream):
                    if packet.size > 0:
                        num_packets += 1
                        if packet.pts is not None:
                            end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                    for decoded in packet.decode():
                        if index >= start:
                            yield Frame(index, self._gray(decoded, index), decoded.time)
                        index += 1
            except av.FFmpegError as error:
                raise self.error(f"frame {index} cannot be decoded: {error.strerror}") from error
            # Edit lists hide frames, never packets; an AVI's header counts frames that were dropped, too.
            if num_packets < stream.frames and end_s * (self.frames_per_second or 0) < stream.frames - 0.5:
                raise self.error(f"truncated: {index} frames were read, its header says {stream.frames}")
            if not index:
                raise self.error("without frames")
            if not stream.frames:
                self._check_duration(container, index, end_s)

    def _check_duration(self, container: Any, num_read: int, end_s: float) -> None:
        """Tells a truncated file whose header knows its duration alone (MKV); other streams may be longer."""
        if container.duration is None or len(container.streams) > 1 or not self.frames_per_second:
            return
        duration_s = container.duration / 1e6
        if (duration_s - end_s) * self.frames_per_second > 1.5:
            raise self.error(f"truncated: {num_read} frames were read, to {end_s:.2f} s of {duration_s:.2f} s")

    def _open(self) -> Any:
        # A file, whatever its name: FFmpeg takes "tcp:..." or "concat:a|b" for an address.
        return self._opened(f"file:{self.path}", "not a video or truncated", {"protocol_whitelist": "file"})

    def _opened(self, name: str, trouble: str, options: Mapping[str, str], **keywords: Any) -> Any:
        """The container, which has a video stream that can be decoded."""
        try:
            import av
        except ImportError as error:
            raise ImportError(f"video needs PyAV: {install_command('video')}") from error
        try:
            container = av.open(name, container_options=dict(options), metadata_errors="replace", **keywords)
        except av.FFmpegError as error:
            raise self.error(
                trouble.format("no answer" if isinstance(error, av.ExitError) else error.strerror)
            ) from error
        if container.streams.video and container.streams.video[0].codec_context is not None:
            return container
        reason = "of a codec that FFmpeg does not know" if container.streams.video else "no video stream"
        container.close()
        raise self.error(reason)

    def _gray(self, decoded: Any, index: int) -> np.ndarray:
        if decoded.is_corrupt:
            raise self.error(f"frame {index} is damaged")
        check_size(self.path, decoded.width, decoded.height, self._max_pixels)
        depth = max(component.bits for component in decoded.format.components)
        if decoded.format.name in GRAY_FORMATS:
            return to_gray(decoded.to_ndarray())
        if depth > 8:
            return to_gray(decoded.to_ndarray(format="gray16le"))
        return to_gray(decoded.to_ndarray(format="rgb24" if decoded.format.is_rgb else "gray"))

    def error(self, reason: str) -> ImageReadError:
        return ImageReadError(f"cannot read video '{self.path}': {reason}")


class LiveFrames(VideoFrames):
    """Frames of a network address or of a camera as they come; `VideoFrames` says what their pixels are.

    Time stamps begin with 0. Frames that the way has damaged are left out; their numbers are, too. It is opened when
    the first frame is asked for.

    Args:
        path: A network address, or a device of Video4Linux such as /dev/video0.
        max_pixels: Refuse larger frames.
        options: FFmpeg's for the protocol or the device, such as {"rtsp_transport": "udp"}; RTSP is carried by TCP.
        timeout_s: How long to wait for a frame, in seconds; for the first one at least 20.
    """

    is_live = True
    num_frames = None

    def __init__(
        self,
        path: Path | Address,
        max_pixels: int = MAX_PIXELS,
        options: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ):
        self.path, self._max_pixels, self._options, self._timeout_s = path, max_pixels, options or {}, timeout_s

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The frames from now on; `start` is 0.

        Raises:
            ImageReadError: No video there, or none any more for `timeout_s`; the message says after how many frames.
        """
        import av

        index, first_s = 0, None
        with self._open() as container:
            try:
                for packet in container.demux(container.streams.video[0]):
                    try:
                        pictures = packet.decode()
                    except av.InvalidDataError:  # packets before the first whole picture, or lost ones
                        index += index > 0
                        continue
                    for decoded in pictures:
                        if not decoded.is_corrupt:
                            first_s = decoded.time if first_s is None else first_s
                            time_s = None if decoded.time is None else decoded.time - (first_s or 0.0)
                            yield Frame(index, self._gray(decoded, index), time_s)
                        index += 1
            except av.FFmpegError as error:
                silent = (
                    f"nothing came for {self._timeout_s:g} s" if isinstance(error, av.ExitError) else error.strerror
                )
                raise self.error(f"broke off after {index} frames: {silent}") from error
        if not index:
            raise self.error("without frames")

    def _open(self) -> Any:
        timeouts_s = max(self._timeout_s, OPEN_TIMEOUT_S), self._timeout_s
        options: dict[str, str] = {**self._options}
        keywords = {}
        if isinstance(self.path, Address):
            name = self.path.url
            options = {"protocol_whitelist": PROTOCOLS, **options}
            if name.startswith("rtsp"):
                options = {"rtsp_transport": "tcp", **options}
        else:
            name, keywords["format"] = str(self.path), "v4l2"
        return self._opened(name, "cannot be opened: {}", options, timeout=timeouts_s, **keywords)

"""One object for a camera: frames in, targets and tracks out; reading, inference and the caller's work overlap."""

import hashlib
import json
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from os import PathLike
from threading import Condition, Thread
from typing import Any, TypeVar

import numpy as np

from .bundled import is_default, resolve_model
from .data.images import ImageInput, to_gray
from .data.readers import open_source
from .data.readers.frame import IMAGE_ERRORS, MAX_PIXELS, TIMEOUT_S, Address, Frame, FrameError, checked_frames
from .files import file_sha256
from .runtime.detector import ExportedDetectorRunner
from .runtime.exported import ENGINES, fastest_runtime, is_exported
from .targets import DECIDING, Target, confidence_calibration, extract_targets, resolve_decision
from .tracking import EvidenceFilter, Track, Tracker

Item = TypeVar("Item")
WAITING = 2  # frames, and results, that wait for the next part of the work
RATE_RESULTS = 30  # the rate is that of so many last results
JOIN_S = 1.0  # a camera that gives no frame must not hold the caller up


@dataclass(frozen=True, eq=False)
class StreamResult:
    """What one frame came to.

    Attributes:
        index: The frame's number in the stream, from 0, dropped frames counted.
        time_s: Its time stamp, None where the stream has none.
        image: (H, W) gray values as they were read; None where they could not be.
        probability: (H, W) float32 in [0, 1], None with an error.
        mask: (H, W) bool, None with an error.
        targets: The frame's targets.
        tracks: Confirmed tracks after the frame; None without `tracks`, for a single frame, and with an error.
        error: Why the frame has no result, on one line: it cannot be read, or is of another size than the first.
        latency_s: From the frame's arrival to its result.
        frames_per_second: Of the last 30 results; 0 for the first.
        num_dropped: Frames so far that came too fast or damaged.
    """

    index: int
    time_s: float | None
    image: np.ndarray | None
    probability: np.ndarray | None
    mask: np.ndarray | None
    targets: list[Target]
    tracks: list[Track] | None
    error: str | None
    latency_s: float
    frames_per_second: float
    num_dropped: int


class StreamDetector:
    """Detects and follows small targets in the frames of a camera, a video or an iterable. Needs no torch by itself.

    Several threads may use one detector, each with a stream of its own; it can be pickled.

    Example:
        ```py
        >>> from irstd_ldm import StreamDetector

        >>> for result in StreamDetector().stream("rtsp://192.168.1.20/stream"):
        ...     print(result.time_s, result.targets, result.tracks)
        ```

    Args:
        model: A folder that `irstd-ldm export` wrote, or a checkpoint (a folder or a Hub id), which needs torch;
            None = the bundled detector.
        runtime: ``torch``, ``onnxruntime``, ``openvino``, ``openvino-bf16``, or ``auto``: as of `irstd-ldm detect`,
            the faster of onnxruntime and openvino that is installed for a graph, torch for a checkpoint, and for the
            bundled detector on CUDA.
        tracks: Whether targets are followed from frame to frame.
        fuse_frames: Whether the frames before count too, so that weak targets that persist are found: the probability
            is then that of [`EvidenceFilter`]. For cameras that stand still or move by less than a pixel a frame.
        num_threads: Threads of onnxruntime or OpenVINO; None = its own choice.
        settings: Arguments of every call, such as `score_threshold` or `input_range`, of [`ExportedDetectorRunner`].

    Raises:
        ValueError, OSError, ModuleNotFoundError: As [`ExportedDetectorRunner`] or the pipeline that is loaded.
    """

    def __init__(
        self,
        model: str | PathLike | None = None,
        runtime: str = "auto",
        tracks: bool = True,
        *,
        fuse_frames: bool = False,
        num_threads: int | None = None,
        **settings: Any,
    ):
        self.detector = load_detector(model, runtime, num_threads, settings.get("num_inference_steps"))
        self.tracks, self.fuse_frames, self.settings = tracks, fuse_frames, settings
        self._make = partial(
            type(self), model, runtime, tracks, fuse_frames=fuse_frames, num_threads=num_threads, **settings
        )

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return self._make, ()  # a copy loads the model anew: the libraries' sessions cannot be sent

    def __call__(self, frame: ImageInput) -> StreamResult:
        """Detects targets in one frame, without tracks.

        Raises:
            ValueError, TypeError, OSError: As [`ExportedDetectorRunner`].
        """
        arrived_s = time.monotonic()
        gray = to_gray(frame)
        found = self._detect(gray)
        return StreamResult(0, None, gray, *found, None, None, time.monotonic() - arrived_s, 0.0, 0)

    def stream(
        self,
        frames: str | PathLike | Address | Iterable[ImageInput | Frame],
        *,
        drop: bool | None = None,
        options: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        max_pixels: int = MAX_PIXELS,
    ) -> Generator[StreamResult, None, None]:
        """The results of successive frames, in their order.

        Args:
            frames: A file of several frames; a device such as /dev/video0; a network address that begins with rtsp://,
                rtsps://, udp://, http:// or https://; or an iterable of images (arrays, for example) or of
                [`Frame`]s, which have time stamps.
            drop: Whether the newest frame replaces one that still waits for inference; None = for addresses and
                devices alone. Without it, what gives the frames has to wait.
            options: As in [`LiveFrames`], for addresses and devices.
            timeout_s: As in [`LiveFrames`].
            max_pixels: Larger frames are refused.

        Raises:
            ImageReadError, OSError, ImportError: The source cannot be opened or read on. What an iterable raises is
                passed on. All come after the results of the frames before.
        """
        items: Any = frames
        if isinstance(frames, str | PathLike | Address):
            source = open_source(frames, max_pixels, options, timeout_s)
            drop, items = source.is_live if drop is None else drop, source.frames()
        arrived = ahead(_arrivals(checked_frames(items)), 1 if drop else WAITING, bool(drop))
        with closing(ahead(self._results(arrived), WAITING)) as results:
            yield from results

    def _detect(self, gray: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Target]]:
        """Probability, mask (H, W) each, and the targets of an image (H, W)."""
        found = self.detector(gray, **self.settings)
        return found.probability[0, 0], found.mask[0, 0], found.targets[0]

    def _results(self, arrived: Iterator[tuple[float, Frame | FrameError]]) -> Iterator[StreamResult]:
        tracker = Tracker() if self.tracks else None
        evidence = EvidenceFilter() if self.fuse_frames else None
        ends_s: deque[float] = deque(maxlen=RATE_RESULTS)
        first = None
        with closing(arrived):  # type: ignore[type-var]
            for count, (arrived_s, frame) in enumerate(arrived):
                first = frame.index if first is None else first
                image, time_s, tracks, error = None, None, None, None
                found: tuple[Any, Any, list[Target]] = None, None, []
                try:
                    if isinstance(frame, FrameError):
                        raise frame
                    image, time_s = frame.image, frame.time_s
                    found = self._detect(image)
                    if evidence is not None:
                        fused = evidence.update(found[0], frame.index, time_s)
                        found = fused, *decide_fused(fused, image, self.detector.config, **self.settings)
                    if tracker is not None:
                        tracks = tracker.update_targets(found[2], frame.index, time_s)
                except IMAGE_ERRORS as caught:
                    error = " ".join(str(caught).split())
                ends_s.append(time.monotonic())
                rate = (len(ends_s) - 1) / (ends_s[-1] - ends_s[0]) if len(ends_s) > 1 else 0.0
                latency_s, num_dropped = ends_s[-1] - arrived_s, frame.index - first - count
                yield StreamResult(frame.index, time_s, image, *found, tracks, error, latency_s, rate, num_dropped)


def decide_fused(
    probability: np.ndarray, gray: np.ndarray, config: Mapping[str, Any], **settings: Any
) -> tuple[np.ndarray, list[Target]]:
    """Mask (H, W) and targets of a probability (H, W) that several frames have made, as of one frame's.

    `settings` are arguments of a call, of which those that decide are used.
    """
    decision = resolve_decision(config, **{name: settings[name] for name in DECIDING if name in settings})
    return extract_targets(probability, gray, decision, confidence_calibration(config))


def load_detector(
    model: str | PathLike | None,
    runtime: str = "auto",
    num_threads: int | None = None,
    num_inference_steps: int | None = None,
) -> Any:
    """An exported detector, or the pipeline of a checkpoint, on CUDA where that is; see [`StreamDetector`]."""
    if runtime not in ("auto", "torch", *ENGINES):
        raise ValueError(f"`runtime` must be auto, torch, {' or '.join(ENGINES)}, got {runtime!r}")
    if runtime in ENGINES and model is not None and not (is_default(model) or is_exported(model)):
        raise ValueError(f"`runtime` {runtime!r} needs as `model` a folder that `irstd-ldm export` wrote, got {model}")
    runtime = fastest_runtime(model, num_inference_steps) if runtime == "auto" else runtime
    if runtime in ENGINES:
        return ExportedDetectorRunner(model, runtime, num_threads)
    import torch

    from . import detector_class

    source = resolve_model(model)
    pipeline = detector_class(source).from_pretrained(source)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def model_sha256(detector: Any) -> str:
    """Digest of a detector: of an exported one its files, else its networks' weights and all configs."""
    digest = hashlib.sha256()
    if isinstance(detector, ExportedDetectorRunner):
        for path in detector.files:
            digest.update(file_sha256(path).encode())
        return digest.hexdigest()
    import torch

    for name, component in [("", detector), *sorted(detector.components.items())]:
        public = {key: value for key, value in component.config.items() if not key.startswith("_")}
        digest.update(json.dumps([name, public], default=str, sort_keys=True).encode())
        for tensor in component.state_dict().values() if isinstance(component, torch.nn.Module) else ():
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _arrivals(frames: Iterator[Item]) -> Iterator[tuple[float, Item]]:
    """Frames, and when they came, by the monotonic clock."""
    for frame in frames:
        yield time.monotonic(), frame


def ahead(items: Iterator[Item], size: int = WAITING, drop: bool = False) -> Generator[Item, None, None]:
    """What a thread takes from a generator meanwhile.

    At most `size` items wait; then the thread does, or with `drop` the oldest goes. An error of the generator comes
    after its items. Closing this one closes that one.
    """
    waiting: deque[Item] = deque()
    changed = Condition()
    errors: list[BaseException] = []
    has_ended = is_closed = False

    def run() -> None:
        nonlocal has_ended
        try:
            with closing(items):  # type: ignore[type-var]
                for item in items:
                    with changed:
                        if drop and len(waiting) == size:
                            waiting.popleft()
                        changed.wait_for(lambda: len(waiting) < size or is_closed)
                        if is_closed:
                            break
                        waiting.append(item)
                        changed.notify_all()
        except BaseException as error:
            errors.append(error)
        with changed:
            has_ended = True
            changed.notify_all()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: waiting or has_ended)
                if not waiting:
                    break
                item = waiting.popleft()
                changed.notify_all()
            yield item
        if errors:
            raise errors[0]
    finally:
        with changed:
            is_closed = True
            changed.notify_all()
        thread.join(JOIN_S)

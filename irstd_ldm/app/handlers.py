"""What the page does when its parts are used: a pipeline and a session's state in, new values of the parts out."""

import base64
import dataclasses
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from .. import __version__
from ..data.images import displayable, seen_image
from ..data.readers.frame import IMAGE_ERRORS, Frame
from ..files import write_json
from ..pipelines.detection import IRSTDDetectionPipeline
from ..targets import (
    Decision,
    Target,
    calibrated_budgets,
    confidence_calibration,
    extract_targets,
    resolve_decision,
)
from .detection import EXAMPLES, DetectedFrame, Detection, Input, Limits, Settings, example_input
from .reading import read_apart
from .server import MAX_READS_OF_CLIENT

BY_SCORE = "score"
PROGRESS = gr.Progress()  # tells gradio which argument is the progress of a call
FIELDS = ("x", "y", "width", "height", "area_px", "score", "confidence", "peak", "scr")
DECIMALS = {"x": 2, "y": 2, "score": 3, "confidence": 3, "peak": 3, "scr": 1}
MAX_ROWS = 2000
SEED = 0  # the seed that a pipeline's call without a generator has
MAX_SIDE_PX = 4096  # larger images are shown reduced
# Dark to light at an even pace, as perceived: probability and uncertainty keep their order in gray and for the
# colour-blind.
_ANCHORS = np.array(
    [(0, 0, 4), (60, 15, 110), (145, 40, 125), (220, 70, 90), (250, 150, 90), (252, 253, 200)], np.float64
)
_STOPS = np.linspace(0, 255, len(_ANCHORS))
COLOURS = np.stack([np.interp(np.arange(256), _STOPS, channel) for channel in _ANCHORS.T], 1).astype(np.uint8)


def table_headers(is_sequence: bool) -> list[str]:
    return [*(["frame"] if is_sequence else []), "#", *FIELDS]


class Handlers:
    """The page's callbacks around one pipeline."""

    def __init__(self, pipeline: IRSTDDetectionPipeline, model: str, limits: Limits):
        self.pipeline, self.model, self.limits = pipeline, model, limits
        self._reads: Counter[str] = Counter()  # files that are being read, by the client's address
        self._lock = Lock()
        self._detector = Lock()  # one detection at a time, of the page and of programs together

    def read_file(self, path: str, request: gr.Request) -> Input:
        """Reads an upload beside the detections of others; a client with slow files does not take all places."""
        client = request.client.host
        with self._lock:
            if self._reads[client] >= MAX_READS_OF_CLIENT:
                raise gr.Error("Your other files are still being read; try again in a moment.", print_exception=False)
            self._reads[client] += 1
        try:
            return read_apart(Path(path), self.limits, self.pipeline.config.normalization)
        except IMAGE_ERRORS as error:
            raise _shown(error, Path(path)) from error
        finally:
            with self._lock:
                self._reads[client] -= 1

    # The upload is kept once, with its detection.
    def detect_file(self, uploaded: Input | None, steps: int, ensemble: int, polarity: str, progress=PROGRESS):
        if uploaded is None:
            raise _expired()
        return None, *self._detect(uploaded, Settings(steps, ensemble, polarity), progress)

    def detect_scene(self, event: gr.SelectData, steps: int, ensemble: int, polarity: str, progress=PROGRESS):
        scene = example_input(list(EXAMPLES)[event.index])
        detected = self._detect(scene, Settings(steps, ensemble, polarity), progress)
        return (*detected, None, gr.Gallery(selected_index=None))

    def detect_first(self, steps: int, ensemble: int, polarity: str, progress=PROGRESS):
        """What the page begins with."""
        return self._detect(example_input(next(iter(EXAMPLES))), Settings(steps, ensemble, polarity), progress)

    def detect_call(self, path: str, score_threshold: float | None, polarity: str, request: gr.Request) -> Any:
        """The endpoint for programs: the content of the page's JSON, at the checkpoint's own steps and members.

        Without a score threshold it is the checkpoint's.
        """
        config = self.pipeline.config
        settings = Settings(config.default_num_inference_steps, config.default_ensemble_size, polarity)
        detection = self._detect(self.read_file(path, request), settings, lambda *_, **__: None)[0]
        score_threshold = config.default_score_threshold if score_threshold is None else score_threshold
        decision = Decision(config.default_mask_threshold, score_threshold)
        targets = [self._found(one, decision)[1] for one in detection.frames]
        return self._content(detection, decision, targets, {})

    def detect_again(self, detection: Detection | None, steps: int, ensemble: int, polarity: str, progress=PROGRESS):
        if detection is None:
            raise _expired()
        return self._detect(detection.input, Settings(steps, ensemble, polarity), progress)

    def _detect(self, read: Input, settings: Settings, progress: Callable[..., Any]) -> tuple[Any, ...]:
        """A detection, its frame slider, and the button that repeats it."""
        num_frames = len(read.frames)
        passes = settings.ensemble_size * max(1, settings.num_inference_steps)
        most = self.limits.max_passes_px // sum(frame.image.size for frame in read.frames)
        if passes > most:
            message = f"Steps times ensemble size must be at most {most} for an input of this size, got {passes}."
            raise gr.Error(message, print_exception=False)
        start = time.perf_counter()
        frames = []
        try:
            with self._detector:
                for done, frame in enumerate(read.frames):
                    progress((done, num_frames), unit="frames")
                    frames.append(self._detect_frame(frame, read.input_range, settings))
        except IMAGE_ERRORS as error:
            raise _shown(error, Path(read.name)) from error
        seconds = time.perf_counter() - start
        detection = Detection(read, settings, frames, seconds, TemporaryDirectory())
        slider = gr.Slider(maximum=max(1, num_frames - 1), value=0, visible=detection.is_sequence)
        return detection, slider, gr.Button(interactive=True)

    def _detect_frame(
        self, frame: Frame, input_range: tuple[float, float] | None, settings: Settings
    ) -> DetectedFrame:
        """Runs the pipeline in a call of its own, from the same seed for every frame."""
        seen = seen_image(frame.image, settings.polarity, input_range)
        output = self.pipeline(
            seen,
            num_inference_steps=settings.num_inference_steps,
            ensemble_size=settings.ensemble_size,
            input_range=input_range,
        )
        uncertainty = None if output.uncertainty is None else output.uncertainty[0, 0]
        return DetectedFrame(frame, seen, output.probability[0, 0], uncertainty)

    def show_all(
        self, detection: Detection | None, frame: int, budget: str, mask_threshold: float, score_threshold: float
    ) -> tuple[Any, ...]:
        """The results, and the pictures of a frame."""
        if detection is None:
            raise _expired()
        marks, *others = self._results(detection, frame, budget, mask_threshold, score_threshold)
        return gr.HTML(value=marks, layers=_layers(detection, frame)), *others

    def show_targets(
        self, detection: Detection | None, frame: int, budget: str, mask_threshold: float, score_threshold: float
    ) -> tuple[Any, ...]:
        """What follows from the thresholds: marks, summary, table, files."""
        if detection is None:
            return (gr.skip(),) * 5
        return self._results(detection, frame, budget, mask_threshold, score_threshold)

    def _results(
        self, detection: Detection, frame: int, budget: str, mask_threshold: float, score_threshold: float
    ) -> tuple[Any, ...]:
        decision = self.decide(budget, mask_threshold, score_threshold)
        found = [self._found(one, decision) for one in detection.frames]
        targets = [of_frame for _, of_frame in found]
        content = self._content(detection, decision, targets, {} if budget == BY_SCORE else named_budget(budget))
        base = Path(detection.folder.name) / Path(detection.input.name).stem
        json_path, mask_path = base.with_name(f"{base.name}.json"), base.with_name(f"{base.name}-mask.png")
        write_json(json_path, content)
        Image.fromarray(_black_and_white(found[frame][0])).save(mask_path)
        return (
            _marks(*found[frame]),
            summary(detection, targets, decision),
            gr.Dataframe(rows(detection, targets), headers=table_headers(detection.is_sequence)),
            gr.DownloadButton(value=json_path, interactive=True),
            gr.DownloadButton(value=mask_path, interactive=True),
        )

    def _content(
        self, detection: Detection, decision: Decision, targets: list[list[Target]], budget: dict[str, float]
    ) -> dict[str, Any]:
        """What the JSON holds, in the form of the command's detections.json."""
        settings = {
            **dataclasses.asdict(detection.settings),
            **vars(decision),
            **dict.fromkeys(calibrated_budgets(self.pipeline.config)),
            **budget,
            "seed": SEED,
        }
        images = list(_image_entries(detection, targets))
        return {"version": __version__, "model": self.model, "settings": settings, "images": images}

    def _found(self, shown: DetectedFrame, decision: Decision) -> tuple[np.ndarray, list[Target]]:
        """The mask (H, W) and the targets of one frame, as the pipeline itself gives them."""
        calibration = confidence_calibration(self.pipeline.config)
        return extract_targets(shown.probability, shown.seen, decision, calibration)

    def decide(self, budget: str, mask_threshold: float, score_threshold: float) -> Decision:
        """The thresholds that the page's choice stands for."""
        if budget == BY_SCORE:
            return Decision(mask_threshold, score_threshold)
        return resolve_decision(self.pipeline.config, **named_budget(budget))

    def choose_budget(self, budget: str, mask_threshold: float, score_threshold: float) -> tuple[Any, ...]:
        """The sliders show what acts, and move where no budget decides."""
        values = vars(self.decide(budget, mask_threshold, score_threshold)).values()
        return tuple(gr.Slider(value=value, interactive=budget == BY_SCORE) for value in values)

    def focus(
        self,
        detection: Detection | None,
        frame: int,
        budget: str,
        mask_threshold: float,
        score_threshold: float,
        event: gr.SelectData,
    ) -> tuple[Any, ...]:
        """Shows the target of a row of the table."""
        if detection is None:
            raise _expired()
        names = table_headers(detection.is_sequence)
        row = dict(zip(names, event.row_value, strict=True))
        index = [one.frame.index for one in detection.frames].index(int(row.get("frame", 0)))
        decision = self.decide(budget, mask_threshold, score_threshold)
        marks = _marks(*self._found(detection.frames[index], decision)) | {"focus": int(row["#"])}
        return index, marks if index == frame else gr.HTML(value=marks, layers=_layers(detection, index))

    def clear(self) -> tuple[Any, ...]:
        off = gr.DownloadButton(value=None, interactive=False)
        empty = gr.Dataframe([], headers=table_headers(is_sequence=False))
        viewer = gr.HTML(value={}, layers=None)
        return None, gr.Slider(visible=False), gr.Button(interactive=False), viewer, "", empty, off, off


def named_budget(budget: str) -> dict[str, float]:
    """The argument of a call, from the page's choice such as "max_fa_per_million_px 10"."""
    name, value = budget.split()
    return {name: float(value)}


def summary(detection: Detection, targets: list[list[Target]], decision: Decision) -> str:
    """One line under the picture."""
    num_targets = sum(map(len, targets))
    image, settings = detection.frames[0].frame.image, detection.settings
    parts = [f"**{num_targets} {'target' if num_targets == 1 else 'targets'}**", str(decision)]
    parts += [f"{len(detection.frames)} frames"] if detection.is_sequence else []
    parts += [f"{image.shape[1]} x {image.shape[0]} px", str(image.dtype)]
    parts += [f"{settings.num_inference_steps} step{'s' * (settings.num_inference_steps != 1)}"]
    parts += [f"ensemble of {settings.ensemble_size}", settings.polarity, f"{detection.seconds:.1f} s"]
    parts += [detection.input.left_out] if detection.input.left_out else []
    return " · ".join(parts)


def rows(detection: Detection, targets: list[list[Target]]) -> list[list[Any]]:
    """The table: targets in the order of their frames, the most confident of a frame first."""
    table = []
    for one, of_frame in zip(detection.frames, targets, strict=True):
        index = [one.frame.index] if detection.is_sequence else []
        numbered = sorted(enumerate(of_frame, start=1), key=lambda pair: -pair[1].confidence)
        table += [[*index, number, *_cells(target)] for number, target in numbered]
    return table[:MAX_ROWS]


def _cells(target: Target) -> Iterator[float | None]:
    for name in FIELDS:
        value = getattr(target, name)
        yield None if value != value else round(value, DECIMALS.get(name, 0))


def _image_entries(detection: Detection, targets: list[list[Target]]) -> Iterator[dict[str, Any]]:
    """An entry per frame, in the form of the command's detections.json."""
    for one, of_frame in zip(detection.frames, targets, strict=True):
        height, width = one.frame.image.shape
        index = {"frame": one.frame.index, "time_s": one.frame.time_s} if detection.is_sequence else {}
        rows = [target.to_dict() for target in of_frame]
        yield {"file": detection.input.name, **index, "width": width, "height": height, "targets": rows}


def _layers(detection: Detection, index: int) -> dict[str, Any]:
    """The pictures of a frame that no decision changes, and its size; uncertainty is shown from 0 to its largest."""
    shown = detection.frames[index]
    height, width = shown.frame.image.shape
    planted = [{"x": x, "y": y} for x, y in detection.input.planted]
    layers = {"name": detection.input.name, "width": width, "height": height, "planted": planted}
    layers |= {"image": data_url(displayable(shown.frame.image)), "probability": _coloured(shown.probability)}
    if shown.uncertainty is not None:
        largest = float(shown.uncertainty.max())
        share = shown.uncertainty / largest if largest else shown.uncertainty
        layers |= {"uncertainty": _coloured(share), "uncertainty_max": largest}
    return layers


def _coloured(share: np.ndarray) -> str:
    """(H, W) in [0, 1] as the address of a picture in `COLOURS`."""
    return data_url(COLOURS[np.rint(share * 255).astype(np.uint8)])


def data_url(pixels: np.ndarray) -> str:
    """Pixels (H, W) or (H, W, 3) uint8 as the address of a PNG, its longer side reduced to `MAX_SIDE_PX`."""
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _black_and_white(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool as uint8 of 0 and 255."""
    return mask.astype(np.uint8) * 255


def _marks(mask: np.ndarray, targets: list[Target]) -> dict[str, Any]:
    """What the viewer draws over a frame's pictures."""
    names = ("x", "y", "left", "top", "width", "height", "confidence")
    marks = [
        {"number": number, **{name: getattr(target, name) for name in names}}
        for number, target in enumerate(targets, start=1)
    ]
    return {"mask": data_url(_black_and_white(mask)), "targets": marks, "focus": None}


def _shown(error: Exception, path: Path) -> gr.Error:
    """The error as the page shows it: one line, without the server's folders."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    line = " ".join(text.replace(str(path), path.name).split())
    line = line if path.name in line else f"{path.name}: {line}"
    return gr.Error(line, title="Not detected", duration=None, print_exception=False)


def _expired() -> gr.Error:
    return gr.Error("Choose a file or a scene first; results are kept for an hour.", print_exception=False)

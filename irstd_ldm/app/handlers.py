"""What the page does when its parts are used: a pipeline and a session's state in, new values of the parts out."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
import numpy as np

from .. import __version__
from ..data.readers.frame import IMAGE_ERRORS, Frame
from ..files import finite
from ..pipelines.detection import IRSTDDetectionPipeline
from ..targets import Target, resolve_threshold
from .detection import DetectedFrame, Detection, Settings, detect_frames, record, targets_of
from .reading import EXAMPLES, Input, Limits, example_scene, read_input
from .views import data_url, mask_image, picture_layers

BY_THRESHOLD = "threshold"
FIELDS = ("x", "y", "width", "height", "area_px", "confidence", "peak", "scr")
DECIMALS = {"x": 2, "y": 2, "confidence": 3, "peak": 3, "scr": 1}
MAX_ROWS = 2000


def table_headers(is_sequence: bool) -> list[str]:
    return [*(["frame"] if is_sequence else []), "#", *FIELDS]


class Handlers:
    """The page's callbacks around one pipeline."""

    def __init__(self, pipeline: IRSTDDetectionPipeline, model: str, limits: Limits):
        self.pipeline, self.model, self.limits = pipeline, model, limits

    def detect_file(self, path: str, steps: int, ensemble: int, polarity: str, progress=gr.Progress()):  # noqa: B008
        try:
            read = read_input(Path(path), self.limits, self.pipeline.config.normalization)
        except IMAGE_ERRORS as error:
            raise _shown(error, Path(path)) from error
        return self._detect(read, Settings(steps, ensemble, polarity), progress)

    def detect_scene(
        self,
        event: gr.SelectData,
        steps: int,
        ensemble: int,
        polarity: str,
        progress=gr.Progress(),  # noqa: B008
    ):
        kind = list(EXAMPLES)[event.index]
        read = Input(f"synthetic-{kind}.png", [Frame(0, example_scene(kind).image, None)])
        detected = self._detect(read, Settings(steps, ensemble, polarity), progress)
        return (*detected, None, gr.Gallery(selected_index=None))

    def detect_again(
        self,
        detection: Detection | None,
        steps: int,
        ensemble: int,
        polarity: str,
        progress=gr.Progress(),  # noqa: B008
    ):
        if detection is None:
            raise _expired()
        return self._detect(detection.input, Settings(steps, ensemble, polarity), progress)

    def _detect(self, read: Input, settings: Settings, progress: gr.Progress) -> tuple[Any, ...]:
        """A detection, its frame slider, and the button that repeats it."""
        num_frames = len(read.frames)
        passes = settings.ensemble_size * max(1, settings.num_inference_steps)
        most = self.limits.max_passes_px // sum(frame.image.size for frame in read.frames)
        if passes > most:
            message = f"Steps times ensemble size must be at most {most} for an input of this size, got {passes}."
            raise gr.Error(message, print_exception=False)
        progress((0, num_frames), unit="frames")
        start = time.perf_counter()
        try:
            frames = list(
                detect_frames(self.pipeline, read, settings, lambda done: progress((done, num_frames), unit="frames"))
            )
        except IMAGE_ERRORS as error:
            raise _shown(error, Path(read.name)) from error
        seconds = time.perf_counter() - start
        detection = Detection(read, settings, frames, seconds, TemporaryDirectory())
        frame = gr.Slider(maximum=max(1, num_frames - 1), value=0, visible=detection.is_sequence)
        return detection, frame, gr.Button(interactive=True)

    def show_all(self, detection: Detection | None, frame: int, budget: str, threshold: float) -> tuple[Any, ...]:
        """The results, and the pictures of a frame."""
        if detection is None:
            raise _expired()
        marks, *others = self._results(detection, frame, budget, threshold)
        return gr.HTML(value=marks, layers=_layers(detection, frame)), *others

    def show_targets(self, detection: Detection | None, frame: int, budget: str, threshold: float) -> tuple[Any, ...]:
        """What follows from a threshold: marks, summary, table, files."""
        return (gr.skip(),) * 5 if detection is None else self._results(detection, frame, budget, threshold)

    def _results(self, detection: Detection, frame: int, budget: str, threshold: float) -> tuple[Any, ...]:
        decided = self.threshold(budget, threshold)
        targets = [targets_of(self.pipeline, one, decided) for one in detection.frames]
        shown = detection.frames[frame]
        content = record(
            detection, targets, self.model, __version__, decided, None if budget == BY_THRESHOLD else float(budget)
        )
        base = Path(detection.folder.name) / Path(detection.input.name).stem
        json_path, mask_path = base.with_name(f"{base.name}.json"), base.with_name(f"{base.name}-mask.png")
        json_path.write_text(json.dumps(finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        mask_image(shown.probability > decided).save(mask_path)
        return (
            _marks(shown, targets[frame], decided),
            summary(detection, targets, decided),
            gr.Dataframe(rows(detection, targets), headers=table_headers(detection.is_sequence)),
            gr.DownloadButton(value=json_path, interactive=True),
            gr.DownloadButton(value=mask_path, interactive=True),
        )

    def threshold(self, budget: str, threshold: float) -> float:
        """The threshold that the page's choice stands for."""
        if budget == BY_THRESHOLD:
            return threshold
        return resolve_threshold(self.pipeline.config, None, float(budget))

    def choose_budget(self, budget: str) -> Any:
        return gr.Slider(interactive=budget == BY_THRESHOLD)

    def focus(
        self, detection: Detection | None, frame: int, budget: str, threshold: float, event: gr.SelectData
    ) -> tuple[Any, ...]:
        """Shows the target of a row of the table."""
        if detection is None:
            raise _expired()
        names = table_headers(detection.is_sequence)
        row = dict(zip(names, event.row_value, strict=True))
        index = {one.index: place for place, one in enumerate(detection.frames)}[int(row.get("frame", 0))]
        shown, decided = detection.frames[index], self.threshold(budget, threshold)
        marks = _marks(shown, targets_of(self.pipeline, shown, decided), decided) | {"focus": int(row["#"])}
        return index, marks if index == frame else gr.HTML(value=marks, layers=_layers(detection, index))

    def clear(self) -> tuple[Any, ...]:
        off = gr.DownloadButton(value=None, interactive=False)
        empty = gr.Dataframe([], headers=table_headers(is_sequence=False))
        return (
            None,
            gr.Slider(visible=False),
            gr.Button(interactive=False),
            gr.HTML(value={}, layers=None),
            "",
            empty,
            off,
            off,
        )


def summary(detection: Detection, targets: list[list[Target]], threshold: float) -> str:
    """One line under the picture."""
    num_targets = sum(map(len, targets))
    height, width = detection.frames[0].gray.shape
    settings = detection.settings
    parts = [f"**{num_targets} {'target' if num_targets == 1 else 'targets'}**", f"threshold {threshold:.6g}"]
    parts += [f"{len(detection.frames)} frames"] if detection.is_sequence else []
    parts += [f"{width} x {height} px", str(detection.frames[0].gray.dtype)]
    parts += [f"{settings.num_inference_steps} step{'s' * (settings.num_inference_steps != 1)}"]
    parts += [f"ensemble of {settings.ensemble_size}", settings.polarity, f"{detection.seconds:.1f} s"]
    parts += [detection.input.left_out] if detection.input.left_out else []
    return " · ".join(parts)


def rows(detection: Detection, targets: list[list[Target]]) -> list[list[Any]]:
    """The table: targets in the order of their frames, the most confident of a frame first."""
    table = []
    for frame, of_frame in zip(detection.frames, targets, strict=True):
        place = [frame.index] if detection.is_sequence else []
        numbered = sorted(enumerate(of_frame, start=1), key=lambda pair: -pair[1].confidence)
        table += [[*place, number, *_cells(target)] for number, target in numbered]
    return table[:MAX_ROWS]


def _cells(target: Target) -> Iterable[float | None]:
    for name in FIELDS:
        value = getattr(target, name)
        yield None if value != value else round(value, DECIMALS.get(name, 0))


def _layers(detection: Detection, frame: int) -> dict[str, Any]:
    return {"name": detection.input.name, **picture_layers(detection.frames[frame])}


def _marks(frame: DetectedFrame, targets: list[Target], threshold: float) -> dict[str, Any]:
    """What the viewer draws over a frame's pictures."""
    names = ("x", "y", "left", "top", "width", "height", "confidence")
    marks = [
        {"number": number, **{name: getattr(target, name) for name in names}}
        for number, target in enumerate(targets, start=1)
    ]
    mask = data_url((frame.probability > threshold).astype(np.uint8) * 255)
    return {"mask": mask, "targets": marks, "focus": None}


def _shown(error: Exception, path: Path) -> gr.Error:
    """The error as the page shows it: one line, without the server's folders."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    line = " ".join(text.replace(str(path), path.name).split())
    return gr.Error(
        line if path.name in line else f"{path.name}: {line}",
        title="Not detected",
        duration=None,
        print_exception=False,
    )


def _expired() -> gr.Error:
    return gr.Error("Choose a file or a scene first; results are kept for an hour.", print_exception=False)

"""The page: its parts and what happens when they are used."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from gradio_client.utils import is_file_obj_with_meta, traverse

from ..data.images import displayable
from ..data.polarity import POLARITIES
from ..pipelines.detection import IRSTDDetectionPipeline
from ..targets import calibrated_budgets
from .detection import EXAMPLES, Limits, example_input
from .handlers import BY_SCORE, Handlers, table_headers
from .server import LIFETIME_S, MAX_READS, MAX_WAITING

MAX_STEPS, MAX_ENSEMBLE = 20, 16
TITLE = "irstd-ldm: infrared small targets"
HEADING = """\
# Infrared small targets
Positions of small, dim targets with a confidence. Files stay on the machine that serves this page and are deleted
within the hour.
"""
LIMITED = {"max_false_targets_per_megapixel": "False targets", "max_fa_per_million_px": "Fa"}
MASK_INFO = "Where a mask ends: a pixel of a higher probability is foreground"
SCORE_INFO = "What is a target: a component of a higher mean probability"
DROP = "Image (8, 16 bit, float) or short video"


class UploadsOnly(gr.Blocks):
    """Blocks that refuse other files before gradio copies them, or downloads what has a foreign address."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        traverse(inputs, _check_uploaded, is_file_obj_with_meta)  # gradio looks into every part of an input
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)


def _check_uploaded(file: dict[str, Any]) -> dict[str, Any]:
    path = Path(file["path"])
    if not path.is_absolute() or not path.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise gr.Error("a call may name files uploaded to this page, no others", print_exception=False)
    return file


def build_page(pipeline: IRSTDDetectionPipeline, model: str) -> gr.Blocks:
    """The page around a pipeline, which the page and its JSON call `model`."""
    config = pipeline.config
    budgets = [
        (f"{LIMITED[name]} ≤ {budget:g}", f"{name} {budget:g}")
        for name, of_budget in calibrated_budgets(config).items()
        for budget in sorted(of_budget)
    ]
    handlers = Handlers(pipeline, model, Limits())
    with UploadsOnly(title=TITLE, analytics_enabled=False, delete_cache=(60, LIFETIME_S)) as page:
        gr.Markdown(HEADING)
        with gr.Row(elem_id="parts"):
            with gr.Column(scale=2, min_width=320):
                file = gr.File(label=DROP, height=140, elem_id="file")
                gr.Markdown("Or a synthetic scene with three targets, which circles show:")
                scenes = gr.Gallery(
                    [(displayable(example_input(name).frames[0].image), name) for name in EXAMPLES],
                    label="Scenes",
                    show_label=False,
                    columns=4,
                    height=110,
                    object_fit="contain",
                    format="png",
                    allow_preview=False,
                    buttons=[],
                    interactive=False,
                    elem_id="scenes",
                )
                budget = gr.Radio(
                    [(BY_SCORE, BY_SCORE), *budgets],
                    value=BY_SCORE,
                    label="Decide by",
                    info="A calibrated budget of false targets per million pixels, or of false-alarm pixels (Fa)",
                    visible=bool(budgets),
                    elem_id="budget",
                )
                mask_threshold, score_threshold = (
                    gr.Slider(0, 1, value=value, step=0.001, label=label, info=info, elem_id=elem_id)
                    for value, label, info, elem_id in (
                        (config.default_mask_threshold, "Mask threshold", MASK_INFO, "mask_threshold"),
                        (config.default_score_threshold, "Score threshold", SCORE_INFO, "score_threshold"),
                    )
                )
                with gr.Group():
                    steps = gr.Slider(
                        pipeline.min_inference_steps,
                        min(max(MAX_STEPS, config.default_num_inference_steps), pipeline.max_inference_steps),
                        value=config.default_num_inference_steps,
                        step=1,
                        label="Denoising steps",
                        elem_id="steps",
                    )
                    ensemble = gr.Slider(
                        1,
                        max(MAX_ENSEMBLE, config.default_ensemble_size),
                        value=config.default_ensemble_size,
                        step=1,
                        label="Ensemble size",
                        info="From 2 on the page shows the uncertainty",
                        elem_id="ensemble",
                    )
                    polarity = gr.Radio(list(POLARITIES), value=POLARITIES[0], label="Polarity", elem_id="polarity")
                again = gr.Button("Detect again", variant="primary", interactive=False, elem_id="again")
            with gr.Column(scale=5, min_width=480):
                viewer = gr.HTML(
                    {},
                    html_template=_text("viewer.html"),
                    css_template=_text("viewer.css"),
                    js_on_load=_text("viewer.js"),
                    apply_default_css=False,
                    layers=None,
                    elem_id="viewer",
                )
                frame = gr.Slider(0, 1, value=0, step=1, label="Frame", visible=False, elem_id="frame")
                summary = gr.Markdown(elem_id="summary")
                table = gr.Dataframe(
                    headers=table_headers(is_sequence=False),
                    datatype="number",
                    label="Targets",
                    interactive=False,
                    max_height=320,
                    buttons=["copy"],
                    elem_id="table",
                )
                with gr.Row():
                    json_file = gr.DownloadButton("Download JSON", size="sm", interactive=False, elem_id="json")
                    mask_file = gr.DownloadButton("Download mask PNG", size="sm", interactive=False, elem_id="mask")
                gr.Markdown(f"Model: {model}. A click on a row shows its target; ⋮ in a header sorts.")
        uploaded, detection = (gr.State(None, time_to_live=LIFETIME_S) for _ in range(2))
        settings = [steps, ensemble, polarity]
        results = [viewer, summary, table, json_file, mask_file]
        thresholds = [mask_threshold, score_threshold]
        decision = [detection, frame, budget, *thresholds]
        run: dict[str, Any] = {"concurrency_id": "detector", "concurrency_limit": 1, "show_progress_on": viewer}
        private: dict[str, Any] = {"api_visibility": "private"}
        quick: dict[str, Any] = {**private, "show_progress": "hidden", "trigger_mode": "always_last"}
        reading: dict[str, Any] = {"concurrency_limit": MAX_READS, "show_progress_on": viewer}
        read = file.upload(handlers.read_file, file, uploaded, **reading, **private)
        detected = [detection, frame, again]
        for event in (
            read.success(handlers.detect_file, [uploaded, *settings], [uploaded, *detected], **run, **private),
            scenes.select(handlers.detect_scene, settings, [*detected, file, scenes], **run, **private),
            again.click(handlers.detect_again, [detection, *settings], detected, **run, **private),
        ):
            event.success(handlers.show_all, decision, results, **private, show_progress="hidden")
        first = page.load(handlers.detect_first, settings, detected, **run, **private)
        first.success(handlers.show_all, decision, results, **private, show_progress="hidden")
        with gr.Row(visible=False):
            call = [gr.File(), gr.Number(None, label="score_threshold"), gr.Radio([*POLARITIES], value=POLARITIES[0])]
            found = gr.JSON(label="detections")
            gr.Button().click(handlers.detect_call, call, found, api_name="detect", concurrency_limit=MAX_READS)
        file.clear(handlers.clear, None, [*detected, *results], **private)
        budget.change(handlers.choose_budget, [budget, *thresholds], thresholds, **quick)
        for changed in (budget.change, mask_threshold.change, score_threshold.change):
            changed(handlers.show_targets, decision, results, **quick)
        frame.input(handlers.show_all, decision, results, **quick)
        table.select(handlers.focus, decision, [frame, viewer], **quick)
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=4, api_open=False)


def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")

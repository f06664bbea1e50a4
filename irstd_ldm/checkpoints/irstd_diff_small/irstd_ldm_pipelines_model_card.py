"""Model cards. Every number is read from JSON: configs, weights' headers, `metrics.json` of `irstd-ldm evaluate`."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from . irstd_ldm_pipelines_checkpoint_files import INDEX, PICTURE, read_json, read_safetensors_header

TASK = "image-segmentation"
TAGS = ("infrared", "small-target-detection", "irstd", "diffusion", "irstd-ldm")
METRICS = {"iou": "IoU", "niou": "nIoU", "pd": "Pd", "fa_per_million_px": "Fa, 1e-6"}
LIBRARIES = ("torch", "diffusers", "transformers")
NONE_STATED = "none stated by its authors, who ask to be cited; the images are not in this repository"
DATA_LICENCES = {
    "NUAA-SIRST": f"{NONE_STATED} (Dai et al., WACV 2021; Dai et al., TGRS 2023)",
    "backgrounds": f"{NONE_STATED} (frames without targets of SIRST-V2; Dai et al., TGRS 2023)",
}
BATCH_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # stored beside the parameters
UNKNOWN_LICENCE = "not recorded here: ask its authors"
LIMITATIONS = """\
## Limitations

Small, dim targets in single infrared frames, and nothing else. Frames of a sensor or a scene unlike those of its
training raise false alarms or hide targets: measure it on your own frames before you rely on it.
"""
HOW_SCORED = """\
Foreground is probability > threshold; targets are 8-connected; a hit is a centroid nearer than the tolerance. IoU,
nIoU and Pd in percent, Fa in false-alarm pixels per million, 95 % bootstrap intervals over images in brackets.
"""


def make_card(
    folder: Path,
    name: str,
    *,
    metrics: Sequence[Mapping[str, Any]] = (),
    run: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    notes: str = "",
    versions: Mapping[str, str] | None = None,
) -> ModelCard:
    """The card of a checkpoint.

    Args:
        folder: the checkpoint, or a folder with models in folders of their own.
        name: what the usage snippet loads, a Hub id or a folder.
        metrics: contents of `metrics.json` files, one row of the results each.
        run: content of a trainer's `run.json`.
        settings: of the same run.
        notes: Markdown that takes the place of the general limitations.
        versions: of further packages, by name.

    Raises:
        OSError: If a file of the checkpoint cannot be read.
        ValueError: If it is broken.
    """
    index = read_json(folder / INDEX) if (folder / INDEX).exists() else {}
    title = name.rstrip("/").rpartition("/")[2]
    data_sets = _data_sets(metrics, settings or {})
    card_data = ModelCardData(
        model_name=title,
        library_name="diffusers",
        pipeline_tag=TASK if index else None,
        license="apache-2.0",
        tags=list(TAGS),
        datasets=list(data_sets) or None,
        metrics=[metric for metric in METRICS if any(_defined(row, metric) for row in metrics)] or None,
        eval_results=[result for row in metrics for result in _eval_results(row)] or None,
    )
    picture = (folder / PICTURE).exists()
    sections = [
        f"# {title}",
        _usage(index, folder, name),
        f"![A synthetic scene and the targets found in it]({PICTURE})" if picture else "",
        _networks(folder),
        _table("## Data", ("data set", "licence"), data_sets.items()) if data_sets else "",
        _results(metrics),
        _training(run, settings),
        notes.strip() or LIMITATIONS.strip(),
        "## Versions\n\n"
        + ", ".join(f"{package} {number}" for package, number in (library_versions() | dict(versions or {})).items()),
    ]
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{card_data.to_yaml()}\n---\n\n{body}\n")


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a checkpoint is made with, by name."""
    return {name: version(name) for name in LIBRARIES}


def _usage(index: Mapping[str, Any], folder: Path, name: str) -> str:
    lines = ["## Use", "", "```python"]
    if not index:
        for config in sorted(folder.glob("*/config.json")):
            class_name = read_json(config)["_class_name"]
            load = f'{class_name}.from_pretrained("{name}", subfolder="{config.parent.name}")'
            lines += [f"from irstd_ldm import {class_name}", "", f"{config.parent.name} = {load}"]
        return "\n".join([*lines, "```"])
    class_name = index["_class_name"][1] if isinstance(index["_class_name"], list) else index["_class_name"]
    lines += [
        f"from irstd_ldm import {class_name}",
        "from irstd_ldm.data.synthetic import synthetic_scene",
        "",
        f'pipe = {class_name}.from_pretrained("{name}")',
        "output = pipe(synthetic_scene().image)  # or a file, a PIL image, an array, a tensor, a list of these",
    ]
    if "default_threshold" in index:
        lines += ["for target in output.targets[0]:", "    print(target.x, target.y, target.confidence)"]
    lines += ["```", "", "Where irstd-ldm is not installed, diffusers runs the code in this repository:", ""]
    lines += ["```python", "from diffusers import DiffusionPipeline", ""]
    lines += [f'pipe = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)', "```"]
    return "\n".join(lines)


def _networks(folder: Path) -> str:
    rows = []
    for config in sorted(folder.glob("*/config.json")):
        tensors: dict[str, dict[str, Any]] = {}
        for path in config.parent.glob("*.safetensors"):
            tensors |= read_safetensors_header(path)
        tensors = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in BATCH_STATISTICS}
        parameters = sum(math.prod(tensor["shape"]) for tensor in tensors.values())
        types = ", ".join(sorted({tensor["dtype"] for tensor in tensors.values()}))
        rows.append((f"`{config.parent.name}`", f"`{read_json(config)['_class_name']}`", f"{parameters:,}", types))
    return _table("## Networks", ("part", "class", "parameters", "stored as"), rows)


def _data_sets(metrics: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, str]:
    """Data set -> its licence, of those that the model was trained or evaluated on."""
    roots = settings.get("train_data_dir")
    roots = roots if isinstance(roots, list) else [roots]
    paths = [*roots, settings.get("background_dir"), *(row["data"] for row in metrics)]
    names = dict.fromkeys(Path(path).name for path in paths if path)
    return {name: DATA_LICENCES.get(name, UNKNOWN_LICENCE) for name in names}


def _defined(row: Mapping[str, Any], metric: str) -> bool:
    """Whether a metric says something: without targets, only Fa does."""
    return row[metric] is not None and (row["num_targets"] > 0 or metric == "fa_per_million_px")


def _eval_results(row: Mapping[str, Any]) -> list[EvalResult]:
    conditions = ("protocol", "threshold", "matching", "connectivity", "centroid_tolerance_px", "false_alarm_count")
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=Path(row["data"]).name,
            dataset_name=f"{Path(row['data']).name}, {row['images']}",
            dataset_split=row["images"].removeprefix("split "),
            metric_type=metric,
            metric_name=label,
            metric_value=row[metric],
            metric_args={
                **{name: row[name] for name in (*conditions, "num_images", "num_targets")},
                **{name: row["settings"][name] for name in ("num_inference_steps", "ensemble_size")},
                "interval_95": row["intervals_95"][metric],
            },
        )
        for metric, label in METRICS.items()
        if _defined(row, metric)
    ]


def _results(metrics: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return "## Results\n\nNot measured yet: `irstd-ldm evaluate` does."
    rows = []
    for row in metrics:
        cells = [f"{Path(row['data']).name}, {row['images']}", row["protocol"], f"{row['threshold']:g}"]
        cells += [f"{row['matching']} < {row['centroid_tolerance_px']:g} px", row["num_images"], row["num_targets"]]
        for metric in METRICS:
            scale = 1 if metric == "fa_per_million_px" else 100
            low, high = (_number(end, scale) for end in row["intervals_95"][metric])
            cells.append(f"{_number(row[metric], scale)} ({low} to {high})" if _defined(row, metric) else "-")
        rows.append(cells)
    columns = ("images", "protocol", "threshold", "matching", "N images", "N targets", *METRICS.values())
    return _table("## Results", columns, rows) + "\n\n" + HOW_SCORED.strip()


def _number(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{scale * value:.1f}"


def _training(run: Mapping[str, Any] | None, settings: Mapping[str, Any] | None) -> str:
    lines = ["## Training"]
    if run is not None:
        if "trainer" in run:
            processes = f"--num_processes {run['num_processes']} " if run["num_processes"] > 1 else ""
            command = f"accelerate launch {processes}training/{run['trainer']}.py --config recipe.yaml"
            lines += ["", "```bash", command, "```"]
        hardware = run.get("hardware", run["device"])
        lines += ["", f"{run['num_processes']} process(es) on {hardware}, {run['num_cpu_threads']} CPU threads each. "]
        lines[-1] += "Versions: " + ", ".join(f"{name} {number}" for name, number in run["versions"].items()) + "."
    if settings is not None:
        lines += ["", "`recipe.yaml`, folders by their names alone:", "", "```yaml"]
        lines += [f"{name}: {json.dumps(_without_folders(value))}" for name, value in settings.items()] + ["```"]
    return "\n".join(lines) if len(lines) > 1 else ""


def _without_folders(value: Any) -> Any:
    """An absolute path's last part, of each in a list: where a machine keeps its files is nobody's business."""
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _table(heading: str, columns: Sequence[str], rows: Any) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([heading, "", *("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)])

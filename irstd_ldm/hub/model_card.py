"""Model cards. Every number is read from JSON: configs, weights' headers, and finished rows of results."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .format import INDEX, PICTURE, class_name, read_json, read_safetensors_header

TASK = "image-segmentation"
GENERATOR_CLASS, GENERATOR_TASK = "GaussianAgnosticPipeline", "image-to-image"
TAGS = ("infrared", "small-target-detection", "irstd", "diffusion", "irstd-ldm")
LIBRARIES = ("torch", "diffusers", "transformers")
NONE_STATED = "none stated by its authors, who ask to be cited; the images are not in this repository"
DATA_LICENCES = {
    "NUAA-SIRST": f"{NONE_STATED} (Dai et al., WACV 2021; Dai et al., TGRS 2023)",
    "IRSTD-1k": "MIT, as its authors' agreement says; the images are not in this repository (Zhang et al., CVPR 2022)",
    "NUDT-SIRST": f"{NONE_STATED} (Li et al., TIP 2022)",
    "backgrounds": f"{NONE_STATED} (frames without targets of SIRST-V2; Dai et al., TGRS 2023)",
}
BATCH_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # names of buffers, which are no parameters
UNKNOWN_LICENCE = "not recorded here: ask its authors"
LIMITATIONS = """\
## Limitations

Small, dim targets in single infrared frames, and nothing else. Frames of a sensor or a scene unlike those of its
training raise false alarms or hide targets: measure it on your own frames before you rely on it.
"""


@dataclass(frozen=True)
class CardResults:
    """Results of a model as text, and as entries of the Hub's model index."""

    rows: Sequence[Mapping[str, str]]  # column -> text of each measurement; all have the columns of the first
    note: str  # Markdown below the table
    entries: Sequence[EvalResult]  # the same figures with their conditions


def make_card(
    folder: Path,
    name: str,
    *,
    results: CardResults | None = None,
    run: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    notes: str = "",
    versions: Mapping[str, str] | None = None,
) -> ModelCard:
    """The card of a checkpoint.

    Args:
        folder: The checkpoint, or a folder with models in folders of their own.
        name: A Hub id or a folder, which the usage snippet loads.
        results: Measurements of the model; None = not measured.
        run: Content of a trainer's `run.json`.
        settings: Settings of the same run.
        notes: Markdown that takes the place of the general limitations.
        versions: Versions of further packages, by name.

    Raises:
        OSError: If a file of the checkpoint cannot be read.
        ValueError: If it is broken.
    """
    index = read_json(folder / INDEX) if (folder / INDEX).exists() else {}
    title = name.rstrip("/").rpartition("/")[2]
    is_generator = bool(index) and class_name(index) == GENERATOR_CLASS
    entries = [] if results is None else list(results.entries)
    data_sets = _data_sets(entries, settings or {})
    card_data = ModelCardData(
        model_name=title,
        library_name="diffusers",
        pipeline_tag=(GENERATOR_TASK if is_generator else TASK) if index else None,
        license="apache-2.0",
        tags=list(TAGS),
        datasets=list(data_sets) or None,
        metrics=list(dict.fromkeys(entry.metric_type for entry in entries)) or None,
        eval_results=entries or None,
    )
    shown = f"A synthetic scene and {'an image made of it' if is_generator else 'the targets found in it'}"
    packages = {**{package: version(package) for package in LIBRARIES}, **(versions or {})}
    sections = [
        f"# {title}",
        _usage(index, folder, name),
        f"![{shown}]({PICTURE})" if (folder / PICTURE).exists() else "",
        _networks(folder),
        _table("## Data", ("data set", "licence"), data_sets.items()) if data_sets else "",
        "" if is_generator else _results(results),
        _training(run, settings),
        notes.strip() or LIMITATIONS.strip(),
        f"## Versions\n\n{', '.join(f'{package} {number}' for package, number in packages.items())}",
    ]
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{card_data.to_yaml()}\n---\n\n{body}\n")


def _usage(index: Mapping[str, Any], folder: Path, name: str) -> str:
    lines = ["## Use", "", "```python"]
    if not index:
        for config in sorted(folder.glob("*/config.json")):
            part = class_name(read_json(config))
            load = f'{part}.from_pretrained("{name}", subfolder="{config.parent.name}")'
            lines += [f"from irstd_ldm import {part}", "", f"{config.parent.name} = {load}"]
        return "\n".join([*lines, "```"])
    pipeline = class_name(index)
    lines += [
        f"from irstd_ldm import {pipeline}",
        "from irstd_ldm.data.synthetic import synthetic_scene",
        "",
        f'pipe = {pipeline}.from_pretrained("{name}")',
        "output = pipe(synthetic_scene().image)  # or a file, a PIL image, an array, a tensor, a list of these",
    ]
    if pipeline != GENERATOR_CLASS:
        lines += ["for target in output.targets[0]:", "    print(target.x, target.y, target.confidence)"]
    lines += ["```", "", "Where irstd-ldm is not installed, diffusers runs the code in the repository on the Hub:", ""]
    lines += ["```python", "from diffusers import DiffusionPipeline", ""]
    lines += [f'pipe = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)', "```"]
    return "\n".join(lines)


def _networks(folder: Path) -> str:
    rows = []
    for config in sorted(folder.glob("*/config.json")):
        tensors: dict[str, tuple[str, list[int]]] = {}
        for path in config.parent.glob("*.safetensors"):
            tensors |= read_safetensors_header(path)
        tensors = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in BATCH_STATISTICS}
        parameters = sum(math.prod(shape) for _, shape in tensors.values())
        types = ", ".join(sorted({kind for kind, _ in tensors.values()}))
        rows.append((f"`{config.parent.name}`", f"`{class_name(read_json(config))}`", f"{parameters:,}", types))
    return _table("## Networks", ("part", "class", "parameters", "stored as"), rows)


def _data_sets(entries: Sequence[EvalResult], settings: Mapping[str, Any]) -> dict[str, str]:
    """Data set -> its licence, for those that the model was trained or evaluated on."""
    roots = settings.get("train_data_dir")
    roots = roots if isinstance(roots, list) else [roots]
    paths = [*roots, settings.get("background_dir"), *(entry.dataset_type for entry in entries)]
    names = dict.fromkeys(Path(path).name for path in paths if path)
    return {name: DATA_LICENCES.get(name, UNKNOWN_LICENCE) for name in names}


def _results(results: CardResults | None) -> str:
    if results is None:
        return "## Results\n\nNot measured yet: `irstd-ldm evaluate` does."
    columns = list(results.rows[0])
    table = _table("## Results", columns, [[row[column] for column in columns] for row in results.rows])
    return f"{table}\n\n{results.note.strip()}"


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
    """An absolute path's last part, in a list each one's: where a machine keeps its files is nobody's business."""
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _table(heading: str, columns: Sequence[str], rows: Any) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([heading, "", *("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)])

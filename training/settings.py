"""Settings of the trainers: one dataclass per trainer, filled from a recipe and the command line."""

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

import yaml

from ..data.crops import CropSettings, setting
from ..files import write_text
from ..models.configurations import CONFIGURATIONS

# The crop settings that every digest holds. Others, and settings marked `later`, are part of it where they are not at
# their defaults, so that a new augmentation leaves the digests of earlier runs as they are.
DIGESTED_CROP_SETTINGS = {
    *(f"{kind}_probability" for kind in ("target", "image", "background", "implant", "squeeze", "hard_negative")),
    *(f"{kind}_probability" for kind in ("blend", "negative_image", "synthetic", "stuck_pixel")),
    *("background_rescale_min", "background_rescale_max"),
}
OPTIMIZERS = ("adamw", "muon")
BACKGROUNDS = "backgrounds"  # stands for a data set's name in the lists of frames without targets
Settings = TypeVar("Settings", bound="TrainSettings")

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TrainSettings:
    """Settings of every training.

    `start_settings` are those that name the weights to start from; a trainer without any cannot train in stages.

    A run may go on with other values of fields marked `may_change`. Of those marked `is_path`, from which a run is
    made, the last part must stay once it is finished; until then its digests tell.
    """

    configurations: ClassVar[dict[str, Any]] = CONFIGURATIONS
    start_settings: ClassVar[tuple[str, ...]] = ()

    train_data_dir: str | list[str] = setting(MISSING, "Data sets: images/, masks/, split lists.", is_path=True)
    train_data_shares: list[float] | None = setting(None, "Each data set's part of the crops of images; null = equal.")
    train_data_flip_probabilities: list[float] | None = setting(
        None,
        "Each data set's flip_probability, 0 where masks lie beside targets; null = one of all.",
        later=True,
    )
    train_data_variation_factors: list[float] | None = setting(
        None,
        "Factor on the probabilities of rescaling and of changes of gray levels and sensor, by data set; null = 1.",
        later=True,
    )
    output_dir: str = setting(MISSING, "Folder of checkpoints, logs, settings and the trained model.", may_change=True)
    background_dir: str | None = setting(None, "Frames without targets, images/; null = none.", is_path=True)
    background_exclude: list[str] | None = setting(None, "Patterns of background stems that are kept out of training.")
    train_list: str | list[str] | None = setting(None, "Training stems, a file per data set.", is_path=True)
    val_fraction: float = setting(0.19, "Share of each training list that is held out for validation; 0 = none.")
    model: str = setting("lgldnet_small", "Configuration in irstd_ldm.models.configurations.")
    pretrained_model_name_or_path: str | None = setting(None, "Pipeline to start from; null = none.", is_path=True)
    resolution: int = setting(128, "Side of the training crops in pixels, a multiple of 32.", at_least=32)
    train_batch_size: int = setting(16, "Crops per forward pass and process.", at_least=1)
    gradient_accumulation_steps: int = setting(1, "Forward passes per optimiser step.", at_least=1)
    max_train_steps: int = setting(1000, "Optimiser steps.", at_least=1)
    max_train_minutes: float | None = setting(None, "End by then, the schedule too; null = by steps.", may_change=True)
    optimizer: str = setting(
        "adamw", "adamw, or muon, which learns faster from random weights.", one_of=OPTIMIZERS, later=True
    )
    learning_rate: float = setting(1e-3, "Peak learning rate.")
    lr_scheduler: str = setting("cosine", "A name that diffusers.optimization.get_scheduler knows.")
    lr_warmup_steps: int = setting(100, "Steps of the linear warm-up of the learning rate.")
    adam_weight_decay: float = setting(1e-2, "Weight decay of either optimiser.")
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this norm.")
    use_ema: bool = setting(True, "Validate and save the moving average of the weights and batch statistics.")
    ema_decay: float = setting(0.999, "Decay of the moving average; (1 + step) / (10 + step) while that is less.")
    mixed_precision: str = setting("no", '"no" (quoted in a recipe), fp16 or bf16.')
    half_precision: bool = setting(False, "Save the trained model in float16; every stage of a recipe is saved so.")
    channels_last: bool = setting(False, "Keep the channels of a pixel together in memory: often faster.")
    compile: bool = setting(False, "Compile the step by torch.compile: minutes of preparation, then faster steps.")
    gradient_checkpointing: bool = setting(False, "Less memory, more time; batch statistics move twice a step.")
    dataloader_num_workers: int = setting(0, "Processes that cut crops; 0 = the training process.", may_change=True)
    num_cpu_threads: int = setting(0, "Threads per process on a CPU; 0 = all cores / processes.", may_change=True)
    checkpointing_steps: int = setting(500, "Steps between checkpoints.", at_least=1, may_change=True)
    checkpoints_total_limit: int = setting(2, "Number of checkpoints that are kept.", at_least=1, may_change=True)
    resume_from_checkpoint: str | None = setting("latest", "Or a checkpoint's path; null = anew.", may_change=True)
    validation_steps: int = setting(500, "Steps between validations; 0 = none.", may_change=True)
    seed: int = setting(0, "Seed of weights, crops and noise; the validation split is the same for all.")
    report_to: str | None = setting("tensorboard", "An accelerate tracker, or null.", may_change=True)
    push_to_hub: bool = setting(False, "Upload model and card after every validation and at the end.", may_change=True)
    hub_model_id: str | None = setting(None, "Hub repository, OWNER/NAME; null = output_dir's name.", may_change=True)

    def __post_init__(self):
        if self.resolution % 32:
            raise ValueError(f"`resolution` must be a multiple of 32, got {self.resolution}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"`val_fraction` must lie in [0, 1), got {self.val_fraction}")
        for field in fields(self):
            value, marks = getattr(self, field.name), field.metadata
            if "at_least" in marks and value < marks["at_least"]:
                raise ValueError(f"`{field.name}` must be at least {marks['at_least']}, got {value}")
            if "one_of" in marks and value not in marks["one_of"]:
                raise ValueError(f"`{field.name}` must be one of {', '.join(marks['one_of'])}, got {value!r}")
        if self.model not in self.configurations:
            raise ValueError(f"`model` must be one of {', '.join(self.configurations)}, got {self.model!r}")
        if self.compile and self.channels_last:
            raise ValueError("`compile` and `channels_last` exclude each other, got both: torch 2.13 fails on it")
        for name in ("train_data_dir", "train_list"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) == 1:
                setattr(self, name, value[0])
        names = [Path(root).resolve().name for root in self.roots]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"`train_data_dir` must name folders of different names, got {self.roots}")
        if BACKGROUNDS in names:
            raise ValueError(
                f"`train_data_dir` must name no folder `{BACKGROUNDS}`, which the lists of frames without targets are "
                f"named by, got {self.roots}"
            )
        if len(self.lists) != len(names):
            raise ValueError(f"`train_list` must have one file per data set, {len(names)}, got {self.train_list}")
        shares = self.train_data_shares
        if shares is not None and (len(shares) != len(names) or min(shares) <= 0):
            raise ValueError(
                f"`train_data_shares` must be {len(names)} positive numbers, one per data set, got {shares}"
            )
        for name in ("train_data_flip_probabilities", "train_data_variation_factors"):
            values = getattr(self, name)
            if values is not None and (len(values) != len(names) or not 0 <= min(values) <= max(values) <= 1):
                raise ValueError(f"`{name}` must be {len(names)} numbers in [0, 1], one per data set, got {values}")

    @property
    def roots(self) -> list[str]:
        """The data sets' folders."""
        return [self.train_data_dir] if isinstance(self.train_data_dir, str) else self.train_data_dir

    @property
    def lists(self) -> list[str | None]:
        """The file of training stems of each data set; None = its own."""
        if self.train_list is None:
            return [None] * len(self.roots)
        return [self.train_list] if isinstance(self.train_list, str) else [*self.train_list]

    @property
    def sha256(self) -> str:
        """Digest of the settings that must not change between two parts of a run."""
        later = {f.name: f.default for f in fields(CropSettings) if f.name not in DIGESTED_CROP_SETTINGS}
        later |= {f.name: f.default for f in fields(self) if "later" in f.metadata}
        values = {name: getattr(self, name) for name in _fixed(self)}
        values = {name: value for name, value in values.items() if name not in later or value != later[name]}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def hub_repo_id(self) -> str:
        """Repository on the Hub that `push_to_hub` uploads to, with the login of `hf auth login`."""
        return self.hub_model_id or Path(self.output_dir).name


@dataclass(kw_only=True)
class DetectorSettings(CropSettings, TrainSettings):
    """Settings of every detector's training."""

    start_settings: ClassVar[tuple[str, ...]] = ("pretrained_model_name_or_path",)

    def __post_init__(self):
        TrainSettings.__post_init__(self)
        CropSettings.__post_init__(self)
        for name, needed in (
            ("hard_negative_probability", "pretrained_model_name_or_path"),
            ("hard_negative_probability", "background_dir"),
            ("hard_image_probability", "pretrained_model_name_or_path"),
        ):
            if getattr(self, name) and getattr(self, needed) is None:
                raise ValueError(f"`{name}` needs `{needed}`, got null")


def _fixed(settings: TrainSettings) -> list[str]:
    """Names of the settings that must not change between two parts of a run."""
    return [field.name for field in fields(settings) if not {"may_change", "is_path"} & set(field.metadata)]


def _types(annotation: Any) -> list[Any]:
    """The types that a field's value may have beside None: str | None -> str."""
    return [option for option in get_args(annotation) if option is not NoneType] or [annotation]


def _or_null(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A converter that makes None of null, as a recipe does, and else calls `kind`."""

    def convert(text: str) -> Any:
        return None if text == "null" else kind(text)

    convert.__name__ = kind.__name__
    return convert


def _add_argument(group: argparse._ArgumentGroup, field: Any) -> None:
    """Adds --field_name, and --field-name, which the help does not show."""
    kind = _types(field.type)[-1]  # the list, if a text or a list of texts is allowed
    keywords: dict[str, Any] = {"default": argparse.SUPPRESS}
    if kind is bool:
        keywords["action"] = argparse.BooleanOptionalAction
    else:
        if get_origin(kind) is list:
            keywords["nargs"] = "*"
            (kind,) = get_args(kind)
        keywords["type"] = _or_null(kind) if NoneType in get_args(field.type) else kind
    default = "required" if field.default is MISSING else f"default: {yaml.safe_dump(field.default).splitlines()[0]}"
    help_text = f"{field.metadata['help']} ({default})".replace("%", "%%")
    group.add_argument(f"--{field.name}", help=help_text, **keywords)
    if "_" in field.name:
        group.add_argument(f"--{field.name.replace('_', '-')}", help=argparse.SUPPRESS, **keywords)


def _make_parser(cls: type) -> argparse.ArgumentParser:
    """A parser with a group of flags for each of the dataclasses that `cls` is made of."""
    parser = argparse.ArgumentParser(
        description=cls.__doc__, allow_abbrev=False, epilog="Names with hyphens, such as --output-dir, are the same."
    )
    parser.add_argument("--config", help="recipe, a YAML file or one of the package by its name; flags override it")
    parser.add_argument("--stage", type=int, help="run this stage of the recipe alone, from 1")
    remaining = {field.name: field for field in fields(cls)}
    for parent in filter(is_dataclass, reversed(cls.__mro__)):
        group = parser.add_argument_group((parent.__doc__ or "").partition("\n")[0].rstrip("."))
        for name in [field.name for field in fields(parent) if field.name in remaining]:
            _add_argument(group, remaining.pop(name))
    return parser


def _as_type(value: Any, kind: Any) -> Any:
    """A recipe's value as a type, or a TypeError or ValueError. YAML reads 1e-3, without a point, as text."""
    if isinstance(kind, UnionType):
        for option in get_args(kind):
            with suppress(TypeError, ValueError):
                return _as_type(value, option)
    elif get_origin(kind) is list and isinstance(value, list):
        return [_as_type(item, get_args(kind)[0]) for item in value]
    elif kind is float and type(value) in (int, float, str):
        return float(value)
    elif type(value) is kind:
        return value
    raise TypeError


def _recipe_values(source: str, cls: type[TrainSettings], values: dict[str, Any]) -> dict[str, Any]:
    """The values as the fields' types."""
    annotations = {field.name: field.type for field in fields(cls)}
    unknown = sorted(set(values) - set(annotations))
    if unknown:
        raise ValueError(f"`{source}` has settings that {cls.__name__} does not know: {', '.join(unknown)}")
    typed = {}
    for name, value in values.items():
        try:
            typed[name] = _as_type(value, annotations[name])
        except (TypeError, ValueError):
            kinds = (kind.__name__ if isinstance(kind, type) else str(kind) for kind in _types(annotations[name]))
            raise ValueError(f"`{name}` must be of type {' or '.join(kinds)}, got {value!r}") from None
    return typed


def read_recipe(path: str | Path, cls: type[TrainSettings]) -> dict[str, Any]:
    """Read a flat YAML recipe; its `stages`, where it has them, are a list of such recipes, else a ValueError."""
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    if "stages" not in values:
        return _recipe_values(str(path), cls, values)
    stages = values.pop("stages")
    if not cls.start_settings:
        raise ValueError(f"`{path}` has `stages`, and {cls.__name__} is of a trainer that cannot go on from weights")
    if not (isinstance(stages, list) and stages and all(isinstance(stage, dict) for stage in stages)):
        raise ValueError(f"`stages` must be a list of mappings, got {stages!r}")
    for number, stage in enumerate(stages, start=1):
        fixed = sorted({"output_dir", *cls.start_settings} & set(stage))
        if fixed:
            raise ValueError(f"stage {number} of `{path}` must not set {', '.join(fixed)}: stages follow each other")
    typed = [_recipe_values(f"{path}, stage {k}", cls, stage) for k, stage in enumerate(stages, start=1)]
    return _recipe_values(str(path), cls, values) | {"stages": typed}


def _recipe_path(config: str) -> Path:
    """A recipe's file: the one that is there, else that of the package with this name."""
    path = Path(config)
    if path.is_file():
        return path
    bundled = {recipe.stem: recipe for recipe in (Path(__file__).parent / "recipes").glob("*.yaml")}
    if config not in bundled:
        raise ValueError(f"`config` must be a file or one of {', '.join(sorted(bundled))}, got {config}")
    return bundled[config]


@dataclass(frozen=True)
class Plan(Generic[Settings]):
    """The trainings that one command runs; the model is in `output_dir` in the end."""

    output_dir: Path
    stages: list[Settings]  # settings in the order of the stages; one entry if the recipe has no stages
    is_staged: bool
    only: int | None  # the number, from 1, of the one stage that is to run; None = all


def parse_plan(cls: type[Settings], argv: Sequence[str] | None = None) -> Plan[Settings]:
    """Fill `cls` from ``--config RECIPE.yaml`` and the flags that override it, in every stage.

    Where a flag names the data sets, the recipe's frames without targets do not count, nor do its lists for another
    number of sets.

    Stage k writes to OUTPUT_DIR/stage-k in half precision, starts from the folder of the stage before and, unless it
    sets a seed, has the recipe's plus k.

    Raises:
        ValueError: An unknown key in the recipe, a value of the wrong type or out of range, or no such stage; a
            checkpoint to resume from for all stages.
    """
    parser = _make_parser(cls)
    flags = {name: None if value == [None] else value for name, value in vars(parser.parse_args(argv)).items()}
    config, only = flags.pop("config"), flags.pop("stage")
    values = read_recipe(_recipe_path(config), cls) if config else {}
    stages = values.pop("stages", None)
    if "train_data_dir" in flags:
        _leave_out_other_data(values, stages or [], flags)
    values |= flags
    missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]
    if missing:
        parser.error(f"the following settings are required: {', '.join(f'--{name}' for name in missing)}")
    if only is not None and not 1 <= only <= len(stages or ()):
        raise ValueError(f"`--stage` must be one of the recipe's {len(stages or ())} stages, got {only}")
    output_dir = Path(values["output_dir"])
    if stages is None:
        return Plan(output_dir, [cls(**values)], False, None)
    checkpoint = values.get("resume_from_checkpoint")
    if checkpoint not in (None, "latest") and only is None:
        raise ValueError(f"`resume_from_checkpoint` {checkpoint} is of one stage: name it by `--stage`")
    resolved = []
    for number, stage in enumerate(stages, start=1):
        chosen = {"seed": values.get("seed", cls.seed) + number} | {k: v for k, v in stage.items() if k not in flags}
        chosen |= {"output_dir": str(stage_folder(output_dir, number)), "half_precision": True}
        chosen["hub_model_id"] = values.get("hub_model_id") or output_dir.name
        if number > 1:
            chosen |= dict.fromkeys(cls.start_settings)
            chosen["pretrained_model_name_or_path"] = str(stage_folder(output_dir, number - 1))
        resolved.append(cls(**values | chosen))
    return Plan(output_dir, resolved, True, only)


def _leave_out_other_data(values: dict[str, Any], stages: list[dict[str, Any]], flags: dict[str, Any]) -> None:
    """Takes from a recipe what is of its own data: frames without targets, and lists for another number of sets."""
    left_out = {"background_dir"} & values.keys() - flags.keys()
    if left_out:
        left_out |= {"hard_negative_probability"} - flags.keys()  # of those frames
    for part in (values, *stages):
        for name in ("train_data_shares", "train_data_flip_probabilities", "train_data_variation_factors"):
            if part.get(name) is not None and len(part[name]) != len(flags["train_data_dir"]):
                left_out.add(name)
    for name in sorted(left_out):
        if any([part.pop(name, None) is not None for part in (values, *stages)]):
            logger.info("--train_data_dir leaves the recipe's %s out: name yours by --%s", name, name)


def stage_folder(output_dir: Path, number: int) -> Path:
    """The folder of a stage, counted from 1."""
    return output_dir / f"stage-{number}"


def save_settings(settings: TrainSettings, path: Path) -> None:
    """Write the resolved settings as a recipe that repeats the run."""
    write_text(path, yaml.safe_dump(asdict(settings), sort_keys=False))


def changed_settings(settings: TrainSettings, path: Path, finished: bool) -> list[str]:
    """Forbidden differences to the settings in a file of `save_settings`, as ``name: saved -> now``.

    A setting that the file does not know had its default. Of a finished run the names of data and weights must not
    differ either, wherever they lie.
    """
    saved: dict[str, Any] = {field.name: field.default for field in fields(settings)}
    saved |= yaml.safe_load(path.read_text(encoding="utf-8"))
    now = asdict(settings)
    changed = [name for name in _fixed(settings) if saved[name] != now[name]]
    if finished:
        paths = [field.name for field in fields(settings) if "is_path" in field.metadata]
        changed += [name for name in paths if _last_parts(saved[name]) != _last_parts(now[name])]
    return [f"{name}: {saved[name]} -> {now[name]}" for name in changed]


def _last_parts(value: str | list[str] | None) -> list[str]:
    """The last component of a path or of each of several."""
    paths = [value] if isinstance(value, str) else value or []
    return [Path(os.path.abspath(path)).name for path in paths]

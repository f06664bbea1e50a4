"""Settings of the trainers: one dataclass per trainer, filled from a recipe and the command line."""

import argparse
import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

import yaml

from ..models.configurations import CONFIGURATIONS

POSITIVE = (
    "resolution",
    "train_batch_size",
    "gradient_accumulation_steps",
    "max_train_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
)
# What a run is made from may move; a finished run of data or weights of other names is another run.
PLACES = (
    "train_data_dir",
    "train_list",
    "background_dir",
    "pretrained_model_name_or_path",
    "mask_vae",
    "image_vae",
    "restoration",
)
# A run may go on with others of these: they say where things lie, how often one looks, or on what it is computed.
CHANGEABLE = (
    *PLACES,
    "output_dir",
    "resume_from_checkpoint",
    "dataloader_num_workers",
    "num_cpu_threads",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "validation_steps",
    "report_to",
    "push_to_hub",
    "hub_model_id",
)
BACKGROUNDS = "backgrounds"  # in the names of the lists of frames without targets, where a data set's name else is
Settings = TypeVar("Settings", bound="TrainSettings")


@dataclass(kw_only=True)
class TrainSettings:
    """What every trainer needs.

    `start_settings` are those that name the weights to start from; a trainer without any cannot train in stages.
    """

    configurations: ClassVar[dict[str, Any]] = CONFIGURATIONS
    start_settings: ClassVar[tuple[str, ...]] = ()

    train_data_dir: str | list[str]  # data sets in the field's layout: images/, masks/, split lists
    train_data_shares: list[float] | None = None  # each data set's part of the crops of images; null = equal parts
    output_dir: str  # checkpoints, logs, resolved settings and the trained model
    background_dir: str | None = None  # frames without targets, images/; null = none
    background_exclude: list[str] | None = None  # patterns of background stems that are kept out of training
    train_list: str | list[str] | None = None  # file of training stems per data set; null = their own training lists
    val_fraction: float = 0.19  # share of each training list that is held out for validation; 0 = none
    model: str = "tiny"  # configuration in irstd_ldm.models.configurations
    pretrained_model_name_or_path: str | None = None  # pipeline to start from; null = random weights
    resolution: int = 128  # side of the training crops in pixels, a multiple of 32
    train_batch_size: int = 16  # crops per forward pass and process
    gradient_accumulation_steps: int = 1  # forward passes per optimiser step
    max_train_steps: int = 1000  # optimiser steps
    learning_rate: float = 1e-3  # peak learning rate
    lr_scheduler: str = "cosine"  # a name of diffusers.optimization.get_scheduler
    lr_warmup_steps: int = 100  # linear warm-up of the learning rate
    adam_weight_decay: float = 1e-2  # of AdamW
    max_grad_norm: float = 1.0  # gradients are clipped to this norm
    use_ema: bool = True  # moving average of the weights and batch statistics, which is what is validated and saved
    ema_decay: float = 0.999  # of the moving average; (1 + step) / (10 + step) while that is less
    mixed_precision: str = "no"  # "no" (quoted in a recipe), fp16 or bf16
    half_precision: bool = False  # save the trained model in float16; every stage of a recipe is saved so
    channels_last: bool = False  # weights and crops lie in memory channel by channel within a pixel: often faster
    compile: bool = False  # the step's model by torch.compile: minutes of preparation, then faster steps
    gradient_checkpointing: bool = False  # less memory, more time; batch statistics move twice a step
    dataloader_num_workers: int = 0  # processes that cut crops; 0 = the training process
    num_cpu_threads: int = 0  # threads of each training process on a CPU; 0 = the machine's cores / processes
    checkpointing_steps: int = 500  # steps between checkpoints
    checkpoints_total_limit: int = 2  # checkpoints that are kept
    resume_from_checkpoint: str | None = "latest"  # latest, a checkpoint's path, or null = start anew
    validation_steps: int = 500  # steps between validations; 0 = none
    seed: int = 0  # of weights, crops and noise; the validation split is the same for all
    report_to: str | None = "tensorboard"  # an accelerate tracker, or null
    push_to_hub: bool = False  # upload the model and a card after every validation and at the end
    hub_model_id: str | None = None  # repository on the Hub, OWNER/NAME; null = the name of output_dir

    def __post_init__(self):
        if self.resolution % 32:
            raise ValueError(f"`resolution` must be a multiple of 32, got {self.resolution}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"`val_fraction` must lie in [0, 1), got {self.val_fraction}")
        for name in POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
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
    def shares(self) -> list[float]:
        """Each data set's part of the crops of images; they sum to 1."""
        parts = self.train_data_shares or [1.0] * len(self.roots)
        return [part / sum(parts) for part in parts]

    @property
    def trained_with(self) -> dict[str, Any]:
        """What must not change between two parts of a run."""
        return {name: value for name, value in asdict(self).items() if name not in CHANGEABLE}

    @property
    def sha256(self) -> str:
        """Digest of what must not change between two parts of a run."""
        return hashlib.sha256(json.dumps(self.trained_with, sort_keys=True).encode()).hexdigest()

    @property
    def hub_repo_id(self) -> str:
        """Repository on the Hub that `push_to_hub` uploads to, with the login of `hf auth login`."""
        return self.hub_model_id or Path(self.output_dir).name


@dataclass(kw_only=True)
class DetectorSettings(TrainSettings):
    """What the trainers of detectors need beside: the shares of the four kinds of crops, which sum to 1, and more."""

    start_settings: ClassVar[tuple[str, ...]] = ("pretrained_model_name_or_path",)

    target_probability: float = 0.5  # share of crops around a target
    image_probability: float = 0.15  # share of crops anywhere in a training image
    background_probability: float = 0.15  # share of crops of frames without targets
    implant_probability: float = 0.2  # share of crops with implanted targets
    squeeze_probability: float = 0.0  # share of crops that the Gaussian Group Squeezer quantises
    hard_negative_probability: float = 0.0  # share of background crops around false alarms of the pretrained detector
    blend_probability: float = 0.0  # share of background crops that are mixtures of two
    negative_image_probability: float = 0.0  # share of background crops that are training images' negatives
    synthetic_probability: float = 0.0  # share of frames without targets that are new synthetic scenes
    stuck_pixel_probability: float = 0.0  # of 1 to 10 single pixels of a crop to be a defect of the array
    background_rescale_min: float = 0.6  # smallest factor by which background crops are rescaled
    background_rescale_max: float = 1.6  # largest factor by which background crops are rescaled


def field_comments(cls: type) -> dict[str, str]:
    """The comment behind each field of a settings dataclass, by field name."""
    comments: dict[str, str] = {}
    for parent in reversed(cls.__mro__[:-1]):
        comments |= dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(parent), flags=re.MULTILINE))
    return comments


def _types(annotation: Any) -> list[Any]:
    """The types that a field's value may have beside None: str | None -> str."""
    return [option for option in get_args(annotation) if option is not NoneType] or [annotation]


def _is_optional(annotation: Any) -> bool:
    return NoneType in get_args(annotation)


def _or_null(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """`kind`, but None of null, as in a recipe."""

    def convert(text: str) -> Any:
        return None if text == "null" else kind(text)

    convert.__name__ = kind.__name__
    return convert


def _add_argument(parser: argparse.ArgumentParser, field: Any, comment: str) -> None:
    kind = _types(field.type)[-1]  # of a text or a list of texts, the list
    default = "required" if field.default is MISSING else f"default: {yaml.safe_dump(field.default).splitlines()[0]}"
    keywords: dict[str, Any] = {"help": f"{comment} ({default})".replace("%", "%%"), "default": argparse.SUPPRESS}
    if kind is bool:
        keywords["action"] = argparse.BooleanOptionalAction
    else:
        if get_origin(kind) is list:
            keywords["nargs"] = "*"
            (kind,) = get_args(kind)
        keywords["type"] = _or_null(kind) if _is_optional(field.type) else kind
    parser.add_argument(f"--{field.name}", **keywords)


def _as_type(value: Any, kind: Any) -> Any:
    """A recipe's value as a type. YAML reads 1e-3, without a point, as text.

    Raises:
        TypeError, ValueError: It is of another type.
    """
    if get_origin(kind) is list and isinstance(value, list):
        return [_as_type(item, get_args(kind)[0]) for item in value]
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise TypeError
    return value


def _recipe_value(name: str, value: Any, annotation: Any) -> Any:
    """A recipe's value as the field's type.

    Raises:
        ValueError: A value of another type.
    """
    if value is None and _is_optional(annotation):
        return None
    for kind in _types(annotation):
        try:
            return _as_type(value, kind)
        except (TypeError, ValueError):
            pass
    allowed = " or ".join(kind.__name__ if isinstance(kind, type) else str(kind) for kind in _types(annotation))
    raise ValueError(f"`{name}` must be of type {allowed}, got {value!r}")


def _recipe_values(source: str, cls: type[TrainSettings], values: dict[str, Any]) -> dict[str, Any]:
    types = {field.name: field.type for field in fields(cls)}
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise ValueError(f"`{source}` has settings that {cls.__name__} does not know: {', '.join(unknown)}")
    return {name: _recipe_value(name, value, types[name]) for name, value in values.items()}


def read_recipe(path: str | Path, cls: type[TrainSettings]) -> dict[str, Any]:
    """Read a flat YAML recipe; its `stages`, where it has them, are a list of such recipes.

    Raises:
        ValueError: A key is no field of `cls`, or a value is of another type than its field. Or `stages` is no list of
            mappings, the trainer cannot go on from weights and so has no stages, or a stage sets what follows from
            the stage before.
    """
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
    return _recipe_values(str(path), cls, values) | {
        "stages": [_recipe_values(f"{path}, stage {k}", cls, stage) for k, stage in enumerate(stages, start=1)]
    }


@dataclass(frozen=True)
class Plan(Generic[Settings]):
    """What one command trains.

    Attributes:
        output_dir: Where the model is in the end.
        stages: The settings of each stage, in order; of the run, where the recipe has no stages.
        is_staged: Whether the recipe has stages.
        only: The number, from 1, of the one stage that is to run; None = all.
    """

    output_dir: Path
    stages: list[Settings]
    is_staged: bool
    only: int | None


def parse_plan(cls: type[Settings], argv: Sequence[str] | None = None) -> Plan[Settings]:
    """Fill `cls` from ``--config RECIPE.yaml`` and the flags that override it, in every stage.

    Stage k writes to OUTPUT_DIR/stage-k in half precision, starts from the folder of the stage before and, unless it
    sets a seed, has the recipe's plus k.

    Raises:
        ValueError: An unknown key in the recipe, a value of the wrong type or out of range, or no such stage; a
            checkpoint to resume from for all stages.
    """
    comments = field_comments(cls)
    parser = argparse.ArgumentParser(description=cls.__doc__, allow_abbrev=False)
    parser.add_argument("--config", help="recipe, a flat YAML file; flags override it")
    parser.add_argument("--stage", type=int, help="run this stage of the recipe alone, from 1")
    for field in fields(cls):
        _add_argument(parser, field, comments[field.name])
    flags = {name: None if value == [None] else value for name, value in vars(parser.parse_args(argv)).items()}
    config, only = flags.pop("config"), flags.pop("stage")
    values = read_recipe(config, cls) if config else {}
    stages = values.pop("stages", None)
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


def parse_settings(cls: type[Settings], argv: Sequence[str] | None = None) -> Settings:
    """As `parse_plan`, of a recipe without stages.

    Raises:
        ValueError: As there, or the recipe has stages.
    """
    plan = parse_plan(cls, argv)
    if plan.is_staged:
        raise ValueError("the recipe has `stages`, so that its settings are several; `parse_plan` reads them")
    return plan.stages[0]


def stage_folder(output_dir: Path, number: int) -> Path:
    """Where a stage, counted from 1, writes."""
    return output_dir / f"stage-{number}"


def save_settings(settings: TrainSettings, path: Path) -> None:
    """Write the resolved settings as a recipe that repeats the run."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(yaml.safe_dump(asdict(settings), sort_keys=False), encoding="utf-8")
    os.replace(temporary, path)


def _last_parts(place: str | list[str] | None) -> list[str]:
    """The last component of a path or of each of several."""
    paths = [place] if isinstance(place, str) else place or []
    return [Path(os.path.abspath(path)).name for path in paths]


def changed_settings(settings: TrainSettings, path: Path, finished: bool) -> list[str]:
    """What differs from the settings in a file of `save_settings` and must not, as ``name: saved -> now``.

    Of a finished run the names of data and weights must not either, wherever they lie; an unfinished one is told by
    its digests.
    """
    saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    now = asdict(settings)
    changed = [name for name in settings.trained_with if saved.get(name) != now[name]]
    if finished:
        changed += [name for name in PLACES if _last_parts(saved.get(name)) != _last_parts(now.get(name))]
    return [f"{name}: {saved.get(name)} -> {now[name]}" for name in changed]

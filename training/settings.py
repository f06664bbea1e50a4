"""Settings of the trainers: one dataclass per trainer, filled from a recipe and the command line."""

import argparse
import inspect
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml

from ..models.configurations import CONFIGURATIONS

POSITIVE = ("resolution", "train_batch_size", "max_train_steps", "checkpointing_steps", "checkpoints_total_limit")
Settings = TypeVar("Settings", bound="TrainSettings")


@dataclass(kw_only=True)
class TrainSettings:
    """What every trainer needs."""

    configurations: ClassVar[dict[str, Any]] = CONFIGURATIONS

    train_data_dir: str  # data set in the field's layout: images/, masks/, split lists
    output_dir: str  # checkpoints, logs, resolved settings and the trained model
    background_dir: str | None = None  # frames without targets, images/; null = none
    background_exclude: list[str] | None = None  # patterns of background stems that are kept out of training
    train_list: str | None = None  # file of training stems; null = the data set's own training list
    val_fraction: float = 0.19  # share of the training list that is held out for validation; 0 = none
    model: str = "tiny"  # configuration in irstd_ldm.models.configurations
    pretrained_model_name_or_path: str | None = None  # pipeline to start from; null = random weights
    resolution: int = 128  # side of the training crops in pixels, a multiple of 32
    train_batch_size: int = 16  # crops per step and process
    max_train_steps: int = 1000  # optimiser steps
    learning_rate: float = 1e-3  # peak learning rate
    lr_scheduler: str = "cosine"  # a name of diffusers.optimization.get_scheduler
    lr_warmup_steps: int = 100  # linear warm-up of the learning rate
    adam_weight_decay: float = 1e-2  # of AdamW
    max_grad_norm: float = 1.0  # gradients are clipped to this norm
    use_ema: bool = True  # exponential moving average of the weights, which is what is validated and saved
    ema_decay: float = 0.999  # of the moving average
    mixed_precision: str = "no"  # "no" (quoted in a recipe), fp16 or bf16
    gradient_checkpointing: bool = False  # less memory, more time
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

    @property
    def hub_repo_id(self) -> str:
        """Repository on the Hub that `push_to_hub` uploads to, with the login of `hf auth login`."""
        return self.hub_model_id or Path(self.output_dir).name


@dataclass(kw_only=True)
class DetectorSettings(TrainSettings):
    """What the trainers of detectors need beside: the shares of the four kinds of crops, which sum to 1, and more."""

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


def _value_type(annotation: Any) -> Any:
    """The type behind an optional annotation: str | None -> str, list[str] | None -> list[str]."""
    return next((option for option in get_args(annotation) if option is not type(None)), annotation)


def _text(value: str) -> str | None:
    """A flag's text; null as in a recipe."""
    return None if value == "null" else value


def _add_argument(parser: argparse.ArgumentParser, field: Any, comment: str) -> None:
    kind = _value_type(field.type)
    default = "required" if field.default is MISSING else f"default: {yaml.safe_dump(field.default).splitlines()[0]}"
    keywords: dict[str, Any] = {"help": f"{comment} ({default})".replace("%", "%%"), "default": argparse.SUPPRESS}
    if kind is bool:
        keywords["action"] = argparse.BooleanOptionalAction
    elif kind == list[str]:
        keywords["nargs"] = "*"
    else:
        keywords["type"] = _text if type(None) in get_args(field.type) else kind
    parser.add_argument(f"--{field.name}", **keywords)


def _recipe_value(name: str, value: Any, annotation: Any) -> Any:
    """A recipe's value as the field's type. YAML reads 1e-3, without a point, as text.

    Raises:
        ValueError: A value of another type.
    """
    kind = _value_type(annotation)
    if value is None and type(None) in get_args(annotation):
        return None
    if kind == list[str] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is not kind:
        raise ValueError(f"`{name}` must be of type {getattr(kind, '__name__', kind)}, got {value!r}")
    return value


def read_recipe(path: str | Path, cls: type[TrainSettings]) -> dict[str, Any]:
    """Read a flat YAML recipe.

    Raises:
        ValueError: A key is no field of `cls`, or a value is of another type than its field.
    """
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    unknown = sorted(set(values) - {field.name for field in fields(cls)})
    if unknown:
        raise ValueError(f"`{path}` has settings that {cls.__name__} does not know: {', '.join(unknown)}")
    types = {field.name: field.type for field in fields(cls)}
    return {name: _recipe_value(name, value, types[name]) for name, value in values.items()}


def parse_settings(cls: type[Settings], argv: Sequence[str] | None = None) -> Settings:
    """Fill `cls` from ``--config RECIPE.yaml`` and the flags that override it.

    Raises:
        ValueError: An unknown key in the recipe, or a value of the wrong type or out of range.
    """
    comments = field_comments(cls)
    parser = argparse.ArgumentParser(description=cls.__doc__, allow_abbrev=False)
    parser.add_argument("--config", help="recipe, a flat YAML file; flags override it")
    for field in fields(cls):
        _add_argument(parser, field, comments[field.name])
    flags = vars(parser.parse_args(argv))
    config = flags.pop("config")
    values = (read_recipe(config, cls) if config else {}) | flags
    missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]
    if missing:
        parser.error(f"the following settings are required: {', '.join(f'--{name}' for name in missing)}")
    return cls(**values)


def save_settings(settings: TrainSettings, path: str | Path) -> None:
    """Write the resolved settings as a recipe that repeats the run."""
    Path(path).write_text(yaml.safe_dump(asdict(settings), sort_keys=False), encoding="utf-8")

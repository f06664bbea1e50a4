"""The checkpoint format that the pipelines of this package share."""

import json
import shutil
import uuid
from importlib import import_module
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from . irstd_ldm_models_safetensors_only import require_safetensors
from . irstd_ldm_pipelines_checkpoint_files import FORMAT_VERSION, check_format_version
from . irstd_ldm_pipelines_hub import explain, upload_checkpoint
from . irstd_ldm_pipelines_remote_code import PIPELINE_STEM, component_module, entry_stem, in_package, write_remote_code


class IRSTDPipelineBase(DiffusionPipeline):
    """What the pipelines of this package share: the checkpoint format.

    A checkpoint is a diffusers pipeline folder with safetensors weights, plus a copy of the code. It loads, from a
    folder or from the Hub, through its own class or, where this package is not installed, through
    `DiffusionPipeline.from_pretrained(x, trust_remote_code=True)`.

    A subclass takes `format_version: int = FORMAT_VERSION` in `__init__`, registers it in its config and annotates its
    components with their classes. Its other registered values must not be lists: diffusers takes those for components.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> Self:
        """Loads a checkpoint from a folder or from the Hub, with the arguments of `DiffusionPipeline.from_pretrained`.

        Raises:
            ValueError: If the checkpoint has no `format_version` or a newer one than this version of the package
                knows, if weights do not fit their config, or if `use_safetensors` is False.
            OSError: If a file of the checkpoint is missing or cannot be read.
        """
        kwargs = require_safetensors(kwargs)
        if Path(pretrained_model_name_or_path).is_dir():
            _check_component_folders(cls, Path(pretrained_model_name_or_path), passed=set(kwargs))
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str | PathLike:
        """As `DiffusionPipeline.download`: fetches a checkpoint from the Hub into the cache, returns its folder.

        Raises:
            ValueError: If the checkpoint's `format_version` is missing or unknown, before its weights are fetched.
            OSError: If the repository, the revision or a file is not there for this login.
        """
        try:
            folder = super().download(pretrained_model_name, **require_safetensors(kwargs))
        except OSError as error:
            raise OSError(explain(error, pretrained_model_name)) from error
        _check_component_folders(cls, Path(folder), passed=set(kwargs))
        return folder

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | PathLike, *args: Any, **kwargs: Any) -> Any:
        """As `ConfigMixin.load_config`, with the components that this package defines mapped to its modules."""
        loaded = super().load_config(pretrained_model_name_or_path, *args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, value in config.items():
            module = component_module(str(value[0])) if isinstance(value, list) and len(value) == 2 else None
            if module is not None:
                import_module(module)  # diffusers looks a component's module up in sys.modules
                config[name] = [module, value[1]]
        return loaded

    @classmethod
    def _dict_from_json_file(cls, json_file: str | PathLike) -> dict[str, Any]:
        """As `ConfigMixin._dict_from_json_file`, without the remote pipeline file: the class is this one."""
        config = super()._dict_from_json_file(json_file)
        class_name = config.get("_class_name") if isinstance(config, dict) else None
        if isinstance(class_name, list) and len(class_name) == 2:
            class_name = class_name[1]
        if not isinstance(class_name, str):
            raise OSError(f"{json_file} must be a JSON object with `_class_name`, a class or [file, class]")
        config["_class_name"] = class_name
        check_format_version(config.get("format_version"), json_file)
        return config

    def save_pretrained(
        self,
        save_directory: str | PathLike,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Saves the pipeline as a checkpoint folder, with the code that loads it.

        All files are written into a hidden folder beside `save_directory` first, then moved, the index last.

        Args:
            save_directory: Folder, made if absent; other files in it stay.
            safe_serialization: Must be True: weights are never pickled.
            variant: Middle part of the names of the weight files, for example "fp16".
            max_shard_size: Weights larger than this are split, as in diffusers.
            push_to_hub: Whether to upload the folder then.
            kwargs: For the upload: `repo_id` (the folder's name by default) and the arguments of `upload_checkpoint`.

        Raises:
            ValueError: If `safe_serialization` is False, or `kwargs` are given without `push_to_hub`.
            NotADirectoryError: If `save_directory` is a file.
        """
        if not safe_serialization:
            raise ValueError("`safe_serialization` must be True: weights are never pickled, got False")
        if kwargs and not push_to_hub:
            raise ValueError(f"`{next(iter(kwargs))}` is for the upload and needs `push_to_hub=True`")
        folder = Path(save_directory).absolute()
        if folder.is_file():
            raise NotADirectoryError(f"`save_directory` must be a folder, got the file {folder}")
        unfinished = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
        try:
            super().save_pretrained(unfinished, variant=variant, max_shard_size=max_shard_size)
            self._finish(unfinished)
            _move_files(unfinished, folder, last=self.config_name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        if push_to_hub:
            upload_checkpoint(folder, kwargs.pop("repo_id", None) or folder.name, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Saves the pipeline and uploads it to the Hub in one commit, with the code that loads it and a card.

        Args:
            repo_id: "OWNER/NAME", made if absent; "NAME" is the login's own.
            commit_message: None = "Upload " and the name of the class.
            private: Whether a new repository is; None = the owner's default.
            token: None = the standard login.
            create_pr: Whether to open a pull request instead.
            safe_serialization: Must be True: weights are never pickled.
            variant: Middle part of the names of the weight files, for example "fp16".
            revision: Branch, made if absent; None = main.

        Returns:
            Address of the commit.

        Raises:
            ValueError: If `safe_serialization` is False.
            OSError: If the Hub refuses or does not answer.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            return upload_checkpoint(
                Path(folder),
                repo_id,
                private=private,
                revision=revision,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                token=token,
                create_pr=create_pr,
            )

    @staticmethod
    def draw_base_seed(generator: torch.Generator | None) -> int:
        """The number, below 2**62, that a call's images derive their seeds from; None draws from seed 0."""
        source = generator or torch.Generator().manual_seed(0)
        return int(torch.randint(2**62, (1,), generator=source, device=source.device))

    def _finish(self, folder: Path) -> None:
        """Adds the code to what diffusers has saved, and names its files in the index."""
        index = json.loads((folder / self.config_name).read_text(encoding="utf-8"))
        ours = {}
        for name, value in index.items():
            if isinstance(value, list) and len(value) == 2 and in_package(str(value[0])):
                ours[name] = getattr(import_module(value[0]), value[1])
                index[name] = [entry_stem(value[0]), value[1]]
        pipeline_class = type(self) if in_package(type(self).__module__) else None
        write_remote_code(folder, pipeline_class, ours)
        index["format_version"] = FORMAT_VERSION
        if pipeline_class is not None:
            index["_class_name"] = [PIPELINE_STEM, pipeline_class.__name__]
        _write_config(folder / self.config_name, index)
        for path in [*folder.glob("*/config.json"), *folder.glob("*/scheduler_config.json")]:
            _write_config(path, json.loads(path.read_text(encoding="utf-8")))
        for path in folder.glob("*/*.safetensors"):
            path.chmod((folder / self.config_name).stat().st_mode)  # safetensors lets their owner alone read them


def _check_component_folders(cls: type[IRSTDPipelineBase], folder: Path, passed: set[str]) -> None:
    """Names the folder of a missing component; diffusers would look for its files at the root."""
    components, _ = cls._get_signature_keys(cls)
    index = cls.load_config(folder)
    for name in sorted(set(components) - passed):
        pair = index.get(name)
        if not (isinstance(pair, list) and len(pair) == 2):
            raise OSError(f"{folder / cls.config_name} has no entry [library, class] for the component `{name}`")
        if pair[0] is not None and not (folder / name).is_dir():
            raise OSError(f"{folder} has no folder `{name}`, which its {cls.config_name} names")


def _write_config(path: Path, config: dict[str, Any]) -> None:
    """Writes a config in diffusers' form, without the local path that it was loaded from."""
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _move_files(source: Path, target: Path, last: str) -> None:
    paths = [path for path in sorted(source.rglob("*")) if path.is_file()]
    for path in sorted(paths, key=lambda path: path == source / last):
        (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        path.replace(target / path.relative_to(source))

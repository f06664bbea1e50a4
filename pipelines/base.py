"""The checkpoint format that the pipelines of this package share."""

import json
from importlib import import_module
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from diffusers import DiffusionPipeline

from ..bundled import resolve_model
from ..files import replacing_folder
from ..hub import remote_code as remote
from ..hub.format import (
    FORMAT_VERSION,
    check_digests,
    check_format_version,
    component_module,
    seal,
    stale_files,
)
from ..hub.upload import explain, upload_checkpoint
from ..models.blocks import SafetensorsOnlyMixin, check_finite, require_safetensors


class IRSTDPipelineBase(DiffusionPipeline):
    """A pipeline whose checkpoints hold safetensors and, unless they leave for the Hub, no code.

    A checkpoint loads, from a folder or from the Hub, through its own class. With remote code it also loads where this
    package is not installed, through `DiffusionPipeline.from_pretrained(x, trust_remote_code=True)`; the pipeline's
    base class is then `DiffusionPipeline` itself.

    A subclass takes `format_version: int = FORMAT_VERSION` in `__init__`, registers it in its config, and annotates
    its components with classes of diffusers: those of a remote component are not this package's. Its other registered
    values must not be lists: diffusers takes those for components.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> Self:
        """Loads a checkpoint from a folder or the Hub, or a bundled one by its name, such as "tiny".

        Takes the arguments of `DiffusionPipeline.from_pretrained`.

        Raises:
            ValueError: If the checkpoint has no `format_version` or a newer one than this version of the package
                knows, if weights do not fit their config or are not finite, or if `use_safetensors` is False.
            OSError: If a file of the checkpoint is missing, cannot be read, or is not the one that was saved.
        """
        kwargs = require_safetensors(kwargs)
        pretrained_model_name_or_path = resolve_model(pretrained_model_name_or_path)
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            cls._check_component_folders(folder, passed=set(kwargs))
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        for name, component in pipeline.components.items():
            if name not in kwargs and not isinstance(component, SafetensorsOnlyMixin):
                check_finite(component, folder / name)
        if folder.is_dir():
            check_digests(folder, passed=set(kwargs))
        return pipeline

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str | PathLike:
        """Fetches a checkpoint from the Hub into the cache, as `DiffusionPipeline.download`, and returns its folder.

        Raises:
            ValueError: If the checkpoint's `format_version` is missing or unknown, before its weights are fetched.
            OSError: If the repository, the revision or a file is not there for this login, or weights are not those
                that were saved.
        """
        try:
            folder = super().download(pretrained_model_name, **require_safetensors(kwargs))
        except OSError as error:
            raise OSError(explain(error, pretrained_model_name)) from error
        cls._check_component_folders(Path(folder), passed=set(kwargs))
        check_digests(Path(folder), passed=set(kwargs))
        return folder

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Does as `DiffusionPipeline.from_pipe`, and takes over components of a class below the annotated one too."""
        components, _ = cls._get_signature_keys(cls)
        shared = {name: component for name, component in pipeline.components.items() if name in components}
        return super().from_pipe(pipeline, **{**shared, **kwargs})

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | PathLike, *args: Any, **kwargs: Any) -> Any:
        """Loads a config as `ConfigMixin.load_config` does, and maps this package's components to its modules."""
        loaded = super().load_config(resolve_model(pretrained_model_name_or_path), *args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, value in config.items():
            module = component_module(str(value[0])) if isinstance(value, list) and len(value) == 2 else None
            if module is not None:
                import_module(module)  # diffusers looks a component's module up in sys.modules
                config[name] = [module, value[1]]
        return loaded

    @classmethod
    def _dict_from_json_file(cls, json_file: str | PathLike) -> dict[str, Any]:
        """Reads a config as `ConfigMixin` does, without the name of a remote pipeline file: the class is this one."""
        config = super()._dict_from_json_file(json_file)
        class_name = config.get("_class_name") if isinstance(config, dict) else None
        if isinstance(class_name, list) and len(class_name) == 2:
            class_name = class_name[1]
        if not isinstance(class_name, str):
            raise OSError(f"{json_file} must be a JSON object with `_class_name`, a class or [file, class]")
        config["_class_name"] = class_name
        check_format_version(config.get("format_version"), json_file)
        return config

    @classmethod
    def _check_component_folders(cls, folder: Path, passed: set[str]) -> None:
        """Names the folder of a missing component; diffusers would look for its files at the root."""
        components, _ = cls._get_signature_keys(cls)
        index = cls.load_config(folder)
        for name in sorted(set(components) - passed):
            pair = index.get(name)
            if not (isinstance(pair, list) and len(pair) == 2):
                raise OSError(
                    f"{folder / cls.config_name}, of {index['_class_name']}, has no entry [library, class] for the "
                    f"component `{name}` of {cls.__name__}"
                )
            if pair[0] is not None and not (folder / name).is_dir():
                raise OSError(f"{folder} has no folder `{name}`, which its {cls.config_name} names")

    def save_pretrained(
        self,
        save_directory: str | PathLike,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        remote_code: bool = False,
        **kwargs: Any,
    ) -> None:
        """Saves the pipeline as a checkpoint folder.

        All files are written into a hidden folder beside `save_directory`, which then takes its place.

        Args:
            save_directory: Folder, made if absent. Files of an earlier checkpoint go, but for its card, its lists and
                its weights of other variants where their configs are the same; other files stay.
            safe_serialization: Must be True: weights are never pickled.
            variant: Middle part of the names of the weight files, for example "fp16".
            max_shard_size: Weights larger than this are split, as in diffusers.
            push_to_hub: Whether to upload the folder then, with remote code in any case.
            remote_code: Whether to write the code by which diffusers loads the folder without this package.
            kwargs: Arguments of the upload: `repo_id` (default: the folder's name) and those of `upload_checkpoint`.

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
        stale: set[Path] = set()
        with replacing_folder(folder, self.config_name, stale.__contains__) as unfinished:
            super().save_pretrained(unfinished, variant=variant, max_shard_size=max_shard_size)
            self._finish(unfinished)
            stale |= stale_files(folder, unfinished, variant)
            seal(unfinished, folder, stale)
            if remote_code:
                for name, content in remote.remote_code(unfinished).items():
                    (unfinished / name).write_bytes(content)
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
        subfolder: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Saves the pipeline and uploads it to the Hub in one commit, with the code that loads it and a card.

        Args:
            repo_id, private, token, create_pr, subfolder, revision: See `upload`.
            commit_message: None = "Upload " and the name of the class.
            safe_serialization: Must be True: weights are never pickled.
            variant: Middle part of the names of the weight files, for example "fp16".

        Returns:
            Address of the commit.

        Raises:
            ValueError: If `safe_serialization` is False.
            OSError: If the Hub refuses or does not answer.
        """
        message = commit_message or f"Upload {type(self).__name__}"
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            return upload_checkpoint(
                Path(folder),
                repo_id,
                commit_message=message,
                private=private,
                token=token,
                create_pr=create_pr,
                subfolder=subfolder,
                revision=revision,
            )

    def _finish(self, folder: Path) -> None:
        """Brings what diffusers has saved into this package's form: sorted configs without local paths."""
        for path in [folder / self.config_name, *folder.glob("*/*config.json")]:
            config = json.loads(path.read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)
            if path.name == self.config_name:
                config["format_version"] = FORMAT_VERSION
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for path in folder.glob("*/*.safetensors"):
            path.chmod((folder / self.config_name).stat().st_mode)  # safetensors lets their owner alone read them

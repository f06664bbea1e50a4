"""Loading of weights from safetensors alone, bit for bit."""

import inspect
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

ALIGNMENT_BYTES = 64  # the alignment of memory that torch allocates


def require_safetensors(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a `from_pretrained` call, with pickled weights ruled out.

    Without `use_safetensors=True` diffusers falls back to a `.bin` pickle where no safetensors file is found.

    Raises:
        ValueError: If `use_safetensors` is given as anything but None or True.
    """
    given = kwargs.get("use_safetensors")
    if given not in (None, True):
        raise ValueError(f"`use_safetensors` must be None or True: pickled weights are never loaded, got {given!r}")
    return {**kwargs, "use_safetensors": True}


def align_weights(model: nn.Module) -> None:
    """Copies weights that lie unaligned in a memory-mapped file: kernels give other last bits on those."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.data_ptr() % ALIGNMENT_BYTES:
            tensor.data = tensor.data.clone()


def check_finite(component: Any, source: Path) -> None:
    """Raises ValueError for a network with weights that are NaN or infinite: it would find nothing, without a word."""
    if isinstance(component, nn.Module):
        for name, tensor in component.state_dict().items():
            if tensor.is_floating_point() and not tensor.is_meta and not tensor.isfinite().all():
                raise ValueError(f"{source}: the weights `{name}` hold NaN or infinite values")


class SafetensorsOnlyMixin:
    """Makes a diffusers model load safetensors only. Comes before the model class in the list of bases."""

    @classmethod
    def _get_init_keys(cls, input_class: type | None = None) -> set[str]:
        """Names the arguments of a model, those that it hands on to the class below it included."""
        inits = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
        return {name for init in inits[:2] for name in inspect.signature(init).parameters}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any) -> Any:
        """Loads a model as `ModelMixin.from_pretrained` does; it computes bit for bit what the saved one did.

        Raises:
            OSError: If there is no safetensors file, or it cannot be read.
            ValueError: If the weights are not those of the config, where diffusers would go on without the missing
                ones, or not finite.
        """
        source = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        output_loading_info = kwargs.get("output_loading_info", False)
        kwargs = {**require_safetensors(kwargs), "output_loading_info": True}
        try:
            model, info = super().from_pretrained(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        for kind in ("missing_keys", "unexpected_keys"):
            if info[kind]:
                raise ValueError(f"{source}: the weights do not fit the config, {kind.replace('_', ' ')} {info[kind]}")
        align_weights(model)
        check_finite(model, source)
        return (model, info) if output_loading_info else model

"""The moving average of a model's weights and batch statistics."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class TrainedPart(nn.Module):
    """The trainable parameters of a model and all its buffers, those of frozen parts too; the tensors are its own."""

    def __init__(self, model: nn.Module):
        super().__init__()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)
        for name, buffer in model.named_buffers():
            self.register_buffer(name.replace(".", "/"), buffer)


class MovingAverage(AveragedModel):
    """Exponential moving average of the trained part of a model: running statistics are averaged too, counts copied.

    The first step copies; the decay of step n after it is min(`decay`, (1 + n) / (10 + n)): a long memory would keep
    the random start for long.

    Args:
        part: Of a model on its device, in its memory format.
        decay: In the long run.
    """

    def __init__(self, part: TrainedPart, decay: float):
        super().__init__(part, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move towards `model`; unlike the base class's this waits for no device, the count of steps is the CPU's."""
        num_steps = int(self.n_averaged)
        decay = min(self.decay, (1 + num_steps) / (10 + num_steps)) if num_steps else 0.0
        averaged, current = ([*part.parameters(), *part.buffers()] for part in (self.module, model))
        is_float = [tensor.is_floating_point() for tensor in averaged]
        torch._foreach_lerp_([*compress(averaged, is_float)], [*compress(current, is_float)], 1 - decay)
        for ours, theirs in zip(averaged, current, strict=True):
            if not ours.is_floating_point():
                ours.copy_(theirs)
        self.n_averaged += 1

    def by_name(self) -> dict[str, torch.Tensor]:
        """The averaged tensors by their names in the model."""
        return {name.replace("/", "."): tensor for name, tensor in self.module.state_dict().items()}


@contextmanager
def averaged_weights(model: nn.Module, average: MovingAverage | None) -> Iterator[None]:
    """A context in which `model` holds the moving average, if there is one, contiguous as files need it."""
    averaged = {} if average is None else average.by_name()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    own = {name: tensor.data for name, tensor in tensors.items()}
    try:
        for name, tensor in tensors.items():
            tensor.data = averaged.get(name, tensor.data).contiguous()
        yield
    finally:
        for name, tensor in tensors.items():
            tensor.data = own[name]

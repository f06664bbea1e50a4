"""Muon: momentum whose matrices are orthogonalised before every step (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon)."""

from collections import defaultdict

import torch

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # the post's quintic: singular values reach 0.7 to 1.2 in 5 iterations
ITERATIONS = 5
# Root mean square of a matrix's update in learning rates. AdamW's is 0.2 to 0.4 (Liu et al., arXiv 2502.16982), so
# that both share a rate; with 0.8 a detector learns less (docs/detector.md).
UPDATE_RMS = 0.4


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly, by a Newton-Schulz iteration: singular values of 0.7 to 1.2.

    Args:
        matrices: (N, rows, columns), float, of any scale.
    """
    a, b, c = COEFFICIENTS
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)  # singular values of at most 1
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


class Muon(torch.optim.AdamW):
    """AdamW whose matrices are moved by their orthogonalised momentum instead.

    A convolution is a matrix of a row per output. Vectors, biases and matrices of one row or column stay AdamW's, at
    the same learning rate. `torch.optim.Muon` takes matrices alone, one by one.

    Args:
        params: Parameters.
        lr: Learning rate of both.
        weight_decay: Decoupled weight decay of both.
    """

    def __init__(self, params, lr: float, weight_decay: float):
        super().__init__(params, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure=None):
        """Moves all parameters that have a gradient, those that `closure` makes where it is given; returns its loss.

        Matrices have none afterwards, by which AdamW passes them over.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            by_shape = defaultdict(list)  # of the matrices, which are orthogonalised together
            for parameter in group["params"]:
                shape = (len(parameter), parameter[0].numel()) if parameter.ndim > 1 else (1, 1)
                if parameter.grad is not None and min(shape) > 1:
                    by_shape[shape].append(parameter)
            for (rows, columns), parameters in by_shape.items():
                momenta = torch.stack([self._momentum(x, x.grad).reshape(rows, columns) for x in parameters])
                rms_of_one = max(rows, columns) ** -0.5  # of a semi-orthogonal matrix
                updates = orthogonalize(momenta) * (UPDATE_RMS / rms_of_one)
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update.reshape(parameter.shape), alpha=group["lr"])
                    parameter.grad = None
        super().step()
        return loss

    def _momentum(self, parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Nesterov's, after this step's gradient has entered it."""
        state = self.state[parameter]
        if not state:  # with AdamW's names, whose loading asks for them
            state["step"], state["exp_avg"] = torch.zeros(()), torch.zeros_like(parameter)
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["exp_avg"], MOMENTUM)

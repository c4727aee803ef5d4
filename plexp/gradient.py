"""One step of gradient descent on all parameters at once."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor, nn

from plexp.errors import TrainingError

Terms: TypeAlias = dict[str, Tensor]
"""The parts of a loss by name, for the record and for the message when one is not finite."""


class GradientStep:
    """One step of Adam on parameters that are views of one flat vector: one norm and one update whatever the network.

    Kingma and Ba 2015; gradient clipping by the global norm as in Pascanu et al. 2013.
    """

    def __init__(self, groups: list[tuple[list[nn.Parameter], float]], eps: float, max_grad_norm: float | None) -> None:
        self.max_grad_norm = max_grad_norm
        parameters = [p for members, _ in groups for p in members]
        self.flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.gradients = torch.zeros_like(self.flat)
        start, slices = 0, []
        for members, rate in groups:
            first = start
            for p in members:
                stop = start + p.numel()
                p.data = self.flat[start:stop].view_as(p)
                p.grad = self.gradients[start:stop].view_as(p)
                start = stop
            if members:
                part = nn.Parameter(self.flat[first:start])
                part.grad = self.gradients[first:start]
                slices.append({"params": [part], "lr": rate})
        self.rates = [float(part["lr"]) for part in slices]  # type: ignore[arg-type]
        self.optimizer = torch.optim.Adam(slices, eps=eps, fused=True)

    @property
    def learning_rate(self) -> float:
        """Of the first group, as annealed."""
        return float(self.optimizer.param_groups[0]["lr"])

    def anneal(self, factor: float) -> None:
        """Set the learning rates to `factor` times their first values."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def __call__(self, total: Tensor, terms: Terms) -> Tensor:
        """Minimise `total` by one step; the norm of its gradient before clipping. Raises TrainingError if not finite."""
        self.gradients.zero_()
        total.backward()  # type: ignore[no-untyped-call]
        norm: Tensor = torch.linalg.vector_norm(self.gradients)
        size = float(norm + 0 * total.detach())  # inf or nan if either is
        if not math.isfinite(size):
            values = ", ".join(f"{name} {float(term):g}" for name, term in terms.items())
            raise TrainingError(
                f"the loss or its gradient is not finite ({values}); a smaller algo.learning_rate or max_grad_norm may help"
            )
        if self.max_grad_norm is not None and size > self.max_grad_norm:
            self.gradients.mul_(self.max_grad_norm / (size + 1e-6))
        self.optimizer.step()
        return norm

"""One step of gradient descent on all parameters at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from plexp.errors import TrainingError
from plexp.nn.compile import Compiled

Terms: TypeAlias = dict[str, Tensor]
"""The parts of a loss by name, for the record and for the message when one is not finite."""

Loss: TypeAlias = Callable[..., tuple[Tensor, Terms]]
"""A minibatch, and numbers by name -> what is minimised, and its terms (detached) for the record."""

BETA1, BETA2 = 0.9, 0.999


class FlatAdam:
    """One step of Adam on parameters that are views of one flat vector: one norm and one update whatever the network.

    Kingma and Ba 2015, algorithm 1; gradient clipping by the global norm as in Pascanu et al. 2013.

    Args:
        module: what the losses evaluate; the parameters of `groups` are among its own.
        groups: parameters, and their learning rate.
        transform: done to every minibatch first; part of what is compiled.
        compiled: loss, gradient, clipping and Adam become one compiled function (`Compiled`).
        watched: objects, beside the loss's own, that the loss may read numbers from.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[tuple[Sequence[nn.Parameter], float]],
        *,
        eps: float,
        max_grad_norm: float | None,
        transform: Callable[[Any], Any] = lambda batch: batch,
        compiled: bool = False,
        watched: Sequence[object] = (),
        on_compile: Callable[[float], object] | None = None,
    ) -> None:
        self.module, self.eps, self.max_grad_norm = module, eps, max_grad_norm
        self.transform, self.watched, self.is_compiled, self.on_compile = transform, watched, compiled, on_compile
        groups = [group for group in groups if group[0]]
        parameters = [p for members, _ in groups for p in members]
        self.shapes = [p.shape for p in parameters]
        self.places = _places(module, parameters)
        self.flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.gradients, self.means, self.squares = (torch.zeros_like(self.flat) for _ in range(3))
        for p, value, gradient in zip(
            parameters, self._unflatten(self.flat), self._unflatten(self.gradients), strict=True
        ):
            p.data, p.grad = value, gradient
        self.rates, self.sizes = [rate for _, rate in groups], [sum(p.numel() for p in part) for part, _ in groups]
        self.counts = torch.zeros(len(groups), device=self.flat.device)
        columns = [x.split_with_sizes(self.sizes) for x in (self.flat, self.gradients, self.means, self.squares)]
        self.adam: list[tuple[list[Tensor], ...]] = [
            ([p], [g], [m], [s], [], [n]) for p, g, m, s, n in zip(*columns, self.counts, strict=True)
        ]
        """What Adam works on, as views: parameters, gradients, means, squares, (their maxima), the number of steps."""
        self.learning_rates = self.rates
        """Those of this update."""
        self.names: list[str] = []
        """Of what a step returns."""
        self.objective: _Objective | None = None
        self.compiled: Compiled | None = None

    def prepare(self, loss: Loss, factor: float, arguments: Mapping[str, float]) -> None:
        """Before an update: what is minimised, the numbers it takes, and the share of the first learning rates."""
        if self.objective is None and self.is_compiled:
            owners = [*self.watched, getattr(loss, "__self__", None)]
            watched = list({id(owner): owner for owner in owners if owner is not None}.values())
            self.compiled = Compiled(
                self.functional, "the gradient step", fixed=5, watched=watched, on_compile=self.on_compile
            )
        if self.objective is None or loss != self.objective.loss:
            if self.objective is not None and self.compiled is not None:
                self.compiled.give_up("the loss is another function in every update")
            self.objective = _Objective(self.module, loss)
        self.arguments = dict(arguments)
        self.learning_rates = [rate * factor for rate in self.rates]
        numbers = torch.tensor([*self.learning_rates, *arguments.values()], dtype=torch.float64)
        self.numbers = numbers.to(self.flat.device)
        if self.compiled is not None:
            self.compiled.check_watched()

    def state_dict(self) -> dict[str, Tensor]:
        """What Adam remembers; the parameters are the module's."""
        return {"means": self.means, "squares": self.squares, "counts": self.counts}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        for name, value in self.state_dict().items():
            value.copy_(state_dict[name])

    def __call__(self, minibatch: Any) -> Tensor:
        """One step on a minibatch; the loss's terms, and the gradient's norm before clipping, as `names` says.

        Raises TrainingError, before a parameter is touched, if the loss or its gradient is not finite.
        """
        assert self.objective is not None
        self.batch_type = type(minibatch)
        if self.compiled is not None and self.compiled.enabled:
            record, reached = self.compiled(
                self.flat, self.means, self.squares, self.counts, self.numbers, *minibatch.tensors()
            )
            self._check(float(reached), record)
            return record
        self.gradients.zero_()
        total, terms = self.objective.loss(self.transform(minibatch), **self.arguments)
        total.backward()  # type: ignore[no-untyped-call]
        norm = torch.linalg.vector_norm(self.gradients)
        record = self._record(terms, norm)
        size = float(norm + 0 * total.detach())  # inf or nan if either is
        self._check(size, record)
        if self.max_grad_norm is not None and size > self.max_grad_norm:
            self.gradients.mul_(self.max_grad_norm / (size + 1e-6))
        self.counts += 1
        for group, rate in zip(self.adam, self.learning_rates, strict=True):
            # what torch.optim.Adam(fused=True) calls; making one imports all of torch's compiler, a second at every start
            torch._fused_adam_(
                *group, lr=rate, beta1=BETA1, beta2=BETA2, eps=self.eps, weight_decay=0.0, amsgrad=False, maximize=False
            )
        return record

    def functional(
        self, flat: Tensor, means: Tensor, squares: Tensor, counts: Tensor, numbers: Tensor, *fields: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same step as a function of all it uses; changes the first four in place, unless something is not finite."""
        module = self.objective
        assert module is not None
        arguments = dict(zip(self.arguments, numbers[len(self.rates) :].unbind(), strict=True))

        def objective(flat: Tensor) -> tuple[Tensor, Terms]:
            values = self._unflatten(flat)
            parameters = {f"module.{name}": values[i] for name, i in self.places.items()}
            minibatch = self.transform(self.batch_type(*fields))
            # with tie_weights it puts back the wrong tensors where one module has two names, as a shared trunk has
            result: tuple[Tensor, Terms] = functional_call(
                module, parameters, (minibatch,), arguments, tie_weights=False
            )
            return result

        gradient, (total, terms) = grad_and_value(objective, has_aux=True)(flat)
        norm = torch.linalg.vector_norm(gradient)
        size = norm + 0 * total
        if self.max_grad_norm is not None:
            gradient = gradient * (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        count = counts + 1
        mean = BETA1 * means + (1 - BETA1) * gradient
        square = BETA2 * squares + (1 - BETA2) * gradient.square()
        exact = count[0].double()  # 1 − 0.999 has four digits in single precision
        scales = (numbers[: len(self.rates)] / (1 - BETA1**exact)).to(flat.dtype)
        rates = torch.cat([scales[i].expand(size) for i, size in enumerate(self.sizes)])
        step = rates * mean / ((square / (1 - BETA2**exact)).sqrt() + self.eps)
        finite = size.isfinite()
        for old, new in ((flat, flat - step), (means, mean), (squares, square), (counts, count)):
            old.copy_(torch.where(finite, new, old))
        return self._record(terms, norm), size

    def _unflatten(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split_with_sizes([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _record(self, terms: Terms, norm: Tensor) -> Tensor:
        self.names = [*terms, "grad_norm"]
        return torch.stack([*terms.values(), norm])

    def _check(self, size: float, record: Tensor) -> None:
        if not math.isfinite(size):
            found = dict(zip(self.names, record.tolist(), strict=True))
            values = ", ".join(f"{name} {x:g}" for name, x in found.items())
            bad = [name for name, x in found.items() if not math.isfinite(x) and name != "grad_norm"]
            what = f"the loss's {' and '.join(bad)}" if bad else "the gradient of the loss"
            advice = "a smaller algo.learning_rate or max_grad_norm may help"
            raise TrainingError(f"{what} is not finite ({values}); {advice}")


def _places(module: nn.Module, parameters: Sequence[nn.Parameter]) -> dict[str, int]:
    """Where in the module each parameter is, by name: each attribute of each submodule once, whatever names those have."""
    numbers = {p: i for i, p in enumerate(parameters)}
    found = {}
    for prefix, part in module.named_modules():
        for name, p in part.named_parameters(recurse=False, remove_duplicate=False):
            if p in numbers:
                found[f"{prefix}.{name}".lstrip(".")] = numbers[p]
    return found


class _Objective(nn.Module):
    """A loss as a function of a module's parameters, for `functional_call`."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, minibatch: Any, **arguments: Tensor) -> tuple[Tensor, Terms]:
        return self.loss(minibatch, **arguments)

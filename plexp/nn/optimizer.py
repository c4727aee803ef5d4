"""One gradient step on all parameters at once: loss, gradient, clipping and Adam on one flat vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from plexp.errors import TrainingError
from plexp.nn.compile import AttributeReads, Compiled
from plexp.nn.pytree import TreeSpec, unflattener

Terms: TypeAlias = dict[str, Tensor]
"""The parts of a loss by name, 0-dimensional, for the record and for the message when one is not finite.

One of them may have a number for each row, [B], such as TD errors; it is not recorded."""

Loss: TypeAlias = Callable[..., tuple[Tensor, Terms]]
"""A function of a minibatch, and of numbers by name, that returns what is minimised and its terms."""

BETA1, BETA2 = 0.9, 0.999


def adam_(
    parameters: Tensor,
    means: Tensor,
    squares: Tensor,
    gradient: Tensor,
    *,
    step_size: float | Tensor,
    correction: float | Tensor,
    eps: float,
) -> None:
    """Take one step of Adam in place (Kingma and Ba 2015, algorithm 1).

        m ← β₁·m + (1 − β₁)·g          v ← β₂·v + (1 − β₂)·g²
        θ ← θ − αₙ · m / (√(v/cₙ) + ε)          αₙ = α/(1 − β₁ⁿ),  cₙ = 1 − β₂ⁿ

    Args:
        parameters, means, squares: θ, m and v, [P]; changed in place.
        gradient: g, [P].
        step_size: αₙ of step number n, one for all parameters or [P].
        correction: cₙ.
    """
    means.mul_(BETA1).add_(gradient, alpha=1 - BETA1)
    squares.mul_(BETA2).add_(gradient.square(), alpha=1 - BETA2)
    denominators = (squares / correction).sqrt_().add_(eps)
    if isinstance(step_size, float):
        parameters.addcdiv_(means, denominators, value=-step_size)
    else:
        parameters.sub_((means * step_size).div_(denominators))


def clip_factor(norm: float | Tensor, max_norm: float) -> float | Tensor:
    """Return the factor that scales a gradient of this L2 norm down to `max_norm`, at most 1 (Pascanu et al. 2013)."""
    factor = max_norm / (norm + 1e-6)
    return factor.clamp(max=1.0) if isinstance(factor, Tensor) else min(factor, 1.0)


class FlatParameters:
    """Parameters of a module as views of one flat vector.

    Args:
        parameters: the parameters; each becomes a view of `vector`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.shapes = [p.shape for p in self.parameters]
        flat = [p.detach().reshape(-1) for p in self.parameters]
        self.vector = torch.cat(flat) if flat else torch.zeros(0)
        """The values [P]."""
        for p, value in zip(self.parameters, self.unflatten(self.vector), strict=True):
            p.data = value

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of a vector [P] in the shapes of the parameters, as views."""
        parts = vector.split_with_sizes([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def places(self, module: nn.Module) -> dict[str, int]:
        """Return the index of each parameter by its name in a module; a tied parameter has several names."""
        indices = {p: i for i, p in enumerate(self.parameters)}
        places = {}
        for prefix, part in module.named_modules():
            for name, p in part.named_parameters(recurse=False, remove_duplicate=False):
                if p in indices:
                    places[f"{prefix}.{name}".lstrip(".")] = indices[p]
        return places


class FlatAdam:
    """Adam with gradient clipping, on parameters that are views of one flat vector.

    One norm and one update serve the whole network, whatever its layers. A step is the same sequence of operations
    whether it runs eagerly or compiled; only where the parameters live differs (see `_differentiate`).

    Args:
        module: the module that the losses evaluate; the parameters of `groups` are among its own.
        groups: parameters, and the learning rate of each group.
        frozen: further parameters of the module that the losses read and this optimizer does not train, such as a target
            network's; what is added to the list before the first step counts too.
        eps: ε of Adam.
        max_grad_norm: gradients are scaled down to this L2 norm, of all parameters together; None: never.
        transform: applied to every minibatch first; part of what is compiled.
        compiled: loss, gradient, clipping and Adam become one compiled function (`Compiled`).
        watched: objects, beside the loss's own, that the loss may read numbers from.
        on_compile: called with the seconds that compiling took.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[tuple[Sequence[nn.Parameter], float]],
        *,
        eps: float,
        max_grad_norm: float | None,
        frozen: Sequence[FlatParameters] = (),
        transform: Callable[[Any], Any] = lambda batch: batch,
        compiled: bool = False,
        watched: Sequence[object] = (),
        on_compile: Callable[[float], object] | None = None,
    ) -> None:
        self.module, self.eps, self.max_grad_norm = module, eps, max_grad_norm
        self.transform, self.watched, self.is_compiled, self.on_compile = transform, watched, compiled, on_compile
        groups = [group for group in groups if group[0]]
        self.parameters, self.frozen = FlatParameters(p for members, _ in groups for p in members), frozen
        self.flat = self.parameters.vector
        self.gradient, self.means, self.squares = (torch.zeros_like(self.flat) for _ in range(3))
        for p, gradient in zip(self.parameters.parameters, self.parameters.unflatten(self.gradient), strict=True):
            p.grad = gradient
        self.count = 0
        """Number of steps so far."""
        self.base_rates, self.sizes = [rate for _, rate in groups], [sum(map(torch.numel, part)) for part, _ in groups]
        self.names: list[str] = []
        """Names of what a step returns: the loss's terms, and `grad_norm`."""
        self.row_terms = torch.zeros(0)
        """What the last step's loss says of each row, [B]; empty if it says nothing."""
        self.loss: Loss | None = None
        self.spec: TreeSpec | None = None
        self.compiled: Compiled | None = None

    def prepare(self, loss: Loss, spec: TreeSpec, rate_factor: float, arguments: Mapping[str, float]) -> None:
        """Set what the next steps minimise.

        Args:
            loss: the function to minimise.
            spec: structure of its minibatches; a step gets their tensors.
            rate_factor: share of the first learning rates, for annealing.
            arguments: numbers that the loss takes by name.
        """
        if self.loss is None and self.is_compiled:
            owners = [*self.watched, getattr(loss, "__self__", None)]
            self.reads = AttributeReads([owner for owner in owners if owner is not None])
            self.others = [other for other in self.frozen if other is not self.parameters]
            self.compiled = Compiled(
                self._compiled_step,
                "the gradient step",
                fixed=4 + len(self.others),
                reads=self.reads,
                on_compile=self.on_compile,
            )
        elif self.compiled is not None and loss != self.loss:
            self.compiled.disable("the loss is another function in every update")
        self.loss = loss
        if spec != self.spec:
            self.spec, self.rebuild = spec, unflattener(spec)
        self.arguments = dict(arguments)
        self.learning_rates = [rate * rate_factor for rate in self.base_rates]
        if self.compiled is not None:
            self.compiled.check_reads()

    def state_dict(self) -> dict[str, Any]:
        """Return what Adam remembers; the parameters are the module's."""
        return {"means": self.means, "squares": self.squares, "count": self.count}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.means.copy_(state_dict["means"])
        self.squares.copy_(state_dict["squares"])
        self.count = int(state_dict["count"])

    def __call__(self, leaves: list[Tensor]) -> Tensor:
        """Take one step on a minibatch, given as its tensors, and return the record of it, in the order of `names`.

        Raises TrainingError, before a parameter is touched, if the loss or its gradient is not finite.
        """
        n = self.count + 1
        step_sizes, correction = [rate / (1 - BETA1**n) for rate in self.learning_rates], 1 - BETA2**n
        if self.compiled is not None and self.compiled.enabled:
            vectors = [other.vector for other in self.others]
            numbers = torch.from_numpy(np.array([correction, *step_sizes, *self.arguments.values()], np.float64))
            numbers = numbers.to(self.flat.device)
            record, reached = self.compiled(self.flat, self.means, self.squares, numbers, *vectors, *leaves)
            record = self._checked(float(reached), record)
            self.count = n
            return record
        total, terms, gradient = self._differentiate(None, [], leaves, self.arguments)
        with torch.no_grad():
            norm = torch.linalg.vector_norm(gradient)
            size = float(norm) + 0 * float(total)
            record = self._checked(size, self._record(terms, norm))
            if self.max_grad_norm is not None and size > self.max_grad_norm:
                gradient.mul_(clip_factor(size, self.max_grad_norm))
            self._update(self.flat, self.means, self.squares, gradient, step_sizes, correction)
        self.count = n
        return record

    def _compiled_step(
        self,
        flat: Tensor,
        means: Tensor,
        squares: Tensor,
        numbers: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Take the step as a function of all that it uses, which can be traced and compiled.

        Changes its first three arguments in place, unless the loss or gradient is not finite. Returns the record, and a
        number that is finite if and only if both are.
        """
        last, end = len(self.others), 1 + len(self.sizes)
        # computed outside, as compiled code would raise to a power for every few parameters
        correction, *step_sizes = numbers[:end].to(flat.dtype).unbind()
        arguments = dict(zip(self.arguments, numbers[end:].unbind(), strict=True))
        total, terms, gradient = self._differentiate(flat, others[:last], list(others[last:]), arguments)
        norm = torch.linalg.vector_norm(gradient)
        size = norm + 0 * total
        if self.max_grad_norm is not None:
            gradient = gradient * clip_factor(norm, self.max_grad_norm)
        flat_new, means_new, squares_new = flat.clone(), means.clone(), squares.clone()
        self._update(flat_new, means_new, squares_new, gradient, step_sizes, correction)
        finite = size.isfinite()
        for old, new in ((flat, flat_new), (means, means_new), (squares, squares_new)):
            old.copy_(torch.where(finite, new, old))
        return self._record(terms, norm), size

    def _differentiate(
        self, flat: Tensor | None, frozen: Sequence[Tensor], leaves: list[Tensor], arguments: Mapping[str, Any]
    ) -> tuple[Tensor, Terms, Tensor]:
        """Return the loss, its terms, and its gradient [P].

        Without `flat` the parameters are the module's own, which are views of `self.flat`, and gradients accumulate in
        views of `self.gradient`: nothing is copied. With it they are taken from `flat` and `frozen`, as tracing needs.
        """
        assert self.loss is not None
        minibatch = self.rebuild(leaves)
        if flat is None:
            self.gradient.zero_()
            total, terms = self.loss(self.transform(minibatch), **arguments)
            total.backward(inputs=self.parameters.parameters if self.frozen else None)  # type: ignore[no-untyped-call]
            return total.detach(), terms, self.gradient
        objective = _Objective(self.module, self.reads.watch(self.loss))
        transform = self.reads.watch(self.transform)
        fixed: dict[str, Tensor] = {}
        for other, vector in zip(self.others, frozen, strict=True):
            values = other.unflatten(vector)
            fixed |= {f"module.{name}": values[i] for name, i in other.places(self.module).items()}
        places = self.parameters.places(self.module)

        def evaluate(flat: Tensor) -> tuple[Tensor, Terms]:
            values = self.parameters.unflatten(flat)
            parameters = fixed | {f"module.{name}": values[i] for name, i in places.items()}
            # with tie_weights it puts back the wrong tensors where one module has two names, as a shared trunk has
            result: tuple[Tensor, Terms] = functional_call(
                objective, parameters, (transform(minibatch),), dict(arguments), tie_weights=False
            )
            return result

        gradient, (total, terms) = grad_and_value(evaluate, has_aux=True)(flat)
        return total, terms, gradient

    def _update(
        self,
        flat: Tensor,
        means: Tensor,
        squares: Tensor,
        gradient: Tensor,
        step_sizes: Sequence[float | Tensor],
        correction: float | Tensor,
    ) -> None:
        """Take a step of Adam in place, with the step size of each group."""
        step_size = step_sizes[0]
        if len(step_sizes) > 1:
            columns = [torch.as_tensor(size, dtype=flat.dtype, device=flat.device) for size in step_sizes]
            step_size = torch.cat([column.expand(n) for column, n in zip(columns, self.sizes, strict=True)])
        adam_(flat, means, squares, gradient, step_size=step_size, correction=correction, eps=self.eps)

    def _record(self, terms: Terms, norm: Tensor) -> Tensor:
        """Return the numbers of a step, and after them what it says of each row."""
        numbers = {name: term for name, term in terms.items() if not term.dim()}
        self.names = [*numbers, "grad_norm"]
        rows = [term for term in terms.values() if term.dim()]
        record = torch.stack([*numbers.values(), norm])
        return torch.cat([record, *rows]) if rows else record

    def _checked(self, size: float, record: Tensor) -> Tensor:
        """Return the numbers of a step, and keep what it says of each row, if loss and gradient are finite."""
        record, self.row_terms = record[: len(self.names)], record[len(self.names) :]
        if not math.isfinite(size):
            numbers = dict(zip(self.names, record.tolist(), strict=True))
            values = ", ".join(f"{name} {x:g}" for name, x in numbers.items())
            bad = [name for name, x in numbers.items() if not math.isfinite(x) and name != "grad_norm"]
            what = f"the loss's {' and '.join(bad)}" if bad else "the gradient of the loss"
            advice = "a smaller algo.learning_rate or max_grad_norm may help"
            raise TrainingError(f"{what} is not finite ({values}); {advice}")
        return record


class _Objective(nn.Module):
    """A loss as a function of a module's parameters, for `functional_call`."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, minibatch: Any, **arguments: Any) -> tuple[Tensor, Terms]:
        return self.loss(minibatch, **arguments)

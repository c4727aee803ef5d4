"""Action distributions: the policy's distribution over each kind of action space.

Each class turns the output of the actor's head, `parameters` [B, P], into log-probabilities, entropies and actions. It has
no learnable tensors. Noise is drawn for a whole rollout at once, from a NumPy generator; `sample` only transforms it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Array = npt.NDArray[Any]
LOG_2PI = math.log(2 * math.pi)
ILLEGAL = -1e9
"""Logit, or value, of an action that is not legal: its probability is 0, and products with it are finite."""
LARGEST = 1 - 2**-24
"""The largest float32 whose atanh is finite."""


class ActionRule(Protocol):
    """A rule from the actor's output, and noise, to an action of one action space."""

    num_parameters: int
    """P, width of the actor's output."""
    num_features: int
    """Width of an encoded action, the input of a Q critic."""

    def draw_noise(self, rng: np.random.Generator, *shape: int) -> Array:
        """Return the noise [*shape, ...], float32, from which `sample` makes that many actions."""
        ...

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return an action of each row, [B, *act], from noise [B, ...]."""
        ...

    def mode(self, parameters: Tensor) -> Tensor:
        """Return the most likely action of each row, [B, *act]."""
        ...

    def encode(self, actions: Tensor) -> Tensor:
        """Return actions as the input of a Q critic, [B, num_features], float32."""
        ...

    def to_environment(self, actions: Tensor) -> Tensor:
        """Return actions as the environment takes them, [B, *space.shape], in the type of its space and within its bounds."""
        ...


class ActionDistribution(ActionRule, Protocol):
    """The distribution π(·|s) over one action space, given the actor's output."""

    def evaluate(self, parameters: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return log π(a|s) [B] and the entropy of π(·|s) [B], both in nats."""
        ...


def only_legal(parameters: Tensor, legal: Tensor) -> Tensor:
    """Return logits or values [B, P] with `ILLEGAL` for choices that are not legal.

    Args:
        parameters: [B, P] numbers of each of n choices, P/n of them, those of the first choice first.
        legal: [B, n] bool: the choice may be taken.
    """
    numbers = parameters.shape[-1] // legal.shape[-1]
    return torch.where(legal if numbers == 1 else legal.repeat_interleave(numbers, -1), parameters, ILLEGAL)


class Categorical:
    """Softmax policy over n actions (Discrete), sampled as argmax(logits + Gumbel noise).

    Args:
        n: number of actions.
        start: first action of the space.
        dtype: type of the actions that the environment gets.
    """

    def __init__(self, n: int, start: int = 0, dtype: torch.dtype = torch.int64) -> None:
        self.num_parameters = self.num_features = n
        self.start, self.dtype = start, dtype

    def draw_noise(self, rng: np.random.Generator, *shape: int) -> Array:
        return rng.gumbel(size=(*shape, self.num_parameters)).astype(np.float32)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return (parameters + noise).argmax(-1)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters.argmax(-1)

    def evaluate(self, parameters: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = functional.log_softmax(parameters, -1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1), entropy

    def probabilities(self, parameters: Tensor) -> Tensor:
        """Return π(a|s) of every action, [B, n]."""
        return functional.softmax(parameters, -1)

    def encode(self, actions: Tensor) -> Tensor:
        return functional.one_hot(actions, self.num_features).float()

    def to_environment(self, actions: Tensor) -> Tensor:
        shifted = actions + self.start if self.start else actions
        return shifted if shifted.dtype == self.dtype else shifted.to(self.dtype)


class MultiCategorical:
    """Independent softmax policies over several choices (MultiDiscrete), whose log-probabilities add up.

    Args:
        sizes: number of choices of each, in the shape of an action.
        start: first choice of each.
        dtype: type of the actions that the environment gets.
    """

    def __init__(self, sizes: Array, start: Array, dtype: torch.dtype = torch.int64) -> None:
        self.parts = [Categorical(int(n)) for n in sizes.reshape(-1)]
        self.sizes = [part.num_parameters for part in self.parts]
        self.num_parameters = self.num_features = sum(self.sizes)
        self.shape, self.start = sizes.shape, torch.as_tensor(start.reshape(-1), dtype=torch.int64)
        self.dtype = dtype

    def draw_noise(self, rng: np.random.Generator, *shape: int) -> Array:
        return rng.gumbel(size=(*shape, self.num_parameters)).astype(np.float32)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return self.mode(parameters + noise)

    def mode(self, parameters: Tensor) -> Tensor:
        return torch.stack([logits.argmax(-1) for logits in torch.split(parameters, self.sizes, -1)], -1)

    def evaluate(self, parameters: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        rows = zip(self.parts, torch.split(parameters, self.sizes, -1), actions.unbind(-1), strict=True)
        log_probs, entropies = zip(*[part.evaluate(logits, action) for part, logits, action in rows], strict=True)
        return torch.stack(log_probs).sum(0), torch.stack(entropies).sum(0)

    def encode(self, actions: Tensor) -> Tensor:
        rows = zip(self.parts, actions.unbind(-1), strict=True)
        return torch.cat([part.encode(action) for part, action in rows], -1)

    def to_environment(self, actions: Tensor) -> Tensor:
        return (actions + self.start.to(actions.device)).reshape(-1, *self.shape).to(self.dtype)


class Bernoulli:
    """Independent coins (MultiBinary), each with a logit, sampled as logit + logistic noise > 0."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.num_parameters = self.num_features = math.prod(shape)

    def draw_noise(self, rng: np.random.Generator, *shape: int) -> Array:
        return rng.logistic(size=(*shape, self.num_parameters)).astype(np.float32)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return self.mode(parameters + noise)

    def mode(self, parameters: Tensor) -> Tensor:
        return (parameters > 0).to(torch.int8)

    def evaluate(self, parameters: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_on, log_off = functional.logsigmoid(parameters), functional.logsigmoid(-parameters)
        entropy = -(log_on.exp() * log_on + log_off.exp() * log_off)
        return torch.where(actions.bool(), log_on, log_off).sum(-1), entropy.sum(-1)

    def encode(self, actions: Tensor) -> Tensor:
        return actions.float()

    def to_environment(self, actions: Tensor) -> Tensor:
        return actions.reshape(-1, *self.shape)


class Composite:
    """Independent distributions over the parts of a Dict or Tuple action, whose log-probabilities and entropies add up.

    An action is stored as one row of float32: its parts as each distribution stores them, one after the other. Choices are
    exact below 2²⁴.

    Args:
        parts: distribution of each part.
    """

    def __init__(self, parts: Sequence[ActionDistribution]) -> None:
        self.parts = list(parts)
        self.parameter_sizes = [part.num_parameters for part in self.parts]
        self.num_parameters, self.num_features = (
            sum(self.parameter_sizes),
            sum(part.num_features for part in self.parts),
        )
        examples = [part.mode(torch.zeros(1, part.num_parameters)) for part in self.parts]
        self.shapes, self.dtypes = [each.shape[1:] for each in examples], [each.dtype for each in examples]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.noise_sizes = [part.draw_noise(np.random.default_rng(0), 1)[0].size for part in self.parts]

    def draw_noise(self, rng: np.random.Generator, *shape: int) -> Array:
        return np.concatenate([part.draw_noise(rng, *shape).reshape(*shape, -1) for part in self.parts], -1)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        rows = zip(self.parts, self._split(parameters), torch.split(noise, self.noise_sizes, -1), strict=True)
        return self._joined([part.sample(own, drawn) for part, own, drawn in rows])

    def mode(self, parameters: Tensor) -> Tensor:
        return self._joined([part.mode(own) for part, own in zip(self.parts, self._split(parameters), strict=True)])

    def evaluate(self, parameters: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        rows = zip(self.parts, self._split(parameters), self.actions_of(actions), strict=True)
        log_probs, entropies = zip(*[part.evaluate(own, taken) for part, own, taken in rows], strict=True)
        return torch.stack(log_probs).sum(0), torch.stack(entropies).sum(0)

    def encode(self, actions: Tensor) -> Tensor:
        rows = zip(self.parts, self.actions_of(actions), strict=True)
        return torch.cat([part.encode(taken).flatten(1) for part, taken in rows], -1)

    def to_environment(self, actions: Tensor) -> Tensor:
        rows = zip(self.parts, self.actions_of(actions), strict=True)
        return torch.cat(
            [part.to_environment(taken).reshape(actions.shape[0], -1).double() for part, taken in rows], -1
        )

    def actions_of(self, actions: Tensor) -> list[Tensor]:
        """Return the actions of each part, [B, *act], from rows [B, K]."""
        columns = torch.split(actions, self.sizes, -1)
        kinds = zip(columns, self.shapes, self.dtypes, strict=True)
        return [column.reshape(*column.shape[:-1], *shape).to(dtype) for column, shape, dtype in kinds]

    def _split(self, parameters: Tensor) -> tuple[Tensor, ...]:
        return torch.split(parameters, self.parameter_sizes, -1)

    def _joined(self, actions: list[Tensor]) -> Tensor:
        rows = zip(actions, self.sizes, strict=True)
        return torch.cat([action.reshape(action.shape[0], size).float() for action, size in rows], -1)


class DiagonalGaussian:
    """Gaussian policy N(μ, diag σ²) over a Box, whose actions are clipped to the bounds for the environment.

    `parameters` is μ and log σ side by side. Log-probabilities and entropies are those of the unclipped action, as is usual
    in implementations of policy gradients.

    Args:
        low, high: bounds of the actions, in the type that the environment gets: float16, float32 or float64.
    """

    LOG_STD_RANGE = (-10.0, 4.0)

    def __init__(self, low: Array, high: Array) -> None:
        self.shape = low.shape
        self.num_features = low.size
        self.num_parameters = 2 * low.size
        most = np.finfo(low.dtype).max
        self.low = torch.from_numpy(np.maximum(low.reshape(-1), -most))
        self.high = torch.from_numpy(np.minimum(high.reshape(-1), most))

    def draw_noise(self, rng: np.random.Generator, *shape: int) -> Array:
        return rng.standard_normal(size=(*shape, self.num_features), dtype=np.float32)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self.split(parameters)
        return mean + log_std.exp() * noise

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters[..., : self.num_features]

    def evaluate(self, parameters: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        _, log_std = self.split(parameters)
        return self.log_probs(parameters, actions), (log_std + (0.5 + 0.5 * LOG_2PI)).sum(-1)

    def log_probs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return log π(a|s) [B] alone, in nats."""
        mean, log_std = self.split(parameters)
        standardized = (actions - mean) * (-log_std).exp()
        return (-0.5 * standardized.square() - log_std - 0.5 * LOG_2PI).sum(-1)

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and log σ, [B, dims] each, with log σ clamped to LOG_STD_RANGE."""
        mean, log_std = torch.split(parameters, self.num_features, -1)
        return mean, log_std.clamp(*self.LOG_STD_RANGE)

    def encode(self, actions: Tensor) -> Tensor:
        return actions

    def to_environment(self, actions: Tensor) -> Tensor:
        low, high = self.low.to(actions.device), self.high.to(actions.device)
        bounded = torch.minimum(torch.maximum(actions.to(low.dtype), low), high)  # after rounding, which may leave them
        return bounded.reshape(-1, *self.shape)


class SquashedGaussian(DiagonalGaussian):
    """Gaussian policy squashed by tanh, whose actions never leave the bounds.

        u ~ N(μ, diag σ²),  a = low + (high − low)·(tanh u + 1)/2
        log π(a) = log N(u) − Σ log[(high − low)/2 · (1 − tanh² u)]          (Haarnoja et al. 2018, appendix C)

    Actions are stored as u. The entropy contains E[log(1 − tanh² u)], which has no closed form; quadrature gives it,
    differentiable and without noise (`_expected_log_slope`). A dimension of zero width is fixed: it counts as if it were
    of width 2.
    """

    NODES = 16
    """Nodes of each of the two rules of quadrature."""
    NARROW = 0.8
    """Standard deviation σ up to which Gauss–Hermite quadrature is used."""
    REACH = 8.0
    """Distance from 0 beyond which log(1 − tanh² u) is its asymptote, up to 2e-7."""

    def __init__(self, low: Array, high: Array) -> None:
        super().__init__(low, high)
        self.lowest = self.low.float()
        self.half_width = self.high.float() / 2 - self.lowest / 2
        self.log_scale = torch.where(self.half_width > 0, self.half_width, 1.0).log()
        hermite, legendre = np.polynomial.hermite_e.hermegauss(self.NODES), np.polynomial.legendre.leggauss(self.NODES)
        tables = (
            hermite[0],
            hermite[1] / hermite[1].sum(),
            (legendre[0] + 1) * self.REACH / 2,
            legendre[1] * self.REACH / 2,
        )
        self.tables = tuple(torch.as_tensor(table, dtype=torch.float32) for table in tables)
        """Nodes and weights of the expectation under N(0, 1), and of the integral over 0…REACH."""

    def evaluate(self, parameters: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, entropy = super().evaluate(parameters, actions)
        mean, log_std = self.split(parameters)
        expected = self._expected_log_slope(mean, log_std.exp())
        return log_probs, entropy + (expected + self.log_scale.to(mean.device)).sum(-1)

    def log_probs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        return super().log_probs(parameters, actions) - (
            self._log_slope(actions) + self.log_scale.to(actions.device)
        ).sum(-1)

    def from_unit(self, actions: Tensor) -> Tensor:
        """Return actions that are scaled to −1…1 as they are stored."""
        return actions.clamp(-LARGEST, LARGEST).atanh()

    def _expected_log_slope(self, mean: Tensor, std: Tensor) -> Tensor:
        """Return E[log(1 − tanh² u)] under N(μ, σ²), elementwise; value and gradients are right to 1e-4 for σ < 55.

        For σ ≤ 0.8 by Gauss–Hermite quadrature. A wider Gaussian sees the kink of |u| in

            log(1 − tanh² u) = 2·log 2 − 2|u| − 2·log(1 + e^(−2|u|)),

        so E|u| is taken in closed form, and the rest, which vanishes far from 0, by Gauss–Legendre quadrature.
        """
        nodes, weights, points, lengths = (table.to(mean.device) for table in self.tables)
        near = std.clamp(max=self.NARROW).unsqueeze(-1)
        narrow = (self._log_slope(mean.unsqueeze(-1) + near * nodes) * weights).sum(-1)
        std_wide = std.clamp(min=self.NARROW)
        z = mean / std_wide
        distance = std_wide * math.sqrt(2 / math.pi) * (-0.5 * z.square()).exp() + mean * torch.erf(z / math.sqrt(2))
        left, right = ((points + sign * mean.unsqueeze(-1)) / std_wide.unsqueeze(-1) for sign in (1, -1))
        density = ((-0.5 * left.square()).exp() + (-0.5 * right.square()).exp()) / math.sqrt(2 * math.pi)
        rest = (density * torch.log1p((-2 * points).exp()) * lengths).sum(-1) / std_wide
        return torch.where(std <= self.NARROW, narrow, 2 * (math.log(2) - distance - rest))

    @staticmethod
    def _log_slope(u: Tensor) -> Tensor:
        """Return log(1 − tanh² u) as 2·(log 2 − u − softplus(−2u)), which does not overflow."""
        return 2 * (math.log(2) - u - functional.softplus(-2 * u))

    def encode(self, actions: Tensor) -> Tensor:
        return actions.tanh()

    def to_environment(self, actions: Tensor) -> Tensor:
        low, half = self.lowest.to(actions.device), self.half_width.to(actions.device)
        return super().to_environment(low + half * (self.encode(actions) + 1))

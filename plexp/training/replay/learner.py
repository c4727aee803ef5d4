"""Gradient descent on replayed transitions, for algorithms that learn values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from plexp.config.fields import NonNegativeInt, PositiveFloat, PositiveInt
from plexp.nn.normalization import ObservationNormalizer
from plexp.nn.optimizer import FlatAdam, Loss
from plexp.nn.pytree import flatten, unflattener
from plexp.training.progress import Profile
from plexp.training.replay.memory import ReplayMemory
from plexp.training.types import Metrics, Trajectory, Transitions


class ReplayLearner:
    """Keeps transitions and takes gradient steps on some of them. Its parameters are configured with the algorithm.

    Args:
        memory: keeps the transitions.
        normalizer: normalizer of observations; None: there is none.
        rng: source of the transitions that are drawn.
        gamma: discount per step.
        compiled: whether gradient steps are compiled.
        profile: gets the seconds spent compiling.
        learning_rate: Adam's step size.
        adam_eps: ε in Adam's denominator.
        max_grad_norm: gradients are scaled down to this L2 norm; None: never.
        batch_size: B, transitions of a gradient step.
        learning_starts: environment steps before the first gradient step.
        train_every: environment steps between updates, a multiple of the number of environments.
        gradient_steps: gradient steps of an update.
        n_steps: n, rewards that a target sums before it asks the network.
    """

    configured_with_owner = True
    uses_replay = True

    def __init__(
        self,
        memory: ReplayMemory,
        normalizer: ObservationNormalizer | None,
        rng: np.random.Generator,
        gamma: float,
        compiled: bool = False,
        profile: Profile | None = None,
        *,
        learning_rate: PositiveFloat,
        adam_eps: PositiveFloat,
        max_grad_norm: PositiveFloat | None,
        batch_size: PositiveInt,
        learning_starts: NonNegativeInt,
        train_every: PositiveInt,
        gradient_steps: PositiveInt,
        n_steps: PositiveInt,
    ) -> None:
        self.memory, self.normalizer, self.rng, self.gamma = memory, normalizer, rng, gamma
        self.compiled, self.profile = compiled, profile or Profile()
        self.learning_rate, self.adam_eps, self.max_grad_norm = learning_rate, adam_eps, max_grad_norm
        self.batch_size, self.learning_starts, self.gradient_steps = batch_size, learning_starts, gradient_steps
        self.n_steps, self.num_steps = n_steps, train_every // memory.spec.num_envs
        self.steps = 0
        """Environment steps so far."""

    def optimizer(
        self, module: nn.Module, parameters: Iterable[nn.Parameter], frozen: Iterable[nn.Parameter] = ()
    ) -> FlatAdam:
        """Return an optimizer of some parameters of a module, whose losses read the frozen ones too."""
        return FlatAdam(
            module,
            [(list(parameters), self.learning_rate)],
            eps=self.adam_eps,
            max_grad_norm=self.max_grad_norm,
            frozen=list(frozen),
            compiled=self.compiled,
            on_compile=partial(self.profile.count, "compiling"),
        )

    def add(self, trajectory: Trajectory) -> bool:
        """Keep the steps of a trajectory, and return whether there are enough to learn from."""
        self.memory.add(trajectory)
        self.steps += trajectory.num_valid
        return self.steps >= self.learning_starts and len(self.memory.buffer) >= self.batch_size

    def minimize(self, optimizer: FlatAdam, loss: Loss, after: Callable[[], object] = lambda: None) -> Metrics:
        """Take the gradient steps of an update, and return the means of what they recorded.

        Args:
            optimizer: what is trained.
            loss: function of Transitions that returns what is minimised, and its terms.
            after: called after each gradient step.
        """
        buffer, size = self.memory.buffer, self.batch_size
        indices = buffer.draw(self.rng, size * self.gradient_steps)
        device = optimizer.flat.device
        drawn, spec = flatten(buffer.transitions(indices, self.n_steps, self.gamma))
        batch = self._normalized(unflattener(spec)([leaf.to(device) for leaf in drawn]))
        leaves, _ = flatten(batch)
        optimizer.prepare(loss, spec, 1.0, {})
        records = []
        for step in range(self.gradient_steps):
            records.append(optimizer([leaf[step * size : (step + 1) * size] for leaf in leaves]))
            after()
        return dict(zip(optimizer.names, torch.stack(records).mean(0).tolist(), strict=True))

    def _normalized(self, batch: Transitions) -> Transitions:
        if self.normalizer is None:
            return batch
        following = self.normalizer(batch.next_observations)
        return replace(batch, observations=self.normalizer(batch.observations), next_observations=following)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of environment steps; optimizers are the algorithm's, and transitions the memory's."""
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.steps = state_dict["steps"]

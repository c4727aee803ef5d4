"""Gradient descent on replayed transitions, for algorithms that learn values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from plexp.config.fields import NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt
from plexp.envs.environment import Array
from plexp.nn.layout import ObservationReader
from plexp.nn.optimizer import FlatAdam, FlatParameters, Loss
from plexp.nn.pytree import TreeSpec, flatten, flattener, unflattener
from plexp.nn.recurrent import Recurrent, Sequences, read_by
from plexp.training.progress import Profile
from plexp.training.replay.memory import ReplayMemory
from plexp.training.replay.sequences import mixed_errors, sequences
from plexp.training.types import Metrics, Trajectory, Transitions

M = TypeVar("M", bound=nn.Module)


class Optimizer:
    """Trains a module on batches of transitions, and records the means of what each update's steps say.

    Args:
        adam: takes the steps.
        prefix: goes before the recorded name `grad_norm`.
    """

    def __init__(self, adam: FlatAdam, prefix: str) -> None:
        self.adam, self.prefix = adam, prefix
        self.records: list[Tensor] = []
        self.td_errors: list[Tensor] = []
        """TD errors [B] of each step of this update, where the loss returns them as the term `td_errors`."""
        self.rate_factor, self.is_prepared = 1.0, False
        """Share of the learning rate for the steps of an update, and whether Adam has been told."""
        self.spec: TreeSpec | None = None
        """Structure of the last batch; None until there is one."""

    def begin(self, rate_factor: float) -> None:
        """Begin an update, whose steps use this share of the learning rate."""
        self.records.clear()
        self.td_errors.clear()
        self.rate_factor, self.is_prepared = rate_factor, False

    def minimize(self, loss: Loss, batch: Transitions) -> None:
        """Take one step on the mean loss of a batch; raises TrainingError if it or its gradient is not finite."""
        if self.spec is None or isinstance(batch.observations, Sequences):  # some of these have a burn-in, others none
            _, spec = flatten(batch)
            if spec != self.spec:
                self.spec, self.leaves, self.is_prepared = spec, flattener(spec), False
        if not self.is_prepared:
            self.adam.prepare(loss, self.spec, self.rate_factor, {})
            self.is_prepared = True
        self.records.append(self.adam(self.leaves(batch)))
        if len(self.adam.row_terms):
            self.td_errors.append(self.adam.row_terms)

    def metrics(self) -> dict[str, float]:
        """Return the means over the update's steps."""
        if not self.records:
            return {}
        names = [f"{self.prefix}grad_norm" if name == "grad_norm" else name for name in self.adam.names]
        means = self.records[0] if len(self.records) == 1 else torch.stack(self.records).mean(0)
        return dict(zip(names, means.tolist(), strict=True))


class ReplayLearner:
    """Keeps transitions, and draws batches of them for gradient steps. Its parameters are configured with the algorithm.

    The meaning of the keyword-only parameters stands in conf/learner/replay.yaml.

    Args:
        memory: keeps the transitions.
        reader: gives observations as the networks take them.
        rng: source of the transitions and the noise that are drawn.
        gamma: discount per step.
        compiled: whether gradient steps are compiled.
        profile: gets the seconds spent compiling.
    """

    configured_with_owner = True
    uses_replay = True
    refused: ClassVar = {
        "num_steps": "between updates there are algo.train_every steps of all environments together",
        "num_minibatches": "an update has algo.gradient_steps steps on algo.batch_size transitions each",
        "update_epochs": "an update has algo.gradient_steps steps on algo.batch_size transitions each",
        "replay_rollouts": "its memory has replay.capacity transitions",
        "clip_eps": "it has no ratio to clip; use algo=ppo",
        "ent_coef": "it has no entropy bonus; use algo=sac, whose entropy has the weight algo.alpha",
        "critic_learning_rate": "all its networks have algo.learning_rate",
    }

    def __init__(
        self,
        memory: ReplayMemory,
        reader: ObservationReader,
        rng: np.random.Generator,
        gamma: float,
        compiled: bool = False,
        profile: Profile | None = None,
        *,
        learning_rate: PositiveFloat,
        anneal_learning_rate: bool,
        adam_eps: PositiveFloat,
        max_grad_norm: PositiveFloat | None,
        batch_size: PositiveInt,
        learning_starts: NonNegativeInt,
        train_every: PositiveInt,
        gradient_steps: PositiveInt,
        n_steps: PositiveInt,
        target_update_every: PositiveInt,
        target_tau: PositiveFraction,
        sequence_length: PositiveInt,
        burn_in: NonNegativeInt,
    ) -> None:
        self.memory, self.reader, self.rng, self.gamma = memory, reader, rng, gamma
        self.compiled, self.profile = compiled, profile or Profile()
        self.learning_rate, self.anneal_learning_rate = learning_rate, anneal_learning_rate
        self.adam_eps, self.max_grad_norm = adam_eps, max_grad_norm
        self.batch_size, self.learning_starts, self.gradient_steps = batch_size, learning_starts, gradient_steps
        self.n_steps, self.num_steps = n_steps, train_every // memory.spec.num_envs
        self.target_update_every, self.target_tau = target_update_every, target_tau
        self.sequence_length, self.burn_in = sequence_length, burn_in
        self.steps = 0
        """Environment steps so far."""
        self.count = 0
        """Gradient steps so far, with the one in progress."""
        self.rebuild: Callable[[Sequence[Tensor]], Transitions] | None = None
        """Makes a batch of its tensors; None until there is one."""
        self.modules = nn.ModuleList()
        """All networks that losses evaluate: those that are trained, and targets."""
        self.vectors: list[FlatParameters] = []
        self.optimizers: list[Optimizer] = []
        self.targets: list[tuple[FlatParameters, FlatParameters]] = []
        """Parameters of each target network, and of the network that it follows."""

    @property
    def is_learning(self) -> bool:
        """True once there are enough steps to learn from."""
        return self.steps >= self.learning_starts and len(self.memory.buffer) >= self.batch_size

    def optimizer(self, *modules: nn.Module, prefix: str = "") -> Optimizer:
        """Return what trains some modules; losses may read all others that the learner knows.

        Args:
            modules: what is trained.
            prefix: goes before the recorded name `grad_norm`.
        """
        self.modules.extend(modules)
        is_recurrent = any(isinstance(part, Recurrent) for module in modules for part in module.modules())
        groups = [([p for module in modules for p in module.parameters()], self.learning_rate)]
        adam = FlatAdam(
            self.modules,
            groups,
            eps=self.adam_eps,
            max_grad_norm=self.max_grad_norm,
            frozen=self.vectors,
            compiled=self.compiled and not is_recurrent,  # the kernels over time cannot be traced
            watched=[self],
            on_compile=partial(self.profile.count, "compiling"),
        )
        self.vectors.append(adam.parameters)
        self.optimizers.append(Optimizer(adam, prefix))
        return self.optimizers[-1]

    def target(self, module: M) -> M:
        """Return a copy of a module that has an optimizer of its own, which follows it slowly (Mnih et al. 2015).

        It moves after every `target_update_every`-th gradient step, `target_tau` of the way.
        """
        copied = copy.deepcopy(module).requires_grad_(False)
        members = list(module.parameters())
        followed = next(each for each in self.vectors if each.parameters[0] is members[0])
        self.modules.append(copied)
        self.vectors.append(FlatParameters(copied.parameters()))
        self.targets.append((self.vectors[-1], followed))
        return copied

    def batches(self, trajectory: Trajectory, progress: float, *, noise: tuple[int, ...] = ()) -> Iterator[Transitions]:
        """Keep the steps of a trajectory, and yield the batch of each gradient step of this update, if there are enough.

        Targets move, and priorities change, once a batch has been used.

        Args:
            trajectory: T steps of N environments.
            progress: share of the training budget that has been used, 0…1.
            noise: shape of the standard Gaussian noise of each row, for losses that sample actions.
        """
        for optimizer in self.optimizers:
            optimizer.begin(1 - progress if self.anneal_learning_rate else 1.0)
        self.memory.add(trajectory)
        self.steps += trajectory.num_valid
        if not self.is_learning:
            return
        buffer, size = self.memory.buffer, self.batch_size
        indices = buffer.draw(self.rng, size * self.gradient_steps)
        weights = buffer.weights_of(indices.reshape(-1, size), progress)
        if self.memory.spec.state_size:
            yield from self._sequences(indices.reshape(-1, size), weights, noise)
            return
        drawn = self._prepared(buffer.transitions(indices, self.n_steps, self.gamma, weights), noise)
        if self.rebuild is None:
            _, spec = flatten(drawn)
            self.leaves, self.rebuild = flattener(spec), unflattener(spec)
        leaves = self.leaves(drawn)
        for step in range(self.gradient_steps):
            self.count += 1
            yield self.rebuild([leaf[step * size : (step + 1) * size] for leaf in leaves])
            self._move_targets()
        for optimizer in self.optimizers:
            if len(optimizer.td_errors) == self.gradient_steps:
                buffer.update_priorities(indices, torch.cat(optimizer.td_errors).cpu())

    def _sequences(self, indices: Array, weights: Array | None, noise: tuple[int, ...]) -> Iterator[Transitions]:
        """Yield the batches of sequences that begin with transitions [G, C], and learn the priorities of these."""
        buffer = self.memory.buffer
        for step, begins in enumerate(indices):
            self.count += 1
            own = None if weights is None else weights[step]
            shape = (self.sequence_length, self.burn_in, self.n_steps, self.gamma)
            batch, lengths = sequences(buffer, begins, *shape, own)
            yield self._prepared(batch, noise)
            self._move_targets()
            for optimizer in self.optimizers:
                if optimizer.td_errors and own is not None:
                    buffer.update_priorities(begins, mixed_errors(optimizer.td_errors[-1].cpu(), lengths))

    def metrics(self) -> Metrics:
        """Return the means of what the last update's gradient steps recorded."""
        return {name: value for optimizer in self.optimizers for name, value in optimizer.metrics().items()}

    def _prepared(self, batch: Transitions, noise: tuple[int, ...]) -> Transitions:
        """Return transitions on the device of the networks, as they take them, and with noise."""
        device = self.vectors[0].vector.device
        if noise:
            drawn = self.rng.standard_normal((len(batch.rewards), *noise), np.float32)
            batch = replace(batch, noise=torch.from_numpy(drawn))
        if device.type != "cpu":
            leaves, spec = flatten(batch)
            batch = unflattener(spec)([leaf.to(device) for leaf in leaves])
        if self.reader.normalizer is None and self.reader.layout is None:
            return batch
        now, following = batch.observations, batch.next_observations
        if isinstance(now, Sequences):
            read = read_by(self.reader, now)
            return replace(batch, observations=read, next_observations=replace(read, taken=following.taken))  # type: ignore[union-attr]
        assert isinstance(now, Tensor) and isinstance(following, Tensor)  # as the buffer gives them
        return replace(batch, observations=self.reader(now), next_observations=self.reader(following))

    def _move_targets(self) -> None:
        if self.count % self.target_update_every == 0:
            for target, followed in self.targets:
                target.vector.lerp_(followed.vector, self.target_tau)

    def state_dict(self) -> dict[str, Any]:
        """Return counters, the state of Adam and the targets; transitions are the memory's, and networks the policy's."""
        return {
            "steps": self.steps,
            "count": self.count,
            "optimizers": [each.adam.state_dict() for each in self.optimizers],
            "vectors": [each.vector for each in self.vectors],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.steps, self.count = state_dict["steps"], state_dict["count"]
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.adam.load_state_dict(state)
        for parameters, vector in zip(self.vectors, state_dict["vectors"], strict=True):
            parameters.vector.copy_(vector)

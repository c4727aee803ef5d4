"""The policy: the networks that act, with their action distribution and the observation normalizer."""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from plexp.nn.compile import Compiled
from plexp.nn.distributions import ActionRule, only_legal
from plexp.nn.exploration import ContinuousExploration, DiscreteExploration
from plexp.nn.layout import LEGAL, ObservationReader, Observations
from plexp.nn.recurrent import Inputs, Recurrent, Sequences, features_of, state_size_of
from plexp.training.progress import Profile


class Policy(nn.Module):
    """Networks from an observation to an action; all that the collector, an evaluation or an export knows of an algorithm.

    Args:
        distribution: rule from the head's output to an action: a distribution over the action space, or another.
        reader: gives observations as the networks take them; its normalizer is saved with the policy and frozen in
            evaluation.
        trunk: layers from observations to features [B, F].
        head: layers from features to the parameters [B, P] of the distribution.

    A policy with a recurrent trunk acts with a state [N, S] for each environment, which is zero where an episode begins;
    that of any other has S = 0 columns.
    """

    def __init__(
        self,
        distribution: ActionRule,
        reader: ObservationReader,
        trunk: nn.Module,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.distribution, self.reader, self.trunk, self.head = distribution, reader, trunk, head
        self.normalizer = reader.normalizer
        self.state_size = state_size_of(trunk)
        """S, columns of the state."""

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return next(self.parameters()).device

    def compile(self, profile: Profile) -> None:
        """Compile acting; `profile` gets the seconds that it takes."""
        count = partial(profile.count, "compiling")
        self._sample = Compiled(self._sample, "acting", on_compile=count)  # type: ignore[assignment, method-assign]

    def initial_state(self, num_envs: int) -> Tensor:
        """Return the state [N, S] before the first observation of an episode, on the device of the networks."""
        return torch.zeros(num_envs, self.state_size, device=self.device)

    def read(self, observations: Tensor) -> Observations:
        """Return observations [B, *obs] of the environment as the networks take them."""
        return self.reader(observations)

    def policy(self, observations: Inputs) -> Tensor:
        """Return the parameters [B, P] of the action distribution for observations as `read` gives them."""
        return self.parameters_of(features_of(self.trunk, observations), observations)

    def parameters_of(self, features: Tensor, observations: Inputs) -> Tensor:
        """Return the parameters [B, P] for the trunk's features [B, F]; only actions that are legal are taken with them."""
        parameters: Tensor = self.head(features)
        legal = self.legal(observations)
        return parameters if legal is None else only_legal(parameters, legal)

    def legal(self, observations: Inputs) -> Tensor | None:
        """Return which actions are legal, [B, n] bool; None where the environment does not say."""
        if isinstance(observations, Sequences):
            observations = observations.rows()
        return observations.get(LEGAL) if isinstance(observations, dict) else None

    def act(self, observations: Tensor, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return sampled actions [N, *act], and the state [N, S] after them.

        Args:
            observations: [N, *obs] as the environment gave them.
            state: [N, S] before them.
            noise: [N, *noise] of the distribution.
        """
        if not self.state_size:
            return self._sample(observations, noise)[0], state
        actions, state = self._sample(observations, state, noise)
        return actions, state

    @torch.no_grad()
    def _sample(self, observations: Tensor, *state_and_noise: Tensor) -> tuple[Tensor, ...]:
        *before, noise = state_and_noise
        read = self.read(observations)
        if not before:
            return (self.distribution.sample(self.policy(read), noise),)
        parameters, state = self.step(read, before[0])
        return self.distribution.sample(parameters, noise), self.remember(read, state)

    @torch.no_grad()  # not inference_mode: what a network keeps of it, such as a mask, is trained with and copied later
    def act_greedily(self, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the policy's most likely actions [N, *act], and the state [N, S] after them; see `act`."""
        parameters, state = self.step(self.read(observations), state)
        return self.distribution.mode(parameters), state

    def step(self, observations: Observations, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameters [N, P] for observations as `read` gives them, and the state [N, S] of the policy's trunk."""
        if not isinstance(self.trunk, Recurrent):
            return self.policy(observations), state
        features, state = self.trunk.step(observations, state)
        return self.parameters_of(features, observations), state

    def remember(self, observations: Observations, state: Tensor) -> Tensor:
        """Return the state [N, S] with that of networks which do not act, such as a critic's, after these observations."""
        return state


class ExploringPolicy(Policy):
    """Policy that takes uniformly random actions a share ε of the time, which its algorithm sets.

    Args:
        distribution: its rule, and how it explores.
    """

    distribution: DiscreteExploration | ContinuousExploration

    def largest_entropy(self, observations: Inputs) -> float | Tensor:
        """Return the logarithm of the number of discrete actions, or its mean over rows where only some are legal."""
        legal = self.legal(observations)
        return math.log(self.distribution.num_features) if legal is None else legal.sum(-1).log().mean()

    def explore(self, epsilon: float) -> None:
        """Set ε, from the next trajectory on."""
        self.distribution.epsilon.fill_(epsilon)


def forgotten(state: Tensor, begins: npt.NDArray[np.bool_]) -> Tensor:
    """Return a policy's state [N, S], which is zero in the environments [N] in which an episode begins."""
    return torch.where(torch.from_numpy(begins).to(state.device).unsqueeze(-1), 0.0, state) if begins.any() else state


def noise_of(policy: Policy, num_envs: int) -> ActionRule:
    """Return what draws the noise of a policy in other environments than those of its training; what lasts begins anew."""
    rule = policy.distribution
    return rule.fresh(num_envs) if isinstance(rule, DiscreteExploration | ContinuousExploration) else rule


class GreedyPolicy(nn.Module):
    """Most likely action [B, *space.shape] for each observation [B, *obs], both in the environment's terms.

    Observations with parts are rows of float32, also where there are images.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy, self.reader = policy, copy.copy(policy.reader)
        self.layout = policy.reader.layout
        if self.layout is not None:
            self.reader.layout = self.layout.of_floats()

    def rows(self, observations: Tensor) -> Tensor:
        """Return observations [B, *obs] as the policy keeps them in training as those that it takes here."""
        return observations if self.layout is None else self.layout.as_floats(observations)

    def forward(self, observations: Tensor) -> Tensor:
        policy = self.policy
        parameters = policy.policy(self.reader(observations))
        return policy.distribution.to_environment(policy.distribution.mode(parameters))

    def inputs(self, observations: Tensor, states: Tensor) -> tuple[Tensor, ...]:
        """Return its arguments for observations [B, *obs], and states [B, S], as the policy has them in training."""
        return (self.rows(observations),)


class RecurrentGreedyPolicy(GreedyPolicy):
    """Most likely action for each observation, and the state [B, S] of the policy's trunk after it.

    The state before the first observation of an episode is zero.
    """

    def forward(self, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        policy = self.policy
        parameters, state = policy.step(self.reader(observations), state)
        return policy.distribution.to_environment(policy.distribution.mode(parameters)), state

    def inputs(self, observations: Tensor, states: Tensor) -> tuple[Tensor, ...]:
        return self.rows(observations), states[:, : state_size_of(self.policy.trunk)]


def greedy_policy(policy: Policy) -> GreedyPolicy:
    """Return what acts greedily: for a recurrent policy with its state as an argument and a result."""
    kind = RecurrentGreedyPolicy if isinstance(policy.trunk, Recurrent) else GreedyPolicy
    return kind(policy)


class JoinedGreedyPolicy(nn.Module):
    """Recurrent greedy policy of one tensor, for MLflow: rows [B, D + S] of an observation and the state before it.

    It returns rows of the action and the state after it, as float32.

    Args:
        policy: the policy.
        shape, dtype: shape and type of one observation.
    """

    def __init__(self, policy: GreedyPolicy, shape: torch.Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.policy, self.shape, self.dtype, self.size = policy, shape, dtype, math.prod(shape)

    def forward(self, rows: Tensor) -> Tensor:
        observations = rows[:, : self.size].to(self.dtype).reshape(-1, *self.shape)
        actions, state = self.policy(observations, rows[:, self.size :])
        return torch.cat([actions.reshape(rows.shape[0], -1).float(), state], -1)  # len() would fix the number of rows


def as_model(policy: Policy, observations: Tensor) -> tuple[nn.Module, Tensor]:
    """Return the greedy policy as a function of one tensor, and an example of it, for observations [B, *obs]."""
    greedy = greedy_policy(policy).cpu().eval()
    rows, *state = greedy.inputs(observations, torch.zeros(len(observations), policy.state_size))
    if not state:
        return greedy, rows
    joined = torch.cat([rows.reshape(len(rows), -1).float(), *state], -1)
    return JoinedGreedyPolicy(greedy, rows.shape[1:], rows.dtype), joined

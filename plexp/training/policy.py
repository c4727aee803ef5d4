"""The policy: the networks that act, with their action distribution and the observation normalizer."""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
from torch import Tensor, nn

from plexp.nn.compile import Compiled
from plexp.nn.distributions import ActionRule, only_legal
from plexp.nn.exploration import ContinuousExploration, DiscreteExploration
from plexp.nn.layout import LEGAL, ObservationReader, Observations
from plexp.training.progress import Profile


class Policy(nn.Module):
    """Networks from an observation to an action; all that the collector, an evaluation or an export knows of an algorithm.

    Args:
        distribution: rule from the head's output to an action: a distribution over the action space, or another.
        reader: gives observations as the networks take them; its normalizer is saved with the policy and frozen in
            evaluation.
        trunk: layers from observations to features [B, F].
        head: layers from features to the parameters [B, P] of the distribution.
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

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return next(self.parameters()).device

    def compile(self, profile: Profile) -> None:
        """Compile acting; `profile` gets the seconds that it takes."""
        count = partial(profile.count, "compiling")
        self._sample = Compiled(self._sample, "acting", on_compile=count)  # type: ignore[assignment, method-assign]

    def read(self, observations: Tensor) -> Observations:
        """Return observations [B, *obs] of the environment as the networks take them."""
        return self.reader(observations)

    def policy(self, observations: Observations) -> Tensor:
        """Return the parameters [B, P] of the action distribution for observations as `read` gives them."""
        return self.parameters_of(self.trunk(observations), observations)

    def parameters_of(self, features: Tensor, observations: Observations) -> Tensor:
        """Return the parameters [B, P] for the trunk's features [B, F]; only actions that are legal are taken with them."""
        parameters: Tensor = self.head(features)
        legal = self.legal(observations)
        return parameters if legal is None else only_legal(parameters, legal)

    def legal(self, observations: Observations) -> Tensor | None:
        """Return which actions are legal, [B, n] bool; None where the environment does not say."""
        return observations.get(LEGAL) if isinstance(observations, dict) else None

    def act(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Return sampled actions [N, *act] for observations [N, *obs] as the environment gave them."""
        return self._sample(observations, noise)[0]

    @torch.no_grad()
    def _sample(self, observations: Tensor, noise: Tensor) -> tuple[Tensor]:
        return (self.distribution.sample(self.policy(self.read(observations)), noise),)

    @torch.no_grad()  # not inference_mode: what a network keeps of it, such as a mask, is trained with and copied later
    def act_greedily(self, observations: Tensor) -> Tensor:
        """Return the policy's most likely actions [N, *act] for observations [N, *obs] as the environment gave them."""
        return self.distribution.mode(self.policy(self.read(observations)))


class ExploringPolicy(Policy):
    """Policy that takes uniformly random actions a share ε of the time, which its algorithm sets.

    Args:
        distribution: its rule, and how it explores.
    """

    distribution: DiscreteExploration | ContinuousExploration

    def largest_entropy(self, observations: Observations) -> float | Tensor:
        """Return the logarithm of the number of discrete actions, or its mean over rows where only some are legal."""
        legal = self.legal(observations)
        return math.log(self.distribution.num_features) if legal is None else legal.sum(-1).log().mean()

    def explore(self, epsilon: float) -> None:
        """Set ε, from the next trajectory on."""
        self.distribution.epsilon.fill_(epsilon)


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

"""The policy: the networks that act, with their action distribution and the observation normalizer."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from plexp.nn.compile import Compiled
from plexp.nn.distributions import ActionRule
from plexp.nn.exploration import ContinuousExploration, DiscreteExploration
from plexp.nn.normalization import ObservationNormalizer
from plexp.training.progress import Profile


class Policy(nn.Module):
    """Networks from an observation to an action; all that the collector, an evaluation or an export knows of an algorithm.

    Args:
        distribution: rule from the head's output to an action: a distribution over the action space, or another.
        normalizer: normalizer of observations, saved with the policy and frozen in evaluation; None: there is none.
        trunk: layers from observations [B, *obs] to features [B, F].
        head: layers from features to the parameters [B, P] of the distribution.
    """

    def __init__(
        self,
        distribution: ActionRule,
        normalizer: ObservationNormalizer | None,
        trunk: nn.Module,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.distribution, self.normalizer, self.trunk, self.head = distribution, normalizer, trunk, head

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return next(self.parameters()).device

    def compile(self, profile: Profile) -> None:
        """Compile acting; `profile` gets the seconds that it takes."""
        count = partial(profile.count, "compiling")
        self._sample = Compiled(self._sample, "acting", on_compile=count)  # type: ignore[assignment, method-assign]

    def normalize(self, observations: Tensor) -> Tensor:
        """Return observations [B, *obs] as the networks get them."""
        return observations if self.normalizer is None else self.normalizer(observations)

    def policy(self, observations: Tensor) -> Tensor:
        """Return the parameters [B, P] of the action distribution for normalized observations [B, *obs]."""
        parameters: Tensor = self.head(self.trunk(observations))
        return parameters

    def act(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Return sampled actions [N, *act] for observations [N, *obs] as the environment gave them."""
        return self._sample(observations, noise)[0]

    @torch.no_grad()
    def _sample(self, observations: Tensor, noise: Tensor) -> tuple[Tensor]:
        return (self.distribution.sample(self.policy(self.normalize(observations)), noise),)

    @torch.no_grad()  # not inference_mode: what a network keeps of it, such as a mask, is trained with and copied later
    def act_greedily(self, observations: Tensor) -> Tensor:
        """Return the policy's most likely actions [N, *act] for observations [N, *obs] as the environment gave them."""
        return self.distribution.mode(self.policy(self.normalize(observations)))


class ExploringPolicy(Policy):
    """Policy that takes uniformly random actions a share ε of the time, which its algorithm sets.

    Args:
        distribution: its rule, and how it explores.
    """

    distribution: DiscreteExploration | ContinuousExploration

    def explore(self, epsilon: float) -> None:
        """Set ε, from the next trajectory on."""
        self.distribution.epsilon.fill_(epsilon)


class GreedyPolicy(nn.Module):
    """Most likely action [B, *space.shape] for each observation [B, *obs], both in the environment's terms."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: Tensor) -> Tensor:
        policy = self.policy
        parameters = policy.policy(policy.normalize(observations))
        return policy.distribution.to_environment(policy.distribution.mode(parameters))

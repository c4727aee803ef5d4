"""The networks that an algorithm asks for, made by the plugin of the group `net`."""

from __future__ import annotations

import torch
from torch import nn

from plexp.errors import ConfigError, Problem
from plexp.nn.distributions import ActionDistribution, Categorical
from plexp.nn.exploration import EpsilonGreedy
from plexp.nn.networks import Network, QHead
from plexp.nn.normalization import ObservationNormalizer
from plexp.training.policy import Policy


class Networks:
    """Maker of the networks of algorithms that learn from replayed transitions.

    Args:
        shape: shape of one observation.
        actions: distribution over the action space, which says what kind of space it is.
        net: network of every part.
        normalizer: normalizer of observations that the parts share; None: there is none.
        device: where the parts are.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        actions: ActionDistribution,
        net: Network,
        normalizer: ObservationNormalizer | None,
        device: torch.device,
    ) -> None:
        self.shape, self.actions, self.net, self.normalizer, self.device = shape, actions, net, normalizer, device

    def q_policy(self, *, dueling: bool) -> Policy:
        """Return a policy that is ε-greedy in Q(s, ·); its `policy` method gives the values [B, n].

        Raises ConfigError for actions that are not of a Discrete space.
        """
        if not isinstance(self.actions, Categorical):
            cause = "its actions are not of a Discrete space, and Q(s, ·) has a value for each"
            raise ConfigError(Problem("env", ..., cause, "give algo=ppo, which takes such actions"))
        trunk, features = self.net.trunk(self.shape)
        head: nn.Module = QHead(self.net, features, self.actions.num_parameters, dueling=dueling)
        return Policy(EpsilonGreedy(self.actions), self.normalizer, trunk, head).to(self.device)

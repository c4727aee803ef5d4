"""The networks that an algorithm asks for, made by the plugin of the group `net`."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from plexp.envs.spaces import action_distribution, described
from plexp.errors import ConfigError, Problem
from plexp.nn.distributions import Categorical, SquashedGaussian
from plexp.nn.exploration import (
    ContinuousExploration,
    Deterministic,
    DiscreteExploration,
    NoiseKind,
    QuantileExploration,
)
from plexp.nn.layout import ObservationReader
from plexp.nn.networks import CRITIC_GAIN, POLICY_GAIN, Critics, Network, PolicyHead, QHead, make_trunk
from plexp.nn.recurrent import Recurrent
from plexp.training.policy import ExploringPolicy


class Networks:
    """Maker of the networks of algorithms that learn from replayed transitions.

    Each method raises ConfigError for spaces that its network is not for.

    Args:
        name: name of the algorithm, for messages.
        reader: gives observations as the networks take them; the parts of the algorithm share it.
        actions: space of the actions.
        num_envs: number of environments that act.
        net: network of the policy.
        critic_net: network of the critics; None: the policy's.
        device: where the parts are.
    """

    def __init__(
        self,
        name: str,
        reader: ObservationReader,
        actions: spaces.Space[Any],
        num_envs: int,
        net: Network,
        critic_net: Network | None,
        device: torch.device,
    ) -> None:
        self.name, self.reader, self.actions, self.num_envs = name, reader, actions, num_envs
        self.net, self.critic_net, self.device = net, critic_net, device
        self.made_critics = False

    @property
    def is_discrete(self) -> bool:
        """True if an action is one of n (a Discrete space)."""
        return isinstance(self.actions, spaces.Discrete)

    def q_policy(self, *, dueling: bool, random_steps: float, quantiles: int | None = None) -> ExploringPolicy:
        """Return an ε-greedy policy; its method `policy` gives Q(s, ·) [B, n], or [B, n · K] for K quantiles of each.

        Random actions last for `random_steps` steps on average.
        """
        rule = self._categorical()
        trunk, features = make_trunk(self.net, self.reader)
        head = QHead(self.net, features, rule.num_features, width=quantiles or 1, dueling=dueling)
        if quantiles is not None:
            quantile = QuantileExploration(
                rule, quantiles, num_envs=self.num_envs, duration=random_steps, masked=self.reader.has_mask
            )
            return self._policy(quantile, trunk, head)
        exploration = DiscreteExploration(
            rule, greedy=True, num_envs=self.num_envs, duration=random_steps, masked=self.reader.has_mask
        )
        return self._policy(exploration, trunk, head)

    def softmax_policy(self) -> ExploringPolicy:
        """Return a policy that samples one of n actions; its method `policy` gives their logits [B, n]."""
        rule = self._categorical()
        trunk, features = self._without_state(self.net)
        head = self.net.head(features, rule.num_parameters, gain=POLICY_GAIN)
        exploration = DiscreteExploration(rule, greedy=False, masked=self.reader.has_mask)
        return self._policy(exploration, trunk, head)

    def gaussian_policy(self, noise: NoiseKind, theta: float) -> ExploringPolicy:
        """Return a policy that samples from a Gaussian squashed by tanh, whose deviation depends on the state."""
        rule = self._bounded()
        trunk, features = self._without_state(self.net)
        head = PolicyHead(self.net, features, rule, "state", 0.0)
        return self._policy(ContinuousExploration(rule, self.num_envs, noise, theta), trunk, head)

    def deterministic_policy(self, noise: NoiseKind, theta: float, scale: float) -> ExploringPolicy:
        """Return a policy with one action tanh(μ) for each state, and noise of deviation `scale` added to it."""
        bounds = self._bounded()
        rule = Deterministic(bounds.low.numpy().reshape(bounds.shape), bounds.high.numpy().reshape(bounds.shape), scale)
        trunk, features = self._without_state(self.net)
        head = self.net.head(features, rule.num_features, gain=POLICY_GAIN)
        return self._policy(ContinuousExploration(rule, self.num_envs, noise, theta), trunk, head)

    def critics(self, count: int) -> Critics:
        """Return K critics: of Q(s, ·) [K, B, n] where actions are Discrete, else of Q(s, a) [K, B]."""
        self.made_critics = True
        net = self.critic_net or self.net
        shape = self.reader.inputs
        if self.net.share_trunk and not isinstance(shape, dict) and len(shape) == 1:  # the usual value for images
            cause = f"the critics of algo={self.name} have networks of their own"
            raise ConfigError(Problem("net.share_trunk", True, cause, "give net.share_trunk=false"))
        members = []
        for _ in range(count):
            if self.is_discrete:
                (trunk, features), outputs = self._without_state(net), self._categorical().num_features
            elif isinstance(shape, dict) or len(shape) > 1:
                what = "has parts" if isinstance(shape, dict) else "is an image"
                cause = f"its critics take the action beside the observation, which {what}"
                raise ConfigError(Problem("algo", self.name, cause, "give algo=ppo, or vector observations"))
            else:
                (trunk, features), outputs = self._without_state(net, (shape[0] + self._bounded().num_features,)), 1
            members.append(nn.Sequential(trunk, net.head(features, outputs, gain=CRITIC_GAIN)))
        return Critics(members).to(self.device)

    def _without_state(self, net: Network, shape: tuple[int, ...] | None = None) -> tuple[nn.Module, int]:
        """Return a trunk for inputs of a shape, or for observations, and its number of features.

        Raises ConfigError for one that is recurrent.
        """
        trunk, features = make_trunk(net, self.reader) if shape is None else net.trunk(shape)
        if isinstance(trunk, Recurrent):
            cause = f"algo={self.name} learns from single transitions, and this network from sequences of them"
            raise ConfigError(Problem("net", net.label, cause, "give net=mlp_relu, or algo=dqn, qr_dqn or ppo"))
        return trunk, features

    def _policy(self, exploration: Any, trunk: nn.Module, head: nn.Module) -> ExploringPolicy:
        return ExploringPolicy(exploration, self.reader, trunk, head).to(self.device)

    def _categorical(self) -> Categorical:
        if isinstance(self.actions, spaces.Discrete):
            rule = action_distribution(self.actions, "clip")
            assert isinstance(rule, Categorical)
            return rule
        remedy = "give algo=sac or td3" if self._is_bounded() else "give algo=ppo"
        cause = f"needs actions of a Discrete space, and these are {described(self.actions)}"
        raise ConfigError(Problem("algo", self.name, cause, remedy))

    def _bounded(self) -> SquashedGaussian:
        if self._is_bounded():
            rule = action_distribution(self.actions, "tanh")
            assert isinstance(rule, SquashedGaussian)
            return rule
        is_discrete = isinstance(self.actions, spaces.Discrete)
        remedy = "give algo=dqn or sac" if is_discrete else "give algo=ppo"
        cause = f"needs actions of a Box of floats with finite bounds, and these are {described(self.actions)}"
        raise ConfigError(Problem("algo", self.name, cause, remedy))

    def _is_bounded(self) -> bool:
        """Return whether actions are of a Box that a policy can be squashed to."""
        try:
            return isinstance(action_distribution(self.actions, "tanh"), SquashedGaussian)
        except ConfigError:
            return False

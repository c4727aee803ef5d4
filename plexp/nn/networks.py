"""Networks: the protocol of the group `net`, policy heads and critics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from plexp.errors import ConfigError, Problem
from plexp.nn.distributions import ActionDistribution, Categorical, DiagonalGaussian

if TYPE_CHECKING:
    pass


CriticKind: TypeAlias = Literal["none", "v", "q"]


class Network(Protocol):
    """The shape of the function approximators (group `net`)."""

    label: str
    """For the run's name, e.g. `mlp3x64`."""
    share_trunk: bool
    """True: actor and critic have one trunk and a head each."""

    def trunk(self, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """The body for observations [B, *shape], and the number of features it gives: [B, features].

        Raises ConfigError for a shape it cannot take.
        """
        ...

    def head(self, features: int, outputs: int, *, gain: float) -> nn.Module:
        """The last layer, [B, features] -> [B, outputs]; `gain` of its initialisation: 0.01 for policies, 1 for critics."""
        ...


POLICY_GAIN, CRITIC_GAIN = 0.01, 1.0


class PolicyHead(nn.Module):
    """Features to the parameters of the distribution; for Gaussians it adds log σ as `log_std` says."""

    log_std: Tensor | None
    fixed_log_std: Tensor | None

    def __init__(
        self, net: Network, features: int, distribution: ActionDistribution, log_std: str, log_std_init: float
    ) -> None:
        super().__init__()
        gaussian = isinstance(distribution, DiagonalGaussian)
        dims = distribution.num_features
        self.initial = log_std_init
        self.linear = net.head(
            features, dims if gaussian and log_std != "state" else distribution.num_parameters, gain=POLICY_GAIN
        )
        self.of_state, self.dims = gaussian and log_std == "state", dims
        free = nn.Parameter(torch.full((dims,), log_std_init)) if gaussian and log_std == "free" else None
        self.register_parameter("log_std", free)
        self.register_buffer("fixed_log_std", torch.zeros(dims) if gaussian and log_std == "identity" else None)

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.linear(features)
        log_std = self.fixed_log_std if self.log_std is None else self.log_std
        if log_std is not None:
            return torch.cat([output, log_std.expand_as(output)], -1)
        if self.of_state and self.initial:
            return output + torch.cat([output.new_zeros(self.dims), output.new_full((self.dims,), self.initial)])
        return output


class Critic(nn.Module):
    """V(s) [B], or Q(s, ·) [B, actions] of a finite choice, or Q(s, a) [B] with the action as a further input."""

    def __init__(
        self,
        net: Network,
        shape: tuple[int, ...],
        kind: CriticKind,
        distribution: ActionDistribution,
        shared: tuple[nn.Module, int] | None,
    ) -> None:
        super().__init__()
        self.per_action = kind == "q" and isinstance(distribution, Categorical)
        self.outputs = distribution.num_features if self.per_action else 1
        self.takes_actions = kind == "q" and not self.per_action
        if self.takes_actions and (shared or len(shape) > 1):
            cause = "for these actions Q(s, a) takes the action as an input, so its trunk can be neither shared nor for images"
            raise ConfigError(Problem("advantage", ..., cause, "choose an estimator with a V critic, such as gae"))
        width = (shape[0] + distribution.num_features,) if self.takes_actions else shape
        self.trunk, features = shared or net.trunk(width)
        self.head = net.head(features, self.outputs, gain=CRITIC_GAIN)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.on_features(self.trunk(inputs))

    def on_features(self, features: Tensor) -> Tensor:
        output: Tensor = self.head(features)
        return output if self.per_action else output.squeeze(-1)

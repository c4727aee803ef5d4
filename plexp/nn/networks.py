"""Networks of actor and critic: the protocol of the group `net`, and the modules that are built with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from plexp.errors import ConfigError, Problem
from plexp.nn.distributions import ActionDistribution, Categorical, Composite, DiagonalGaussian
from plexp.nn.layout import VECTOR, ObservationReader, Observations
from plexp.nn.recurrent import Inputs, Recurrent, features_of

CriticKind: TypeAlias = Literal["none", "v", "q"]
"""Kind of critic that an advantage estimator needs: none, V(s), or Q(s, a)."""
POLICY_GAIN, CRITIC_GAIN = 0.01, 1.0
"""Gains of the last layers' initialization: a first policy that is almost uniform, and values of unit scale."""


class Network(Protocol):
    """The shape of the function approximators (group `net`).

    One that takes structured observations by their parts has the attribute `by_parts = True`, and its `trunk` gets the parts.
    A recurrent one has `state_size`, the number of entries of its state, and its trunk is a `Recurrent`.
    """

    label: str
    """Short name for the run's name, such as `mlp3x64`."""
    share_trunk: bool
    """True if actor and critic share one trunk and have a head each."""

    def trunk(self, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """Return the layers from observations [B, *shape] to features [B, F], and F.

        With `by_parts` it gets a dict of `Part` by name, and the layers a dict of tensors [B, *part.shape]. Raises
        ConfigError for a shape that the network cannot take.
        """
        ...

    def head(self, features: int, outputs: int, *, gain: float) -> nn.Module:
        """Return the last layer, [B, features] -> [B, outputs].

        `gain` scales its initialization: 0.01 for policies, 1 for critics.
        """
        ...


class OfVector(nn.Module):
    """Trunk that takes some entries of the vector of all parts, and no mask of legal actions.

    Args:
        trunk: layers from these entries to features.
        columns: the entries; None: all.
    """

    columns: Tensor | None

    def __init__(self, trunk: nn.Module, columns: Sequence[int] | None) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("columns", None if columns is None else torch.tensor(columns), persistent=False)

    def forward(self, observations: Observations) -> Tensor:
        vector = observations[VECTOR] if isinstance(observations, dict) else observations
        features: Tensor = self.trunk(vector if self.columns is None else vector.index_select(-1, self.columns))
        return features


def make_trunk(net: Network, reader: ObservationReader, observes: Sequence[str] | None = None) -> tuple[nn.Module, int]:
    """Return the layers from observations, as the reader gives them, to features [B, F], and F.

    Args:
        net: makes the layers.
        reader: gives observations as the networks take them.
        observes: names of the parts that the layers see; None: all.

    Raises ConfigError for a network that takes parts, of observations that have none.
    """
    inputs: Any = reader.inputs
    by_parts = getattr(net, "by_parts", False)
    if by_parts != isinstance(inputs, dict) and reader.layout is not None:
        cause = "one of actor and critic takes the parts of an observation, and the other one vector of all"
        raise ConfigError(Problem("critic_net", net.label, cause, "give both net=multi, or neither"))
    if by_parts:
        if not isinstance(inputs, dict):
            cause = "it takes the parts of a Dict or Tuple observation, and these observations are one array"
            raise ConfigError(Problem("net", net.label, cause, "choose net=mlp, or net=cnn for images"))
        seen: Any = inputs if observes is None else {name: inputs[name] for name in inputs if name in observes}
        return net.trunk(seen)
    columns = None if observes is None else reader.columns(observes)
    trunk, features = net.trunk(inputs if columns is None else (len(columns),))
    if columns is None and not reader.has_mask:
        return trunk, features
    if isinstance(trunk, Recurrent):
        trunk.encoder = OfVector(trunk.encoder, columns)
        return trunk, features
    return OfVector(trunk, columns), features


class PolicyHead(nn.Module):
    """Layer from features [B, F] to the parameters [B, P] of an action distribution.

    Args:
        log_std: how a Gaussian's log σ is given: `free` of the state (one parameter a dimension), as an output of the
            `state`, or `identity` (σ = 1, fixed).
        log_std_init: initial log σ, unless it is fixed.
    """

    log_std: Tensor | None
    fixed_log_std: Tensor | None

    def __init__(
        self, net: Network, features: int, distribution: ActionDistribution, log_std: str, log_std_init: float
    ) -> None:
        super().__init__()
        is_gaussian = isinstance(distribution, DiagonalGaussian)
        dims = distribution.num_features
        outputs = dims if is_gaussian and log_std != "state" else distribution.num_parameters
        self.linear = net.head(features, outputs, gain=POLICY_GAIN)
        self.log_std_init, self.dims = log_std_init, dims
        self.has_state_std = is_gaussian and log_std == "state"
        free = nn.Parameter(torch.full((dims,), log_std_init)) if is_gaussian and log_std == "free" else None
        self.register_parameter("log_std", free)
        self.register_buffer("fixed_log_std", torch.zeros(dims) if is_gaussian and log_std == "identity" else None)

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.linear(features)
        log_std = self.fixed_log_std if self.log_std is None else self.log_std
        if log_std is not None:
            return torch.cat([output, log_std.expand_as(output)], -1)
        if self.has_state_std and self.log_std_init:
            return output + torch.cat([output.new_zeros(self.dims), output.new_full((self.dims,), self.log_std_init)])
        return output


class CompositeHead(nn.Module):
    """Head of each part of a composite action, whose parameters [B, P] stand side by side."""

    def __init__(self, parts: Sequence[PolicyHead]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([part(features) for part in self.parts], -1)


def policy_head(
    net: Network, features: int, distribution: ActionDistribution, log_std: str, log_std_init: float
) -> nn.Module:
    """Return the layer from features [B, F] to the parameters [B, P] of an action distribution; see `PolicyHead`."""
    if isinstance(distribution, Composite):
        return CompositeHead([PolicyHead(net, features, part, log_std, log_std_init) for part in distribution.parts])
    return PolicyHead(net, features, distribution, log_std, log_std_init)


class Critic(nn.Module):
    """Network of V(s) [B]; of Q(s, ·) [B, A] over A discrete actions; or of Q(s, a) [B] with the action as an input.

    Args:
        reader: gives observations as the critic takes them.
        shared: the actor's trunk and its number of features, if the critic is to use it.
        observes: names of the parts that it sees; None: all.

    Raises ConfigError for Q(s, a) on a shared trunk, on images, or on parts of observations.
    """

    def __init__(
        self,
        net: Network,
        reader: ObservationReader,
        kind: CriticKind,
        distribution: ActionDistribution,
        shared: tuple[nn.Module, int] | None,
        observes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.per_action = kind == "q" and isinstance(distribution, Categorical)
        self.takes_actions = kind == "q" and not self.per_action
        if self.takes_actions:
            shape = reader.inputs
            if shared or observes is not None or isinstance(shape, dict) or len(shape) > 1:
                cause = "for these actions Q(s, a) takes the action as an input, so its trunk can be neither shared nor"
                cause += " for images or parts of observations"
                raise ConfigError(Problem("advantage", ..., cause, "choose an estimator with a V critic, such as gae"))
            self.trunk, features = net.trunk((shape[0] + distribution.num_features,))
            if isinstance(self.trunk, Recurrent):
                cause = "for these actions Q(s, a) takes the action as an input, and its network cannot be recurrent"
                raise ConfigError(Problem("advantage", ..., cause, "choose an estimator with a V critic, such as gae"))
        else:
            self.trunk, features = shared or make_trunk(net, reader, observes)
        self.head = net.head(features, distribution.num_features if self.per_action else 1, gain=CRITIC_GAIN)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.from_features(features_of(self.trunk, inputs))

    def from_features(self, features: Tensor) -> Tensor:
        """Return the values for the trunk's features [B, F]."""
        output: Tensor = self.head(features)
        return output if self.per_action else output.squeeze(-1)


class QHead(nn.Module):
    """Layer from features [B, F] to K numbers for each of n actions, [B, n · K], the K of the first action first.

    Args:
        width: K: 1 for values Q(s, ·), or the number of quantiles.
        dueling: Q(s, a) = V(s) + A(s, a) − mean_a' A(s, a') with a layer each (Wang et al. 2016, eq. 9).
    """

    def __init__(self, net: Network, features: int, actions: int, *, width: int = 1, dueling: bool) -> None:
        super().__init__()
        self.width = width
        self.advantages = net.head(features, actions * width, gain=CRITIC_GAIN)
        self.value = net.head(features, width, gain=CRITIC_GAIN) if dueling else None

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.advantages(features)
        if self.value is None:
            return output
        value: Tensor = self.value(features)
        advantages = output.view(*output.shape[:-1], -1, self.width)
        return (value.unsqueeze(-2) + advantages - advantages.mean(-2, keepdim=True)).flatten(-2)


class Critics(nn.Module):
    """K networks of one shape, evaluated by one call: Q(s, a) [K, B], or Q(s, ·) [K, B, n].

    Args:
        members: networks from inputs [B, I] to values [B, n]; n = 1 is left out of the values' shape.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Any) -> Tensor:
        """Return the values for inputs [B, ...], which are put side by side; observations may be alone, in parts."""
        joined = _joined(inputs)
        # not vmap: batched products of these sizes are slower on a CPU than one after the other
        return torch.stack([member(joined).squeeze(-1) for member in self.members])

    def first(self, *inputs: Any) -> Tensor:
        """Return the values of the first member alone, without its dimension."""
        values: Tensor = self.members[0](_joined(inputs))
        return values.squeeze(-1)


def _joined(inputs: Sequence[Any]) -> Any:
    return inputs[0] if len(inputs) == 1 else torch.cat(list(inputs), -1)

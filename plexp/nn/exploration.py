"""Rules from a network's output to an action for algorithms that explore by noise and by uniformly random actions.

Each is an action rule with a buffer `epsilon`, the share of steps whose action is uniformly random, which the algorithm sets.
All randomness is in the noise, which is drawn for a whole trajectory at once: acting is a function of tensors.
"""

from __future__ import annotations

import copy
import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from plexp.nn.distributions import ILLEGAL, Array, Categorical, SquashedGaussian

NoiseKind: TypeAlias = Literal["gaussian", "ornstein_uhlenbeck"]


class DiscreteExploration(nn.Module):
    """Takes one of n actions by their preferences, or any one with probability ε.

    Args:
        rule: the n actions.
        greedy: the action of the largest preference is taken, as by ε-greedy policies (Watkins 1989; Mnih et al. 2015);
            False: preferences are logits, and actions are sampled.
        num_envs: N, environments that act; needed where random actions last.
        duration: k, steps that a random action lasts on average: each is its last with probability 1/k (as in temporally
            extended ε-greedy policies, Dabney et al. 2021). The share of random steps is ε whatever k is.
        masked: whether some actions may be illegal, whose preferences are `ILLEGAL`. A random action is then the legal one of
            the highest rank, in an order that is drawn, and lasts while that order does.
    """

    epsilon: Tensor
    """ε, saved with the policy."""
    last: Tensor | None
    """Random action [N] that lasts, or −1, if random actions last; if some may be illegal, ranks [N, n] or −1."""

    def __init__(
        self, rule: Categorical, *, greedy: bool, num_envs: int = 1, duration: float = 1.0, masked: bool = False
    ) -> None:
        super().__init__()
        self.rule, self.greedy, self.duration, self.masked = rule, greedy, duration, masked
        self.num_parameters = self.num_features = n = rule.num_features
        self.register_buffer("epsilon", torch.ones((), dtype=torch.float64))
        last = torch.full((num_envs, n), -1.0) if masked else torch.full((num_envs,), -1)
        self.register_buffer("last", last if duration > 1 else None)

    def fresh(self, num_envs: int) -> DiscreteExploration:
        """Return a copy for that many environments, in which no random action lasts yet."""
        other = copy.deepcopy(self)
        if self.last is not None:
            other.last = self.last.new_full((num_envs, *self.last.shape[1:]), -1)
        return other

    def draw_noise(self, rng: np.random.Generator, *shape: int) -> Array:
        """Return what is added to the preferences, [*shape, n], float32: infinity for an action that is taken anyway.

        With `masked` it is [*shape, 2 · n]: what is added, and after it the ranks of a random action, or −1 for none.
        """
        n = self.num_features
        noise = np.zeros((*shape, n), np.float32) if self.greedy else self.rule.draw_noise(rng, *shape)
        epsilon = float(self.epsilon)
        random: Array = rng.random((*shape, n), np.float32) if self.masked else rng.integers(n, size=shape)
        if self.last is None:
            random[rng.random(shape) >= epsilon] = -1
        else:
            begins = rng.random(shape) < epsilon / (self.duration * (1 - epsilon) + epsilon)
            goes_on, last = rng.random(shape) >= 1 / self.duration, self.last.cpu().numpy()
            if self.masked:
                begins, goes_on = begins[..., None], goes_on[..., None]
            for t, action in enumerate(random):  # over T steps
                random[t] = last = np.where(goes_on[t] & (last >= 0), last, np.where(begins[t], action, -1))
            self.last.copy_(torch.from_numpy(last))
        if self.masked:
            return np.concatenate([noise, random], -1)
        noise[random[..., None] == np.arange(n)] = np.inf
        return noise

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return an action of each row [B], from noise [B, n], or [B, 2 · n] if some may be illegal."""
        preferences = self.preferences(parameters)
        if not self.masked:
            return (preferences + noise).argmax(-1)
        noise, ranks = noise.chunk(2, -1)
        ranks_of_legal = torch.where(preferences > ILLEGAL / 2, ranks, -1.0)
        return torch.where(ranks < 0, preferences + noise, ranks_of_legal).argmax(-1)

    def mode(self, parameters: Tensor) -> Tensor:
        """Return the action of the largest preference, [B]."""
        return self.preferences(parameters).argmax(-1)

    def preferences(self, parameters: Tensor) -> Tensor:
        """Return a number for each action, [B, n]: Q(s, ·), or logits."""
        return parameters

    def encode(self, actions: Tensor) -> Tensor:
        """Return actions [B] as vectors [B, n], float32."""
        return self.rule.encode(actions)

    def to_environment(self, actions: Tensor) -> Tensor:
        """Return actions as the environment takes them."""
        return self.rule.to_environment(actions)


class QuantileExploration(DiscreteExploration):
    """ε-greedy in the means of K quantiles of each action's return (Dabney et al. 2018).

    Args:
        rule: the n actions.
        quantiles: K; `parameters` are [B, n · K], the K quantiles of the first action first.
        num_envs, duration, masked: as for `DiscreteExploration`.
    """

    def __init__(
        self, rule: Categorical, quantiles: int, *, num_envs: int = 1, duration: float = 1.0, masked: bool = False
    ) -> None:
        super().__init__(rule, greedy=True, num_envs=num_envs, duration=duration, masked=masked)
        self.quantiles, self.num_parameters = quantiles, rule.num_features * quantiles

    def preferences(self, parameters: Tensor) -> Tensor:
        return parameters.view(*parameters.shape[:-1], -1, self.quantiles).mean(-1)


class Deterministic(SquashedGaussian):
    """A policy with one action a = tanh(μ) for each state, scaled to the bounds of a Box, that explores by adding noise.

    `parameters` is μ [B, dims]. Actions are stored as clip(a + scale · noise, −1, 1) (Lillicrap et al. 2016; Fujimoto et al.
    2018).

    Args:
        low, high: bounds of the actions.
        scale: standard deviation of the noise; the actions' range is 2.
    """

    def __init__(self, low: Array, high: Array, scale: float) -> None:
        super().__init__(low, high)
        self.scale, self.num_parameters = scale, self.num_features

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return (parameters.tanh() + self.scale * noise).clamp(-1, 1)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters.tanh()

    def encode(self, actions: Tensor) -> Tensor:
        return actions

    def from_unit(self, actions: Tensor) -> Tensor:
        return actions


class ContinuousExploration(nn.Module):
    """Takes an action of a Box by its rule and noise, or a uniformly random one with probability ε.

    Args:
        rule: a squashed Gaussian, or one action for each state.
        num_envs: N, environments that act.
        kind: `gaussian`, drawn anew for each step, or `ornstein_uhlenbeck`, which lasts:
            xₜ₊₁ = (1 − θ) xₜ + √(1 − (1 − θ)²) ε with ε ~ N(0, 1) (Uhlenbeck and Ornstein 1930). Each x is N(0, 1).
        theta: θ.
    """

    epsilon: Tensor
    """ε, saved with the policy."""
    last: Tensor | None
    """Noise [N, dims] of the last step, if it lasts."""

    def __init__(self, rule: SquashedGaussian, num_envs: int, kind: NoiseKind, theta: float) -> None:
        super().__init__()
        self.rule, self.kind, self.theta = rule, kind, theta
        self.num_parameters, self.num_features = rule.num_parameters, rule.num_features
        self.register_buffer("epsilon", torch.ones((), dtype=torch.float64))
        self.register_buffer("last", torch.zeros(num_envs, rule.num_features) if kind != "gaussian" else None)

    def fresh(self, num_envs: int) -> ContinuousExploration:
        """Return a copy for that many environments, in which no noise lasts yet."""
        other = copy.deepcopy(self)
        if self.last is not None:
            other.last = self.last.new_zeros(num_envs, self.num_features)
        return other

    def draw_noise(self, rng: np.random.Generator, *shape: int) -> Array:
        """Return standard noise, and after it the random action or NaN, [*shape, 2 · dims], float32."""
        dims = self.num_features
        noise = self.rule.draw_noise(rng, *shape)
        if self.last is not None:
            last, remains = self.last.cpu().numpy(), 1 - self.theta
            for step in noise:  # over T steps
                step[:] = last = remains * last + math.sqrt(1 - remains**2) * step
            self.last.copy_(torch.from_numpy(last))
        explores = rng.random(shape) < float(self.epsilon)
        random = self.rule.from_unit(torch.from_numpy(rng.uniform(-1, 1, (*shape, dims)).astype(np.float32))).numpy()
        return np.concatenate([noise, np.where(explores[..., None], random, np.float32(np.nan))], -1)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return an action of each row [B, dims], from noise [B, 2 · dims]."""
        standard, random = noise.chunk(2, -1)
        return torch.where(random.isnan(), self.rule.sample(parameters, standard), random)

    def mode(self, parameters: Tensor) -> Tensor:
        """Return the action without noise, [B, dims]."""
        return self.rule.mode(parameters)

    def encode(self, actions: Tensor) -> Tensor:
        """Return actions [B, dims], scaled to −1…1."""
        return self.rule.encode(actions)

    def to_environment(self, actions: Tensor) -> Tensor:
        """Return actions as the environment takes them."""
        return self.rule.to_environment(actions)

"""What flows through plexp.

Glossary: T steps of N environments, time-major; B = rows of a minibatch; K = episodes that ended inside a rollout.
`*obs` is the shape of one observation, `*act` that of one action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

Metrics: TypeAlias = Mapping[str, float]
"""Names without prefix (`policy_loss`, `approx_kl`) to numbers."""


@dataclass(frozen=True)
class Rollout:
    """T steps of N environments under one policy, and what the agent thinks of them.

    `values`, `next_values`, `action_values` and `log_ratios` are filled in by `Agent.evaluate_rollout`; they are zero until
    then, and where the agent has no such critic.
    """

    observations: Tensor
    """[T, N, *obs] as the environment gave them, before the agent's normaliser."""
    actions: Tensor
    """[T, N, *act] as sampled, before any clipping to the bounds."""
    log_probs: Tensor
    """[T, N] log π_old(a|s) of the policy that acted, in nats."""
    rewards: Tensor
    """[T, N] after reward scaling, if that is on."""
    values: Tensor
    """[T, N] V(s_t); with a Q critic Σ_a π(a|s_t) Q(s_t, a)."""
    next_values: Tensor
    """[T, N] V(s_{t+1}) of the TRUE successor, never of the next episode's start."""
    action_values: Tensor
    """[T, N] Q(s_t, a_t); zero without a Q critic."""
    log_ratios: Tensor
    """[T, N] log π(a|s) − log π_old(a|s) of today's policy π; zero in a fresh rollout."""
    terminated: Tensor
    """[T, N] bool: no future after this step."""
    truncated: Tensor
    """[T, N] bool: cut off by a time limit; the future exists, so bootstrap."""
    valid: Tensor
    """[T, N] bool. False: padding or a reset row; in no loss, count or normaliser."""
    last_observations: Tensor
    """[N, *obs] after the last step."""
    final_observations: Tensor
    """[K, *obs] the true last observations of episodes whose successor row shows the next episode (SAME_STEP resets)."""
    final_index: Tensor
    """[K] int64: their rows in the flattened [T·N]."""

    @property
    def num_valid(self) -> int:
        """How many environment steps this rollout holds."""
        return int(self.valid.sum())


@dataclass(frozen=True)
class Targets:
    """What an advantage estimator makes of a rollout."""

    advantages: Tensor
    """[T, N] Φ, the weight of ∇ log π(a|s)."""
    value_targets: Tensor | None
    """[T, N] what the critic regresses on; None: there is no critic."""
    importance_weights: Tensor | None = None
    """[T, N] min(ρ̄, π/π_old) for losses that have no ratio of their own; None: one everywhere (on-policy)."""


@dataclass(frozen=True)
class Minibatch:
    """B valid rows of one or several rollouts, shuffled."""

    observations: Tensor
    """[B, *obs] normalised, if normalisation is on."""
    actions: Tensor
    """[B, *act]"""
    log_probs: Tensor
    """[B] of the policy that acted."""
    advantages: Tensor
    """[B] standardised, if that is on."""
    importance_weights: Tensor
    """[B] see `Targets`."""
    values: Tensor
    """[B] the critic's prediction when the rollout was appraised: V(s), or Q(s, a) with a Q critic."""
    value_targets: Tensor | None = None
    """[B]; None: this pass trains no critic."""

    def tensors(self) -> list[Tensor]:
        """The fields that it has, in this order."""
        return [x for x in vars(self).values() if x is not None]


@dataclass(frozen=True)
class AgentOutput:
    """What an agent says of a minibatch, with gradients."""

    log_probs: Tensor
    """[B] log π(a|s)"""
    entropy: Tensor
    """[B] of π(·|s), in nats."""
    predictions: Tensor | None
    """[B] V(s) or Q(s, a); None where no critic is trained."""

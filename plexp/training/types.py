"""The tensors that flow through the training loop.

    collector ─▶ Trajectory ─▶ agent ─▶ Rollout ─▶ advantage estimator ─▶ Targets ─▶ Minibatch ─▶ loss

Glossary: T steps of N environments, time-major; B rows of a minibatch; K episodes that ended inside a trajectory. `*obs` is
the shape of one observation, `*act` that of one action; S columns of the state of the policy's recurrent networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch.export
from torch import Tensor

from plexp.nn.recurrent import Inputs

Metrics: TypeAlias = Mapping[str, float]
"""Metrics by name, without a prefix: `policy_loss`, `approx_kl`."""


@dataclass(frozen=True)
class Trajectory:
    """T steps of N environments as the environments gave them; nothing in it is estimated."""

    observations: Tensor
    """[T, N, *obs] observations that the actions answered, before the agent's normalizer."""
    actions: Tensor
    """[T, N, *act] actions as sampled, before any clipping to the bounds."""
    rewards: Tensor
    """[T, N] rewards, scaled if `env.scale_rewards` is on."""
    terminated: Tensor
    """[T, N] bool: the step ended its episode, and the return has no future beyond it."""
    truncated: Tensor
    """[T, N] bool: a time limit cut the episode off after the step, so an estimator bootstraps from the successor."""
    valid: Tensor
    """[T, N] bool: False for padding and for reset rows, which are in no loss, count or normalizer."""
    last_observations: Tensor
    """[N, *obs] observations after the last step."""
    final_observations: Tensor
    """[K, *obs] true last observations of the episodes whose successor row shows the next episode (SAME_STEP resets)."""
    final_index: Tensor
    """[K] int64 rows of those episodes' last steps in the flattened [T·N]."""
    states: Tensor | None = None
    """[T, N, S] states that the policy acted with, zero where an episode begins; None: it has no recurrent network."""
    earlier: Tensor | None = None
    """[N, k − 1, *frame] frames before the first ones, where observations are stacks of k frames: then `observations` has the
    newest frames alone, [T, N, *frame], and `whole_observations` returns the stacks. None: observations are whole."""

    def given(self) -> dict[str, Tensor]:
        """Return the tensors that were collected, by name, without what a subclass adds."""
        fields = {name: getattr(self, name) for name in Trajectory.__dataclass_fields__}
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def frames(self) -> int:
        """k, number of frames of an observation; 1 where observations are no stacks."""
        return 1 if self.earlier is None else self.earlier.shape[1] + 1

    @property
    def num_valid(self) -> int:
        """Number of environment steps in the trajectory."""
        return int(self.valid.sum())


@dataclass(frozen=True, kw_only=True)
class Rollout(Trajectory):
    """A trajectory with the outputs of the agent's networks: the input of an advantage estimator.

    Values are zero where the agent has no critic of that kind.
    """

    log_probs: Tensor
    """[T, N] log π_old(a|s) of the policy that acted, in nats."""
    log_ratios: Tensor
    """[T, N] log π(a|s) − log π_old(a|s) of the current policy π; zero unless the trajectory is replayed."""
    values: Tensor
    """[T, N] V(s_t); with a Q critic Σ_a π(a|s_t) Q(s_t, a)."""
    next_values: Tensor
    """[T, N] V(s_{t+1}) of the true successor, never of the next episode's first observation."""
    action_values: Tensor
    """[T, N] Q(s_t, a_t); zero without a Q critic."""


@dataclass(frozen=True)
class Targets:
    """Output of an advantage estimator for a rollout."""

    advantages: Tensor
    """[T, N] Φ, the weight of ∇ log π(a|s)."""
    value_targets: Tensor | None
    """[T, N] regression targets of the critic; None if there is no critic."""
    importance_weights: Tensor | None = None
    """[T, N] min(ρ̄, π/π_old), for losses without a ratio of their own; None stands for one everywhere (on-policy)."""


@dataclass(frozen=True)
class Minibatch:
    """B valid rows of one or several rollouts: in random order, or in that of the sequences that recurrent networks take."""

    observations: Inputs
    """[B, *obs] observations as the networks take them, normalized if `env.normalize_observations` is on."""
    actions: Tensor
    """[B, *act] actions as sampled."""
    log_probs: Tensor
    """[B] log π_old(a|s) of the policy that acted, in nats."""
    advantages: Tensor
    """[B] advantages, standardized as `algo.standardize_advantages` says."""
    importance_weights: Tensor
    """[B] importance weights; see `Targets`."""
    values: Tensor
    """[B] the critic's predictions when the rollout was evaluated: V(s), or Q(s, a) with a Q critic."""
    value_targets: Tensor | None = None
    """[B] regression targets of the critic; None if the pass trains no critic."""


@dataclass(frozen=True)
class AgentOutput:
    """Output of the agent's networks for a minibatch, with gradients."""

    log_probs: Tensor
    """[B] log π(a|s) of the current policy, in nats."""
    entropy: Tensor
    """[B] entropy of π(·|s), in nats."""
    predictions: Tensor | None
    """[B] V(s), or Q(s, a) with a Q critic; None if the pass trains no critic."""


@dataclass(frozen=True)
class Transitions:
    """B transitions of m steps each, drawn from a replay buffer: m is `n_steps`, or less where the episode or the buffer ends.

    With an estimate V of the successor, the m-step target is rewards + discounts · V(next_observations) (Sutton and Barto
    2018, eq. 7.1).
    """

    observations: Inputs
    """[B, *obs] observations s_t that the actions answered; of a batch that is learnt from, as the networks take them."""
    actions: Tensor
    """[B, *act] actions a_t as sampled."""
    rewards: Tensor
    """[B] Σ_{k<m} γ^k r_{t+k}."""
    next_observations: Inputs
    """[B, *obs] true observations s_{t+m}, never of the next episode; finite, but of no meaning, where the discount is 0."""
    discounts: Tensor
    """[B] γ^m, or 0 if the m-th step terminated its episode."""
    weights: Tensor
    """[B] importance weights; one if the transitions were drawn uniformly."""
    noise: Tensor | None = None
    """[B, *noise] standard Gaussian noise for a loss that samples actions; None: the algorithm asked for none."""


for _batch in (Trajectory, Rollout, Targets, Minibatch, AgentOutput, Transitions):
    torch.export.register_dataclass(_batch)  # as pytrees: flattened to tensors, and rebuilt by field name

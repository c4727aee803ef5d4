"""The estimator `n_step`, n-step advantages: Φ = the n-step return − V(s)."""

from __future__ import annotations

import torch

from plexp import CriticKind, PositiveInt, Rollout, Targets, UnitInterval, losses, register


@register("advantage", "n_step")
class NStep:
    """Φ_t = Σ_{k<n} γ^k r_{t+k} + γ^n V(s_{t+n}) − V(s_t) (Sutton and Barto 2018, eq. 7.1). The critic regresses on the sum.

    Where the episode or the rollout ends before n steps, the sum ends there: with V of the true successor if the
    episode was cut off, with nothing if it terminated. n = 1 is `td`; n ≥ T is `gae` with λ = 1.
    """

    critic: CriticKind = "v"
    complete_episodes = False
    off_policy = False

    def __init__(self, *, gamma: UnitInterval, n: PositiveInt) -> None:
        self.gamma, self.n = gamma, n

    def __call__(self, rollout: Rollout) -> Targets:
        targets = one_step = losses.one_step_targets(rollout, self.gamma)
        discounts = losses.continuations(rollout, self.gamma)[:-1]
        for _ in range(min(self.n, len(one_step)) - 1):
            longer = rollout.rewards[:-1] + discounts * targets[1:]
            targets = torch.cat([torch.where(discounts > 0, longer, one_step[:-1]), one_step[-1:]])
        return Targets(targets - rollout.values, targets)

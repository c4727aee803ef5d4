"""The estimator `gae`, generalized advantage estimation."""

from __future__ import annotations

from plexp import CriticKind, Rollout, Targets, UnitInterval, losses, register


@register("advantage", "gae")
class GAE:
    """Φ_t = A_t = δ_t + γλ·(1 − done)·A_{t+1} (Schulman et al. 2016, eq. 16).

    δ_t = r + γ·(1 − terminated)·V(s_{t+1}) − V(s_t), with V of the true successor where the episode was cut off.
    The critic regresses on A_t + V(s_t), the λ-return. λ = 0 is `td`, λ = 1 is `baseline`.
    """

    critic: CriticKind = "v"
    complete_episodes = False
    off_policy = False

    def __init__(self, *, gamma: UnitInterval, gae_lambda: UnitInterval) -> None:
        self.gamma, self.gae_lambda = gamma, gae_lambda

    def __call__(self, rollout: Rollout) -> Targets:
        advantages = losses.discounted_sums(
            losses.td_errors(rollout, self.gamma), losses.continuations(rollout, self.gamma * self.gae_lambda)
        )
        return Targets(advantages, advantages + rollout.values)

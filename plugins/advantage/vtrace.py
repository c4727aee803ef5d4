"""V-trace: advantages of rollouts that an older policy made."""

from __future__ import annotations

import torch

from plexp import CriticKind, PositiveFloat, Rollout, Targets, UnitInterval, losses, register


@register("advantage", "vtrace")
class VTrace:
    """V-trace (Espeholt et al. 2018, eq. 1 and section 4.2), with λ as in its remark 2.

    With ρ_t = min(ρ̄, π/π_old) and c_t = λ·min(c̄, π/π_old) the critic regresses on v_t = V(s_t) + x_t, where
    x_t = ρ_t·δ_t + γ·c_t·(1 − done)·x_{t+1}. Φ_t = δ_t + γλ·(1 − done)·x_{t+1}, so that on-policy it is `gae`; the paper
    has λ = 1 there. ρ_t itself goes out as importance weight: losses with a ratio of their own (PPO) don't need it.
    """

    critic: CriticKind = "v"
    complete_episodes = False
    off_policy = True

    def __init__(
        self, *, gamma: UnitInterval, gae_lambda: UnitInterval, rho_bar: PositiveFloat, c_bar: PositiveFloat
    ) -> None:
        self.gamma, self.gae_lambda, self.rho_bar, self.c_bar = gamma, gae_lambda, rho_bar, c_bar

    def __call__(self, rollout: Rollout) -> Targets:
        ratios, deltas = rollout.log_ratios.exp(), losses.td_errors(rollout, self.gamma)
        rho = ratios.clamp(max=self.rho_bar)
        goes_on = losses.continuations(rollout, self.gamma * self.gae_lambda)
        corrections = losses.discounted_sums(rho * deltas, goes_on * ratios.clamp(max=self.c_bar))
        later = torch.cat([corrections[1:], torch.zeros_like(corrections[:1])])
        return Targets(deltas + goes_on * later, rollout.values + corrections, rho)

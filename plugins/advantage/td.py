"""The estimator `td`, temporal-difference errors: Φ = δ."""

from __future__ import annotations

from plexp import CriticKind, Rollout, Targets, UnitInterval, losses, register


@register("advantage", "td")
class TD:
    """Φ_t = δ_t = r + γ·(1 − terminated)·V(s_{t+1}) − V(s_t), one step and V (Sutton and Barto 2018, ch. 13.5).

    The critic regresses on r + γ·V(s_{t+1}). Least variance, most bias: all it knows of the future is V.
    """

    critic: CriticKind = "v"
    complete_episodes = False
    off_policy = False

    def __init__(self, *, gamma: UnitInterval) -> None:
        self.gamma = gamma

    def __call__(self, rollout: Rollout) -> Targets:
        targets = losses.one_step_targets(rollout, self.gamma)
        return Targets(targets - rollout.values, targets)

"""The estimator `baseline`, REINFORCE with a baseline: Φ = G − V(s)."""

from __future__ import annotations

from plexp import CriticKind, Rollout, Targets, UnitInterval, losses, register


@register("advantage", "baseline")
class Baseline:
    """Φ_t = G_t − V(s_t): REINFORCE with a baseline (Sutton and Barto 2018, ch. 13.4). The critic regresses on G.

    Where an episode is cut off, by a time limit or the end of the rollout, V of the true successor stands for the rest.
    """

    critic: CriticKind = "v"
    complete_episodes = False
    off_policy = False

    def __init__(self, *, gamma: UnitInterval) -> None:
        self.gamma = gamma

    def __call__(self, rollout: Rollout) -> Targets:
        returns = losses.bootstrapped_returns(rollout, self.gamma)
        return Targets(returns - rollout.values, returns)

"""The estimator `returns`, returns: Φ = G."""

from __future__ import annotations

from plexp import CriticKind, Rollout, Targets, UnitInterval, losses, register


@register("advantage", "returns")
class Returns:
    """Φ_t = G_t = Σ_k γ^k r_{t+k} to the end of the episode, as in REINFORCE (Sutton and Barto 2018, ch. 13.3).

    No critic, so nothing stands for what a time limit cuts off: G of a truncated episode is the sum up to the cut.
    """

    critic: CriticKind = "none"
    complete_episodes = True
    off_policy = False

    def __init__(self, *, gamma: UnitInterval) -> None:
        self.gamma = gamma

    def __call__(self, rollout: Rollout) -> Targets:
        return Targets(losses.discounted_sums(rollout.rewards, losses.continuations(rollout, self.gamma)), None)

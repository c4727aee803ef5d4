"""Φ = G."""

from __future__ import annotations

from plexp.interfaces import CriticKind
from plexp.losses import continuations, discounted_sums
from plexp.ranges import UnitInterval
from plexp.registry import register
from plexp.types import Rollout, Targets


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
        return Targets(discounted_sums(rollout.rewards, continuations(rollout, self.gamma)), None)

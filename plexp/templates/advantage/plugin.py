"""Mine."""

from __future__ import annotations

from plexp import CriticKind, Rollout, Targets, UnitInterval, register


@register("advantage", "mine")
class Mine:
    """Φ_t = r_t + γ·(1 − terminated)·V(s_{t+1}) − V(s_t), the TD error (Sutton and Barto 2018, eq. 6.5): the place to change.

    Args:
        gamma: discount per step; larger: looks further ahead.
    """

    critic: CriticKind = "v"
    complete_episodes = False
    off_policy = False

    def __init__(self, *, gamma: UnitInterval) -> None:
        self.gamma = gamma

    def __call__(self, rollout: Rollout) -> Targets:
        targets = rollout.rewards + self.gamma * ~rollout.terminated * rollout.next_values  # [T, N]
        return Targets(advantages=targets - rollout.values, value_targets=targets)

"""The estimator `q`, advantages by a Q critic: Φ = Q(s, a) − Σ π Q."""

from __future__ import annotations

from plexp import CriticKind, Rollout, Targets, UnitInterval, losses, register


@register("advantage", "q")
class Q:
    """Φ_t = Q(s_t, a_t) − Σ_a π(a|s_t) Q(s_t, a): the advantage as it is defined (Sutton et al. 2000, theorem 1).

    The critic regresses on expected Sarsa's target, r + γ·(1 − terminated)·Σ_a π(a|s') Q(s', a)
    (Sutton and Barto 2018, eq. 6.9). Over continuous actions the sum is a mean over `policy.action_samples` actions.
    """

    critic: CriticKind = "q"
    complete_episodes = False
    off_policy = False

    def __init__(self, *, gamma: UnitInterval) -> None:
        self.gamma = gamma

    def __call__(self, rollout: Rollout) -> Targets:
        return Targets(rollout.action_values - rollout.values, losses.one_step_targets(rollout, self.gamma))

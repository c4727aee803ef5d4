"""The estimator `q_baseline`, a Q critic as a baseline: Φ = G − Q(s, a)."""

from __future__ import annotations

from plexp import CriticKind, Rollout, Targets, UnitInterval, losses, register


@register("advantage", "q_baseline")
class QBaseline:
    """Φ_t = G_t − Q(s_t, a_t), to be studied, not used: its expectation is zero under an exact Q.

    E[G_t | s_t, a_t] = Q(s_t, a_t), so a critic that has learnt its target leaves only noise to the policy: a baseline
    may depend on the state but not on the action (Sutton and Barto 2018, eq. 13.10). It learns while the critic is wrong.
    The critic regresses on G; where an episode is cut off, Σ_a π Q of the true successor stands for the rest.
    """

    critic: CriticKind = "q"
    complete_episodes = False
    off_policy = False

    def __init__(self, *, gamma: UnitInterval) -> None:
        self.gamma = gamma

    def __call__(self, rollout: Rollout) -> Targets:
        returns = losses.bootstrapped_returns(rollout, self.gamma)
        return Targets(returns - rollout.action_values, returns)

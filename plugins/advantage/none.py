"""The estimator `none`: for algorithms that learn values from replayed transitions."""

from __future__ import annotations

from typing import ClassVar

from plexp import CriticKind, Rollout, Targets, register


@register("advantage", "none")
class NoAdvantage:
    """No estimator: algorithms that learn values have no policy gradient to weigh (Sutton and Barto 2018, ch. 6 and 13)."""

    critic: CriticKind = "none"
    complete_episodes = False
    off_policy = True
    refused: ClassVar = {"gae_lambda": "targets sum algo.n_steps rewards"}

    def __call__(self, rollout: Rollout) -> Targets:
        raise NotImplementedError("advantage=none estimates nothing")

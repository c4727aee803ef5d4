"""Recorded runs and learning curves, made up as MLflow might hold them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np

from plexp.tracking.history import Curve, RecordedRun

_numbers = count(1)


def recorded(
    returns: Sequence[float] = (0, 250, 500, 500),
    *,
    seed: int = 0,
    every: int = 1000,
    status: str = "FINISHED",
    experiment: str = "cartpole",
    tags: dict[str, str] | None = None,
    **params: object,
) -> RecordedRun:
    """Return a run that was evaluated at steps 0, every, 2·every, …; each one was started after the one before.

    Params are given by name, with `__` for the dot.
    """
    number = next(_numbers)
    steps = every * np.arange(len(returns))
    whole = {
        "algo.plugin": "ppo",
        "env.id": "CartPole-v1",
        "env.solved_return": "475",
        "env.random_return": "25",
        "evaluation.every": every,
        "total_timesteps": int(steps[-1]) if len(steps) else 3000,
        "total_episodes": "null",
        "seed": seed,
        **{key.replace("__", "."): value for key, value in params.items()},
    }
    return RecordedRun(
        f"{number:032x}",
        f"run-s{seed}",
        status,
        experiment,
        number,
        {key: str(value) for key, value in whole.items()},
        {"kind": "training", "choice.env": "cartpole", **(tags or {})},
        curve=Curve(steps, np.array(returns, float), steps / 100),
    )


def curve_of_learning(rng: np.random.Generator, slowness: float = 1.0, evaluations: int = 41) -> list[float]:
    """Return a noisy climb to 500 that takes a random time, with occasional relapses, much like PPO on CartPole."""
    begin = rng.lognormal(np.log(8 * slowness), 0.5)
    climb = 500 / (1 + np.exp(-(np.arange(evaluations) - begin)))
    fall = (rng.random(evaluations) < 0.08) * rng.uniform(0, 400, evaluations)
    return list(np.clip(climb + rng.normal(0, 10, evaluations) - fall, 0, 500))

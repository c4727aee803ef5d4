"""Tests that SerialVectorEnv behaves like gymnasium's SyncVectorEnv."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.envs.vector import SerialVectorEnv
from tests.support.builders import play_side_by_side


def maker(id: str, kwargs: dict[str, Any], index: int) -> gymnasium.Env[Any, Any]:
    return SeededEpisodes(gymnasium.make(id, max_episode_steps=9, **kwargs), index, EpisodeSeeds(0, (3,)))


@pytest.mark.parametrize(
    ("id", "kwargs"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {}),
        ("LunarLander-v3", {"continuous": True}),
        ("plexp-tests/Counter-v0", {}),
    ],
)
def test_every_step_equals_that_of_gymnasiums_vector_environment(id: str, kwargs: dict[str, Any]) -> None:
    makers: list[Callable[[], gymnasium.Env[Any, Any]]] = [partial(maker, id, kwargs, i) for i in range(3)]
    ours, theirs = SerialVectorEnv(makers), SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    try:
        ours.action_space.seed(0)
        assert play_side_by_side(ours, theirs, ours.action_space.sample) >= 9
    finally:
        ours.close()
        theirs.close()


def test_returned_arrays_are_not_overwritten() -> None:
    env = SerialVectorEnv([partial(maker, "CartPole-v1", {}, 0)])
    first = env.reset()[0]
    second = env.step(np.array([1]))[0]
    copies = first.copy(), second.copy()
    env.step(np.array([0]))
    np.testing.assert_array_equal(first, copies[0])
    np.testing.assert_array_equal(second, copies[1])
    env.close()

"""Tests of environments that return one array of their own and change it in place: the agent learns from copies."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FlattenObservation

from plexp.envs.adapter import EnvAdapter
from plexp.envs.seeding import EpisodeSeeds, SeededEpisodes
from plexp.envs.vector import SerialVectorEnv, SubprocessVectorEnv
from plexp.nn.distributions import Categorical
from tests.support.environments import Chain

SEEDS = EpisodeSeeds(3, (3,))
WAYS = ["serial", "subprocess", "gymnasium same step", "gymnasium next step"]

KINDS = ["whole", "view", "nested", "shared"]


class ReusingChain(Chain):
    """Chain that returns the same array every time: `whole`, a `view` of it, `nested` in a dict, or `shared` by all."""

    SHARED: ClassVar[np.ndarray] = np.zeros(5, np.float32)

    def __init__(self, kind: str) -> None:
        self.kind, self.array = kind, self.SHARED if kind == "shared" else np.zeros(5, np.float32)
        if kind == "nested":
            self.observation_space = spaces.Dict(state=Chain.observation_space)

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(**arguments)
        return self._reused(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        return self._reused(observation), *rest

    def _reused(self, observation: np.ndarray) -> Any:
        self.array[:] = observation
        return {"whole": self.array, "shared": self.array, "view": self.array[:], "nested": {"state": self.array}}[
            self.kind
        ]


def make(kind: str, index: int) -> gymnasium.Env[Any, Any]:
    env: Any = Chain() if kind == "fresh" else ReusingChain(kind)
    return SeededEpisodes(FlattenObservation(env) if kind == "nested" else env, index, SEEDS)


def vector(way: str, kind: str) -> VectorEnv[Any, Any, Any]:
    makers = [partial(make, kind, index) for index in range(2)]
    if way == "serial":
        return SerialVectorEnv(makers)
    if way == "subprocess":
        return SubprocessVectorEnv(makers)
    mode = AutoresetMode.SAME_STEP if way == "gymnasium same step" else AutoresetMode.NEXT_STEP
    return SyncVectorEnv(makers, autoreset_mode=mode)


@pytest.mark.parametrize(
    ("way", "kind"),
    # gymnasium's own vector environments read all observations after the last environment has stepped
    [(way, kind) for way in WAYS for kind in KINDS if kind != "shared" or not way.startswith("gymnasium")],
)
def test_an_array_that_an_environment_reuses_is_copied_before_it_changes(way: str, kind: str) -> None:
    adapter = EnvAdapter(vector(way, kind), Categorical(2))
    try:
        seen, finals = [adapter.reset()], []
        for _ in range(9):
            observations, _, terminated, _, info = adapter.step(torch.zeros(2, dtype=torch.int64))
            seen.append(observations)
            if terminated.any() and adapter.same_step:
                finals += [np.array(final) for final in info["final_obs"]]
    finally:
        adapter.env.close()
    states = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4] if adapter.same_step else [0, 1, 2, 3, 4, 4, 0, 1, 2, 3]
    expected = np.eye(5, dtype=np.float32)[states]
    assert np.array_equal(np.stack(seen), np.stack([expected, expected], 1))
    assert all(final.tolist() == [0, 0, 0, 0, 1] for final in finals) and len(finals) == (2 if adapter.same_step else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["serial", "subprocess"])
def test_episodes_of_such_an_environment_are_restored_at_the_right_state(way: str, kind: str) -> None:
    adapter = EnvAdapter(vector(way, kind), Categorical(2))
    expected = np.eye(5, dtype=np.float32)[[3, 1]]
    actions = [torch.zeros(3, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)]
    try:
        observations, is_equal = adapter.resimulate([4, 2], actions, expected)
    finally:
        adapter.env.close()
    assert np.array_equal(observations, expected) and is_equal.all()

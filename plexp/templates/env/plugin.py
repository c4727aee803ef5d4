"""Mine."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import TimeLimit

from plexp import EpisodeSeed, PositiveInt, SeededEpisodes, SerialVectorEnv, register


class Corridor(gymnasium.Env[Any, Any]):
    """A corridor of cells: one step left or right, 1 for its right end, −0.01 a step. `step` is the place to change."""

    action_space = spaces.Discrete(2)

    def __init__(self, length: int) -> None:
        self.length = length
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(self.length - 1))
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.cell = max(0, self.cell + (1 if action == 1 else -1))
        arrived = self.cell == self.length - 1
        return self._observation(), 1.0 if arrived else -0.01, arrived, False, {}

    def _observation(self) -> Any:
        return np.array([self.cell / (self.length - 1)], np.float32)


@register("env", "mine")
class Mine:
    """A corridor whose right end pays.

    Args:
        length: cells; larger: harder to find the end.
        max_episode_steps: an episode is cut off after so many.
        num_envs: environments side by side in training.
        normalize_observations: to mean 0 and deviation 1, by running statistics.
        scale_rewards: divide by the running deviation of the discounted return.
        solved_return: the mean return from which it counts as solved; null: there is none.
    """

    label = "mine"

    def __init__(
        self,
        *,
        length: PositiveInt,
        max_episode_steps: PositiveInt,
        num_envs: PositiveInt,
        normalize_observations: bool,
        scale_rewards: bool,
        solved_return: float | None,
    ) -> None:
        self.length, self.max_episode_steps, self.num_envs = length, max_episode_steps, num_envs
        self.normalize_observations, self.scale_rewards = normalize_observations, scale_rewards
        self.solved_return = solved_return

    def make(self, num_envs: int, episode_seed: EpisodeSeed) -> VectorEnv[Any, Any, Any]:
        return SerialVectorEnv([partial(self._make_one, index, episode_seed) for index in range(num_envs)])

    def _make_one(self, index: int, episode_seed: EpisodeSeed) -> gymnasium.Env[Any, Any]:
        return SeededEpisodes(TimeLimit(Corridor(self.length), self.max_episode_steps), index, episode_seed)

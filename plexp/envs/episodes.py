"""Episodes: those that ended, and the record of those in progress from which they can be re-simulated."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plexp.envs.environment import Array


@dataclass(frozen=True)
class Episode:
    """A training episode that ended."""

    total_reward: float
    """Sum of its rewards as the environment gave them, neither discounted nor scaled."""
    length: int
    """Number of its steps."""
    environment: int = 0
    """Index of its environment among the N of the vector environment."""
    number: int = 0
    """Number of episodes that this environment started before; the two together determine its seed."""


@dataclass(frozen=True)
class PlayedEpisode:
    """An episode with all that a fresh environment needs to re-simulate it."""

    seed: int
    """Seed that it was reset with."""
    actions: Array
    """[L, *space.shape] actions as the environment got them."""
    total_reward: float
    """Sum of its rewards, to compare with when it is re-simulated."""


class EpisodesInProgress:
    """Record of the episode in progress of each of N environments: its number, hence its seed, and its actions so far."""

    def __init__(self, num_envs: int) -> None:
        self.numbers = np.full(num_envs, -1, np.int64)
        """[N] number of episodes that each environment started before this one."""
        self._rollouts: deque[tuple[int, Tensor]] = deque()
        """(first step, actions [T, N, *act]) of the rollouts that an episode in progress began in or spans."""
        self._first_steps = np.zeros(num_envs, np.int64)
        """[N] step at which each episode in progress began, counted as `_steps` is."""
        self._steps = 0
        """Number of steps recorded so far."""

    def begin(self) -> None:
        """Record that all environments were reset."""
        self.numbers += 1
        self._first_steps[:] = self._steps
        self._rollouts.clear()

    def add(self, actions: Tensor, done: Array) -> None:
        """Record a rollout: actions [T, N, *act] as sampled, and done [T, N], True where an episode ended."""
        steps = len(actions)
        self._rollouts.append((self._steps, actions))
        if done.any():
            after_last_end = steps - np.argmax(done[::-1], 0)
            self._first_steps = np.where(done.any(0), self._steps + after_last_end, self._first_steps)
            self.numbers += done.sum(0)
        self._steps += steps
        while self._rollouts and self._rollouts[0][0] + len(self._rollouts[0][1]) <= self._first_steps.min():
            self._rollouts.popleft()

    def actions(self) -> list[Tensor]:
        """Return the actions [L, *act] of each environment in the L steps since its episode began."""
        if not self._rollouts:
            return [torch.zeros(0)] * len(self.numbers)
        start = self._rollouts[0][0]
        table = torch.cat([actions for _, actions in self._rollouts])
        return [table[first_step - start :, i] for i, first_step in enumerate(self._first_steps)]

    def at(self, index: int, actions: Sequence[Tensor], done: Array) -> tuple[int, Tensor]:
        """Return number and actions [L, *act] of the episode of environment `index` at the last of some further steps.

        Args:
            index: index of the environment.
            actions: [N, *act] actions of each further step, which are not recorded yet.
            done: [T, N] whether an episode ended in each of them; the last one may be missing.
        """
        ends = np.flatnonzero(done[: max(len(actions) - 1, 0), index])
        start = int(ends[-1]) + 1 if len(ends) else 0
        recorded = [] if len(ends) else list(self.actions()[index])
        columns = [*recorded, *(step[index] for step in actions[start:])]
        return int(self.numbers[index]) + len(ends), torch.stack(columns) if columns else torch.zeros(0)

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of the episodes and their actions, one after the other."""
        columns = self.actions()
        return {"numbers": self.numbers, "lengths": [len(column) for column in columns], "actions": torch.cat(columns)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> list[Tensor]:
        """Restore the record; return the actions [L, *act] of each environment, from which to re-simulate its episode.

        Call `start_next` for an environment where that does not lead to the same observation.
        """
        self.numbers = state_dict["numbers"].copy()
        columns = list(torch.split(state_dict["actions"], state_dict["lengths"]))
        self._steps = max(state_dict["lengths"])
        self._first_steps = np.array([self._steps - len(column) for column in columns])
        self._rollouts.clear()
        if self._steps:
            longest = max(columns, key=len)
            table = longest.new_zeros(self._steps, len(columns), *longest.shape[1:])
            for i, column in enumerate(columns):
                if len(column):
                    table[self._first_steps[i] :, i] = column
            self._rollouts.append((0, table))
        return columns

    def start_next(self, index: int) -> None:
        """Record that environment `index` started its next episode, as the one in progress could not be re-simulated."""
        self.numbers[index] += 1
        self._first_steps[index] = self._steps

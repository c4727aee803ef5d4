"""The episodes in progress: which they are and what was done in them, so that they can be played again."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Episode:
    """A finished episode: its return as the environment paid it, and its length in steps."""

    total_reward: float
    length: int
    environment: int = 0
    """Which of the N environments played it."""
    number: int = 0
    """How many episodes that one began before; so both say its seed."""


@dataclass(frozen=True)
class PlayedEpisode:
    """All that an episode is, so that a fresh environment can play it again, and what it paid."""

    seed: int
    actions: Array
    """[L, *space.shape] as the environment got them."""
    total_reward: float


class EpisodesInProgress:
    """One of each of N environments. An episode is its number (and so its seed) and its actions."""

    def __init__(self, num_envs: int) -> None:
        self.numbers = np.full(num_envs, -1, np.int64)
        """[N] how many episodes each environment began before this one."""
        self._rollouts: deque[tuple[int, Tensor]] = deque()
        self._began = np.zeros(num_envs, np.int64)
        self._steps = 0

    def begin(self) -> None:
        """All environments were reset."""
        self.numbers += 1
        self._began[:] = self._steps
        self._rollouts.clear()

    def add(self, actions: Tensor, done: Array) -> None:
        """A rollout: actions [T, N, *act] as sampled, and done [T, N] where episodes ended."""
        steps = len(actions)
        self._rollouts.append((self._steps, actions))
        if done.any():
            last = steps - np.argmax(done[::-1], 0)
            self._began = np.where(done.any(0), self._steps + last, self._began)
            self.numbers += done.sum(0)
        self._steps += steps
        while self._rollouts and self._rollouts[0][0] + len(self._rollouts[0][1]) <= self._began.min():
            self._rollouts.popleft()

    def actions(self) -> list[Tensor]:
        """Of each environment [L, *act], L steps since its episode began."""
        if not self._rollouts:
            return [torch.zeros(0)] * len(self.numbers)
        first, tail = self._rollouts[0][0], torch.cat([actions for _, actions in self._rollouts])
        return [tail[began - first :, i] for i, began in enumerate(self._began)]

    def at(self, index: int, actions: Sequence[Tensor], done: Array) -> tuple[int, Tensor]:
        """The number and the actions [L, *act] of environment `index`'s episode at the last of these further steps.

        actions: [N, *act] of each step; done: [T, N], where the last of the steps need not be known.
        """
        ends = np.flatnonzero(done[: max(len(actions) - 1, 0), index])
        since = int(ends[-1]) + 1 if len(ends) else 0
        earlier = [] if len(ends) else list(self.actions()[index])
        played = [*earlier, *(step[index] for step in actions[since:])]
        return int(self.numbers[index]) + len(ends), torch.stack(played) if played else torch.zeros(0)

    def state_dict(self) -> dict[str, Any]:
        columns = self.actions()
        return {"numbers": self.numbers, "lengths": [len(column) for column in columns], "actions": torch.cat(columns)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> list[Tensor]:
        """Returns the actions of each environment, to be played again; `begin_anew` where that does not come out equal."""
        self.numbers = state_dict["numbers"].copy()
        columns = list(torch.split(state_dict["actions"], state_dict["lengths"]))
        self._steps = max(state_dict["lengths"])
        self._began = np.array([self._steps - len(column) for column in columns])
        self._rollouts.clear()
        if self._steps:
            example = next(column for column in columns if len(column))
            table = example.new_zeros(self._steps, len(columns), *example.shape[1:])
            for i, column in enumerate(columns):
                if len(column):
                    table[self._began[i] :, i] = column
            self._rollouts.append((0, table))
        return columns

    def begin_anew(self, index: int) -> None:
        """The episode of that environment could not be played again: it has begun another."""
        self.numbers[index] += 1
        self._began[index] = self._steps

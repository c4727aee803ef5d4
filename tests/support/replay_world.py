"""Random environments that keep all their steps, the oracle of replay buffers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from plexp.training.replay.buffer import ReplaySpec
from plexp.training.types import Trajectory

Array = np.ndarray[Any, Any]
SHAPES = [
    ((3,), np.float32, (), torch.int64),
    ((2, 4), np.uint8, (2,), torch.float32),
    ((), np.float32, (1,), torch.int32),
]
"""Shape and type of an observation, then of an action."""


@dataclass
class Step:
    """One step of an episode, with its true successor."""

    observation: Array
    action: Array
    reward: float
    terminated: bool
    successor: Array
    after: Step | None = None


@dataclass
class World:
    """N environments with random episodes, which also keep every step as a linked list, the slow way.

    Episodes end with a probability of `p_end`, by termination or truncation, or both.
    """

    num_envs: int
    shape: tuple[int, ...] = (3,)
    dtype: Any = np.float32
    action_shape: tuple[int, ...] = ()
    action_dtype: torch.dtype = torch.int64
    same_step: bool = True
    p_end: float = 0.25
    seed: int = 0
    rows: list[list[Step | None]] = field(default_factory=list)
    """Steps [row][environment] since the beginning; None where a row is not valid."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.observations = [self.observe() for _ in range(self.num_envs)]
        self.ended = [False] * self.num_envs
        self.previous: list[Step | None] = [None] * self.num_envs

    @property
    def spec(self) -> ReplaySpec:
        return ReplaySpec(self.num_envs, self.shape, np.dtype(self.dtype), self.action_shape, self.action_dtype)

    def observe(self) -> Array:
        return np.asarray(self.rng.integers(0, 256, self.shape)).astype(self.dtype)

    def restart(self, i: int) -> None:
        """Begin another episode, as where a resumed run cannot continue the one in progress."""
        self.observations[i], self.ended[i], self.previous[i] = self.observe(), False, None

    def play(self, steps: int, padding: float = 0.0) -> Trajectory:
        """Return a trajectory; a row of a new episode, with SAME_STEP, is padding with this probability."""
        n = self.num_envs
        columns: dict[str, list[Any]] = {name: [] for name in ("observations", "actions", "rewards", "ends", "valid")}
        finals, index = [], []
        for t in range(steps):
            actions = self.rng.integers(0, 9, (n, *self.action_shape))
            rewards, ends, valid = self.rng.normal(size=n).astype(np.float32), np.zeros((2, n), bool), np.ones(n, bool)
            columns["observations"].append(np.stack(self.observations))
            self.rows.append([None] * n)
            for i in range(n):
                if not self.same_step and self.ended[i]:
                    valid[i], self.observations[i], self.ended[i] = False, self.observe(), False
                    continue
                valid[i] = self.previous[i] is not None or self.rng.random() >= padding
                ends[:, i] = (self.rng.random() < self.p_end) * np.array([[1, 0], [0, 1], [1, 1]])[self.rng.integers(3)]
                if not valid[i]:
                    ends[:, i] = 0, 1
                successor = self.observe()
                if valid[i]:
                    self.keep(i, actions[i], float(rewards[i]), bool(ends[0, i]), successor)
                self.observations[i] = successor
                if ends[:, i].any():
                    self.previous[i], self.ended[i] = None, True
                    if self.same_step:
                        finals.append(successor)
                        index.append(t * n + i)
                        self.observations[i] = self.observe()
            for name, value in zip(columns, (None, actions, rewards, ends, valid), strict=True):
                if value is not None:
                    columns[name].append(value)
        ends = torch.from_numpy(np.stack(columns["ends"], 1))
        return Trajectory(
            torch.from_numpy(np.stack(columns["observations"])),
            torch.from_numpy(np.stack(columns["actions"])).to(self.action_dtype),
            torch.from_numpy(np.stack(columns["rewards"])),
            ends[0],
            ends[1],
            torch.from_numpy(np.stack(columns["valid"])),
            torch.from_numpy(np.stack(self.observations)),
            torch.from_numpy(np.array(finals, self.dtype).reshape(-1, *self.shape)),
            torch.tensor(index, dtype=torch.int64),
        )

    def keep(self, i: int, action: Array, reward: float, terminated: bool, successor: Array) -> None:
        step = Step(self.observations[i], action, reward, terminated, successor)
        self.rows[-1][i], before, self.previous[i] = step, self.previous[i], step
        if before is not None:
            before.after = step

    def newest(self, rows: int) -> dict[int, Step]:
        """Return the valid steps of the newest rows by their index."""
        first = max(0, len(self.rows) - rows)
        places = [(r, i) for r in range(first, len(self.rows)) for i in range(self.num_envs)]
        return {r * self.num_envs + i: step for r, i in places if (step := self.rows[r][i]) is not None}

"""Replay buffers: the latest transitions of N environments, drawn uniformly or by priority.

    collector ─▶ Trajectory ─▶ ReplayBuffer ─▶ indices ─▶ Transitions

A transition's index is row · N + environment, with the rows (time steps) counted since the run began. Row t is at place
t modulo R + 1 of a ring, for R rows with transitions and one with the observations after the newest of them. So each
observation is stored once: s' of row t is the observation of row t + 1. Of stacks of frames the newest frame is stored, and
the others are those of the rows before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from plexp.envs.environment import Array
from plexp.envs.stacking import newest
from plexp.errors import ConfigError, Problem
from plexp.training.replay.parts import FinalObservations, SumTree, free_memory
from plexp.training.types import Trajectory, Transitions

VALID, TERMINATED, ENDED, ELSEWHERE = 1, 2, 4, 8
"""Flags of a row: it is a step; it terminated its episode; no row continues its episode; the next row is not its successor."""


class ReplaySpec(NamedTuple):
    """Number of environments, and shapes and types of what a replay buffer holds."""

    num_envs: int
    shape: tuple[int, ...]
    """Shape of one observation."""
    dtype: np.dtype[Any]
    """Type of observations: float32, or uint8 for images."""
    action_shape: tuple[int, ...]
    action_dtype: torch.dtype
    state_size: int = 0
    """Number of entries of the state of a recurrent policy."""
    frames: int = 1
    """k, where observations are stacks of k frames [k, *frame]."""

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of what is stored of an observation."""
        return self.shape[1:] if self.frames > 1 else self.shape


class ReplayBuffer:
    """Ring of the latest steps of N environments, drawn uniformly.

    The true final observation of a truncated episode is kept beside the ring where the next row shows the next episode.

    Args:
        capacity: transitions of all environments together.
        spec: what it holds.

    Raises ConfigError if the capacity is below the number of environments, or the buffer does not fit into the free memory.
    """

    def __init__(self, capacity: int, spec: ReplaySpec) -> None:
        self.rows, self.num_envs = capacity // spec.num_envs, spec.num_envs
        self.shape, self.dtype, self.frames = spec.shape, np.dtype(spec.dtype), spec.frames
        if self.rows < spec.frames:
            what = "a step" if spec.frames == 1 else f"the {spec.frames} frames of an observation"
            cause = f"there is no room for {what} of each of the {spec.num_envs} environments"
            raise ConfigError(
                Problem("replay.capacity", capacity, cause, f"give {spec.num_envs * spec.frames} or more")
            )
        needed, free = self.nbytes(capacity, spec), free_memory()
        if free is not None and needed > free:
            cause = f"needs {_amount(needed)}, {_amount(free)} are free"
            raise ConfigError(Problem("replay.capacity", capacity, cause, "give a smaller one"))
        self.size = (self.rows + 1) * spec.num_envs
        self.observations = np.empty((self.size, *spec.frame_shape), spec.dtype)
        self.actions = torch.empty((self.size, *spec.action_shape), dtype=spec.action_dtype).numpy()
        self.rewards = np.empty(self.size, np.float32)
        self.states = np.empty((self.size, spec.state_size), np.float32)
        self.flags = np.zeros(self.size, np.uint8)
        self.begin_at(0)

    @classmethod
    def nbytes(cls, capacity: int, spec: ReplaySpec) -> int:
        """Return how many bytes a buffer needs once it is full, without the final observations of truncated episodes."""
        size = (capacity // spec.num_envs + 1) * spec.num_envs
        observation = np.dtype(spec.dtype).itemsize * math.prod(spec.frame_shape)
        action = spec.action_dtype.itemsize * math.prod(spec.action_shape)
        return size * (observation + action + 4 * spec.state_size + 5)

    def begin_at(self, row: int) -> None:
        """Forget all transitions; the next one is of this row."""
        self.flags[:] = 0
        self.first = self.added = row
        self.count = 0
        self.finals = FinalObservations(self.shape, self.dtype)

    @property
    def oldest(self) -> int:
        """Oldest row that is in the ring."""
        return max(self.first, self.added - self.rows)

    @property
    def drawable(self) -> int:
        """Oldest row that can be drawn, all of whose frames are in the ring."""
        return self.oldest + (self.frames - 1 if self.oldest else 0)

    def __len__(self) -> int:
        """Return the number of transitions that can be drawn, with those of which some frames are gone."""
        return self.count

    def add(self, trajectory: Trajectory) -> None:
        """Add T steps of the N environments, in place of the oldest rows."""
        given, flags = _flat(trajectory.observations), _flags(trajectory)
        if not len(given):
            return
        self._cut(given[: self.num_envs])
        self._keep_finals(trajectory, flags)
        late = max(0, len(given) // self.num_envs - self.rows)  # of a longer trajectory only the end is kept
        steps, skipped = len(given) // self.num_envs - late, late * self.num_envs
        self.added += late
        for ring, part in self._spans(self.added, steps + 1, skipped):
            self.count -= int(np.count_nonzero(self.flags[ring] & VALID))
            self.flags[ring] = flags[part]
            self.count += int(np.count_nonzero(flags[part] & VALID))
        columns = [(self.actions, _flat(trajectory.actions)), (self.rewards, _flat(trajectory.rewards))]
        if trajectory.states is not None:
            columns.append((self.states, _flat(trajectory.states)))
        for ring, part in self._spans(self.added, steps, skipped):
            self.observations[ring] = given[part]
            for column, values in columns:
                column[ring] = values[part]
        self.added += steps
        self._last_observations[:] = newest(trajectory.last_observations.numpy(), self.frames)
        self.finals.drop_below(self.oldest * self.num_envs)

    @property
    def _last_observations(self) -> Array:
        """Stored observations [N, *obs], or frames [N, *frame], after the newest row, as a view."""
        begin = self.added * self.num_envs % self.size
        return self.observations[begin : begin + self.num_envs]

    def _spans(self, row: int, rows: int, begin: int = 0) -> list[tuple[slice, slice]]:
        """Return where rows are in the ring, and in an array in which they are one after the other from `begin` on."""
        place, length = row * self.num_envs % self.size, rows * self.num_envs
        until = min(length, self.size - place)
        spans = [(slice(place, place + until), slice(begin, begin + until))]
        return spans if until == length else [*spans, (slice(0, length - until), slice(begin + until, begin + length))]

    def _cut(self, observations: Array) -> None:
        """End the newest row's episode where these first observations do not continue it, as when a run was resumed."""
        last = self._last_observations
        if self.added == self.first or np.array_equal(last, observations):
            return
        begin = (self.added - 1) * self.num_envs
        flags = self.flags[begin % self.size :][: self.num_envs]
        other = (last != observations).reshape(self.num_envs, -1).any(1) & (flags & (VALID | ELSEWHERE) == VALID)
        needed = np.flatnonzero(other & (flags & TERMINATED == 0))
        self.finals.add(begin + needed, self.observed(begin + self.num_envs + needed))
        flags[other] |= ENDED | ELSEWHERE

    def _keep_finals(self, trajectory: Trajectory, flags: Array) -> None:
        """Keep the final observations of the episodes that were truncated and whose successor row is of the next one."""
        if len(trajectory.final_index):
            index = trajectory.final_index.numpy()
            needed = flags[index] & (VALID | TERMINATED) == VALID
            keys = self.added * self.num_envs + index[needed]
            self.finals.add(keys, trajectory.final_observations.numpy()[needed])

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Return the indices [count] of transitions, drawn independently and uniformly; they hold until more are added."""
        self._check_drawable()
        begin, end = self.drawable * self.num_envs, self.added * self.num_envs
        found, missing = [], count
        while missing > 0:
            drawn = rng.integers(begin, end, -(-missing * (end - begin) // self.count))
            if self.count < end - self.oldest * self.num_envs:
                drawn = drawn[self.flags.take(drawn % self.size) & VALID > 0]
            found.append(drawn)
            missing -= len(drawn)
        return found[0][:count] if len(found) == 1 else np.concatenate([np.zeros(0, np.int64), *found])[:count]

    def _check_drawable(self) -> None:
        if not self.count or self.drawable >= self.added:
            raise ValueError("the buffer has no transitions")

    def transitions(self, indices: Array, n_steps: int, gamma: float, weights: Array | None = None) -> Transitions:
        """Return the transitions [B] of these indices, over up to `n_steps` steps.

        Raises ValueError if any of them has been overwritten.
        """
        if len(indices) and indices.min() < self.oldest * self.num_envs:
            raise ValueError("the indices were drawn before the transitions were overwritten")
        places = indices % self.size
        last, at, rewards, powers = self.follow(indices, places, n_steps, gamma)
        flags = self.flags.take(at)
        return Transitions(
            observations=torch.from_numpy(self.observed(indices)),
            actions=torch.from_numpy(self.actions.take(places, 0)),
            rewards=torch.from_numpy(rewards),
            next_observations=torch.from_numpy(self.successors(last, at, flags)),
            discounts=torch.from_numpy(powers * (flags & TERMINATED == 0)),
            weights=torch.ones(len(indices)) if weights is None else torch.from_numpy(weights.reshape(-1)),
        )

    def follow(
        self, indices: Array, places: Array, n_steps: int, gamma: float
    ) -> tuple[Array, Array, Array, Array | np.float32]:
        """Return indices and places of the m-th steps, Σ_{k<m} γ^k r_{t+k}, and γ^m; m < n at an end and the newest row."""
        if n_steps == 1:
            return indices, places, self.rewards.take(places), np.float32(gamma)
        newest = (self.added - 1) * self.num_envs
        total, powers = self.rewards.take(places).astype(np.float64), np.full(len(indices), gamma, np.float32)
        for k in range(1, n_steps):
            going = (self.flags.take(places) & ENDED == 0) & (indices < newest)
            indices = indices + self.num_envs * going
            places = indices % self.size
            total += np.where(going, np.float64(gamma**k) * self.rewards.take(places), 0.0)
            powers[going] = gamma ** (k + 1)
        return indices, places, total.astype(np.float32), powers

    def observed(self, indices: Array) -> Array:
        """Return the observations [B, *obs] of rows by their indices; also of those after the newest row.

        Where an episode has fewer frames, its first one stands for those before it.
        """
        if self.frames == 1:
            whole: Array = self.observations.take(indices % self.size, 0)
            return whole
        oldest, frames = self.oldest * self.num_envs, [indices]
        for _ in range(self.frames - 1):
            here, before = frames[-1], frames[-1] - self.num_envs
            flags, is_step = self.flags.take(before % self.size), self.flags.take(here % self.size) & VALID > 0
            # the row after an end that is no step shows the true final observation of the same episode (NEXT_STEP)
            continues = (flags & (VALID | ELSEWHERE) == VALID) & ((flags & ENDED == 0) | ~is_step)
            frames.append(np.where(continues & (before >= oldest), before, here))
        stacks: Array = self.observations.take(np.stack(frames[::-1], -1) % self.size, 0)
        return stacks

    def successors(self, indices: Array, places: Array, flags: Array) -> Array:
        """Return the true observations [B, *obs] after these steps; where a terminated one is not kept, that before it."""
        successors = self.observed(indices + self.num_envs)
        elsewhere = np.flatnonzero(flags & ELSEWHERE)
        if len(elsewhere):
            terminated = flags[elsewhere] & TERMINATED > 0
            own, kept = elsewhere[terminated], elsewhere[~terminated]
            successors[own], successors[kept] = self.observed(indices[own]), self.finals.take(indices[kept])
        return successors

    def weights_of(self, indices: Array, progress: float) -> Array | None:
        """Return the importance weights [G, B] of the indices of G minibatches, as float32; None: one each.

        `progress` is the share of the training budget that has been used, 0…1.
        """
        return None

    def update_priorities(self, indices: Array, td_errors: Tensor) -> None:
        """Learn the TD errors [B] that these transitions had; drawn uniformly, they change nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return what tells a buffer that a ReplayLog has filled again from another; the log has the content."""
        return {"added": self.added, "count": self.count}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the state, after the content. Raises ValueError if the content is of another state."""
        if (self.added, self.count) != (state_dict["added"], state_dict["count"]):
            raise ValueError(f"the buffer has {self.count} transitions, and its state is of {state_dict['count']}")


class PrioritizedReplay(ReplayBuffer):
    """Replay buffer that draws transition i with P(i) = p_i^α / Σ_k p_k^α, p_i = |δ_i| + ε (Schaul et al. 2016, eq. 1).

    A new transition gets the largest p so far. A p^α is kept as float32, and never is zero.

    Args:
        capacity, spec: as for `ReplayBuffer`.
        alpha: α, how much the priorities count; 0: every transition is drawn as often.
        beta: β at first, how much the weights correct for that; it rises linearly to 1, when they correct wholly.
        eps: ε, added to a TD error's absolute value.
    """

    def __init__(
        self, capacity: int, spec: ReplaySpec, *, alpha: float = 0.6, beta: float = 0.4, eps: float = 1e-6
    ) -> None:
        self.alpha, self.beta, self.eps, self.largest = alpha, beta, eps, 1.0
        super().__init__(capacity, spec)

    @classmethod
    def nbytes(cls, capacity: int, spec: ReplaySpec) -> int:
        """Return how many bytes a buffer needs once it is full; see `ReplayBuffer.nbytes`."""
        leaves = 1 << ((capacity // spec.num_envs + 1) * spec.num_envs - 1).bit_length()
        return super().nbytes(capacity, spec) + 16 * leaves

    def begin_at(self, row: int) -> None:
        super().begin_at(row)
        self.tree = SumTree(self.size)

    def add(self, trajectory: Trajectory) -> None:
        before = self.added
        super().add(trajectory)
        begin = max(before, self.added - self.rows)
        for ring, _ in self._spans(begin, self.added - begin + 1):
            self.tree.set_range(ring.start, (self.flags[ring] & VALID) * self._powers(self.largest))
        for ring, _ in self._spans(self.oldest, self.drawable - self.oldest):
            self.tree.set_range(ring.start, np.zeros(ring.stop - ring.start))

    def _powers(self, priorities: Any) -> Array:
        """Return p^α as float32."""
        powers: Array = np.maximum(np.float32(priorities**self.alpha), np.finfo(np.float32).tiny)
        return powers

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Return the indices [count] of transitions, drawn by priority: one from each of `count` equal parts of Σ p^α.

        They are in random order, so that they can be split into minibatches; they hold until more are added.
        """
        self._check_drawable()
        sums = (rng.permutation(count) + rng.random(count)) * (self.tree.total / count)
        oldest = self.oldest * self.num_envs
        indices: Array = oldest + (self.tree.find(sums) - oldest) % self.size
        return indices

    def weights_of(self, indices: Array, progress: float) -> Array:
        """Return the importance weights w_i = (N · P(i))^-β / max_j (N · P(j))^-β of minibatches' indices [G, B], as float32.

        N and Σ p^α cancel: w_i = (p_i^α / min_j p_j^α)^-β, with the least p^α of i's minibatch (Schaul et al. 2016, section
        3.4).
        """
        beta = self.beta + progress * (1 - self.beta)
        powers = self.tree.leaves.take(indices % self.size)
        weights: Array = (powers / powers.min(-1, keepdims=True, initial=np.inf)) ** -beta
        return weights.astype(np.float32)

    def update_priorities(self, indices: Array, td_errors: Tensor) -> None:
        """Set the priorities of transitions [B] to |δ| + ε; those that have been overwritten are left out."""
        priorities = np.abs(np.asarray(td_errors, np.float64)) + self.eps
        kept = indices >= self.drawable * self.num_envs
        self.largest = max(self.largest, float(priorities.max(initial=0.0)))
        self.tree.set(indices[kept] % self.size, self._powers(priorities[kept]))

    def state_dict(self) -> dict[str, Any]:
        """Return also the priorities p^α [rows, N] of the rows that are in the ring, the oldest first."""
        rows = self._spans(self.oldest, self.added - self.oldest)
        leaves = np.concatenate([self.tree.leaves[ring] for ring, _ in rows]).astype(np.float32)
        return {**super().state_dict(), "largest": self.largest, "priorities": leaves.reshape(-1, self.num_envs)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.largest, priorities = state_dict["largest"], state_dict["priorities"].reshape(-1)
        for ring, part in self._spans(self.oldest, self.added - self.oldest):
            self.tree.set_range(ring.start, priorities[part])


def _flat(values: Tensor) -> Array:
    """Return values [T, N, …] as an array [T · N, …]."""
    array: Array = values.numpy()
    return array.reshape(-1, *array.shape[2:])


def _flags(trajectory: Trajectory) -> Array:
    """Return the flags of T + 1 rows, [(T + 1) · N] uint8; those of the last row, which is no step yet, are zero."""
    valid, terminated, truncated = (
        _flat(column).view(np.uint8) for column in (trajectory.valid, trajectory.terminated, trajectory.truncated)
    )
    flags = np.zeros(len(valid) + trajectory.valid.shape[1], np.uint8)
    flags[: len(valid)] = valid + TERMINATED * terminated + ENDED * (terminated | truncated)
    if len(trajectory.final_index):
        flags[trajectory.final_index.numpy()] |= ELSEWHERE
    return flags


def _amount(size: int) -> str:
    """Return a number of bytes in MB, GB or TB."""
    unit, factor = ("TB", 1e12) if size >= 1e12 else ("GB", 1e9) if size >= 1e9 else ("MB", 1e6)
    return f"{size / factor:.3g} {unit}"

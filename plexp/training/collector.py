"""Steps the environments with the current policy and returns what they gave as a Trajectory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from plexp.envs.adapter import EnvAdapter
from plexp.envs.environment import Array, EpisodeSeed
from plexp.envs.episodes import Episode, EpisodesInProgress
from plexp.envs.faults import DeclaredBounds, InvalidValue, find_fault, find_illegal, locate
from plexp.envs.stacking import frames_of, newest
from plexp.errors import EnvironmentFault, Problem, TrainingError
from plexp.nn.normalization import RewardScaler
from plexp.training.policy import Policy, forgotten
from plexp.training.progress import Profile
from plexp.training.types import Trajectory

BLOCK_STEPS = 64
"""Steps that memory is reserved for at once while the length of a trajectory is not known."""


@dataclass(frozen=True)
class _Block:
    """Memory for L steps of N environments, which is written in place as they are made.

    `rows` are the L + 1 observations, or their newest frames, as tensors of the same memory; `states` [L, N, S] are those of
    the policy.
    """

    observations: Array
    rows: tuple[Tensor, ...]
    states: Tensor
    noise: tuple[Tensor, ...]
    rewards: Array
    terminated: Array
    truncated: Array

    @classmethod
    def reserve(cls, first: Array, length: int, state_size: int, noise: tuple[Tensor, ...]) -> _Block:
        """Return a block whose first observations are `first`."""
        observations = np.empty((length + 1, *first.shape), first.dtype)
        observations[0] = first
        rewards, ends = np.empty((length, len(first))), np.empty((2, length, len(first)), np.bool_)
        states = torch.empty(length, len(first), state_size)
        return cls(observations, torch.from_numpy(observations).unbind(0), states, noise, rewards, ends[0], ends[1])

    @classmethod
    def join(cls, blocks: list[_Block]) -> _Block:
        """Return the steps of several blocks as one."""
        if len(blocks) == 1:
            return blocks[0]
        names = ("rewards", "terminated", "truncated")
        observations = np.concatenate([blocks[0].observations[:1], *(block.observations[1:] for block in blocks)])
        states = torch.cat([block.states for block in blocks])
        return cls(
            observations, (), states, (), *(np.concatenate([getattr(block, n) for block in blocks]) for n in names)
        )


class Collector:
    """Plays N environments with the current policy.

    With `complete_episodes` a trajectory begins with new episodes, and lasts until every environment has made `num_steps`
    steps and ended an episode; environments that are done earlier wait, and their rows are not valid.

    Both kinds of automatic reset are handled: with SAME_STEP the true last observation comes in `info["final_obs"]`; with
    NEXT_STEP the step after an end only resets, and its row is not valid.

    Args:
        rng: source of the policy's noise.
        scaler: scales the rewards of the trajectory; None: they stay as they are.
        num_steps: T, steps of each environment in a trajectory.
        max_rollout_steps: steps that an environment may need to end its episode, with `complete_episodes`; None: any number.
        profile: gets the seconds spent stepping and acting.
        episode_seed: seeds of the episodes, to say in an error which episode it was.
        bounds: counts the observations that leave their declared bounds; None: nobody does.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        policy: Policy,
        rng: np.random.Generator,
        scaler: RewardScaler | None,
        *,
        num_steps: int,
        complete_episodes: bool,
        max_rollout_steps: int | None = None,
        profile: Profile | None = None,
        episode_seed: EpisodeSeed | None = None,
        bounds: DeclaredBounds | None = None,
    ) -> None:
        self.adapter, self.policy, self.rng, self.scaler = EnvAdapter(env, policy.distribution), policy, rng, scaler
        self.num_steps, self.complete_episodes, self.profile = num_steps, complete_episodes, profile or Profile()
        self.episode_seed, self.bounds = episode_seed, bounds
        self.max_rollout_steps = max_rollout_steps if complete_episodes else None
        self.frames = frames_of(env.single_observation_space)
        self.is_stacked = self.frames > 1
        self.device = policy.device
        self.on_cpu = self.device.type == "cpu"
        self.block_steps = BLOCK_STEPS if complete_episodes else num_steps
        self.returns, self.lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
        self.ended = np.zeros(env.num_envs, np.bool_)
        self.in_progress = EpisodesInProgress(env.num_envs)
        self.state = policy.initial_state(env.num_envs)
        """State [N, S] of the policy before the next observation."""
        self.observations = self._reset()
        self.fresh = True
        self.episodes: list[Episode] = []
        """Episodes that ended in the last trajectory."""
        self.played: tuple[Tensor, Array] = torch.zeros(0, env.num_envs), np.zeros((0, env.num_envs), np.bool_)
        """Actions [T, N, *act] as sampled, and valid [T, N], of the last trajectory."""
        self.not_replayed: list[int] = []
        """Environments whose episode in progress could not be re-simulated when the run was resumed."""

    def collect(self) -> Trajectory:
        """Return T steps of N environments.

        Raises TrainingError if an environment raises or returns a number that is not finite, and if an episode does not end.
        """
        started = self.profile.start()
        if self.complete_episodes and not self.fresh:
            self.observations = self._reset()
        earlier = self.observations[:, :-1] if self.is_stacked else None
        blocks: list[_Block] = []
        actions: list[Tensor] = []
        finals: list[Array] = []
        final_index: list[int] = []
        waiting, same_step, step = np.zeros(self.adapter.num_envs, np.bool_), self.adapter.same_step, 0
        has_state, ended = self.state.shape[1] > 0, self.ended
        while not (waiting.all() if self.complete_episodes else step == self.num_steps):
            t = step % self.block_steps
            if t == 0:
                state_size = self.state.shape[1]
                first = newest(self.observations, self.frames)
                blocks.append(_Block.reserve(first, self.block_steps, state_size, self._draw_noise()))
            block = blocks[-1]
            rows = torch.from_numpy(self.observations) if self.is_stacked else block.rows[t]
            observed = rows if self.on_cpu else rows.to(self.device)
            if has_state:
                block.states[t] = self.state
            action, self.state = self.policy.act(observed, self.state, block.noise[t])
            actions.append(action if self.on_cpu else action.cpu())
            stepping = time.perf_counter()
            try:
                observations, rewards, terminated, truncated, info = self.adapter.step(actions[-1])
            except EnvironmentFault as fault:
                so_far = _Block.join(blocks)
                raise self._locate(fault, actions, so_far.terminated | so_far.truncated) from fault
            self.profile.environment += time.perf_counter() - stepping
            block.observations[t + 1] = newest(observations, self.frames)
            block.rewards[t], block.terminated[t], block.truncated[t] = rewards, terminated, truncated
            if same_step and "final_obs" in info:
                for i in np.flatnonzero(terminated | truncated):
                    finals.append(np.asarray(info["final_obs"][i], self.adapter.dtype))
                    final_index.append(step * self.adapter.num_envs + int(i))
            if has_state:
                done = terminated | truncated
                self.state = forgotten(self.state, done if same_step else ended)
                ended = done
            step += 1
            if self.complete_episodes and step >= self.num_steps:
                waiting |= terminated | truncated
                self._check_length(step, waiting)
            self.observations = observations if self.is_stacked else block.observations[t + 1]
        trajectory = self._trajectory(_Block.join(blocks), actions, finals, final_index, earlier)
        self.profile.stop("acting", started)
        return trajectory

    def _check_length(self, step: int, waiting: Array) -> None:
        """Raise TrainingError if a trajectory of whole episodes has too many steps."""
        limit = self.max_rollout_steps
        if limit is not None and step >= self.num_steps - 1 + limit and not waiting.all():
            where = f"the episode of environment {int(np.argmin(waiting))} has not ended, and the updates need whole episodes"
            remedy = "give env.max_episode_steps for a time limit, or algo=a2c or ppo with advantage=gae"
            raise TrainingError(str(Problem("max_rollout_steps", limit, where, remedy)))

    def _draw_noise(self) -> tuple[Tensor, ...]:
        """Return the policy's noise for every step of a block."""
        noise = self.policy.distribution.draw_noise(self.rng, self.block_steps, self.adapter.num_envs)
        return torch.from_numpy(noise).to(self.device).unbind(0)

    def _reset(self) -> Array:
        self.returns[:], self.lengths[:], self.ended[:] = 0, 0, False
        self.state = self.policy.initial_state(self.adapter.num_envs)
        self.in_progress.begin()
        started = self.profile.start()
        try:
            observations = self.adapter.reset()
        except EnvironmentFault as fault:
            raise self._locate(fault, [], np.zeros((0, self.adapter.num_envs), np.bool_)) from fault
        self.profile.stop("environment", started)
        return observations

    def _trajectory(
        self,
        block: _Block,
        actions: list[Tensor],
        finals: list[Array],
        final_index: list[int],
        earlier: Array | None,
    ) -> Trajectory:
        """Check what the environments gave, count it, and return it as tensors."""
        steps = len(actions)
        observations = block.observations[: steps + 1]
        rewards, terminated, truncated = block.rewards[:steps], block.terminated[:steps], block.truncated[:steps]
        done = terminated | truncated
        final = np.stack(finals) if finals else np.zeros((0, *self.adapter.shape[1:]), self.adapter.dtype)
        if self.adapter.same_step and len(final) != done.sum():
            raise TrainingError("the vector environment resets in the same step, and its info has no final_obs")
        valid, taken = self._valid(done), torch.stack(actions)
        illegal = self.adapter.illegal(observations[:-1], taken)
        illegal = None if illegal is None else illegal & valid
        self._check(observations, rewards, done, actions, final, final_index, find_illegal(illegal))
        self.played = taken, valid
        self._count(np.where(valid, rewards, 0.0), valid, done)
        self.in_progress.add(taken, done)
        self.ended = done[-1]
        self.fresh = self.adapter.same_step and bool(self.ended.all())
        scaled = rewards if self.scaler is None else self.scaler(rewards, done, valid)
        return Trajectory(
            observations=torch.from_numpy(observations[:-1]),
            actions=taken,
            rewards=torch.from_numpy(scaled.astype(np.float32)),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(valid),
            last_observations=torch.from_numpy(self.observations if self.is_stacked else observations[-1]),
            final_observations=torch.from_numpy(final),
            final_index=torch.from_numpy(np.array(final_index, np.int64)),
            states=block.states[:steps] if self.policy.state_size else None,
            earlier=None if earlier is None else torch.from_numpy(earlier),
        )

    def _check(
        self,
        observations: Array,
        rewards: Array,
        done: Array,
        actions: list[Tensor],
        final: Array,
        final_index: list[int],
        illegal: InvalidValue | None,
    ) -> None:
        """Raise EnvironmentFault for the first reward or observation that is not finite, or action that is not legal.

        Observations outside their bounds are counted.
        """
        faults, numbers = [illegal, find_fault("reward", rewards)], self.adapter.numbers(observations)
        if numbers is not None:
            if final_index:
                returned = numbers[1:].copy()
                returned.reshape(-1, *returned.shape[2:])[final_index] = self.adapter.numbers(
                    newest(final, self.frames)
                )
                faults.append(find_fault("observation", returned))
            resets = np.concatenate([np.ones_like(done[:1]), done]) if self.adapter.same_step else None
            faults.append(find_fault("observation", numbers, first=-1, resets=resets))
        if any(faults):
            step, fault, begins = min((fault for fault in faults if fault), key=lambda fault: fault.step)
            raise self._locate(fault, actions[: step + 1], done, begins)
        if self.bounds is not None:
            self.bounds.look(observations[:-1])
            self.bounds.look(newest(final, self.frames))

    def _locate(
        self, fault: EnvironmentFault, actions: list[Tensor], done: Array, begins: bool = False
    ) -> EnvironmentFault:
        """Return the fault with the episode that it is in, where episodes can be re-simulated."""
        if not self.adapter.same_step or self.episode_seed is None:
            return fault
        return locate(fault, self.in_progress, actions, done, self.adapter.distribution, self.episode_seed, begins)

    def state_dict(self) -> dict[str, Any]:
        """Return all but the environments' own state, which the episodes in progress stand for."""
        scaler = None if self.scaler is None else self.scaler.state_dict()
        names = ("returns", "lengths", "ended", "observations", "fresh", "state")
        state = {**{n: getattr(self, n) for n in names}, "in_progress": self.in_progress.state_dict(), "scaler": scaler}
        return state if self.bounds is None else {**state, "outside": [self.bounds.seen, self.bounds.outside]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the state and re-simulate the episodes in progress.

        Where that does not lead to the same observation a new episode begins, and the environment is in `not_replayed`.
        """
        for name in ("returns", "lengths", "ended"):
            setattr(self, name, state_dict[name].copy())
        if self.scaler is not None:
            self.scaler.load_state_dict(state_dict["scaler"])
        if self.bounds is not None:
            self.bounds.seen, self.bounds.outside = state_dict["outside"]
        columns = self.in_progress.load_state_dict(state_dict["in_progress"])
        expected = state_dict["observations"]
        self.observations, equal = self.adapter.resimulate(self.in_progress.numbers.tolist(), columns, expected)
        self.fresh, self.not_replayed = state_dict["fresh"], np.flatnonzero(~equal).tolist()
        self.state = state_dict["state"].to(self.device)
        if self.not_replayed:
            self.state = forgotten(self.state, ~equal)
        for index in self.not_replayed:
            self.in_progress.start_next(index)
            self.returns[index], self.lengths[index], self.ended[index] = 0.0, 0, False
            if self.scaler is not None:
                self.scaler.forget(index)

    def _valid(self, done: Array) -> Array:
        """Return which steps [T, N] count: none that only resets, and none of an environment that waits for others."""
        valid = np.ones(done.shape, np.bool_)
        if not self.adapter.same_step:
            valid[0], valid[1:] = ~self.ended, ~done[:-1]
        if self.complete_episodes:
            late = np.logical_or.accumulate(done & (np.arange(len(done)) >= self.num_steps - 1)[:, None])
            valid[1:] &= ~late[:-1]
        return valid

    def _count(self, rewards: Array, valid: Array, done: Array) -> None:
        """List the episodes that ended, and keep return and length of those in progress."""
        self.episodes = []
        start, numbers = np.zeros(len(self.returns), np.int64), self.in_progress.numbers.copy()
        for t, i in np.argwhere(done):
            part = slice(start[i], t + 1)
            if valid[t, i]:
                total, length = self.returns[i] + rewards[part, i].sum(), self.lengths[i] + valid[part, i].sum()
                self.episodes.append(Episode(float(total), int(length), int(i), int(numbers[i])))
            numbers[i] += 1
            self.returns[i], self.lengths[i], start[i] = 0.0, 0, t + 1
        in_progress = np.arange(len(done))[:, None] >= start
        self.returns += (rewards * in_progress).sum(0)
        self.lengths += (valid & in_progress).sum(0)

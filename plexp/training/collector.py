"""Steps the environments with the agent's policy and returns a Rollout."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from plexp.envs.adapter import Array, EnvAdapter
from plexp.envs.environment import EpisodeSeed
from plexp.envs.episodes import Episode, EpisodesInProgress
from plexp.envs.faults import bounds_of, find_fault, locate
from plexp.errors import EnvironmentFault, TrainingError
from plexp.nn.normalization import RewardScaler
from plexp.training.agent import Agent
from plexp.training.progress import Profile
from plexp.training.types import Rollout


@dataclass(frozen=True)
class Block:
    """Room for L steps of N environments. `rows` are the L + 1 observations as tensors of the same memory."""

    observations: Array
    rows: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]
    rewards: Array
    terminated: Array
    truncated: Array

    @classmethod
    def begun(cls, first: Array, length: int, noise: tuple[Tensor, ...]) -> Block:
        observations = np.empty((length + 1, *first.shape), first.dtype)
        observations[0] = first
        rewards, ends = np.empty((length, len(first))), np.empty((2, length, len(first)), np.bool_)
        return cls(observations, torch.from_numpy(observations).unbind(0), noise, rewards, ends[0], ends[1])

    @classmethod
    def joined(cls, blocks: list[Block]) -> Block:
        if len(blocks) == 1:
            return blocks[0]
        names = ("rewards", "terminated", "truncated")
        observations = np.concatenate([blocks[0].observations[:1], *(block.observations[1:] for block in blocks)])
        return cls(observations, (), (), *(np.concatenate([getattr(block, n) for block in blocks]) for n in names))


BLOCK = 64  # steps that there is room for at once while the length of a rollout is not known


class Collector:
    """Plays N environments under one policy.

    With `complete_episodes` a rollout begins with new episodes and goes on until each environment has made `num_steps`
    steps and ended an episode; those that are done earlier wait, and their rows are not valid.

    Right in both kinds of automatic reset: with SAME_STEP the true last observation comes in `info["final_obs"]`; with
    NEXT_STEP the step after an end only resets, and its row is not valid.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        agent: Agent,
        rng: np.random.Generator,
        scaler: RewardScaler | None,
        *,
        num_steps: int,
        complete_episodes: bool,
        profile: Profile | None = None,
        episode_seed: EpisodeSeed | None = None,
        check_bounds: bool = True,
    ) -> None:
        self.stepper, self.agent, self.rng, self.scaler = EnvAdapter(env, agent.distribution), agent, rng, scaler
        self.num_steps, self.complete_episodes, self.profile = num_steps, complete_episodes, profile or Profile()
        self.episode_seed, self.bounds = episode_seed, bounds_of(env.single_observation_space) if check_bounds else None
        self.device = next(agent.parameters()).device
        self.on_cpu = self.device.type == "cpu"
        self.block = BLOCK if complete_episodes else num_steps
        self.returns, self.lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
        self.ended = np.zeros(env.num_envs, np.bool_)
        self.in_progress = EpisodesInProgress(env.num_envs)
        self.observations = self._reset()
        self.fresh = True
        self.episodes: list[Episode] = []
        """The episodes that ended in the last rollout."""
        self.played: tuple[Tensor, Array] = torch.zeros(0, env.num_envs), np.zeros((0, env.num_envs), np.bool_)
        """Actions [T, N, *act] as sampled, and valid [T, N], of the last rollout."""
        self.not_replayed: list[int] = []
        """The environments whose episode in progress did not come out equal when the run was taken up again."""

    def collect(self) -> Rollout:
        """T steps of N environments, appraised by the agent.

        Raises TrainingError if an environment raises or returns a number that is not finite.
        """
        began = self.profile.now()
        if self.complete_episodes and not self.fresh:
            self.observations = self._reset()
        blocks: list[Block] = []
        actions: list[Tensor] = []
        finals: list[Array] = []
        final_index: list[int] = []
        waiting, same_step, step = np.zeros(self.stepper.num_envs, np.bool_), self.stepper.same_step, 0
        while not (waiting.all() if self.complete_episodes else step == self.num_steps):
            t = step % self.block
            if t == 0:
                blocks.append(Block.begun(self.observations, self.block, self._noise()))
            block = blocks[-1]
            observed = block.rows[t] if self.on_cpu else block.rows[t].to(self.device)
            action = self.agent.act(observed, block.noise[t])
            actions.append(action if self.on_cpu else action.cpu())
            before = time.perf_counter()
            try:
                observations, rewards, terminated, truncated, info = self.stepper.step(actions[-1])
            except EnvironmentFault as fault:
                known = Block.joined(blocks)
                raise self._located(fault, actions, known.terminated | known.truncated) from fault
            self.profile.environment += time.perf_counter() - before
            block.observations[t + 1] = observations
            block.rewards[t], block.terminated[t], block.truncated[t] = rewards, terminated, truncated
            if same_step and "final_obs" in info:
                for i in np.flatnonzero(terminated | truncated):
                    finals.append(np.asarray(info["final_obs"][i], self.stepper.dtype))
                    final_index.append(step * self.stepper.num_envs + int(i))
            step += 1
            if self.complete_episodes and step >= self.num_steps:
                waiting |= terminated | truncated
            self.observations = block.observations[t + 1]
        rollout = self._rollout(blocks, actions, finals, final_index)
        self.profile.add("acting", began)
        began = self.profile.now()
        rollout = self.agent.evaluate_rollout(rollout, fresh=True)
        self.profile.add("estimating", began)
        return rollout

    def _noise(self) -> tuple[Tensor, ...]:
        """For each step of a block."""
        drawn = self.agent.distribution.draw_noise(self.rng, self.block, self.stepper.num_envs)
        return torch.from_numpy(drawn).to(self.device).unbind(0)

    def _reset(self) -> Array:
        self.returns[:], self.lengths[:], self.ended[:] = 0, 0, False
        self.in_progress.begin()
        began = self.profile.now()
        try:
            observations = self.stepper.reset()
        except EnvironmentFault as fault:
            raise self._located(fault, [], np.zeros((0, self.stepper.num_envs), np.bool_)) from fault
        self.profile.add("environment", began)
        return observations

    def _rollout(
        self, blocks: list[Block], actions: list[Tensor], finals: list[Array], final_index: list[int]
    ) -> Rollout:
        steps, block = len(actions), Block.joined(blocks)
        observations = block.observations[: steps + 1]
        rewards, terminated, truncated = block.rewards[:steps], block.terminated[:steps], block.truncated[:steps]
        done = terminated | truncated
        last = np.stack(finals) if finals else np.zeros((0, *observations.shape[2:]), self.stepper.dtype)
        if self.stepper.same_step and len(last) != done.sum():
            raise TrainingError("the vector environment resets in the same step, and its info has no final_obs")
        found = [find_fault("reward", rewards, None)]
        if self.stepper.dtype == np.float32:
            if finals:
                returned = observations[1:].copy()
                returned.reshape(-1, *returned.shape[2:])[final_index] = last
                found.append(find_fault("observation", returned, self.bounds))
            found.append(find_fault("observation", observations, self.bounds, first=-1))
        if any(found):
            step, fault, begins = min((each for each in found if each), key=lambda each: each.step)
            raise self._located(fault, actions[: step + 1], done, begins)
        valid, taken = self._valid(done), torch.stack(actions)
        self.played = taken, valid
        self._count(np.where(valid, rewards, 0.0), valid, done)
        self.in_progress.add(taken, done)
        self.ended = done[-1]
        self.fresh = self.stepper.same_step and bool(self.ended.all())
        scaled = rewards if self.scaler is None else self.scaler(rewards, done, valid)
        zeros = torch.zeros(rewards.shape)
        return Rollout(
            observations=torch.from_numpy(observations[:-1]),
            actions=taken,
            log_probs=zeros,
            rewards=torch.from_numpy(scaled.astype(np.float32)),
            values=zeros,
            next_values=zeros,
            action_values=zeros,
            log_ratios=zeros,
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(valid),
            last_observations=torch.from_numpy(observations[-1]),
            final_observations=torch.from_numpy(last),
            final_index=torch.from_numpy(np.array(final_index, np.int64)),
        )

    def _located(
        self, fault: EnvironmentFault, actions: list[Tensor], done: Array, begins: bool = False
    ) -> EnvironmentFault:
        if not self.stepper.same_step or self.episode_seed is None:
            return fault
        return locate(fault, self.in_progress, actions, done, self.stepper.distribution, self.episode_seed, begins)

    def state_dict(self) -> dict[str, Any]:
        """All but the environments' own state, which the episodes in progress stand for."""
        scaler = None if self.scaler is None else self.scaler.state_dict()
        names = ("returns", "lengths", "ended", "observations", "fresh")
        return {**{n: getattr(self, n) for n in names}, "in_progress": self.in_progress.state_dict(), "scaler": scaler}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Plays the episodes in progress again; those that don't come out equal begin anew, and are `not_replayed`."""
        for name in ("returns", "lengths", "ended"):
            setattr(self, name, state_dict[name].copy())
        if self.scaler is not None:
            self.scaler.load_state_dict(state_dict["scaler"])
        columns = self.in_progress.load_state_dict(state_dict["in_progress"])
        expected = state_dict["observations"]
        self.observations, equal = self.stepper.replay(self.in_progress.numbers.tolist(), columns, expected)
        self.fresh, self.not_replayed = state_dict["fresh"], np.flatnonzero(~equal).tolist()
        for index in self.not_replayed:
            self.in_progress.begin_anew(index)
            self.returns[index], self.lengths[index], self.ended[index] = 0.0, 0, False
            if self.scaler is not None:
                self.scaler.forget(index)

    def _valid(self, done: Array) -> Array:
        """[T, N]: not the step after an end that only resets, nor one of an environment that waits for the others."""
        valid = np.ones(done.shape, np.bool_)
        if not self.stepper.same_step:
            valid[0], valid[1:] = ~self.ended, ~done[:-1]
        if self.complete_episodes:
            late = np.logical_or.accumulate(done & (np.arange(len(done)) >= self.num_steps - 1)[:, None])
            valid[1:] &= ~late[:-1]
        return valid

    def _count(self, rewards: Array, valid: Array, done: Array) -> None:
        """Note the episodes that ended, and what the others have so far."""
        self.episodes = []
        start, numbers = np.zeros(len(self.returns), np.int64), self.in_progress.numbers.copy()
        for t, i in np.argwhere(done):
            part = slice(start[i], t + 1)
            if valid[t, i]:
                total, length = self.returns[i] + rewards[part, i].sum(), self.lengths[i] + valid[part, i].sum()
                self.episodes.append(Episode(float(total), int(length), int(i), int(numbers[i])))
            numbers[i] += 1
            self.returns[i], self.lengths[i], start[i] = 0.0, 0, t + 1
        going = np.arange(len(done))[:, None] >= start
        self.returns += (rewards * going).sum(0)
        self.lengths += (valid & going).sum(0)

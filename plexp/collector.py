"""Steps the environments with the agent's policy and returns a Rollout."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from plexp.agent import Agent
from plexp.errors import TrainingError
from plexp.normalization import RewardScaler
from plexp.profile import Profile
from plexp.stepper import Array, Stepper
from plexp.types import Rollout

NOISE_BLOCK = 64  # steps of noise drawn at once while the length of a rollout is not known


@dataclass(frozen=True)
class Episode:
    """A finished episode: its return as the environment paid it, and its length in steps."""

    total_reward: float
    length: int


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
    ) -> None:
        self.stepper, self.agent, self.rng, self.scaler = Stepper(env, agent.distribution), agent, rng, scaler
        self.num_steps, self.complete_episodes, self.profile = num_steps, complete_episodes, profile or Profile()
        self.device = next(agent.parameters()).device
        self.returns, self.lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
        self.ended = np.zeros(env.num_envs, np.bool_)
        self.observations = self._reset()
        self.fresh = True
        self.episodes: list[Episode] = []
        """The episodes that ended in the last rollout."""

    def collect(self) -> Rollout:
        """T steps of N environments, appraised by the agent.

        Raises TrainingError if an environment raises or returns a number that is not finite.
        """
        began, in_environment = time.perf_counter(), self.profile.environment
        if self.complete_episodes and not self.fresh:
            self.observations = self._reset()
        self.episodes = []
        rows: list[tuple[Array, Tensor, Array, Array, Array, Array]] = []
        finals: list[Array] = []
        final_index: list[int] = []
        num_envs = self.stepper.num_envs
        waiting = np.zeros(num_envs, np.bool_)
        noise = self._noise(0)
        while not self._is_complete(len(rows), waiting):
            step = len(rows)
            if step and self.complete_episodes and step % NOISE_BLOCK == 0:
                noise = self._noise(step)
            observations = self.observations
            actions = self.agent.act(torch.from_numpy(observations).to(self.device), noise[step % len(noise)]).cpu()
            valid = ~(self.ended | waiting) if not self.stepper.same_step else ~waiting
            before = time.perf_counter()
            self.observations, rewards, terminated, truncated, info = self.stepper.step(actions)
            self.profile.environment += time.perf_counter() - before
            rows.append((observations, actions, rewards, terminated, truncated, valid))
            self.ended = terminated | truncated
            self.returns += rewards * valid
            self.lengths += valid
            if self.ended.any():
                for i in np.flatnonzero(self.ended):
                    if self.stepper.same_step:
                        finals.append(np.asarray(info["final_obs"][i], self.stepper.dtype))
                        final_index.append(step * num_envs + int(i))
                    if valid[i]:
                        self.episodes.append(Episode(float(self.returns[i]), int(self.lengths[i])))
                self.returns[self.ended] = 0
                self.lengths[self.ended] = 0
                if self.complete_episodes:
                    waiting |= self.ended & (step + 1 >= self.num_steps)
        self.fresh = self.stepper.same_step and bool(self.ended.all())
        rollout = self._rollout(rows, finals, final_index)
        played = time.perf_counter()
        self.profile.acting += played - began - (self.profile.environment - in_environment)
        rollout = self.agent.appraise(rollout, fresh=True)
        self.profile.estimating += time.perf_counter() - played
        return rollout

    def _is_complete(self, steps: int, waiting: npt.NDArray[np.bool_]) -> bool:
        return bool(waiting.all()) if self.complete_episodes else steps == self.num_steps

    def _noise(self, step: int) -> Tensor:
        block = NOISE_BLOCK if self.complete_episodes else self.num_steps
        return torch.from_numpy(self.agent.distribution.draw_noise(self.rng, block, self.stepper.num_envs)).to(
            self.device
        )

    def _reset(self) -> Array:
        self.returns[:], self.lengths[:], self.ended[:] = 0, 0, False
        before = time.perf_counter()
        observations = self.stepper.reset()
        self.profile.environment += time.perf_counter() - before
        return observations

    def _rollout(
        self, rows: list[tuple[Array, Tensor, Array, Array, Array, Array]], finals: list[Array], final_index: list[int]
    ) -> Rollout:
        observations, actions, rewards, terminated, truncated, valid = zip(*rows, strict=True)
        seen, paid = np.stack(observations), np.stack(rewards)
        ended, cut, counted = np.stack(terminated), np.stack(truncated), np.stack(valid)
        _check_finite("reward", paid)
        last = np.stack(finals) if finals else np.zeros((0, *self.observations.shape[1:]), self.stepper.dtype)
        if self.stepper.dtype == np.float32:
            successors = np.concatenate([seen[1:], self.observations[None]])
            successors.reshape(-1, *successors.shape[2:])[final_index] = last
            _check_finite("observation", seen)
            _check_finite("observation", successors)
        if self.scaler is not None:
            paid = self.scaler(paid, ended | cut, counted)
        zeros = torch.zeros(paid.shape)
        return Rollout(
            observations=torch.from_numpy(seen),
            actions=torch.stack(list(actions)),
            log_probs=zeros,
            rewards=torch.from_numpy(paid.astype(np.float32)),
            values=zeros,
            next_values=zeros,
            action_values=zeros,
            log_ratios=zeros,
            terminated=torch.from_numpy(ended),
            truncated=torch.from_numpy(cut),
            valid=torch.from_numpy(counted),
            last_observations=torch.from_numpy(self.observations),
            final_observations=torch.from_numpy(last),
            final_index=torch.tensor(final_index, dtype=torch.int64),
        )


def _check_finite(what: str, array: Array) -> None:
    if np.isfinite(array).all():
        return
    step, env = np.argwhere(~np.isfinite(array))[0][:2]
    raise TrainingError(
        f"environment {env} returned the {what} {array[step, env]} in step {step} of the rollout: not finite"
    )

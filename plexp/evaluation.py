"""Plays whole episodes greedily, on environments of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from plexp.agent import Agent
from plexp.errors import TrainingError
from plexp.interfaces import Environment
from plexp.seeding import EpisodeSeeds
from plexp.stepper import Stepper

PARALLEL = 10  # environments side by side


@dataclass(frozen=True)
class EvaluationResult:
    """Of E episodes."""

    returns: npt.NDArray[np.float64]
    """[E] undiscounted, as the environment pays them."""
    lengths: npt.NDArray[np.int64]
    """[E] in steps."""


def evaluate(agent: Agent, environment: Environment, seeds: EpisodeSeeds, episodes: int) -> EvaluationResult:
    """The returns of exactly `episodes` greedy episodes; how many each environment plays is fixed before.

    So short episodes are not favoured. Raises TrainingError if an environment raises or pays what is not finite.
    """
    num_envs = min(PARALLEL, episodes)
    quotas = [episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)]
    env = environment.make(num_envs, seeds)
    try:
        result = _play(agent, Stepper(env, agent.distribution), quotas)
    finally:
        env.close()
    if not np.isfinite(result.returns).all():
        raise TrainingError("the environment returned a reward that is not finite in evaluation")
    return result


def _play(agent: Agent, stepper: Stepper, quotas: list[int]) -> EvaluationResult:
    num_envs, device = stepper.num_envs, next(agent.parameters()).device
    totals, steps = np.zeros(num_envs), np.zeros(num_envs, np.int64)
    returns: list[list[float]] = [[] for _ in range(num_envs)]
    lengths: list[list[int]] = [[] for _ in range(num_envs)]
    ended = np.zeros(num_envs, np.bool_)
    observations = stepper.reset()
    while any(len(played) < quota for played, quota in zip(returns, quotas, strict=True)):
        actions = agent.act_greedily(torch.from_numpy(observations).to(device)).cpu()
        counted = np.ones(num_envs, np.bool_) if stepper.same_step else ~ended
        observations, rewards, terminated, truncated, _ = stepper.step(actions)
        totals += rewards * counted
        steps += counted
        ended = terminated | truncated
        for i in np.flatnonzero(ended):
            if len(returns[i]) < quotas[i]:
                returns[i].append(float(totals[i]))
                lengths[i].append(int(steps[i]))
            totals[i], steps[i] = 0, 0
    return EvaluationResult(np.concatenate(returns), np.concatenate(lengths))

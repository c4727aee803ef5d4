"""Plays whole episodes greedily, on environments of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plexp.agent import Agent
from plexp.episodes import EpisodesInProgress
from plexp.errors import EnvironmentFault
from plexp.faults import locate
from plexp.interfaces import Environment
from plexp.seeding import EpisodeSeeds
from plexp.stepper import Array, Stepper

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
        return _play(agent, Stepper(env, agent.distribution), quotas, seeds)
    finally:
        env.close()


def _play(agent: Agent, stepper: Stepper, quotas: list[int], seeds: EpisodeSeeds) -> EvaluationResult:
    num_envs, device = stepper.num_envs, next(agent.parameters()).device
    totals, steps = np.zeros(num_envs), np.zeros(num_envs, np.int64)
    returns: list[list[float]] = [[] for _ in range(num_envs)]
    lengths: list[list[int]] = [[] for _ in range(num_envs)]
    ended = np.zeros(num_envs, np.bool_)
    acted: list[Tensor] = []
    ends: list[Array] = []

    def located(fault: EnvironmentFault) -> EnvironmentFault:
        """With the episode that it is in."""
        if not stepper.same_step:
            return fault
        begun = EpisodesInProgress(num_envs)
        begun.begin()
        return locate(fault, begun, acted, np.array(ends).reshape(-1, num_envs), stepper.distribution, seeds)

    try:
        observations = stepper.reset()
    except EnvironmentFault as fault:
        raise located(fault) from fault
    while any(len(played) < quota for played, quota in zip(returns, quotas, strict=True)):
        actions = agent.act_greedily(torch.from_numpy(observations).to(device)).cpu()
        counted = np.ones(num_envs, np.bool_) if stepper.same_step else ~ended
        acted.append(actions)
        try:
            observations, rewards, terminated, truncated, _ = stepper.step(actions)
        except EnvironmentFault as fault:
            raise located(fault) from fault
        if not np.isfinite(rewards).all():
            index = int(np.flatnonzero(~np.isfinite(rewards))[0])
            said = f"environment {index} returned the reward {rewards[index]} in evaluation: not finite"
            raise located(EnvironmentFault(said, index))
        totals += rewards * counted
        steps += counted
        ended = terminated | truncated
        ends.append(ended)
        for i in np.flatnonzero(ended):
            if len(returns[i]) < quotas[i]:
                returns[i].append(float(totals[i]))
                lengths[i].append(int(steps[i]))
            totals[i], steps[i] = 0, 0
    return EvaluationResult(np.concatenate(returns), np.concatenate(lengths))

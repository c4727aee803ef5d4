"""Plays whole episodes, greedily or sampled, on environments of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plexp.envs.adapter import Array, EnvAdapter
from plexp.envs.environment import Environment
from plexp.envs.episodes import EpisodesInProgress, PlayedEpisode
from plexp.envs.faults import Bounds, bounds_of, find_fault, locate
from plexp.envs.seeding import EpisodeSeeds
from plexp.errors import EnvironmentFault
from plexp.training.agent import Agent

PARALLEL = 10  # environments side by side


@dataclass(frozen=True)
class EvaluationResult:
    """Of E episodes."""

    returns: npt.NDArray[np.float64]
    """[E] undiscounted, as the environment pays them."""
    lengths: npt.NDArray[np.int64]
    """[E] in steps."""
    played: Sequence[PlayedEpisode] | None = None
    """[E] the episodes; None where none can be played again, as they have no seed of their own (NEXT_STEP resets)."""


def evaluate(
    agent: Agent,
    environment: Environment,
    seeds: EpisodeSeeds,
    episodes: int,
    sampling: np.random.Generator | None = None,
) -> EvaluationResult:
    """The returns of exactly `episodes` episodes; how many each environment plays is fixed before.

    So short episodes are not favoured. Actions are the policy's mode, or with `sampling` drawn from it. Raises TrainingError
    if an environment raises, or returns what it must not.
    """
    num_envs = min(PARALLEL, episodes)
    quotas = [episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)]
    env = environment.make(num_envs, seeds)
    bounds = bounds_of(env.single_observation_space) if getattr(environment, "check_bounds", True) else None
    try:
        return _play(_actor(agent, num_envs, sampling), EnvAdapter(env, agent.distribution), quotas, seeds, bounds)
    finally:
        env.close()


def _actor(agent: Agent, num_envs: int, sampling: np.random.Generator | None) -> Callable[[Array], Tensor]:
    """Observations [N, *obs] -> actions [N, *act]."""
    device = next(agent.parameters()).device

    def act(observations: Array) -> Tensor:
        seen = torch.from_numpy(observations).to(device)
        if sampling is None:
            return agent.act_greedily(seen).cpu()
        noise = agent.distribution.draw_noise(sampling, 1, num_envs)[0]
        return agent.act(seen, torch.from_numpy(noise).to(device)).cpu()

    return act


def _play(
    act: Callable[[Array], Tensor], stepper: EnvAdapter, quotas: list[int], seeds: EpisodeSeeds, bounds: Bounds | None
) -> EvaluationResult:
    num_envs = stepper.num_envs
    totals, steps = np.zeros(num_envs), np.zeros(num_envs, np.int64)
    returns: list[list[float]] = [[] for _ in range(num_envs)]
    lengths: list[list[int]] = [[] for _ in range(num_envs)]
    ended = np.zeros(num_envs, np.bool_)
    acted: list[Tensor] = []
    ends: list[Array] = []

    def located(fault: EnvironmentFault, begins: bool = False) -> EnvironmentFault:
        """With the episode that it is in."""
        if not stepper.same_step:
            return fault
        begun = EpisodesInProgress(num_envs)
        begun.begin()
        done = np.array(ends, np.bool_).reshape(-1, num_envs)
        return locate(fault, begun, acted, done, stepper.distribution, seeds, begins)

    def check(what: str, array: Array, limits: Bounds | None = None) -> None:
        found = find_fault(what, array[None], limits, len(acted) - 1, "of the evaluation")
        if found is not None:
            raise located(found.fault, begins=what == "observation")

    try:
        observations = stepper.reset()
    except EnvironmentFault as fault:
        raise located(fault) from fault
    check("observation", observations, bounds)
    while any(len(played) < quota for played, quota in zip(returns, quotas, strict=True)):
        actions = act(observations)
        counted = np.ones(num_envs, np.bool_) if stepper.same_step else ~ended
        acted.append(actions)
        try:
            observations, rewards, terminated, truncated, _ = stepper.step(actions)
        except EnvironmentFault as fault:
            raise located(fault) from fault
        check("reward", rewards)
        totals += rewards * counted
        steps += counted
        ended = terminated | truncated
        ends.append(ended)
        check("observation", observations, bounds)
        for i in np.flatnonzero(ended):
            if len(returns[i]) < quotas[i]:
                returns[i].append(float(totals[i]))
                lengths[i].append(int(steps[i]))
            totals[i], steps[i] = 0, 0
    played = _played(returns, lengths, stepper, acted, seeds) if stepper.same_step else None
    return EvaluationResult(np.concatenate(returns), np.concatenate(lengths), played)


def _played(
    returns: list[list[float]], lengths: list[list[int]], stepper: EnvAdapter, acted: list[Tensor], seeds: EpisodeSeeds
) -> list[PlayedEpisode]:
    """The episodes of each environment, which began where the one before it ended."""
    given = stepper.distribution.to_environment(torch.cat(acted)).numpy()
    table = given.reshape(len(acted), stepper.num_envs, *given.shape[1:])
    played = []
    for i, (paid, long) in enumerate(zip(returns, lengths, strict=True)):
        parts = np.split(table[:, i], np.cumsum(long))  # the last is of an episode that is not counted
        episodes = enumerate(zip(parts, paid, strict=False))
        played += [PlayedEpisode(seeds(i, number), part, total) for number, (part, total) in episodes]
    return played

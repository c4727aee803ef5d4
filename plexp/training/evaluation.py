"""Evaluation: whole episodes, greedy or sampled, in environments of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plexp.envs.adapter import EnvAdapter
from plexp.envs.environment import Array, Environment
from plexp.envs.episodes import EpisodesInProgress, PlayedEpisode
from plexp.envs.faults import Bounds, bounds_of, find_fault, locate
from plexp.envs.seeding import EpisodeSeeds
from plexp.errors import EnvironmentFault
from plexp.training.agent import Agent

PARALLEL = 10
"""Environments stepped side by side."""


@dataclass(frozen=True)
class EvaluationResult:
    """Returns and lengths of E evaluation episodes."""

    returns: npt.NDArray[np.float64]
    """[E] undiscounted returns of the environment's own rewards."""
    lengths: npt.NDArray[np.int64]
    """[E] lengths in steps."""
    played: Sequence[PlayedEpisode] | None = None
    """[E] episodes to re-simulate; None where episodes have no seed of their own (NEXT_STEP resets)."""


def evaluate(
    agent: Agent,
    environment: Environment,
    seeds: EpisodeSeeds,
    episodes: int,
    sampling: np.random.Generator | None = None,
) -> EvaluationResult:
    """Play exactly `episodes` episodes and return their returns and lengths.

    The number of episodes of each environment is fixed beforehand, so that short episodes are not favoured.

    Args:
        agent: the agent that acts.
        environment: makes the environments.
        seeds: seeds of the episodes.
        episodes: E, number of episodes.
        sampling: source of noise for actions sampled from the policy; None: the most likely action is taken.

    Raises TrainingError if an environment raises, or returns something invalid.
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
    """Return the function from observations [N, *obs] to actions [N, *act]."""
    device = agent.device

    def act(observations: Array) -> Tensor:
        inputs = torch.from_numpy(observations).to(device)
        if sampling is None:
            return agent.act_greedily(inputs).cpu()
        noise = agent.distribution.draw_noise(sampling, 1, num_envs)[0]
        return agent.act(inputs, torch.from_numpy(noise).to(device)).cpu()

    return act


def _play(
    act: Callable[[Array], Tensor], adapter: EnvAdapter, quotas: list[int], seeds: EpisodeSeeds, bounds: Bounds | None
) -> EvaluationResult:
    num_envs = adapter.num_envs
    totals, steps = np.zeros(num_envs), np.zeros(num_envs, np.int64)
    returns: list[list[float]] = [[] for _ in range(num_envs)]
    lengths: list[list[int]] = [[] for _ in range(num_envs)]
    ended = np.zeros(num_envs, np.bool_)
    acted: list[Tensor] = []
    ends: list[Array] = []

    def located(fault: EnvironmentFault, begins: bool = False) -> EnvironmentFault:
        """Return the fault with the episode in which it happened."""
        if not adapter.same_step:
            return fault
        in_progress = EpisodesInProgress(num_envs)
        in_progress.begin()
        done = np.array(ends, np.bool_).reshape(-1, num_envs)
        return locate(fault, in_progress, acted, done, adapter.distribution, seeds, begins)

    def check(what: str, array: Array, limits: Bounds | None = None) -> None:
        located_fault = find_fault(what, array[None], limits, len(acted) - 1, "of the evaluation")
        if located_fault is not None:
            raise located(located_fault.fault, begins=what == "observation")

    try:
        observations = adapter.reset()
    except EnvironmentFault as fault:
        raise located(fault) from fault
    check("observation", observations, bounds)
    while any(len(played) < quota for played, quota in zip(returns, quotas, strict=True)):
        actions = act(observations)
        counted = np.ones(num_envs, np.bool_) if adapter.same_step else ~ended
        acted.append(actions)
        try:
            observations, rewards, terminated, truncated, _ = adapter.step(actions)
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
    played = _played(returns, lengths, adapter, acted, seeds) if adapter.same_step else None
    return EvaluationResult(np.concatenate(returns), np.concatenate(lengths), played)


def _played(
    returns: list[list[float]], lengths: list[list[int]], adapter: EnvAdapter, acted: list[Tensor], seeds: EpisodeSeeds
) -> list[PlayedEpisode]:
    """Return the episodes of each environment, each of which begins where the one before it ended."""
    actions = adapter.distribution.to_environment(torch.cat(acted)).numpy()
    table = actions.reshape(len(acted), adapter.num_envs, *actions.shape[1:])
    played = []
    for i, (totals, steps) in enumerate(zip(returns, lengths, strict=True)):
        parts = np.split(table[:, i], np.cumsum(steps))  # the last part is of an episode that does not count
        episodes = enumerate(zip(parts, totals, strict=False))
        played += [PlayedEpisode(seeds(i, number), part, total) for number, (part, total) in episodes]
    return played

"""Evaluation: whole episodes, greedy or sampled, in environments of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plexp.envs.adapter import EnvAdapter
from plexp.envs.environment import Array, Environment, EpisodeSeed
from plexp.envs.episodes import EpisodesInProgress, PlayedEpisode
from plexp.envs.faults import DeclaredBounds, find_fault, find_illegal, locate
from plexp.envs.generators import GlobalUse
from plexp.envs.seeding import EpisodeSeeds
from plexp.envs.stacking import frames_of, newest
from plexp.errors import EnvironmentFault
from plexp.training.policy import Policy, forgotten, noise_of

PARALLEL = 10
"""Environments stepped side by side."""

log = logging.getLogger("plexp")


class StepLimit:
    """Limit of an evaluation episode, which warns the first time that it cuts one off.

    Args:
        steps: steps after which an episode is cut off; None: none is.
    """

    def __init__(self, steps: int | None) -> None:
        self.steps, self.has_warned = steps, False

    def reached(self, steps: Array) -> Array:
        """Return which episodes of so many steps [N] are cut off."""
        if self.steps is None:
            return np.zeros(len(steps), np.bool_)
        is_long: Array = steps >= self.steps
        return is_long

    def warn(self) -> None:
        """Log, once, that an episode was cut off."""
        if not self.has_warned:
            cause = "an evaluation episode has not ended by then and is cut off: its return counts as far as it went"
            remedy = "give env.max_episode_steps for a time limit, or another evaluation.max_steps"
            log.warning("evaluation.max_steps=%s: %s; %s", self.steps, cause, remedy)
            self.has_warned = True


@dataclass(frozen=True)
class EvaluationResult:
    """Returns and lengths of E evaluation episodes."""

    returns: npt.NDArray[np.float64]
    """[E] undiscounted returns of the environment's own rewards."""
    lengths: npt.NDArray[np.int64]
    """[E] lengths in steps."""
    played: Sequence[PlayedEpisode] | None = None
    """[E] episodes to re-simulate; None where episodes have no seed of their own (NEXT_STEP resets)."""
    num_cut_off: int = 0
    """Number of episodes that were cut off at the limit of an evaluation, whose returns are not those of whole episodes."""


@dataclass(frozen=True)
class _LaterSeeds:
    """Seeds of the episodes that are left of an evaluation: of some of its environments, after their first episodes."""

    seeds: EpisodeSeeds
    environments: tuple[int, ...]
    """[N] index of each environment in the evaluation."""
    played: tuple[int, ...]
    """[N] number of episodes that each has played."""

    @property
    def use(self) -> GlobalUse:
        """Record of the global generators that the environments draw from."""
        return self.seeds.use

    def __call__(self, environment: int, episode: int) -> int:
        return self.seeds(self.environments[environment], self.played[environment] + episode)


def evaluate(
    policy: Policy,
    environment: Environment,
    seeds: EpisodeSeeds,
    episodes: int,
    sampling: np.random.Generator | None = None,
    *,
    limit: StepLimit,
    bounds: DeclaredBounds | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Play exactly `episodes` episodes and return their returns and lengths.

    The number of episodes of each environment is fixed beforehand, so that short episodes are not favoured. Environments
    whose episode is cut off are replaced by new ones, which play the episodes that are left.

    Args:
        policy: the policy that acts.
        environment: makes the environments.
        seeds: seeds of the episodes.
        episodes: E, number of episodes.
        sampling: source of noise for actions sampled from the policy; None: the most likely action is taken.
        limit: limit of the steps of an episode.
        bounds: counts the observations that leave their declared bounds, for the run that the evaluation belongs to; None:
            the evaluation has a count of its own.
        watch: gets, after each step, the number of episodes that have ended and of steps of each environment; None: nothing.

    Raises TrainingError if an environment raises, or returns something invalid.
    """
    num_envs = min(PARALLEL, episodes)
    quotas = [episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)]
    outcomes: list[list[_Outcome]] = [[] for _ in range(num_envs)]
    episode_seed: EpisodeSeed = seeds
    own_bounds: DeclaredBounds | None = None
    while left := [i for i, quota in enumerate(quotas) if len(outcomes[i]) < quota]:
        if any(outcomes):
            episode_seed = _LaterSeeds(seeds, tuple(left), tuple(len(outcomes[i]) for i in left))
        env = environment.make(len(left), episode_seed)
        if bounds is None:
            bounds = own_bounds = DeclaredBounds(env.single_observation_space, environment.label)
        act, adapter = _actor(policy, len(left), sampling), EnvAdapter(env, policy.distribution)
        try:
            left_over = [quotas[i] - len(outcomes[i]) for i in left]
            before = episodes - sum(left_over)

            def count(ended: int, steps: int, before: int = before) -> None:
                if watch is not None:
                    watch(before + ended, steps)

            played = _play(act, adapter, left_over, episode_seed, bounds, limit, count)
        finally:
            env.close()
        for i, more in zip(left, played, strict=True):
            outcomes[i] += more
    if own_bounds is not None:
        own_bounds.report()
    rows = [outcome for column in outcomes for outcome in column]
    return EvaluationResult(
        np.array([row.total_reward for row in rows]),
        np.array([row.length for row in rows], np.int64),
        [row.played for row in rows if row.played is not None] or None,
        sum(row.is_cut_off for row in rows),
    )


def _actor(policy: Policy, num_envs: int, sampling: np.random.Generator | None) -> Callable[[Array, Array], Tensor]:
    """Return the function from observations [N, *obs], and which of them begin an episode [N], to actions [N, *act]."""
    device, distribution = policy.device, noise_of(policy, num_envs)
    state = policy.initial_state(num_envs)

    def act(observations: Array, begins: Array) -> Tensor:
        nonlocal state
        inputs, before = torch.from_numpy(observations).to(device), forgotten(state, begins)
        if sampling is None:
            actions, state = policy.act_greedily(inputs, before)
        else:
            noise = distribution.draw_noise(sampling, 1, num_envs)[0]
            actions, state = policy.act(inputs, before, torch.from_numpy(noise).to(device))
        return actions.cpu()

    return act


class _Outcome(NamedTuple):
    """An episode of an evaluation."""

    total_reward: float
    length: int
    is_cut_off: bool
    played: PlayedEpisode | None


def _play(
    act: Callable[[Array, Array], Tensor],
    adapter: EnvAdapter,
    quotas: list[int],
    seeds: EpisodeSeed,
    bounds: DeclaredBounds,
    limit: StepLimit,
    count: Callable[[int, int], None],
) -> list[list[_Outcome]]:
    """Return the episodes of each environment: as many as its quota, or those up to the one that is cut off."""
    num_envs = adapter.num_envs
    totals, steps = np.zeros(num_envs), np.zeros(num_envs, np.int64)
    returns: list[list[float]] = [[] for _ in range(num_envs)]
    lengths: list[list[int]] = [[] for _ in range(num_envs)]
    ended, cut_off = np.zeros(num_envs, np.bool_), np.zeros(num_envs, np.bool_)
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

    def check(what: str, array: Array, resets: Array | None = None) -> None:
        numbers = adapter.numbers(array) if what == "observation" else array
        resets = None if resets is None else resets[None]
        invalid = None if numbers is None else find_fault(what, numbers[None], resets=resets)
        if invalid is not None:
            raise located(invalid.fault, begins=what == "observation")
        if what == "observation":
            bounds.look(newest(array, frames_of(adapter.env.single_observation_space)))

    try:
        observations = adapter.reset()
    except EnvironmentFault as fault:
        raise located(fault) from fault
    check("observation", observations, resets=~ended)
    is_playing, begins = np.ones(num_envs, np.bool_), np.zeros(num_envs, np.bool_)
    while is_playing.any():
        actions = act(observations, begins)
        counted = np.ones(num_envs, np.bool_) if adapter.same_step else ~ended
        acted.append(actions)
        illegal = adapter.illegal(observations, actions)
        if illegal is not None and (found := find_illegal((illegal & counted)[None])):
            raise located(found.fault)
        try:
            observations, rewards, terminated, truncated, _ = adapter.step(actions)
        except EnvironmentFault as fault:
            raise located(fault) from fault
        check("reward", rewards)
        totals += rewards * counted
        steps += counted
        ended = terminated | truncated
        begins = ended if adapter.same_step else ~counted
        ends.append(ended)
        check("observation", observations, resets=ended if adapter.same_step else None)
        for i in np.flatnonzero((ended | limit.reached(steps)) & is_playing):
            returns[i].append(float(totals[i]))
            lengths[i].append(int(steps[i]))
            cut_off[i] = not ended[i]
            is_playing[i] = ended[i] and len(returns[i]) < quotas[i]
        totals[ended], steps[ended] = 0, 0
        if cut_off.any():
            limit.warn()
        count(sum(map(len, returns)), len(acted))
    taken = adapter.distribution.to_environment(torch.cat(acted)).numpy()
    table = taken.reshape(len(acted), num_envs, *taken.shape[1:])
    outcomes: list[list[_Outcome]] = [[] for _ in range(num_envs)]
    for index, column in enumerate(outcomes):
        parts = np.split(table[:, index], np.cumsum(lengths[index]))  # the last part belongs to no episode that counts
        for number, (total, length) in enumerate(zip(returns[index], lengths[index], strict=True)):
            played = PlayedEpisode(seeds(index, number), parts[number], total) if adapter.same_step else None
            is_cut_off = bool(cut_off[index]) and number == len(returns[index]) - 1
            column.append(_Outcome(total, length, is_cut_off, played))
    return outcomes

"""Checks of what environments return, and the episode in which one went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from plexp.envs.environment import Array, EpisodeSeed
from plexp.envs.episodes import EpisodesInProgress
from plexp.errors import EnvironmentFault
from plexp.nn.distributions import ActionDistribution

Bounds: TypeAlias = tuple[Array, Array]
"""Lower and upper bounds [*obs] of observations."""


class InvalidValue(NamedTuple):
    """A reward or observation that an environment must not return."""

    step: int
    """Step of the rollout that returned it; −1 for the observations that the rollout began with."""
    fault: EnvironmentFault
    """Error that names the environment, the value and the step."""
    begins: bool
    """True if it is an observation that the next step begins with: of a new episode, if one ended in `step`."""


def find_fault(
    what: str, array: Array, bounds: Bounds | None, first: int = 0, where: str = "of the rollout"
) -> InvalidValue | None:
    """Return the first value in `array` [T, N, …] that is not finite or not within bounds; None if there is none.

    Args:
        what: name of the values, for the message.
        array: [T, N, …] rewards or observations.
        bounds: bounds of the values; None: only finiteness is checked.
        first: step of the first row; −1 for the observations that a rollout began with.
        where: end of the message.
    """
    is_valid = np.isfinite(array)
    reason = "not finite"
    if is_valid.all() and bounds is not None:
        is_valid = (array >= bounds[0]) & (array <= bounds[1])
        reason = "outside its space, as env.check_bounds=true does not allow"
    if is_valid.all():
        return None
    step, env = (int(index) for index in np.argwhere(~is_valid)[0][:2])
    value = f"{what} {' '.join(str(array[step, env]).split())} in step {step + first} {where}"
    fault = EnvironmentFault(f"environment {env} returned the {value}: {reason}", env)
    return InvalidValue(step + first, fault, first < 0)


def bounds_of(space: Any) -> Bounds | None:
    """Return the bounds of a Box of observations as float32; None if none of them is finite."""
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    return (low, high) if np.isfinite(low).any() or np.isfinite(high).any() else None


def locate(
    fault: EnvironmentFault,
    in_progress: EpisodesInProgress,
    actions: Sequence[Tensor],
    done: Array,
    distribution: ActionDistribution,
    episode_seed: EpisodeSeed,
    begins: bool = False,
) -> EnvironmentFault:
    """Return the fault with the episode in which it happened, as seed and actions.

    Args:
        fault: the fault, which names its environment.
        in_progress: the episodes that were in progress before `actions`.
        actions: [N, *act] actions of each step since, as sampled, up to the one that failed.
        done: [T, N] whether an episode ended in each of these steps; see `EpisodesInProgress.at`.
        distribution: converts the actions to those that the environment got.
        episode_seed: seeds of the episodes.
        begins: whether the fault is in what follows the last step, which is the next episode if one ended there.
    """
    number, sampled = in_progress.at(fault.index, actions, done)
    has_ended = begins and 0 < len(actions) <= len(done) and done[len(actions) - 1, fault.index]
    if has_ended or fault.number == number + 1:  # it happened in the reset that starts the next episode
        number, sampled = number + 1, sampled[:0]
    env_actions = distribution.to_environment(sampled).tolist() if len(sampled) else []
    seed = episode_seed(fault.index, number)
    fault.episode = {"environment": fault.index, "episode": number, "seed": seed, "actions": env_actions}
    return fault

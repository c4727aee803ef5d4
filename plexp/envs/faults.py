"""What environments must not return, and the episode in which one of them went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from plexp.envs.environment import EpisodeSeed
from plexp.envs.episodes import Array, EpisodesInProgress
from plexp.errors import EnvironmentFault
from plexp.nn.distributions import ActionDistribution

Bounds: TypeAlias = tuple[Array, Array]


class Found(NamedTuple):
    """Something that an environment must not return."""

    step: int
    """Of the rollout; −1: before its first."""
    fault: EnvironmentFault
    begins: bool
    """It is an observation that the next step begins with: of a new episode, where one ended in `step`."""


def find_fault(
    what: str, array: Array, bounds: Bounds | None, first: int = 0, where: str = "of the rollout"
) -> Found | None:
    """The first number [T, N, …] that is not finite or not within bounds; None if there is none.

    `first` is the step of the first row (−1: what the rollout began with).
    """
    good = np.isfinite(array)
    why = "not finite"
    if good.all() and bounds is not None:
        good = (array >= bounds[0]) & (array <= bounds[1])
        why = "outside its space, as env.check_bounds=true does not allow"
    if good.all():
        return None
    step, env = (int(place) for place in np.argwhere(~good)[0][:2])
    shown = f"{what} {' '.join(str(array[step, env]).split())} in step {step + first} {where}"
    return Found(step + first, EnvironmentFault(f"environment {env} returned the {shown}: {why}", env), first < 0)


def bounds_of(space: Any) -> Bounds | None:
    """Of observations, as float32; None where there are none."""
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
    """The fault with its episode: that of its environment at the last of these steps, as its seed and its actions.

    actions: [N, *act] as sampled, of each step since `in_progress`; done: [T, N], see `EpisodesInProgress.at`. `begins`:
    it is in what followed the last step, the next episode where that one ended there.
    """
    number, played = in_progress.at(fault.index, actions, done)
    ended = begins and 0 < len(actions) <= len(done) and done[len(actions) - 1, fault.index]
    if ended or fault.number == number + 1:  # it came when the next one was to begin
        number, played = number + 1, played[:0]
    given = distribution.to_environment(played).tolist() if len(played) else []
    seed = episode_seed(fault.index, number)
    fault.episode = {"environment": fault.index, "episode": number, "seed": seed, "actions": given}
    return fault

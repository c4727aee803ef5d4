"""Checks of what environments return, and the episode in which one went wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from plexp.envs.checked import entry
from plexp.envs.environment import Array, EpisodeSeed
from plexp.envs.episodes import EpisodesInProgress
from plexp.envs.packing import PackedSpace
from plexp.envs.stacking import frames_of
from plexp.errors import EnvironmentFault
from plexp.nn.distributions import ActionRule
from plexp.nn.layout import MASK

log = logging.getLogger("plexp")
SHOWN = 5
"""Number of entries outside their bounds that a warning names."""


class InvalidValue(NamedTuple):
    """A reward or observation that an environment must not return."""

    step: int
    """Step of the rollout that returned it; −1 for the observations that the rollout began with."""
    fault: EnvironmentFault
    """Error that names the environment, the value and the step."""
    begins: bool
    """True if it is an observation that the next step begins with: of a new episode, if one ended in `step`."""


def find_fault(what: str, array: Array, first: int = 0, resets: Array | None = None) -> InvalidValue | None:
    """Return the first value in `array` [T, N, …] that is not finite; None if there is none.

    Args:
        what: name of the values, for the message.
        array: [T, N, …] rewards or observations.
        first: step of the first row; −1 for the observations that a rollout began with.
        resets: [T, N] whether `reset` returned the value; None: `step` returned all of them.
    """
    is_wrong = ~np.isfinite(array)
    if not is_wrong.any():
        return None
    step, env = (int(index) for index in np.argwhere(is_wrong)[0][:2])
    method = "reset" if resets is not None and resets[step, env] else "step"
    came = f"{what}{entry(array[step, env], is_wrong[step, env])}; expected finite numbers"
    fault = EnvironmentFault(f"environment {env} returned from {method} {came}", env)
    return InvalidValue(step + first, fault, first < 0)


def find_illegal(illegal: Array | None) -> InvalidValue | None:
    """Return the fault of the first action [T, N] that a mask does not allow; None if there is none."""
    if illegal is None or not illegal.any():
        return None
    step, env = (int(index) for index in np.argwhere(illegal)[0])
    cause = f"environment {env} got an action that its {MASK} does not allow; the policy must take legal ones only"
    return InvalidValue(step, EnvironmentFault(cause, env), False)


class DeclaredBounds:
    """Bounds that a Box of observations declares: counts the observations that leave them, and warns of the first.

    Such observations are used as they are. One object serves a run, so that there is one warning.

    Args:
        space: the Box; of rows of bytes the numbers count.
        label: name of the environment, for the warnings.
    """

    def __init__(self, space: Any, label: str) -> None:
        self.layout = space.layout if isinstance(space, PackedSpace) and space.layout.is_bytes else None
        dtype = np.uint8 if space.dtype == np.uint8 and self.layout is None else np.float32
        bounds = (space.low, space.high) if self.layout is None else space.numbers
        bounds = tuple(bound[-1] for bound in bounds) if frames_of(space) > 1 else bounds
        with np.errstate(over="ignore"):
            self.low, self.high = (bound.astype(dtype) for bound in bounds)
        least, most = (0, 255) if dtype == np.uint8 else (-np.inf, np.inf)
        self.label, self.is_bounded = label, bool((self.low > least).any() or (self.high < most).any())
        self.seen, self.outside = 0, 0
        """Numbers of observations that were looked at, and of those that left the bounds."""
        self.has_warned = False

    def look(self, observations: Array) -> None:
        """Look at observations [..., *obs], or the newest frames of stacks, and warn of the first that leave the bounds."""
        if not self.is_bounded:
            return
        numbers = observations if self.layout is None else self.layout.numbers(observations)
        rows = numbers.reshape(-1, *self.low.shape)
        self.seen += len(rows)
        is_outside = (rows < self.low) | (rows > self.high)
        if not is_outside.any():
            return
        if not self.has_warned:
            log.warning("%s: %s", self.label, self._first(rows, is_outside))
            self.has_warned = True
        self.outside += int(is_outside.reshape(len(rows), -1).any(1).sum())

    def report(self) -> None:
        """Warn of the number of observations that left the bounds, if any did."""
        if self.outside:
            count, share = f"{self.outside:,} of {self.seen:,}", self.outside / self.seen
            log.warning("%s: %s observations (%.3g %%) left their declared bounds", self.label, count, 100 * share)

    def _first(self, rows: Array, is_outside: Array) -> str:
        """Return which entries left which bounds, and how far."""
        numbers = rows.reshape(len(rows), -1).astype(np.float64)
        low, high = self.low.reshape(-1), self.high.reshape(-1)
        excess = np.where(is_outside.reshape(numbers.shape), np.maximum(low - numbers, numbers - high), 0.0)
        farthest = excess.max(0)
        entries = np.flatnonzero(farthest)
        i = int(farthest.argmax())
        value = numbers[excess[:, i].argmax(), i]
        names = ", ".join(map(self._name, entries[:SHOWN])) + ", …" * (len(entries) > SHOWN)
        count = f"{len(entries)} of {len(low)} entries" if len(entries) > 1 else "entry"
        example = f"{self._name(i)} = {value:.6g}, bounds [{low[i]:g}, {high[i]:g}]"
        leave = "observations leave their declared bounds, and are used as they are"
        return f"{leave}: {count} {names}, by up to {farthest[i]:.3g} ({example})"

    def _name(self, i: int) -> str:
        """Return the index of an entry, given its place among all entries."""
        return str([int(index) for index in np.unravel_index(i, self.low.shape)])


def locate(
    fault: EnvironmentFault,
    in_progress: EpisodesInProgress,
    actions: Sequence[Tensor],
    done: Array,
    distribution: ActionRule,
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

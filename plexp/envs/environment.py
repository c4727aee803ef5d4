"""The protocol of environment plugins (group `env`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt
from gymnasium.vector import VectorEnv

Array: TypeAlias = npt.NDArray[Any]
"""NumPy array of any dtype; shapes are in the docstrings."""
EpisodeSeed: TypeAlias = Callable[[int, int], int]
"""Function (environment index, episode index) -> seed that the episode is reset with; both count from 0."""


class Environment(Protocol):
    """A problem, which makes vector environments of any size (group `env`)."""

    num_envs: int
    """Number of environments stepped together in training."""
    normalize_observations: bool
    """True if the agent normalizes observations to mean 0 and standard deviation 1 by running statistics."""
    scale_rewards: bool
    """True if training divides rewards by the running standard deviation of the discounted return."""
    solved_return: float | None
    """Mean return from which the problem counts as solved; None if it has no such threshold."""
    label: str
    """Short name for run names, such as `lunarlander`."""

    def make(self, num_envs: int, episode_seed: EpisodeSeed) -> VectorEnv[Any, Any, Any]:
        """Return a new vector environment whose `metadata["autoreset_mode"]` is SAME_STEP or NEXT_STEP.

        Raises ConfigError for an unknown id or a missing package.
        """
        ...


class Filmable(Protocol):
    """An Environment that can be filmed, which fulfils this protocol too."""

    def with_frames(self) -> Environment:
        """Return the same problem, such that `make` gives SAME_STEP environments of this process that can be rendered.

        Their `render()` returns one RGB frame [H, W, 3] uint8 per environment, as it is after the last step; where an
        episode ended in that step, its end and not the start of the next. `metadata["render_fps"]` is their frame rate
        per second. Raises ConfigError if the problem has no such frames.
        """
        ...

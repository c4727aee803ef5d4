"""What an environment plugin must provide (group `env`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from gymnasium.vector import VectorEnv

if TYPE_CHECKING:
    pass

EpisodeSeed: TypeAlias = Callable[[int, int], int]
"""(environment's index, episode's index) -> the seed that this episode is reset with."""


class Environment(Protocol):
    """A problem (group `env`)."""

    num_envs: int
    normalize_observations: bool
    scale_rewards: bool
    solved_return: float | None
    label: str
    """For the run's name, e.g. `lunarlander`."""

    def make(self, num_envs: int, episode_seed: EpisodeSeed) -> VectorEnv[Any, Any, Any]:
        """A vector environment whose `metadata["autoreset_mode"]` is SAME_STEP or NEXT_STEP.

        Raises ConfigError for an unknown id or a missing package.
        """
        ...


class Filmable(Protocol):
    """An Environment that can be filmed fulfils this too."""

    def filmed(self) -> Environment:
        """The same problem, where `make` gives SAME_STEP environments of this process that can be rendered.

        Their `render()` returns one RGB frame [H, W, 3] uint8 of each environment after its last step: where an episode
        ended in it, of its end and not of the next one's start. `metadata["render_fps"]` says how many make a second.
        Raises ConfigError if it has no such frames.
        """
        ...

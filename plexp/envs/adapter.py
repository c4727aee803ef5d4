"""The view that collector and evaluation have of a vector environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from plexp.envs.environment import Array
from plexp.envs.packing import choices
from plexp.envs.spaces import layout_of, observation_dtype
from plexp.errors import EnvironmentFault, TrainingError, with_place
from plexp.nn.distributions import ActionRule
from plexp.nn.layout import LEGAL


class EnvAdapter:
    """Adapter of a vector environment: takes actions as sampled, returns float32 or uint8 arrays, names what went wrong.

    Raises TrainingError where an environment raises.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], distribution: ActionRule) -> None:
        self.env, self.distribution, self.num_envs = env, distribution, env.num_envs
        self.same_step = env.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP
        """Whether the step that ends an episode also resets; otherwise the next step only resets (NEXT_STEP)."""
        self.dtype = observation_dtype(env.single_observation_space)
        """Type of the observations that are returned: uint8 for images and rows with images, float32 otherwise."""
        self.layout = layout_of(env.single_observation_space)
        """Places of the parts of observations that were packed into rows; None: they were not."""
        self.shape = (self.num_envs, *(env.single_observation_space.shape or ()))

    def reset(self) -> Array:
        """Return the first observations [N, *obs] of new episodes."""
        try:
            observations, _ = self.env.reset()
        except EnvironmentFault:
            raise
        except Exception as error:
            raise TrainingError(
                f"the environment raised {type(error).__name__} in reset: {with_place(error)}"
            ) from error
        return self._converted(observations, "reset")

    def resimulate(self, episodes: Sequence[int], actions: Sequence[Tensor], expected: Array) -> tuple[Array, Array]:
        """Restore the episodes in progress by stepping each again from its seed with its actions.

        A vector environment does that in its own method `resimulate`. One without it starts new episodes everywhere:
        those after `episodes`, if it has the method `restart(episodes)`.

        Args:
            episodes: index of the episode in progress of each environment.
            actions: [L, *act] actions of each of these episodes so far, as sampled.
            expected: [N, *obs] observations that they must lead to.

        Returns:
            The observations [N, *obs], and whether each equals the expected one [N]. Where it does not, it is the first of
            the next episode.
        """
        if not hasattr(self.env, "resimulate"):
            if hasattr(self.env, "restart"):
                self.env.restart([episode + 1 for episode in episodes])
            return self.reset(), np.zeros(self.num_envs, np.bool_)
        columns = [
            self.distribution.to_environment(column).numpy() if len(column) else np.empty(0) for column in actions
        ]
        observations, is_equal = self.env.resimulate(episodes, columns, expected)
        return np.array(observations, self.dtype), is_equal

    def step(self, actions: Tensor) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step with actions [N, *act] as sampled; return observations [N, *obs], rewards, terminated, truncated [N], info."""
        try:
            observations, rewards, terminated, truncated, info = self.env.step(
                self.distribution.to_environment(actions).numpy()
            )
        except EnvironmentFault:
            raise
        except Exception as error:
            raise TrainingError(
                f"the environment raised {type(error).__name__} in step: {with_place(error)}"
            ) from error
        rewards = np.asarray(rewards)
        if rewards.shape != self.shape[:1]:
            shape = f"of shape {rewards.shape}; expected {self.shape[:1]}"
            raise TrainingError(f"the vector environment returned from step rewards {shape}")
        return self._converted(observations, "step"), rewards, terminated, truncated, info

    def numbers(self, observations: Array) -> Array | None:
        """Return the entries of observations [..., *obs] that must be finite; None: all are bytes."""
        if self.dtype == np.float32:
            return observations
        return None if self.layout is None else self.layout.numbers(observations)

    def illegal(self, observations: Array, actions: Tensor) -> Array | None:
        """Return which actions [..., *act] their masks in observations [..., *obs] do not allow; None: there are no masks."""
        part = None if self.layout is None else self.layout.parts.get(LEGAL)
        if part is None:
            return None
        legal = observations[..., part.start : part.stop] > 0
        sizes = np.array(choices(self.env.single_action_space), np.int64)
        taken: Array = actions.reshape(*legal.shape[:-1], len(sizes)).numpy() + (sizes.cumsum() - sizes)
        is_illegal: Any = ~np.take_along_axis(legal, taken, -1).all(-1)
        return np.asarray(is_illegal)

    def _converted(self, observations: Any, method: str) -> Array:
        """Return a copy of observations [N, *obs] as arrays of the type that is promised."""
        converted = np.array(observations, self.dtype)
        if converted.shape != self.shape:
            shape = f"of shape {converted.shape}; expected {self.shape}"
            raise TrainingError(f"the vector environment returned from {method} observations {shape}")
        return converted

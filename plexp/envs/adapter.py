"""A vector environment as collector and evaluation see it: tensors in, float32 (or bytes) out, its faults named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from plexp.envs.spaces import is_image
from plexp.errors import EnvironmentFault, TrainingError, one_line
from plexp.nn.distributions import ActionDistribution

Array = npt.NDArray[Any]


class EnvAdapter:
    """Resets and steps N environments.

    Raises TrainingError where an environment raises.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], distribution: ActionDistribution) -> None:
        self.env, self.distribution, self.num_envs = env, distribution, env.num_envs
        self.same_step = env.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP
        """An ended episode is followed by the next one's first observation at once; otherwise by a step that only resets."""
        self.dtype = np.uint8 if is_image(env.single_observation_space) else np.float32

    def reset(self) -> Array:
        """[N, *obs] the first observations."""
        try:
            observations, _ = self.env.reset()
        except EnvironmentFault:
            raise
        except Exception as error:
            raise TrainingError(f"the environment raised {type(error).__name__} in reset: {one_line(error)}") from error
        return np.array(observations, self.dtype)

    def replay(self, episodes: Sequence[int], actions: Sequence[Tensor], expected: Array) -> tuple[Array, Array]:
        """Play the episodes in progress again: the `episodes[i]`-th of environment i, with `actions[i]` [L, *act].

        Returns the observations [N, *obs] and whether each is the expected one [N]; where it is not, a new episode begins.
        """
        if not hasattr(self.env, "replay"):
            if hasattr(self.env, "renew"):
                self.env.renew([episode + 1 for episode in episodes])
            return self.reset(), np.zeros(self.num_envs, np.bool_)
        given = [self.distribution.to_environment(each).numpy() if len(each) else np.empty(0) for each in actions]
        observations, equal = self.env.replay(episodes, given, expected)
        return np.array(observations, self.dtype), equal

    def step(self, actions: Tensor) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Actions [N, *act] as sampled -> observations [N, *obs], rewards, terminated, truncated [N], info."""
        try:
            observations, *paid, info = self.env.step(self.distribution.to_environment(actions).numpy())
        except EnvironmentFault:
            raise
        except Exception as error:
            raise TrainingError(f"the environment raised {type(error).__name__} in step: {one_line(error)}") from error
        rewards, terminated, truncated = paid
        return np.array(observations, self.dtype), rewards, terminated, truncated, info

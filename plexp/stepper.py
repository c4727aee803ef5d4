"""A vector environment as collector and evaluation see it: tensors in, float32 (or bytes) out, its faults named."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from plexp.distributions import ActionDistribution
from plexp.errors import TrainingError, one_line
from plexp.spaces import is_image

Array = npt.NDArray[Any]


class Stepper:
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
        except Exception as error:
            raise TrainingError(f"the environment raised {type(error).__name__} in reset: {one_line(error)}") from error
        return np.array(observations, self.dtype)

    def step(self, actions: Tensor) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Actions [N, *act] as sampled -> observations [N, *obs], rewards, terminated, truncated [N], info."""
        try:
            observations, *paid, info = self.env.step(self.distribution.to_environment(actions).numpy())
        except Exception as error:
            raise TrainingError(f"the environment raised {type(error).__name__} in step: {one_line(error)}") from error
        rewards, terminated, truncated = paid
        return np.array(observations, self.dtype), rewards, terminated, truncated, info

"""Stacks of the latest frames as observations, which rollouts and buffers keep one frame at a time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from plexp.envs.environment import Array
from plexp.errors import ConfigError, Problem


class StackedSpace(spaces.Box):
    """Box of stacks [k, *frame] of the latest k frames of an episode, the newest last.

    Before the k-th frame, the first one fills the stack.
    """

    @property
    def frames(self) -> int:
        """k, number of frames of a stack."""
        return int(self.shape[0])


def stack_frames(env: gymnasium.Env[Any, Any], frames: int) -> gymnasium.Env[Any, Any]:
    """Return an environment that shows its latest frames (Mnih et al. 2015).

    Raises ConfigError for observations that are no arrays.
    """
    space = env.observation_space
    if not isinstance(space, spaces.Box) or not space.shape:
        cause = f"the observations are {space}, no arrays"
        raise ConfigError(Problem("env.frame_stack", frames, cause, "leave it out, or give net=gru"))
    stacked = gymnasium.wrappers.FrameStackObservation(env, frames, padding_type="reset")
    low, high = (np.repeat(bound[None], frames, 0) for bound in (space.low, space.high))
    stacked.observation_space = StackedSpace(low, high, dtype=space.dtype.type)
    return stacked


def frames_of(space: spaces.Space[Any]) -> int:
    """Return the number of frames of an observation; 1 for observations that are no stacks."""
    return space.frames if isinstance(space, StackedSpace) else 1


def newest(observations: Array, frames: int) -> Array:
    """Return the newest frames [N, *frame] of observations [N, *obs]: all of them, where they are no stacks."""
    return observations[:, -1] if frames > 1 else observations

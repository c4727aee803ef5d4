"""The stacks of frames that were observed, made of a trajectory that keeps each frame once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plexp.training.sequences import episode_starts
from plexp.training.types import Trajectory


def whole_observations(trajectory: Trajectory) -> Tensor:
    """Return the observations [T, N, *obs] that the actions answered; stacks of frames are put together again."""
    if trajectory.earlier is None:
        return trajectory.observations
    earlier, frames = trajectory.earlier.transpose(0, 1), trajectory.observations
    before, (steps, envs) = len(earlier), frames.shape[:2]
    # by time since the trajectory began: an episode's first frame stands for those before it
    now = np.arange(steps)[:, None]
    began = np.maximum.accumulate(np.where(episode_starts(trajectory), now, -before), 0)
    times = np.maximum(now[..., None] + np.arange(-before, 1), began[..., None])
    index = (times + before) * envs + np.arange(envs)[:, None]
    stacks = torch.cat([earlier, frames]).flatten(0, 1)[torch.from_numpy(index.reshape(-1))]
    return stacks.view(steps, envs, before + 1, *frames.shape[2:])

"""Running statistics that bring observations and rewards to unit scale.

Both change only between updates, so that a rollout and its loss see the same scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


class ObservationNormalizer(nn.Module):
    """Standardizes observations to (x − mean)/√(var + ε), clipped to ±10.

    Mean and variance are those of all observations so far, merged rollout by rollout (Chan et al. 1979). They are saved
    with the agent and frozen in evaluation.

    The mean is kept in float64, and subtracted in two parts, `center` and the rest: x − center is exact in float32 where x
    is near it (Sterbenz's lemma), so that large observations keep their differences.

    Args:
        shape: shape of one observation.
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    center: Tensor
    scale: Tensor
    offset: Tensor
    CLIP, EPSILON = 10.0, 1e-8

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("offset", torch.zeros(shape))
        self.register_buffer("center", torch.zeros(shape), persistent=False)
        self.register_load_state_dict_post_hook(lambda module, keys: self._derive())  # type: ignore[no-untyped-call]

    def forward(self, observations: Tensor) -> Tensor:
        """Return observations [..., *obs] standardized."""
        buffers: Any = self._buffers  # to look them up as attributes of a module takes as long as the subtraction
        centered = observations - buffers["center"]
        return torch.addcmul(buffers["offset"], centered, buffers["scale"]).clamp(-self.CLIP, self.CLIP)

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Merge observations [B, *obs] into the statistics."""
        if not len(observations):
            return
        rows = observations.to(self.mean.device, torch.float64)
        batch, total = rows.shape[0], self.count + rows.shape[0]
        delta = rows.mean(0) - self.mean
        squares = (
            self.var * self.count + rows.var(0, correction=0) * batch + delta.square() * self.count * batch / total
        )
        self.mean.add_(delta * batch / total)
        self.var.copy_(squares / total)
        self.count.copy_(total)
        self._derive()

    @torch.no_grad()
    def _derive(self) -> None:
        """Compute what `forward` uses from mean and variance."""
        scale = (self.var + self.EPSILON).rsqrt()
        self.center.copy_(self.mean)
        self.scale.copy_(scale)
        self.offset.copy_((self.center.double() - self.mean) * scale)


class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return, so that values are near one.

    Rewards are not shifted: a shift would change which policy is optimal wherever episodes end. The returns that plexp
    reports are those of the environment.

    The divisor is the standard deviation, but at least a fifth of the root mean square of the rewards, so that the typical
    reward stays within ±5; scaled rewards are then clipped to ±10. While all returns are equal nothing is known of their
    spread, and 1 stands for the standard deviation.

    Args:
        num_envs: N, number of environments.
        gamma: discount of the return.
    """

    EPSILON, CLIP, TYPICAL = 1e-8, 10.0, 5.0
    EQUAL = 1e-6
    """Returns count as equal while their standard deviation is less than this share of their mean."""

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self.returns = np.zeros(num_envs)
        self.mean, self.var, self.count = 0.0, 1.0, 0.0
        self.mean_square = 0.0
        """Mean of the squares of the rewards so far."""

    def state_dict(self) -> dict[str, Any]:
        names = ("returns", "mean", "var", "count", "mean_square")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.returns = state_dict["returns"].copy()
        self.mean, self.var, self.count = (state_dict[name] for name in ("mean", "var", "count"))
        self.mean_square = state_dict.get("mean_square", 0.0)  # missing in checkpoints of version 1

    def forget(self, environment: int) -> None:
        """Begin a new return for an environment whose episode was abandoned."""
        self.returns[environment] = 0.0

    def __call__(
        self, rewards: npt.NDArray[Any], done: npt.NDArray[np.bool_], valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """Return rewards [T, N] scaled by the statistics of all returns so far, including these.

        Args:
            rewards, done, valid: [T, N]; steps that are not valid are in no return.
        """
        discounted = np.empty(rewards.shape)
        for t in range(rewards.shape[0]):
            self.returns = discounted[t] = np.where(valid[t], self.gamma * self.returns + rewards[t], self.returns)
            self.returns = np.where(done[t], 0.0, self.returns)
        rows = discounted[valid]
        if len(rows):
            batch, total = len(rows), self.count + len(rows)
            delta = rows.mean() - self.mean
            squares = self.var * self.count + rows.var() * batch + delta**2 * self.count * batch / total
            self.mean, self.var, self.count = self.mean + delta * batch / total, squares / total, total
            self.mean_square += (np.square(rewards[valid]).mean() - self.mean_square) * batch / total
        scaled = (rewards / self._divisor()).clip(-self.CLIP, self.CLIP)
        return scaled.astype(np.float32)

    def _divisor(self) -> float:
        """Return what rewards are divided by."""
        is_known = self.var > (self.EQUAL * self.mean) ** 2
        deviation = math.sqrt(self.var + self.EPSILON) if is_known else 1.0
        return max(deviation, math.sqrt(self.mean_square) / self.TYPICAL)

"""Small environments and rollouts for tests of plugins."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from plexp.training.types import Rollout

PIXELS = ("env=gymnasium", f"env.id={__name__}:plexp/Pixels-v0", "env.normalize_observations=false")
"""Overrides for an environment that shows images."""

PARTS = ("env=gymnasium", f"env.id={__name__}:plexp/Parts-v0")
"""Overrides for an environment with Dict observations."""


class Pixels(gymnasium.Env[Any, Any]):
    """Environment that shows images of noise, for networks that take no vectors.

    An episode has ten steps, and action 1 is rewarded.
    """

    observation_space: spaces.Space[Any] = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._image(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._image(), float(action), self.time == 10, False, {}

    def _image(self) -> Any:
        return self.np_random.integers(0, 256, (36, 40, 3)).astype(np.uint8)


class Parts(Pixels):
    """Environment that shows an image, numbers and a choice in a Dict, for networks that take parts."""

    observation_space: spaces.Space[Any] = spaces.Dict(
        camera=Pixels.observation_space, speed=spaces.Box(-1, 1, (2,), np.float32), mode=spaces.Discrete(3)
    )

    def _image(self) -> Any:
        speed = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"camera": super()._image(), "speed": speed, "mode": int(self.np_random.integers(3))}


gymnasium.register("plexp/Pixels-v0", f"{__name__}:Pixels")
gymnasium.register("plexp/Parts-v0", f"{__name__}:Parts")


def make_rollout(**tensors: Tensor) -> Rollout:
    """Return a rollout with these fields [T, N, …]; the others are zero, and every row is valid."""
    shape = next(iter(tensors.values())).shape[:2]
    flags = {"terminated": torch.zeros(shape, dtype=torch.bool), "truncated": torch.zeros(shape, dtype=torch.bool)}
    rest = {field.name: torch.zeros(shape) for field in fields(Rollout)} | flags | {"valid": torch.ones(shape) > 0}
    ends = {"last_observations": torch.zeros(shape[1]), "final_observations": torch.zeros(0)}
    return Rollout(**{**rest, **ends, "final_index": torch.zeros(0, dtype=torch.int64), **tensors})


def _random_rollout(seed: int = 0) -> Rollout:
    """Return six steps of two environments: one episode terminates, one is truncated, all end with the rollout."""
    generator = torch.Generator().manual_seed(seed)
    names = ("rewards", "values", "next_values", "action_values")
    terminated, truncated = torch.zeros(6, 2, dtype=torch.bool), torch.zeros(6, 2, dtype=torch.bool)
    terminated[2, 0] = terminated[5, 1] = truncated[3, 1] = truncated[5, 0] = True
    tensors = {name: torch.randn(6, 2, generator=generator) for name in names}
    return make_rollout(**tensors, terminated=terminated, truncated=truncated)

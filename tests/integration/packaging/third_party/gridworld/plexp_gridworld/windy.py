"""Windy gridworld for gymnasium."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

WIND = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)
MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0))


class WindyGridworld(gymnasium.Env[Any, Any]):
    """Gridworld of 10 x 7 cells with an upward wind; −1 a step until the goal (Sutton and Barto 2018, ex. 6.5)."""

    action_space = spaces.Discrete(4)
    observation_space = spaces.Discrete(70)
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 8}

    def __init__(self, wind: int = 1, render_mode: str | None = None) -> None:
        self.wind, self.render_mode = wind, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.y = 0, 3
        return self.y * 10 + self.x, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        dx, dy = MOVES[int(action)]
        rise = self.wind * WIND[self.x]
        self.x, self.y = min(9, max(0, self.x + dx)), min(6, max(0, self.y + dy + rise))
        return self.y * 10 + self.x, -1.0, (self.x, self.y) == (7, 3), False, {}

    def render(self) -> Any:
        picture = np.full((7, 10, 3), 230, np.uint8)
        picture[:, [i for i, wind in enumerate(WIND) if wind]] = (190, 215, 240)
        picture[6 - 3, 7], picture[6 - self.y, self.x] = (60, 160, 60), (200, 60, 40)
        return picture.repeat(48, 0).repeat(48, 1)


gymnasium.register("WindyGridworld-v0", f"{__name__}:WindyGridworld", max_episode_steps=200)

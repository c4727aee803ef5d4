"""Environment that raises, registered as `plexp-tests/Breaks-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Breaks(CartPoleEnv):
    """CartPole that raises after 100 steps."""

    steps_made = 0

    def step(self, action: Any) -> Any:
        self.steps_made += 1
        if self.steps_made > 100:
            raise RuntimeError("the ground gives way")
        return super().step(action)


gymnasium.register("plexp-tests/Breaks-v0", Breaks, max_episode_steps=500)

"""Re-simulates an episode that went wrong, from its seed and its actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from plexp.config import plain, registry
from plexp.envs.checked import abridged
from plexp.envs.environment import Environment
from plexp.errors import ConfigError, Problem, one_line


def resimulate(file: Path) -> str:
    """Step a fresh environment through a recorded episode, and return what its last step gives, in one line.

    Raises ConfigError for a file that is not such a record, or whose environment cannot be made.
    """
    try:
        fault: dict[str, Any] = plain.loads(file.read_text())
        config, seed, actions = dict(fault["env"]), int(fault["seed"]), list(fault["actions"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        cause = f"it cannot be read as a recorded episode ({type(error).__name__}: {one_line(error)})"
        raise ConfigError(Problem("replay", file, cause, "give a fault.json that plexp wrote")) from error
    cls = registry.find("env", config.get("plugin"))
    changes = {"vectorization": "sync", "step_timeout": None}
    names = registry.own_parameters(cls)
    if missing := [name for name in names if name not in config]:
        raise ConfigError(Problem("replay", file, f"its env lacks {missing[0]}", "give a fault.json that plexp wrote"))
    environment: Environment = cls(**{name: changes.get(name, config[name]) for name in names})
    env = environment.make(1, lambda index, episode: seed)
    episode = f"seed {seed}, {len(actions)} actions"
    try:
        observations, _ = env.reset()
        given: list[Any] = [observations[0]]
        for action in actions:
            observations, rewards, terminated, truncated, info = env.step(
                np.array([action], env.single_action_space.dtype)
            )
            last = info["final_obs"][0] if "final_obs" in info else observations[0]  # and not the next episode's first
            given = [last, rewards[0], bool(terminated[0]), bool(truncated[0])]
    except Exception as error:
        return f"{episode}: the last step raised {one_line(error)}"
    finally:
        env.close()
    parts = ("observation", "reward", "terminated", "truncated")
    shown = ", ".join(f"{name} {abridged(value)}" for name, value in zip(parts, given, strict=False))
    return f"{episode}: the last step gave {shown}; recorded was: {fault.get('error', 'nothing')}"

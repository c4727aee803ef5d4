"""What a run is computed on, and whether its code is compiled for that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from plexp.envs.environment import Environment
from plexp.errors import ConfigError, Problem
from plexp.training.interfaces import AdvantageEstimator

BREAK_EVEN = 40_000  # gradient steps from which compiling saves what it costs, measured: README


def is_compiled(values: Mapping[str, Any], algo: Any, advantage: AdvantageEstimator, environment: Environment) -> bool:
    """Whether code is compiled; `auto` looks at how many gradient steps the budget makes, and at nothing else."""
    choice, on_cpu = values["compile"], torch.device(values["device"]).type == "cpu"
    if choice is True and not on_cpu:
        remedy = "give device=cpu or compile=auto"
        raise ConfigError(Problem("compile", choice, "code is compiled for the CPU only", remedy))
    if choice != "auto":
        return bool(choice)
    sheet = values["algo"]
    num_steps = sheet.get("num_steps") or getattr(algo, "num_steps", None)
    whole = getattr(algo, "complete_episodes", False) or advantage.complete_episodes  # one gradient step in hundreds
    if not on_cpu or whole or num_steps is None:
        return False
    rollouts = values["total_timesteps"] / (num_steps * environment.num_envs)
    steps = rollouts * sheet.get("update_epochs", 1) * sheet.get("num_minibatches", 1)
    return bool(steps >= BREAK_EVEN)


def device_of(name: str) -> torch.device:
    """The device by its name. Raises ConfigError for one that is not usable here."""
    try:
        device = torch.device(name)
        torch.zeros(1).to(device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            Problem("device", name, f"not usable here ({str(error).splitlines()[0]})", "give device=cpu")
        ) from error
    return device

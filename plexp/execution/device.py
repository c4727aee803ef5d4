"""The device of a run, and whether its code is compiled for it."""

from __future__ import annotations

import torch

from plexp.config.schema import RunConfig
from plexp.envs.environment import Environment
from plexp.errors import ConfigError, Problem
from plexp.training.interfaces import AdvantageEstimator

BREAK_EVEN_STEPS = 40_000
"""Gradient steps from which compiling saves more than it costs; measured, see tests/README.md."""


def is_compiled(config: RunConfig, advantage: AdvantageEstimator, environment: Environment) -> bool:
    """Return whether code is compiled; with `auto` the number of gradient steps of the budget alone decides.

    Raises ConfigError if it should be and cannot.
    """
    on_cpu = torch.device(config.device).type == "cpu"
    if config.compile is True and not on_cpu:
        remedy = "give device=cpu or compile=auto"
        raise ConfigError(Problem("compile", True, "code is compiled for the CPU only", remedy))
    if config.compile != "auto":
        return config.compile
    algo = config.classes["algo"]
    if config.replay is not None:
        updates = config.total_timesteps / config.algo.get("train_every", 1)
        return on_cpu and bool(updates * config.algo.get("gradient_steps", 1) >= BREAK_EVEN_STEPS)
    num_steps = config.algo.get("num_steps") or getattr(algo, "num_steps", None)
    makes_few_steps = getattr(algo, "complete_episodes", False) or advantage.complete_episodes
    if not on_cpu or makes_few_steps or num_steps is None:
        return False
    rollouts = config.total_timesteps / (num_steps * environment.num_envs)
    steps = rollouts * config.algo.get("update_epochs", 1) * config.algo.get("num_minibatches", 1)
    return bool(steps >= BREAK_EVEN_STEPS)


def device_of(name: str) -> torch.device:
    """Return a device by its name. Raises ConfigError for one that cannot be used here."""
    try:
        device = torch.device(name)
        torch.zeros(1).to(device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = f"not usable here ({str(error).splitlines()[0]})"
        raise ConfigError(Problem("device", name, cause, "give device=cpu")) from error
    return device

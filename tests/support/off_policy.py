"""Experiments, batches and environments with known values, for tests of algorithms with a replay buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from plexp import Transitions
from plexp.config.hydra_errors import compose_values
from plexp.execution.experiment import Experiment, build
from plexp.training.progress import TrainingProgress

TINY = (
    *("net=mlp", "net.width=8", "algo.n_steps=1", "compile=false", "total_timesteps=400", "algo.learning_starts=32"),
    *("algo.batch_size=16", "evaluation.every=null"),
)
"""Overrides of a small experiment with an algorithm that has a replay buffer."""
Make = Callable[..., Experiment]


@contextmanager
def experiments(*shared: str) -> Iterator[Make]:
    """Give a function that builds small experiments from the shared and further overrides; all are closed in the end."""
    made: list[Experiment] = []

    def make(*overrides: str) -> Experiment:
        made.append(build(compose_values(*shared, *TINY, *overrides)))
        return made[-1]

    try:
        yield make
    finally:
        for experiment in made:
            experiment.close()


def batch(rows: int, *, size: int, dims: int | None, seed: int = 0, noise: tuple[int, ...] = ()) -> Transitions:
    """Return random transitions, of which about 30 % are terminal.

    Args:
        rows: number of transitions.
        size: entries of an observation.
        dims: entries of an action, within −1…1; None: an action is 0 or 1.
        noise: shape of the noise of each row.
    """
    rng = np.random.default_rng(seed)

    def floats(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.from_numpy((rng.normal(size=shape) * scale).astype(np.float32))

    return Transitions(
        observations=floats(rows, size),
        actions=torch.from_numpy(rng.integers(2, size=rows)) if dims is None else floats(rows, dims).clamp(-1, 1),
        rewards=floats(rows, scale=3.0),
        next_observations=floats(rows, size),
        discounts=torch.from_numpy((0.9 * (rng.random(rows) < 0.7)).astype(np.float32)),
        weights=torch.from_numpy(rng.random(rows).astype(np.float32)),
        noise=floats(rows, *noise) if noise else None,
    )


def shake(*modules: torch.nn.Module) -> None:
    """Move all parameters of some modules by random numbers, each by others."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in (p for module in modules for p in module.parameters()):
            p.add_(0.3 * torch.randn(p.shape, generator=generator))


def train(experiment: Experiment) -> None:
    """Train to the end of the budget."""
    experiment.trainer.run([], TrainingProgress())


class Chain(gymnasium.Env[Any, Any]):
    """Two states: action 1 leads from the first to the second and from there to the end with 1, action 0 stays, with 0.1."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action == 0:
            return self._observation(), 0.1, False, False, {}
        self.state += 1
        return self._observation(), float(self.state == 2), self.state == 2, False, {}

    def _observation(self) -> Any:
        return np.eye(3, 2, dtype=np.float32)[self.state]


class Bandit(gymnasium.Env[Any, Any]):
    """One state and one step: the action a of −2…2 brings −(a − 0.6)²."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.ones(1, np.float32), -float((action[0] - 0.6) ** 2), True, False, {}


class Lottery(gymnasium.Env[Any, Any]):
    """One state and one step: action 0 brings a number of 0…40, and action 1 of 15…20, each uniformly random."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        low, high = ((0, 40), (15, 20))[int(action)]
        return np.ones(1, np.float32), float(self.np_random.uniform(low, high)), True, False, {}


gymnasium.register("plexp-values/Chain-v0", f"{__name__}:Chain", max_episode_steps=6)
gymnasium.register("plexp-values/Bandit-v0", f"{__name__}:Bandit")
gymnasium.register("plexp-values/Lottery-v0", f"{__name__}:Lottery")
VALUES = ("env=gymnasium", "env.num_envs=4", "gamma=0.5", "net.width=32", "algo.anneal_learning_rate=true")
CHAIN = (
    *(*VALUES, f"env.id={__name__}:plexp-values/Chain-v0", "net.layers=1", "algo.learning_rate=1e-2"),
    *("total_timesteps=1500", "algo.batch_size=32", "algo.target_tau=0.05"),
)
"""Overrides with which values of the chain converge within 1,500 steps."""
BANDIT = (
    *(*VALUES, f"env.id={__name__}:plexp-values/Bandit-v0", "algo.learning_rate=7e-3", "total_timesteps=1600"),
    *("algo.learning_starts=400", "algo.train_every=4", "algo.gradient_steps=4", "algo.batch_size=64"),
)
"""Overrides with which values and policy of the bandit converge within 1,600 steps."""
LOTTERY = (
    *(*VALUES, f"env.id={__name__}:plexp-values/Lottery-v0", "net.layers=1", "algo.learning_rate=5e-2"),
    *("total_timesteps=1500", "algo.learning_starts=500", "algo.batch_size=256", "algo.max_grad_norm=null"),
)
"""Overrides with which quantiles of the lottery's returns converge within 1,500 steps."""
KNOWN = torch.tensor([[0.35, 0.5], [0.6, 1.0]])
"""Q of the chain for γ = 0.5: Q(s₁, ·) = (0.1 + γ · 1, 1) and Q(s₀, ·) = (0.1 + γ · γ, γ)."""

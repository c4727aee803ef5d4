"""Helpers of the benchmarks: contenders, each in a process of its own, and functions that save and draw results."""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from stable_baselines3.common.base_class import BaseAlgorithm

    from plexp.execution.experiment import Experiment
    from plexp.training.types import Trajectory

OUTPUT = Path("outputs/benchmarks")
GREY, BLUE, ORANGE, RED = "#7F7F7F", "#0072B2", "#E69F00", "#D55E00"  # after Okabe and Ito
Measured = tuple[int, float]
"""Environment steps, and the seconds they took."""
REPEATS = 3  # without policy and learning a segment would be too short to time


class Strict(logging.Handler):
    """Log handler that raises RuntimeError on a warning of plexp.

    After a warning, such as that code is not compiled, the benchmark would measure something else.
    """

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())


def make_experiment(overrides: Sequence[str]) -> Experiment:
    """Return a plexp experiment, built as the command line builds it."""
    import torch

    import plexp

    torch.set_num_threads(1)
    logging.getLogger("plexp").addHandler(Strict(logging.WARNING))
    return plexp.build(plexp.compose(*overrides))


def make_sb3(
    algo: str,
    env_id: str,
    num_envs: int,
    seed: int,
    env_kwargs: dict[str, Any] | None = None,
    observed: list[int] | None = None,
    **settings: Any,
) -> BaseAlgorithm:
    """Return a model of Stable-Baselines3 on its usual vector environment, with one thread and without logging."""
    import torch
    from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import Logger

    torch.set_num_threads(1)
    wrapper = None if observed is None else partial(some_entries, entries=observed)
    env = make_vec_env(env_id, num_envs, seed=seed, env_kwargs=env_kwargs, wrapper_class=wrapper)
    classes: dict[str, Any] = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "sac": SAC, "td3": TD3}
    if algo == "recurrent_ppo":
        from sb3_contrib import RecurrentPPO

        classes[algo] = RecurrentPPO
    policy = "MlpLstmPolicy" if algo == "recurrent_ppo" else "MlpPolicy"
    model: BaseAlgorithm = classes[algo](policy, env, seed=seed, device="cpu", **settings)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def some_entries(env: Any, entries: list[int]) -> Any:
    """Return an environment that shows some entries of its observations only, as `env.observed` does."""
    from gymnasium import spaces
    from gymnasium.wrappers import TransformObservation

    space = env.observation_space
    seen = spaces.Box(space.low[entries], space.high[entries], dtype=space.dtype)
    return TransformObservation(env, lambda observation: observation[entries], seen)


class Plexp:
    """Contender that trains an experiment of plexp; the first update is over when the constructor returns.

    Args:
        keeps_actions: whether `learn` records its actions, which `alone` needs.
        first: iterations to the end of the first update.
    """

    def __init__(self, overrides: Sequence[str], keeps_actions: bool, first: int = 1) -> None:
        from plexp.training.progress import TrainingProgress

        self.experiment, self.progress = make_experiment(overrides), TrainingProgress()
        self.trajectories: list[Trajectory] = []
        self.copies: list[Any] = []
        if keeps_actions:
            collector = self.experiment.trainer.collector
            collect = collector.collect

            def collect_and_keep() -> Trajectory:
                self.trajectories.append(collect())
                return self.trajectories[-1]

            collector.collect = collect_and_keep  # type: ignore[method-assign]
        self.learn(first)

    def learn(self, iterations: int) -> Measured:
        steps, began = self.progress.steps, time.perf_counter()
        for _ in range(iterations):
            self.experiment.trainer.iterate(self.progress)
        return self.progress.steps - steps, time.perf_counter() - began

    def alone(self, iterations: int) -> Measured:
        """Repeat all steps since the last call, on copies of the training environment that get the same actions."""
        import numpy as np

        experiment, environment = self.experiment, self.experiment.environment
        if not self.copies:
            seeds = experiment.streams.training
            self.copies = [environment.make(environment.num_envs, seeds) for _ in range(REPEATS)]
            for each_copy in self.copies:
                each_copy.reset()
        translate = experiment.agent.distribution.to_environment
        actions = [translate(step).numpy() for trajectory in self.trajectories for step in trajectory.actions]
        steps, last = (
            sum(trajectory.num_valid for trajectory in self.trajectories),
            self.trajectories[-1].last_observations,
        )
        self.trajectories.clear()
        began = time.perf_counter()
        for each_copy in self.copies:
            for each in actions:
                observations = each_copy.step(each)[0]
        seconds = time.perf_counter() - began
        if not np.array_equal(np.asarray(observations, np.float32), last.numpy()):
            raise RuntimeError("the environment alone did not make the same steps again")
        return steps * REPEATS, seconds

    def gymnasium(self, iterations: int) -> Measured:
        """Step Gymnasium's own vector environment with random actions."""
        import gymnasium

        mine: Any = self.experiment.environment
        env = gymnasium.make_vec(mine.id, mine.num_envs, vectorization_mode="sync", **mine.kwargs)
        env.reset(seed=0)
        env.action_space.seed(0)
        number = REPEATS * iterations * self.experiment.trainer.algorithm.num_steps
        actions = [env.action_space.sample() for _ in range(number)]
        began = time.perf_counter()
        for each in actions:
            env.step(each)
        seconds = time.perf_counter() - began
        env.close()
        return number * mine.num_envs, seconds


class Sb3:
    """Contender that trains a model of Stable-Baselines3; the first update is over when the constructor returns."""

    def __init__(self, settings: dict[str, Any], first: int = 1) -> None:
        self.model = make_sb3(**settings)
        self.rows = self.model.n_envs * (settings.get("n_steps") or settings["train_freq"])
        self.learn(first)

    def learn(self, iterations: int) -> Measured:
        before, began = self.model.num_timesteps, time.perf_counter()
        self.model.learn(iterations * self.rows, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
        return self.model.num_timesteps - before, time.perf_counter() - began


class Contender:
    """Process that waits for requests, does what each asks for, and is idle in between."""

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        began = time.perf_counter()
        self.process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self.process.start()
        theirs.close()
        self._answer()
        self.startup = time.perf_counter() - began
        """Seconds from the start of the process to the end of its first update."""

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pipe.close()
        self.process.join(10)

    def ask(self, what: str, iterations: int) -> Measured:
        self.pipe.send((what, iterations))
        measured: Measured = self._answer()
        return measured

    def _answer(self) -> Any:
        try:
            return self.pipe.recv()
        except EOFError:
            raise SystemExit("a contender has ended; the cause stands above") from None


def _serve(pipe: Connection, make: Callable[..., Any], arguments: Sequence[Any]) -> None:
    contender = make(*arguments)
    pipe.send(None)
    while True:
        try:
            what, iterations = pipe.recv()
        except EOFError:
            return
        pipe.send(getattr(contender, what)(iterations))


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; if the output is not a terminal, the columns are not cut to its width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=130)).print(table)


def facts() -> dict[str, str]:
    """Return versions, commit, processor and date, but not the host's name."""
    from plexp.execution.provenance import provenance

    found = {key: value for key, value in provenance().items() if key != "host.name"}
    with suppress(metadata.PackageNotFoundError):
        found["version.stable-baselines3"] = metadata.version("stable-baselines3")
    return found | {"date": datetime.now(UTC).isoformat(timespec="seconds")}


def save(folder: Path, name: str, results: dict[str, Any], figure: Figure | None = None) -> None:
    """Write the results and the facts to `name`.json, and the figure to `name`.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"facts": facts(), **results}, indent=1) + "\n")
    if figure is not None:
        figure.savefig(folder / f"{name}.png", dpi=200)
    print(f"written: {', '.join(str(path) for path in sorted(folder.glob(f'{name}.*')))}")


def new_figure(height: float) -> Figure:
    """Return a figure eight inches wide, so that its text can be read at 800 pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(8, height), layout="constrained")


def tidy(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.3)  # type: ignore[arg-type]
    axes.set_axisbelow(True)

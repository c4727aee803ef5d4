"""Benchmark of the time to solve a problem: plexp's presets, and Stable-Baselines3 with rl-zoo's published settings.

    pip install -e ".[bench]"
    python tests/benchmarks/time_to_solve.py                          # about an hour on two cores
    python tests/benchmarks/time_to_solve.py --only cartpole --seeds 3
    python tests/benchmarks/time_to_solve.py --overrides compile=true # more overrides for plexp

A problem is solved once the mean return of 20 new greedy episodes is at least 475 on CartPole-v1, or 200 on
LunarLander-v3. It is checked after the first update past each multiple of 10,000 steps, and a run stops at its first
success. Seconds are those of rollouts and updates, including the first iteration (which loads compiled code, or
compiles it), but not the checks; imports and building, which come before, are listed separately. A run that does not
solve the problem within its budget counts as infinite in the medians. Each run has a process of its own with one
thread; runs of plexp and SB3 alternate.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
from common import BLUE, GREY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVERY, EPISODES = 10_000, 20
NAMES, COLOURS = {"plexp": "plexp", "sb3": "SB3"}, {"plexp": BLUE, "sb3": GREY}


@dataclass(frozen=True)
class Task:
    """Problem to solve, with SB3's settings for it."""

    env_id: str
    mark: float
    """Mean return from which the problem counts as solved."""
    budget: int
    num_envs: int
    settings: dict[str, Any]
    annealed: dict[str, float] = field(default_factory=dict)
    """Settings that are annealed linearly to 0, by their values at the start."""


TASKS = {
    "cartpole": Task(
        "CartPole-v1",
        475,
        100_000,
        8,
        {"n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "ent_coef": 0.0},
        {"learning_rate": 1e-3, "clip_range": 0.2},
    ),
    "lunarlander": Task(
        "LunarLander-v3",
        200,
        1_000_000,
        16,
        {"n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4, "ent_coef": 0.01},
    ),
}


class Watch:
    """Clock that adds up the seconds of training, and evaluates the agent at each multiple of `EVERY` steps."""

    def __init__(self, mark: float) -> None:
        self.mark, self.steps, self.seconds, self.first_iteration = mark, 0, 0.0, 0.0
        self.play: Callable[[], float] = lambda: -math.inf
        """Function that evaluates the agent and returns the mean return."""
        self.checks: list[tuple[int, float, float]] = []
        """Evaluations so far: (steps, seconds, mean return)."""

    def iteration(self, steps: int, seconds: float) -> bool:
        """Take the steps in all and the seconds of the last iteration; return whether the problem is solved."""
        self.first_iteration = self.first_iteration or seconds
        self.seconds += seconds
        passed, self.steps = steps // EVERY > self.steps // EVERY, steps
        if passed:
            self.checks.append((steps, self.seconds, self.play()))
        return passed and self.checks[-1][2] >= self.mark


def run_plexp(task: str, watch: Watch, seed: int, budget: int | None, overrides: Sequence[str]) -> Callable[[], object]:
    """Build an experiment of plexp, and return a function that trains it."""
    from plexp.training.evaluation import StepLimit, evaluate
    from plexp.training.progress import TrainingProgress

    limit = [] if budget is None else [f"total_timesteps={budget}"]
    experiment = common.make_experiment([f"env={task}", f"seed={seed}", *limit, *overrides])
    progress = TrainingProgress()

    def play() -> float:
        seeds = experiment.streams.evaluation(len(watch.checks))
        result = evaluate(experiment.agent, experiment.environment, seeds, EPISODES, limit=StepLimit(None))
        return float(result.returns.mean())

    def train() -> None:
        solved = False
        while progress.fraction < 1 and not solved:
            began = time.perf_counter()
            experiment.trainer.iterate(progress)
            solved = watch.iteration(progress.steps, time.perf_counter() - began)

    watch.play = play
    return train


def run_sb3(task: str, watch: Watch, seed: int, budget: int | None, overrides: Sequence[str]) -> Callable[[], object]:
    """Build a model of SB3, and return a function that trains it."""
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    chosen = TASKS[task]
    annealed = {name: _falling(start) for name, start in chosen.annealed.items()}
    model = common.make_sb3("ppo", chosen.env_id, chosen.num_envs, seed, **chosen.settings, **annealed)
    others = make_vec_env(chosen.env_id, 10, seed=10_000 + seed)

    class Iterations(BaseCallback):
        """Callback that times iterations, from the start of a rollout to that of the next one, or to the end."""

        began: float | None = None
        solved = False

        def _on_rollout_start(self) -> None:
            self._end_iteration()
            self.began = time.perf_counter()

        def _on_step(self) -> bool:
            return not self.solved

        def _on_training_end(self) -> None:
            if not self.solved:
                self._end_iteration()

        def _end_iteration(self) -> None:
            if self.began is not None:
                self.solved = watch.iteration(self.num_timesteps, time.perf_counter() - self.began)

    watch.play = lambda: float(evaluate_policy(model, others, EPISODES, deterministic=True)[0])
    return lambda: model.learn(budget or chosen.budget, Iterations(), log_interval=None)  # type: ignore[arg-type]


def _falling(start: float) -> Callable[[float], float]:
    return lambda remaining: remaining * start


def job(task: str, contender: str, seed: int, budget: int | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Do one run, until the problem is solved or the budget is used up; return its result."""
    began = time.perf_counter()
    watch = Watch(TASKS[task].mark)
    train = {"plexp": run_plexp, "sb3": run_sb3}[contender](task, watch, seed, budget, overrides)
    startup = time.perf_counter() - began
    train()
    solved = bool(watch.checks) and watch.checks[-1][2] >= watch.mark
    times = {"startup": startup, "first_iteration": watch.first_iteration, "seconds": watch.seconds}
    return {
        "task": task,
        "contender": contender,
        "seed": seed,
        "solved": solved,
        "steps": watch.steps,
        **times,
        "checks": watch.checks,
    }


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the medians of each task and contender; None where half of the runs or more did not solve the problem."""
    rows = []
    for task, contender in dict.fromkeys((run["task"], run["contender"]) for run in runs):
        mine = [run for run in runs if (run["task"], run["contender"]) == (task, contender)]
        row = {"task": task, "contender": contender, "runs": len(mine), "solved": sum(run["solved"] for run in mine)}
        for key in ("steps", "seconds"):
            median = statistics.median(run[key] if run["solved"] else math.inf for run in mine)
            row[f"median_{key}"] = median if math.isfinite(median) else None
        row |= {f"median_{key}": statistics.median(run[key] for run in mine) for key in ("startup", "first_iteration")}
        rows.append(row)
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    def number(value: float | None, digits: int) -> str:
        return "not reached" if value is None else f"{value:,.{digits}f}"

    columns = [
        "task",
        "contender",
        "solved",
        "steps",
        "training, s",
        "first iteration of it, s",
        "imports and building, s",
    ]
    digits = {"steps": 0, "seconds": 1, "first_iteration": 2, "startup": 1}
    cells = [
        [
            *(row["task"], NAMES[row["contender"]], f"{row['solved']} of {row['runs']}"),
            *(number(row[f"median_{key}"], places) for key, places in digits.items()),
        ]
        for row in rows
    ]
    common.show("until solved, medians", columns, cells)


def draw(runs: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw a dot for each seed (a cross if unsolved) and a line for the median, in steps and in seconds."""
    from matplotlib.ticker import MaxNLocator

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = common.new_figure(0.4 + 1.7 * len(tasks))
    panels = figure.subplots(len(tasks), 2, sharey=True, squeeze=False)
    for task, pair in zip(tasks, panels, strict=True):
        for axes, key in zip(pair, ("steps", "seconds"), strict=True):
            for place, row in enumerate(row for row in rows if row["task"] == task):
                colour = COLOURS[row["contender"]]
                mine = [run for run in runs if (run["task"], run["contender"]) == (task, row["contender"])]
                for run in mine:
                    offset = 0.12 * (run["seed"] - (len(mine) - 1) / 2)
                    axes.plot(run[key], place + offset, "o" if run["solved"] else "x", color=colour, markersize=6)
                if row[f"median_{key}"] is not None:
                    axes.vlines(row[f"median_{key}"], place - 0.4, place + 0.4, color=colour, linewidth=2)
            axes.set_xlim(0, 1.05 * max(run[key] for run in runs if run["task"] == task))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
            axes.set_xlabel("environment steps" if key == "steps" else "seconds of training")
            common.tidy(axes, "x")
        names = [NAMES[row["contender"]] for row in rows if row["task"] == task]
        pair[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        pair[0].set_title(f"{TASKS[task].env_id}, until the mean is {TASKS[task].mark:g}", loc="left", fontsize=10)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once (default: 2)")
    parser.add_argument("--budget", type=int, help="steps, instead of those of the task; annealing ends there too")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="more overrides for plexp")
    parser.add_argument("--output", type=Path, default=common.OUTPUT)
    options = parser.parse_args()
    tasks = [options.only] if options.only else list(TASKS)
    jobs = [(task, contender, seed) for task in tasks for seed in range(options.seeds) for contender in NAMES]
    context = multiprocessing.get_context("spawn")
    runs = []
    with ProcessPoolExecutor(options.jobs, context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(job, *each, options.budget, options.overrides) for each in jobs]
        for future in as_completed(futures):
            run = future.result()
            runs.append(run)
            end = "solved" if run["solved"] else "not solved"
            print(
                f"{run['task']} {run['contender']} seed {run['seed']}: {end}, {run['steps']:,} steps, {run['seconds']:.1f} s",
                flush=True,
            )
    runs.sort(key=lambda run: (tasks.index(run["task"]), list(NAMES).index(run["contender"]), run["seed"]))
    rows = summary(runs)
    show(rows)
    settings = {"overrides": options.overrides, "every": EVERY, "episodes": EPISODES, "jobs": options.jobs}
    tasks_done = {task: asdict(TASKS[task]) for task in tasks}
    results = {**settings, "tasks": tasks_done, "summary": rows, "runs": runs}
    common.save(options.output, "time_to_solve", results, draw(runs, rows))


if __name__ == "__main__":
    main()

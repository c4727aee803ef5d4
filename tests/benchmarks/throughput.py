"""Benchmark of environment steps a second: plexp, Stable-Baselines3 and the environment alone, on the same work.

    pip install -e ".[bench]"
    python tests/benchmarks/throughput.py                     # all rows, about ten minutes
    python tests/benchmarks/throughput.py --only CartPole --rounds 3
    python tests/benchmarks/throughput.py --cold              # also the start-up with nothing compiled yet
    python tests/benchmarks/throughput.py --scaling           # plexp against number of environments, layers, width
    python tests/benchmarks/throughput.py --startup           # from the command to the first update, and peak memory

Each contender is one process that stays alive and is asked in turn for a segment of training: A B C A B C …
Environment, number of environments, rollout, epochs, minibatches, networks (2 x 64 tanh, actor and critic separate; with
a replay buffer 2 x 256 ReLU), batch, gradient steps, learning rate and discount are the same for all, observations and
rewards are those of the environment, and each has one thread. A segment is `Trainer.iterate` or `model.learn`, without
evaluation, logging and plexp's callbacks.

`alone` is the limit: plexp's own vector environment repeats the very steps that plexp has just learnt from, without
policy and learning (same seeds, recorded actions; it must arrive at the same observations). `gymnasium` is
`gymnasium.make_vec` with random actions, for reference. Start-up lasts from the start of the process to the end of the
first update; that of compiled code is warm if the cache already has the code, which --cold ensures.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
from common import BLUE, GREY, ORANGE, RED, Contender, Plexp, Sb3

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"sb3": "SB3", "eager": "plexp", "alone": "env alone", "gymnasium": "gymnasium", "compiled": "plexp compiled"}
HOSTS = {"alone": "eager", "gymnasium": "eager"}  # contender → the contender in whose process it is measured
COLOURS = {"sb3": GREY, "eager": BLUE, "compiled": ORANGE}
COMPILE = {"eager": "compile=false", "compiled": "compile=true"}
ENDLESS = "total_timesteps=1000000000"
SHORT = "env=cartpole total_timesteps=10240 evaluation.every=null evaluation.final_episodes=10"
SCALES = {
    "env.num_envs": [1, 2, 4, 8, 16, 32, 64, 128],
    "net.layers": [1, 2, 3, 4, 5, 6],
    "net.width": [64, 128, 256, 512, 1024],
}


@dataclass(frozen=True)
class Work:
    """Row of the table: an environment, a number of steps, and the settings of both libraries."""

    name: str
    env: str
    num_envs: int
    num_steps: int
    iterations: int
    """Number of rollouts in a segment: about three seconds of SB3."""
    epochs: int = 1
    minibatches: int = 1
    algo: str = "ppo"
    env_id: str = "CartPole-v1"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    gamma: float = 0.99

    @property
    def first(self) -> int:
        """Number of iterations to the end of the first update."""
        return 1

    def plexp(self) -> list[str]:
        ppo = [f"algo.update_epochs={self.epochs}", f"algo.num_minibatches={self.minibatches}"]
        sizes = [
            f"env.num_envs={self.num_envs}",
            f"algo.num_steps={self.num_steps}",
            *(ppo if self.algo == "ppo" else []),
        ]
        plain = ["env.normalize_observations=false", "env.scale_rewards=false", f"gamma={self.gamma}", ENDLESS]
        rate = ["algo.learning_rate=3e-4", "algo.anneal_learning_rate=false"]
        return [f"env={self.env}", f"algo={self.algo}", *sizes, *plain, *rate]

    def sb3(self) -> dict[str, Any]:
        what = {"algo": self.algo, "env_id": self.env_id, "env_kwargs": self.env_kwargs, "num_envs": self.num_envs}
        batch = self.num_envs * self.num_steps // self.minibatches
        ppo = {"n_epochs": self.epochs, "batch_size": batch} if self.algo == "ppo" else {}
        return {**what, "seed": 0, "n_steps": self.num_steps, "gamma": self.gamma, "learning_rate": 3e-4, **ppo}


@dataclass(frozen=True)
class RecurrentWork(Work):
    """Row of PPO with an LSTM of 64 and one layer of 64, without velocities, and gradients over all steps of a rollout."""

    def plexp(self) -> list[str]:
        return [*super().plexp(), "net=lstm", f"algo.sequence_length={self.num_steps}"]

    def sb3(self) -> dict[str, Any]:
        shape = {"lstm_hidden_size": 64, "net_arch": [64], "enable_critic_lstm": True}
        return {**super().sb3(), "algo": "recurrent_ppo", "policy_kwargs": shape, "observed": [0, 2]}


@dataclass(frozen=True)
class ReplayWork(Work):
    """Row of an algorithm with a replay buffer, which learns after every `num_steps` steps of each environment."""

    gradient_steps: int = 1
    batch_size: int = 256

    @property
    def first(self) -> int:
        return math.ceil(FIRST_STEPS / (self.num_envs * self.num_steps)) + 1

    def plexp(self) -> list[str]:
        every = self.num_envs * self.num_steps
        sizes = [f"env.num_envs={self.num_envs}", f"algo.train_every={every}"]
        learning = [f"algo.gradient_steps={self.gradient_steps}", f"algo.batch_size={self.batch_size}"]
        rest = [
            "net=mlp_relu",
            "net.width=256",
            f"algo.learning_starts={FIRST_STEPS}",
            "algo.learning_rate=3e-4",
            f"gamma={self.gamma}",
        ]
        plain = ["algo.double=false", "algo.n_steps=1"] if self.algo == "dqn" else []  # as SB3's
        return [f"env={self.env}", f"algo={self.algo}", *sizes, *learning, *rest, *plain, ENDLESS]

    def sb3(self) -> dict[str, Any]:
        what = {"algo": self.algo, "env_id": self.env_id, "env_kwargs": self.env_kwargs, "num_envs": self.num_envs}
        sizes = {"train_freq": self.num_steps, "gradient_steps": self.gradient_steps, "batch_size": self.batch_size}
        rest = {"learning_starts": FIRST_STEPS, "learning_rate": 3e-4, "gamma": self.gamma, "buffer_size": 100_000}
        return {**what, "seed": 0, **sizes, **rest, "policy_kwargs": {"net_arch": [256, 256]}}


FIRST_STEPS = 1_000
"""Environment steps before the first gradient step of an algorithm with a replay buffer."""
LANDER: dict[str, Any] = {"env_id": "LunarLander-v3", "gamma": 0.999}
WORKS = [
    Work("CartPole 4x128 4x4", "cartpole", 4, 128, 30, 4, 4),
    Work("CartPole 8x32 20x1", "cartpole", 8, 32, 40, 20, 1),
    Work("LunarLander 16x128 4x4", "lunarlander", 16, 128, 8, 4, 4, **LANDER),
    Work("LunarLander 16x1024 4x256", "lunarlander", 16, 1024, 1, 4, 256, **LANDER),
    Work(
        "LunarLanderContinuous 16x128 4x4",
        "lunarlander_continuous",
        *(16, 128, 8, 4, 4),
        **LANDER,
        env_kwargs={"continuous": True},
    ),
    Work("A2C CartPole 8x5", "cartpole", 8, 5, 500, algo="a2c"),
    RecurrentWork("Recurrent PPO CartPole 8x128 10x8", "cartpole_novel", 8, 128, 1, 10, 8),
    ReplayWork("DQN CartPole 1x256 128x64", "cartpole", 1, 256, 16, algo="dqn", gradient_steps=128, batch_size=64),
    ReplayWork(
        "DQN LunarLander 1x4 4x128", "lunarlander", 1, 4, 400, algo="dqn", gradient_steps=4, batch_size=128, **LANDER
    ),
    ReplayWork("SAC Pendulum 1x1 1x256", "pendulum", 1, 1, 300, algo="sac", env_id="Pendulum-v1"),
    ReplayWork("TD3 Pendulum 1x1 1x256", "pendulum", 1, 1, 500, algo="td3", env_id="Pendulum-v1"),
]


def measure(work: Work, options: argparse.Namespace) -> dict[str, Any]:
    """Return the start-up of each contender at one row, and its steps a second in each round."""
    asked = {*options.contenders} | {HOSTS.get(name, name) for name in options.contenders}
    iterations = max(1, round(work.iterations * options.length))
    processes: dict[str, Contender] = {}
    startup: dict[str, float] = {}
    with ExitStack() as stack:
        for name in [name for name in ("sb3", *COMPILE) if name in asked]:
            if name == "compiled" and options.cold:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                os.environ |= {"PLEXP_CACHE": f"{folder}/plexp", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
                with start(work, name, options) as cold:
                    startup["compiled, cold"] = cold.startup
            processes[name] = stack.enter_context(start(work, name, options))
            startup[name] = processes[name].startup
        rounds: dict[str, list[float]] = {name: [] for name in NAMES if name in asked}
        for _ in range(options.rounds):
            for name, rates in rounds.items():
                steps, seconds = processes[HOSTS.get(name, name)].ask(name if name in HOSTS else "learn", iterations)
                rates.append(steps / seconds)
    return {"work": asdict(work), "iterations": iterations, "startup": startup, "rounds": rounds, **summary(rounds)}


def start(work: Work, name: str, options: argparse.Namespace) -> Contender:
    if name == "sb3":
        return Contender(Sb3, work.sb3(), work.first)
    keeps_actions = name == "eager" and "alone" in options.contenders
    return Contender(Plexp, [*work.plexp(), COMPILE[name], *options.overrides], keeps_actions, work.first)


def summary(rounds: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians, their ratios to SB3 and to the environment alone, and the ratios to SB3 in each round."""
    medians = {name: statistics.median(rates) for name, rates in rounds.items()}
    ratios = {name: medians[name] / medians["sb3"] for name in medians if "sb3" in medians}
    each = {name: [a / b for a, b in zip(rounds[name], rounds["sb3"], strict=True)] for name in ratios}
    shares = {name: medians[name] / medians["alone"] for name in COLOURS if {name, "alone"} <= medians.keys()}
    return {"medians": medians, "ratios": ratios, "ratios_by_round": each, "share_of_alone": shares}


def show(rows: Sequence[dict[str, Any]], means: dict[str, float | None]) -> None:
    """Print tables of steps a second, of their ratios, and of start-up."""
    ours = [name for name in COMPILE if name in rows[0]["medians"]]

    def table(
        title: str, columns: Sequence[str], cells: Callable[[dict[str, Any]], list[str]], *last: list[str]
    ) -> None:
        common.show(title, ["work", *columns], [*([row["work"]["name"], *cells(row)] for row in rows), *last])

    def ratios(row: dict[str, Any]) -> list[str]:
        each = [(row["ratios"][name], row["ratios_by_round"][name]) for name in ours]
        return [f"{ratio:.2f} ({min(rounds):.2f}…{max(rounds):.2f})" for ratio, rounds in each]

    names = list(rows[0]["medians"])
    title = "environment steps a second, medians of the rounds"
    table(title, [NAMES[name] for name in names], lambda row: [f"{row['medians'][name]:,.0f}" for name in names])
    if ours and "sb3" in names:
        last = ["geometric mean", *(f"{means[name]:.2f}" for name in ours)]
        title = "ratio of the medians to SB3 (least…largest in one round)"
        table(title, [NAMES[name] for name in ours], ratios, last)
    shares = list(rows[0]["share_of_alone"])
    if shares:
        title = "share of the speed of the environment alone"
        table(title, [NAMES[name] for name in shares], lambda row: [f"{row['share_of_alone'][n]:.0%}" for n in shares])
    title = "start-up: seconds from the start of the process to the end of its first update"
    contenders = list(rows[0]["startup"])
    table(title, [NAMES.get(n, n) for n in contenders], lambda row: [f"{row['startup'][n]:.1f}" for n in contenders])


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw bars of steps a second relative to SB3, a group for each row, with the limit set by the environment."""
    names = [name for name in COLOURS if name in rows[0]["medians"]]
    figure = common.new_figure(1.2 + 0.22 * (len(names) + 1) * len(rows))
    axes = figure.subplots()
    height, end = 0.8 / len(names), 1.6 * max(row["ratios"][name] for row in rows for name in names)
    for j, name in enumerate(names):
        places = [i + (j - (len(names) - 1) / 2) * height for i in range(len(rows))]
        ratios = [row["ratios"][name] for row in rows]
        bars = axes.barh(places, ratios, height * 0.92, color=COLOURS[name], label=NAMES[name])
        speeds = [f"{row['medians'][name]:,.0f}/s" for row in rows]
        axes.bar_label(bars, [f"{r:.2f}  {s}" for r, s in zip(ratios, speeds, strict=True)], padding=4, fontsize=9)
    for i, row in enumerate(rows):
        alone = row["ratios"].get("alone", math.nan)
        text, near = f"environment\nalone: {alone:.1f}", alone < 0.85 * end
        style: dict[str, Any] = {"color": RED, "fontsize": 9, "va": "center"}
        if near:
            axes.vlines(alone, i - 0.45, i + 0.45, color=RED, linewidth=2.5)
            axes.annotate(text, (alone, i), (4, 0), textcoords="offset points", **style)
        elif not math.isnan(alone):
            axes.text(end, i, f"{text} →", ha="right", **style)
    axes.set_xlim(0, end)
    axes.set_yticks(range(len(rows)), [row["work"]["name"].replace(" ", "\n", 1) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("environment steps a second, relative to Stable-Baselines3")
    common.tidy(axes, "x")
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def scaling(options: argparse.Namespace) -> None:
    """Measure plexp's steps a second as one setting grows; all others have the defaults of `algo=ppo env=cartpole`."""
    from matplotlib.ticker import LogLocator, NullLocator

    scales = {key: numbers for key, numbers in SCALES.items() if options.only in key}
    usual = {"env.num_envs": 8, "net.layers": 2, "net.width": 64}
    known: dict[str, dict[str, float]] = {}
    points = []
    for key, numbers in scales.items():
        for number in numbers:
            change = "" if usual[key] == number else f"{key}={number}"
            if change not in known:
                known[change] = _speeds(["env=cartpole", ENDLESS, *options.overrides, *change.split()], options.rounds)
            points.append({"key": key, "number": number, "steps_per_second": known[change]})
            rates = ", ".join(f"{NAMES[name]} {rate:,.0f}" for name, rate in known[change].items())
            print(f"{key}={number}: {rates} steps/s", flush=True)
    figure = common.new_figure(3.4)
    for axes, (key, numbers) in zip(
        figure.subplots(1, len(scales), sharey=True, squeeze=False)[0], scales.items(), strict=True
    ):
        for name, marker in zip(COMPILE, "os", strict=True):
            rates = [point["steps_per_second"][name] for point in points if point["key"] == key]
            axes.plot(numbers, rates, color=COLOURS[name], marker=marker, markersize=5, label=NAMES[name])
        axes.set(xscale="log", yscale="log", xlabel=key)
        axes.set_xticks(numbers, [str(number) for number in numbers], fontsize=9)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
        axes.yaxis.set_minor_locator(NullLocator())
        common.tidy(axes, "both")
    figure.axes[0].set_ylabel("environment steps a second")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    common.save(
        options.output, "scaling", {"rounds": options.rounds, "overrides": options.overrides, "points": points}, figure
    )


def _speeds(overrides: list[str], rounds: int) -> dict[str, float]:
    """Return the steps a second of plexp, eager and compiled in turn: medians of segments of at least 0.25 s."""
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(Contender(Plexp, [*overrides, override], False))
            for name, override in COMPILE.items()
        }
        iterations = {}
        for name, process in processes.items():
            process.ask("learn", 1)
            iterations[name] = math.ceil(0.25 / process.ask("learn", 1)[1])
        rates: dict[str, list[float]] = {name: [] for name in processes}
        for _ in range(rounds):
            for name, process in processes.items():
                steps, seconds = process.ask("learn", iterations[name])
                rates[name].append(steps / seconds)
    return {name: statistics.median(each) for name, each in rates.items()}


def startup(options: argparse.Namespace) -> None:
    """Measure the seconds from command to first update and to the end, and peak memory, of short runs."""
    found = {}
    for name in [name for name in COMPILE if name in options.contenders]:
        command = f"{SHORT} {COMPILE[name]}"
        # the first run brings files into memory
        _, *runs = [_run(command, options.overrides) for _ in range(options.rounds + 1)]
        first, whole, peak = (statistics.median(column) for column in zip(*runs, strict=True))
        print(
            f"python -m plexp {command}: first update after {first:.1f} s, end after {whole:.1f} s, peak {peak:,.0f} MB"
        )
        found[name] = {"command": command, "first_update": first, "end": whole, "peak_mb": peak, "runs": runs}
    common.save(options.output, "startup", {"overrides": options.overrides, **found})


def _run(command: str, overrides: Sequence[str]) -> tuple[float, float, float]:
    """Return the seconds until the first update (a tenth of the run) and until the end, and the peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        arguments = [sys.executable, "-u", "-m", "plexp", *command.split(), *overrides]
        with subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = next((time.perf_counter() - began for line in process.stdout if " 1,024 steps " in line), math.nan)
            process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"python -m plexp {command} failed with status {process.returncode}")
    return first, seconds, usage.ru_maxrss * 1024 / 1e6  # ru_maxrss is in KiB on Linux


def throughput(options: argparse.Namespace) -> None:
    """Measure all contenders, print the tables and draw the figure."""
    rows = []
    for work in [work for work in WORKS if options.only in work.name]:
        rows.append(measure(work, options))
        rates = ", ".join(f"{NAMES[name]} {rate:,.0f}" for name, rate in rows[-1]["medians"].items())
        print(f"{work.name}: {rates} steps/s", flush=True)
    if not rows:
        raise SystemExit(f"no row is called {options.only}: {', '.join(work.name for work in WORKS)}")
    ratios = {name: [row["ratios"][name] for row in rows if name in row["ratios"]] for name in COMPILE}
    means = {name: statistics.geometric_mean(each) if each else None for name, each in ratios.items()}
    show(rows, means)
    figure = draw(rows) if "sb3" in options.contenders else None
    settings = {"rounds": options.rounds, "overrides": options.overrides, "geometric_means": means}
    common.save(options.output, "throughput", {**settings, "rows": rows}, figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scaling", dest="mode", action="store_const", const=scaling, default=throughput)
    parser.add_argument("--startup", dest="mode", action="store_const", const=startup)
    parser.add_argument("--rounds", type=int, default=7, help="segments of each contender, or short runs (default: 7)")
    parser.add_argument("--length", type=float, default=1.0, help="multiplies the length of the table's segments")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only rows, or scaled keys, that contain it")
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--cold", action="store_true", help="compile into a fresh folder, and start again from it")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="more overrides for plexp")
    parser.add_argument("--output", type=Path, default=common.OUTPUT)
    options = parser.parse_args()
    options.mode(options)


if __name__ == "__main__":
    main()

"""Fault script: does a run that is SIGKILLed at random moments and resumed equal one that never stopped?

python tests/integration/faults/kills.py [--trials 50] [--seed 0] [--replay] [--signal KILL|TERM|INT]
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.support.processes import differences, finish, kill, runs, start

SIZE = (
    *("net.width=16", "compile=false", "env.num_envs=4", "tracker.log_model=false", "tracker.every=500"),
    *("evaluation.every=2000", "evaluation.episodes=3", "evaluation.final_episodes=5", "checkpoint.every=3000"),
)
BUDGETS: dict[tuple[str, ...], int] = {}
"""Environment steps of each case: an algorithm, an environment, and for a replay buffer whether it becomes full."""
BUDGETS |= {("reinforce", "cartpole"): 40_000, ("reinforce", "lunarlander"): 25_000, ("a2c", "cartpole"): 25_000}
BUDGETS |= {("a2c", "lunarlander"): 20_000, ("ppo", "cartpole"): 30_000, ("ppo", "lunarlander"): 25_000}
BUDGETS |= {("dqn", "cartpole", "filling"): 25_000, ("dqn", "lunarlander", "full"): 20_000}
BUDGETS |= {("sac", "pendulum", "filling"): 15_000, ("sac", "lunarlander", "full"): 15_000}
BUDGETS |= {("td3", "lunarlander_continuous", "filling"): 15_000, ("td3", "pendulum", "full"): 15_000}
REPLAY = ("algo.batch_size=32", "algo.learning_starts=500", "algo.gradient_steps=2")
FULL = {
    "dqn": ("replay=prioritized", "replay.capacity=1500", "algo.random_steps=3"),
    "sac": ("replay.capacity=1300", "env.normalize_observations=true"),
    "td3": ("replay=prioritized", "replay.capacity=700", "algo.noise=ornstein_uhlenbeck"),
}
"""Overrides of a run whose replay buffer becomes full, by algorithm."""

OVERRIDES: list[str] = []
"""Further overrides of every run, from the command line of the script."""


def command(case: tuple[str, ...], outputs: Path) -> list[str]:
    """Return the arguments of a run that trains for some seconds."""
    algo, env, *buffer = case
    replay = (*REPLAY, *(FULL[algo] if buffer == ["full"] else ())) if buffer else ()
    budget = f"total_timesteps={BUDGETS[case]}"
    return [f"algo={algo}", f"env={env}", budget, *SIZE, *replay, *OVERRIDES, f"outputs={outputs}"]


def reference(case: tuple[str, ...], folder: Path) -> tuple[dict[str, Any], float]:
    """Return a run that was never interrupted, and the seconds its process took."""
    began = time.monotonic()
    status, errors = finish(command(case, folder / "-".join(case)))
    assert status == 0, errors
    (run,) = runs(folder / "-".join(case))
    return run, time.monotonic() - began


def trial(
    number: int, case: tuple[str, ...], uninterrupted: tuple[dict[str, Any], float], folder: Path, seed: int, sent: int
) -> tuple[list[float], int, list[str]]:
    """Kill a run once or twice at random moments, then resume it to its end.

    Returns the seconds that each kill took, whether a checkpoint was used, and what differs.
    """
    rng, outputs = random.Random(f"{seed}-{number}"), folder / f"trial-{number}"
    taken = [
        kill(start(command(case, outputs)), rng.uniform(0, uninterrupted[1]), sent)
        for _ in range(rng.choice([1, 1, 2]))
    ]
    kills = [seconds for seconds in taken if seconds is not None]
    status, errors = finish(command(case, outputs))
    found = [] if status == 0 else [f"exit status {status}: {errors}"]
    finished = [run for run in runs(outputs) if run["status"] == "FINISHED"]
    # a kill after the end leaves a finished run, and the same command starts a new one
    found += [f"{len(runs(outputs))} runs"] if len(runs(outputs)) != len(finished) else []
    found += [each for run in finished for each in differences(run, uninterrupted[0])]
    resumed = sum("resume.steps" in run["tags"] for run in finished)
    shutil.rmtree(outputs)
    return kills, resumed, found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"], default="KILL")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="only the cases that begin so: an algorithm, an environment, …"
    )
    parser.add_argument("--replay", action="store_true", help="only the cases with a replay buffer")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="of every run")
    options = parser.parse_args()
    OVERRIDES.extend(options.overrides)
    words = tuple(options.only or ())
    cases = [case for case in BUDGETS if case[: len(words)] == words and (len(case) == 3 or not options.replay)]
    sent = getattr(signal, f"SIG{options.signal}")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        uninterrupted = dict(zip(cases, pool.map(lambda case: reference(case, Path(folder)), cases), strict=True))
        chosen = list(zip(range(options.trials), itertools.cycle(cases), strict=False))
        jobs = [(n, case, uninterrupted[case], Path(folder), options.seed, sent) for n, case in chosen]
        equal, resumes, kills = 0, 0, []
        for (number, case), (times, resumed, found) in zip(
            chosen, pool.map(lambda job: trial(*job), jobs), strict=True
        ):
            kills, resumes, equal = kills + times, resumes + resumed, equal + (not found)
            how = "from a checkpoint" if resumed else "from the start"
            print(number, *case, f"killed {len(times)} times, {how}:", found or "equal", flush=True)
    slowest = max(kills, default=0.0)
    print(f"{equal} of {len(chosen)} equal after {len(kills)} kills; {resumes} went on from a checkpoint", end="; ")
    print(f"a process had ended {slowest:.1f} s after the signal at the latest")
    return 0 if equal == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Fault script: does a run that is SIGKILLed at random moments and resumed equal one that never stopped?

python tests/integration/faults/kills.py [--trials 50] [--seed 0] [--replay] [--damage] [--signal KILL|TERM|INT]

Runs with a replay buffer have a log in small files, and write checkpoints often; their buffers' contents at the end of the
training are compared too. With --damage their logs are damaged at random after each kill: then a run must equal one that never
stopped, or say in one line that it must start anew.
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
from collections import Counter
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
BUDGETS |= {("dqn", "cartpole", "filling"): 20_000, ("dqn", "lunarlander", "full"): 15_000}
BUDGETS |= {("sac", "pendulum", "filling"): 10_000, ("sac", "pendulum", "full"): 10_000}
BUDGETS |= {("td3", "pendulum", "filling"): 10_000, ("td3", "pendulum", "full"): 10_000}
BUDGETS |= {("qr_dqn", "cartpole", "full"): 15_000, ("sac", "lunarlander", "full"): 10_000}
BUDGETS |= {("td3", "lunarlander_continuous", "filling"): 10_000}
BUDGETS |= {("ppo", "doors"): 25_000, ("ppo", "both"): 5_000, ("ppo", "mixed"): 15_000}
BUDGETS |= {("dqn", "doors", "full"): 10_000, ("dqn", "both", "filling"): 4_000}
BUDGETS |= {("ppo", "gru doors"): 15_000, ("a2c", "lstm cartpole"): 15_000}
BUDGETS |= {("dqn", "gru doors", "full"): 3_000, ("dqn", "lstm cartpole", "filling"): 3_000}
BUDGETS |= {("dqn", "stacked cartpole", "full"): 10_000}
TESTS = "env.id=tests.support.environments:plexp-tests"
ENVIRONMENTS = {
    "doors": (f"{TESTS}/Doors-v0", "+env.kwargs.masks=observation"),
    "gru doors": (f"{TESTS}/Doors-v0", "+env.kwargs.masks=observation", "net=gru", "net.size=16"),
    "lstm cartpole": ("env.id=CartPole-v1", "env.observed=[0,2]", "env.frame_stack=2", "net=lstm", "net.size=16"),
    "stacked cartpole": ("env.id=CartPole-v1", "env.frame_stack=3"),
    "both": (f"{TESTS}/Both-v0", "net=multi", "net.image_width=16", "env.normalize_observations=true"),
    "mixed": (f"{TESTS}/Any2Any-v0", "+env.kwargs.sees=pictures", "+env.kwargs.acts=mixed", "policy.observes=[speed]"),
}
"""Overrides of environments without a config: with masks of legal actions, with Dict observations, with Dict actions, with
recurrent networks, and with stacks of frames."""
REPLAY = ("algo.batch_size=32", "algo.learning_starts=500", "algo.gradient_steps=2", "checkpoint.every=1000")
LASTING = "algo.noise=ornstein_uhlenbeck"
FULL = {
    ("dqn", "lunarlander"): ("replay=prioritized", "replay.capacity=1500", "algo.random_steps=3"),
    ("dqn", "doors"): ("replay=prioritized", "replay.capacity=900", "algo.random_steps=3"),
    ("dqn", "gru doors"): ("replay=prioritized", "replay.capacity=900"),
    ("dqn", "stacked cartpole"): ("replay=prioritized", "replay.capacity=900"),
    ("qr_dqn", "cartpole"): ("replay=prioritized", "replay.capacity=900"),
    ("sac", "lunarlander"): ("replay.capacity=1300", "env.normalize_observations=true"),
    ("sac", "pendulum"): ("replay.capacity=600", LASTING),
    ("td3", "pendulum"): ("replay=prioritized", "replay.capacity=700", LASTING),
}
"""Overrides of a run whose replay buffer becomes full and is filled anew many times, by algorithm and environment."""
REFUSAL = "no checkpoint can be used; resume=never starts a new run ("
BUFFERS = "buffers.txt"
PROGRAM = f"""
import hashlib, sys
from pathlib import Path

import numpy as np

from plexp.cli import main as cli
from plexp.execution.checkpoint import encode
from plexp.execution.run import Run
from plexp.training.replay import log

log.SEGMENT_BYTES, log.WAITING_BYTES = 20_000, 2_000
close = Run._close

def content(buffer):
    rings = [ring for ring, _ in buffer._spans(buffer.oldest, buffer.added - buffer.oldest)]
    columns = ("observations", "actions", "rewards", "flags", "states")
    parts = {{name: np.concatenate([getattr(buffer, name)[ring] for ring in rings]) for name in columns}}
    finals, kept = buffer.finals, slice(buffer.finals.begin, buffer.finals.end)
    parts |= {{"last": buffer._last_observations, "keys": finals.keys[kept], "finals": finals.values[kept]}}
    return {{**parts, "state": buffer.state_dict()}}

def close_and_digest(run, status, *arguments, **facts):
    if status == "FINISHED" and run.experiment.memory is not None:
        digest = hashlib.sha256(encode(content(run.experiment.memory.buffer))).hexdigest()
        with (Path(run.experiment.config.outputs) / "{BUFFERS}").open("a") as file:
            file.write(f"{{digest}}\\n")
    close(run, status, *arguments, **facts)

Run._close = close_and_digest
sys.exit(cli.main(sys.argv[1:]))
"""
"""Program that runs a command line, with small files of the log, and adds a digest of the final buffer to a file."""

OVERRIDES: list[str] = []
"""Further overrides of every run, from the command line of the script."""


def command(case: tuple[str, ...], outputs: Path) -> list[str]:
    """Return the arguments of a run that trains for some seconds."""
    algo, env, *buffer = case
    replay = (*REPLAY, *(FULL[algo, env] if buffer == ["full"] else ())) if buffer else ()
    budget = f"total_timesteps={BUDGETS[case]}"
    problem = [f"env={'gymnasium' if env in ENVIRONMENTS else env}", *ENVIRONMENTS.get(env, ())]
    return [f"algo={algo}", *problem, budget, *SIZE, *replay, *OVERRIDES, f"outputs={outputs}"]


def buffers(outputs: Path) -> list[str]:
    """Return the digest of each buffer with which a training ended."""
    return (outputs / BUFFERS).read_text().split() if (outputs / BUFFERS).exists() else []


def reference(case: tuple[str, ...], folder: Path) -> tuple[dict[str, Any], float]:
    """Return a run that was never interrupted, with the digest of its buffer, and the seconds its process took."""
    began, outputs = time.monotonic(), folder / "-".join(case)
    status, errors = finish(command(case, outputs), code=PROGRAM)
    assert status == 0, errors
    (run,) = runs(outputs)
    assert len(buffers(outputs)) == (len(case) == 3) and not left(outputs)
    return {**run, "buffers": buffers(outputs)}, time.monotonic() - began


def left(outputs: Path) -> list[str]:
    """Return the files of replay logs and the checkpoints that are on disk."""
    return [path.name for folder in ("replay", "checkpoints") for path in outputs.glob(f"state/*/{folder}/*")]


def damage(outputs: Path, rng: random.Random) -> None:
    """Do something to the log of a run, if it has one."""
    files = [file for file in sorted(outputs.glob("state/*/replay/rows-*.log")) if file.stat().st_size]
    if not files:
        return
    file, what = rng.choice(files), rng.choice(["flip", "cut", "delete", "delete all"])
    data = bytearray(file.read_bytes())
    place = rng.randrange(len(data))
    match what:
        case "flip":
            data[place] ^= 1 << rng.randrange(8)
            file.write_bytes(data)
        case "cut":
            file.write_bytes(data[:place])
        case "delete":
            file.unlink()
        case "delete all":
            shutil.rmtree(file.parent)


def trial(
    number: int,
    case: tuple[str, ...],
    uninterrupted: tuple[dict[str, Any], float],
    folder: Path,
    seed: int,
    sent: int,
    damages: bool,
) -> tuple[list[float], int, str, list[str]]:
    """Kill a run at random moments, once or twice, or up to four times with a replay buffer, then resume it to its end.

    Returns the seconds that each kill took, how many left a checkpoint, how it ended, and what differs.
    """
    rng, outputs = random.Random(f"{seed}-{number}"), folder / f"trial-{number}"
    kills, resumed = [], 0
    for _ in range(rng.choice([2, 3, 4] if len(case) == 3 else [1, 1, 2])):
        seconds = kill(start(command(case, outputs), code=PROGRAM), rng.uniform(0, uninterrupted[1]), sent)
        if seconds is not None:
            kills.append(seconds)
            resumed += bool(list(outputs.glob("state/*/checkpoints/step-*")))
            if damages:
                damage(outputs, rng)
    status, errors = finish(command(case, outputs), code=PROGRAM)
    refused = damages and status == 1 and any(line.startswith(REFUSAL) for line in errors.splitlines())
    if refused:
        status, errors = finish([*command(case, outputs), "resume=never"], code=PROGRAM)
    found = [] if status == 0 else [f"exit status {status}: {errors}"]
    found += [] if refused else left(outputs)
    finished = [run for run in runs(outputs) if run["status"] == "FINISHED"]
    # a kill after the end leaves a finished run, and the same command starts a new one
    found += [f"{len(runs(outputs))} runs"] if len(runs(outputs)) != len(finished) + refused else []
    found += [each for run in finished for each in differences(run, uninterrupted[0])]
    found += ["buffer" for digest in buffers(outputs) if [digest] != uninterrupted[0]["buffers"]]
    found += [] if len(buffers(outputs)) >= len(finished) * (len(case) == 3) else ["no digest of a buffer"]
    older = any("resume.damaged" in run["tags"] for run in finished)
    shutil.rmtree(outputs)
    end = "it says that it must start anew" if refused else "from the checkpoint before" if older else "equal"
    return kills, resumed, end, found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"], default="KILL")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="only the cases with all of these: an algorithm, an environment, full"
    )
    parser.add_argument("--replay", action="store_true", help="only the cases with a replay buffer")
    parser.add_argument(
        "--structured", action="store_true", help="only the cases with masks, Dict spaces, recurrent networks or stacks"
    )
    parser.add_argument("--damage", action="store_true", help="the same, and damage their logs after each kill")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="of every run")
    options = parser.parse_args()
    OVERRIDES.extend(options.overrides)
    words = {*(options.only or ())}
    cases = [
        case for case in BUDGETS if words <= {*case} and (len(case) == 3 or not (options.replay or options.damage))
    ]
    cases = [case for case in cases if case[1] in ENVIRONMENTS or not options.structured]
    sent = getattr(signal, f"SIG{options.signal}")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        uninterrupted = dict(zip(cases, pool.map(lambda case: reference(case, Path(folder)), cases), strict=True))
        chosen = list(zip(range(options.trials), itertools.cycle(cases), strict=False))
        jobs = [(n, case, uninterrupted[case], Path(folder), options.seed, sent, options.damage) for n, case in chosen]
        equal, resumes, kills, ends = 0, 0, [], Counter[str]()
        for (number, case), (times, resumed, end, found) in zip(
            chosen, pool.map(lambda job: trial(*job), jobs), strict=True
        ):
            kills, resumes, equal = kills + times, resumes + resumed, equal + (not found)
            ends[end] += 1
            how = f"{resumed} times from a checkpoint"
            print(number, *case, f"killed {len(times)} times, resumed {how}:", found or end, flush=True)
    slowest = max(kills, default=0.0)
    print(
        f"{equal} of {len(chosen)} equal after {len(kills)} kills; {resumes} of them resumed from a checkpoint",
        end="; ",
    )
    print(f"a process had ended {slowest:.1f} s after the signal at the latest")
    if options.damage:
        print(", ".join(f"{end}: {number}" for end, number in ends.most_common()))
    return 0 if equal == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())

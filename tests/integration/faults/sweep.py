"""Fault script: if a worker of a sweep is SIGKILLed twice, does the third start finish the sweep, each job once?

python tests/integration/faults/sweep.py [--seeds 6] [--launcher joblib|basic]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.support.processes import finish, runs, start, wait_for

SIZE = (
    *("total_timesteps=15_000", "net.width=16", "compile=false", "tracker.log_model=false", "checkpoint.every=3000"),
    *("evaluation.every=5000", "evaluation.episodes=3", "evaluation.final_episodes=5"),
)


def records(outputs: Path) -> list[dict[str, object]]:
    return [json.loads(file.read_text()) for file in sorted(outputs.glob("state/*/run.json"))]


def kill_a_worker(command: list[str], outputs: Path, rng: random.Random) -> str:
    """Start the sweep, SIGKILL a process that runs a job once others are finished, and return a summary."""
    before = sum(record["status"] == "FINISHED" for record in records(outputs))
    with start(command, stderr=sys.stderr) as process:
        wait_for(lambda: sum(r["status"] == "FINISHED" for r in records(outputs)) > before + 1)
        time.sleep(rng.uniform(0, 2))
        victim = rng.choice(wait_for(lambda: busy(outputs)))
        os.kill(int(str(victim["pid"])), signal.SIGKILL)
        process.wait(120)
    done = sum(record["status"] == "FINISHED" for record in records(outputs))
    return f"killed process {victim['pid']} ({victim['name']}), exit status {process.returncode}, {done} finished"


def busy(outputs: Path) -> list[dict[str, object]]:
    """Return the records of runs that a process is working on."""
    running = [record for record in records(outputs) if record["status"] == "RUNNING"]
    return [record for record in running if Path(f"/proc/{record['pid']}").exists()]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--launcher", default="joblib")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=6, help="of two algorithms each")
    options = parser.parse_args()
    jobs = 2 * options.seeds
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder) / "outputs"
        command = [
            "-m",
            f"hydra/launcher={options.launcher}",
            "algo=a2c,ppo",
            f"seed=range({options.seeds})",
            *SIZE,
            f"outputs={outputs}",
        ]
        rng = random.Random(options.seed)
        for _ in range(2):
            print(kill_a_worker(command, outputs, rng), flush=True)
        status, errors = finish(command)
        print(errors[-1000:] if status else "", f"third start: exit status {status}", flush=True)
        found = runs(outputs)
        finished = [run for run in found if run["status"] == "FINISHED"]
        seeds = {(run["params"]["algo.plugin"], run["params"]["seed"]) for run in finished}
        resumed = sum("resume.steps" in run["tags"] for run in finished)
        doubled = [
            (run["name"], name)
            for run in finished
            for name, points in run["metrics"].items()
            if len({step for step, _ in points}) < len(points)
        ]
        sweeps = {run["tags"]["sweep"] for run in found}
        good = status == 0 and len(found) == len(finished) == len(seeds) == jobs and not doubled and len(sweeps) == 1
        print(
            f"{len(found)} runs, {len(seeds)} of {jobs} jobs finished, {resumed} of them from a checkpoint; {doubled=}"
        )
        print(f"{len(sweeps)} sweep; {'each job finished once' if good else 'NOT as it should be'}")
        return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

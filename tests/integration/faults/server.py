"""Fault script: the tracking server is killed or hangs; how fast does training continue, and is nothing lost?

python tests/integration/faults/server.py [--outage 60] [--fault kill|hang|never]
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.support.processes import finish, runs, start, wait_for

SIZE = ("algo=ppo", "compile=false", "tracker.log_model=true", "evaluation.every=10_000", "tracker.every=1000")


def serve(outputs: Path, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow's server on a file, as `plexp ui` does, and wait until it answers."""
    store = [
        "--backend-store-uri",
        f"sqlite:///{outputs}/mlflow.db",
        "--artifacts-destination",
        str(outputs / "artifacts"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port), *store]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    wait_for(lambda: answers(port))
    return server


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--outage", type=float, default=60.0)
    parser.add_argument("--fault", choices=["kill", "hang", "never"], default="kill")
    parser.add_argument("--steps", type=int, default=700_000)
    parser.add_argument("--to-the-end", action="store_true", help="the server comes back after training: plexp sync")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stored, outputs, port = Path(folder) / "server", Path(folder) / "outputs", free_port()
        stored.mkdir()
        server = serve(stored, port)
        uri = f"tracker.uri=http://127.0.0.1:{port}"
        process = start([*SIZE, f"total_timesteps={options.steps}", uri, f"outputs={outputs}"])
        wait_for(lambda: list(outputs.glob("state/*/heartbeat")))
        time.sleep(5)
        began = time.monotonic()
        if options.fault == "kill":
            os.killpg(server.pid, signal.SIGKILL)
        elif options.fault == "hang":
            os.killpg(server.pid, signal.SIGSTOP)
        if options.to_the_end:
            _, errors = process.communicate()
        else:
            time.sleep(options.outage)
        if options.fault == "kill":
            server.wait()
            server = serve(stored, port)
        elif options.fault == "hang":
            os.killpg(server.pid, signal.SIGCONT)
        print(f"server away for {time.monotonic() - began:.0f} s", flush=True)
        if not options.to_the_end:
            _, errors = process.communicate()
        waits = [str(file.relative_to(outputs)) for file in outputs.glob("state/*/outbox/operations.jsonl")]
        print("exit status", process.returncode, "| waits on disk:", waits or "nothing")
        print(errors.strip())
        if waits:
            print("sync:", *finish(["sync", "--outputs", str(outputs)], stdout=sys.stderr))
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        (run,) = runs(stored)
        return report(run, options.steps)


def report(run: dict[str, dict[str, list[tuple[int, float]]]], steps: int) -> int:
    """Print what the store has of the run and how fast it was; return 0 if it is complete, else 1."""
    metrics = run["metrics"]
    due = {"train/entropy": steps // 1000, "eval/return": steps // 10_000 + 1, "eval/final_return": 1}
    found = {name: len(metrics[name]) for name in due}
    doubled = [name for name, points in metrics.items() if len({step for step, _ in points}) < len(points)]
    speeds = sorted(value for _, value in metrics["time/steps_per_second"])
    tenth = len(speeds) // 10
    print(f"{run['status']}; points {found}, due {due}; {doubled=}")
    print(f"steps/s: slowest tenth up to {speeds[tenth]:,.0f}, median {speeds[len(speeds) // 2]:,.0f}; ", end="")
    print(f"training seconds {metrics['time/seconds'][-1][1]:.0f}, tracking {metrics['time/tracking'][-1][1]:.2f}")
    return 0 if run["status"] == "FINISHED" and found == due and not doubled else 1


if __name__ == "__main__":
    sys.exit(main())

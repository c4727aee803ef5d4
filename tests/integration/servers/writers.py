"""Script with many writers, then a sweep, on one store: is every step there once, and how long does it take?

python tests/integration/servers/writers.py [--store postgresql|sqlite|file] [--writers 8] [--points 2000] [--runs 8]
    [--workers 2]

With postgresql and sqlite all write through one MLflow server; with file each writes to the SQLite file itself, as
without tracker.uri.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from mlflow import MlflowClient

from tests.integration.servers.common import mlflow_server, postgresql, write_at_once
from tests.support.processes import finish

SIZE = (
    *("total_timesteps=20_000", "compile=false", "tracker.every=500", "evaluation.every=1000", "evaluation.episodes=3"),
    *("evaluation.final_episodes=5", "tracker.log_model=false"),
)


@contextmanager
def store(kind: str, folder: Path, workers: int) -> Iterator[str | None]:
    """Yield the address of a store of this kind; None: the file in the outputs folder."""
    with ExitStack() as stack:
        if kind == "file":
            yield None
            return
        database = stack.enter_context(postgresql()).uri() if kind == "postgresql" else f"sqlite:///{folder}/server.db"
        yield stack.enter_context(mlflow_server(database, folder, workers))


def sweep(uri: str | None, outputs: Path, runs: int) -> str:
    """Run a sweep of so many seeds; return a summary of what the store has of it."""
    where = [f"tracker.uri={uri}"] if uri else []
    began = time.monotonic()
    status, errors = finish(["-m", f"seed=range({runs})", f"outputs={outputs}", *where, *SIZE])
    seconds = time.monotonic() - began
    client = MlflowClient(uri or f"sqlite:///{outputs}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("cartpole").experiment_id])
    points = twice = 0
    for run in found:
        for name in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
            points, twice = points + len(steps), twice + len(steps) - len(set(steps))
    finished = sum(run.info.status == "FINISHED" for run in found)
    files = sum(len(client.list_artifacts(run.info.run_id)) for run in found)
    waiting = len(list(outputs.glob("state/*/outbox/operations.jsonl")))
    what = f"{finished} of {runs} runs finished, {points} points, {twice} twice, {files} files, {waiting} runs wait"
    return f"sweep: exit status {status}, {seconds:.1f} s; {what}{errors[-500:] if status else ''}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", choices=["postgresql", "sqlite", "file"], default="postgresql")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with store(options.store, folder, options.workers) as uri:
            done = write_at_once(uri, folder / "writers", options.writers, options.points)
            rate = options.writers * options.points / done.seconds
            size = f"{options.writers} writers x {options.points} points"
            print(f"{options.store}: {size}: {done.seconds:.1f} s, {rate:,.0f} points/s")
            print(f"{done}", flush=True)
            if options.runs:
                print(sweep(uri, folder / "sweep", options.runs))
    return 0 if (done.complete, done.lost, done.twice) == (options.writers, 0, 0) else 1


if __name__ == "__main__":
    sys.exit(main())

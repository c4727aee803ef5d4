"""Fault script: whatever another person does to the store between the jobs of a sweep, is each job finished once?

python tests/integration/faults/chaos.py [--acts 50] [--seed 0] [--jobs 5]
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.support import forks

TINY = (
    *("total_timesteps=64", "env.num_envs=2", "env.max_episode_steps=12", "algo.num_steps=16", "net.width=8"),
    *("algo.num_minibatches=2", "algo.update_epochs=1", "compile=false", "tracker.log_model=false"),
    *("evaluation.every=null", "evaluation.final_episodes=1", "hydra/launcher=basic"),
)
FILES = ("config.yaml", "agent.safetensors")
SWEEP = """
import os, signal, sys, time
from pathlib import Path
from plexp.cli import job, main as cli

gate, run_job = Path(sys.argv[1]), job._run

def run(*arguments):
    number = len(list(gate.glob("ask-*")))
    (gate / f"ask-{number}").touch()
    while not (gate / f"go-{number}").exists():
        time.sleep(0.01)
    match (gate / f"go-{number}").read_text():
        case "interrupt":
            raise KeyboardInterrupt
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    run_job(*arguments)

job._run = run
sys.exit(cli.main(sys.argv[2:]))
"""
"""Program that runs a command line, and waits for permission before each job."""
MLFLOW = """
import sys
from mlflow import MlflowClient

getattr(MlflowClient(sys.argv[1]), sys.argv[2])(sys.argv[3])
"""
"""Program that calls a method of MLflow's client, as its pages do."""


class Chaos:
    """A sweep, and another person who does something random before each of its jobs.

    Args:
        folder: where the outputs folder is made.
        acts: number of acts until the sweep is left alone.
        jobs: number of jobs of the sweep.
        seed: of the acts.
    """

    def __init__(self, folder: Path, acts: int, jobs: int, seed: int) -> None:
        self.folder, self.outputs, self.jobs = folder, folder / "outputs", jobs
        self.left, self.rng, self.done = acts, random.Random(seed), Counter[str]()
        self.command = ["-m", f"seed=range({jobs})", *TINY, f"outputs={self.outputs}"]
        self.pool = ThreadPoolExecutor(8)
        self.others: list[Future[CompletedProcess[str]]] = []
        self.deleted: set[str] = set()
        """Ids of runs that were deleted, which must stay so."""
        self.flaws: list[str] = []

    @property
    def database(self) -> Path:
        return self.outputs / "mlflow.db"

    def start(self) -> int:
        """Start the sweep, disturb it, and return its exit status."""
        gate = Path(tempfile.mkdtemp(dir=self.folder))
        sweep = self.pool.submit(forks.run, [str(gate), *self.command], code=SWEEP)
        number = 0
        while not sweep.done():
            if not (gate / f"ask-{number}").exists():
                time.sleep(0.01)
                continue
            order = self.disturb() if self.left and self.rng.random() < 0.7 else ""
            (gate / "draft").write_text(order)
            (gate / "draft").rename(gate / f"go-{number}")
            number += 1
        self.check_output(sweep.result())
        return sweep.result().returncode

    def finish(self) -> None:
        """Wait for the other processes."""
        for other in self.others:
            self.check_output(other.result())
        self.others.clear()

    def check_output(self, process: CompletedProcess[str]) -> None:
        output = process.stdout + process.stderr
        if "Traceback" in output or process.returncode not in (0, 1, 2, 130, -9):
            self.flaws.append(f"exit status {process.returncode}: {output[-2000:]}")

    def disturb(self) -> str:
        """Do something that is possible now; return what the sweep has to do itself."""
        while not (act := self.rng.choice(ACTS))(self):
            pass
        self.left -= 1
        self.done[act.__name__] += 1
        return act.__name__ if act in (interrupt, kill) else ""

    def runs(
        self, where: str = "runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'"
    ) -> list[str]:
        if not self.database.is_file():
            return []
        query = f"SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) WHERE {where} ORDER BY start_time"
        with closing(sqlite3.connect(self.database)) as store:
            return [run for (run,) in store.execute(query)]

    def mlflow(self, method: str, argument: str) -> None:
        done = forks.run([f"sqlite:///{self.database}", method, argument], code=MLFLOW)
        assert done.returncode == 0, done.stderr

    def a_run(self) -> str | None:
        return self.rng.choice(found) if (found := self.runs()) else None


def delete_run(chaos: Chaos) -> bool:
    if (run := chaos.a_run()) is not None:
        chaos.mlflow("delete_run", run)
        chaos.deleted.add(run)
    return run is not None


def remove_run_for_good(chaos: Chaos) -> bool:
    """Remove a run's rows, as `mlflow gc` does."""
    if (run := chaos.a_run()) is None:
        return False
    with closing(sqlite3.connect(chaos.database)) as store, store:
        for table in ("params", "tags", "metrics", "latest_metrics", "runs"):
            store.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run,))
    return True


def delete_experiment(chaos: Chaos) -> bool:
    if (run := chaos.a_run()) is None:
        return False
    with closing(sqlite3.connect(chaos.database)) as store:
        (number,) = store.execute("SELECT experiment_id FROM runs WHERE run_uuid = ?", (run,)).fetchone()
    chaos.mlflow("delete_experiment", str(number))
    chaos.deleted |= set(chaos.runs(f"experiment_id = {number}"))
    return True


def remove_files_of_a_run(chaos: Chaos) -> bool:
    folders = sorted(chaos.outputs.glob("artifacts/*/*/artifacts"))
    if folders:
        shutil.rmtree(chaos.rng.choice(folders), ignore_errors=True)
    return bool(folders)


def remove_one_file(chaos: Chaos) -> bool:
    files = sorted(chaos.outputs.glob(f"artifacts/*/*/artifacts/{chaos.rng.choice(FILES)}"))
    if files:
        chaos.rng.choice(files).unlink(missing_ok=True)
    return bool(files)


def remove_artifacts(chaos: Chaos) -> bool:
    shutil.rmtree(chaos.outputs / "artifacts", ignore_errors=True)
    return True


def remove_a_jobs_folder(chaos: Chaos) -> bool:
    folders = [folder for folder in sorted(chaos.outputs.glob("sweeps/*/*/")) if (folder / "result.json").exists()]
    if folders:
        shutil.rmtree(chaos.rng.choice(folders), ignore_errors=True)
    return bool(folders)


def remove_database(chaos: Chaos) -> bool:
    chaos.database.unlink(missing_ok=True)
    return True


def remove_database_and_its_log(chaos: Chaos) -> bool:
    for file in chaos.outputs.glob("mlflow.db*"):
        file.unlink()
    return True


def move_database(chaos: Chaos) -> bool:
    """Move the database away, or one that was moved away back."""
    place = chaos.folder / "backup"
    place.mkdir(exist_ok=True)
    kept, present = sorted(place.glob("mlflow.db*")), sorted(chaos.outputs.glob("mlflow.db*"))
    for file in present:
        if kept:
            file.unlink()
        else:
            file.rename(place / file.name)
    for file in kept:
        file.rename(chaos.outputs / file.name)
    return True


def start_it_again_meanwhile(chaos: Chaos) -> bool:
    chaos.others.append(chaos.pool.submit(forks.run, chaos.command))
    return True


def start_another_sweep_of_the_same_jobs(chaos: Chaos) -> bool:
    command = [*chaos.command, f"seed=range({chaos.rng.randint(1, chaos.jobs)})"]
    chaos.others.append(chaos.pool.submit(forks.run, command))
    return True


def interrupt(chaos: Chaos) -> bool:
    return True


def kill(chaos: Chaos) -> bool:
    return True


ACTS: list[Callable[[Chaos], bool]] = [
    *(delete_run, remove_run_for_good, delete_experiment, remove_files_of_a_run, remove_one_file, remove_artifacts),
    *(remove_a_jobs_folder, remove_database, remove_database_and_its_log, move_database),
    *(start_it_again_meanwhile, start_another_sweep_of_the_same_jobs, interrupt, kill),
]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--acts", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), options.acts, options.jobs, options.seed)
        starts = 0
        while chaos.left:
            chaos.start()
            starts += 1
        chaos.finish()
        for _ in range(2):  # others may have been at a job of the last start
            status = chaos.start()
            starts += 1
            if status == 0:
                break
        sweep = min(folder.name for folder in chaos.outputs.glob("sweeps/*"))  # others started theirs later
        table = forks.run(["status", "--sweep", sweep, "--outputs", str(chaos.outputs)]).stdout
        rows = [line for line in table.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
        if status or sum("FINISHED" in row for row in rows) != options.jobs:
            chaos.flaws.append(f"exit status {status}\n{table}")
        chaos.flaws += flaws_of_record(chaos)
        print(f"{options.acts} acts in {starts} starts: {dict(chaos.done)}")
        print("\n".join(chaos.flaws) or f"each of {options.jobs} jobs finished once")
    return 1 if chaos.flaws else 0


def flaws_of_record(chaos: Chaos) -> list[str]:
    """Return what is wrong with the runs that are not deleted: each job has one that is finished and has its files."""
    finished = Counter[str]()
    flaws = [f"{run} was deleted and is back" for run in chaos.deleted & set(chaos.runs())]
    with closing(sqlite3.connect(chaos.database)) as store:
        for run in chaos.runs():
            query = "SELECT artifact_uri, status, value FROM runs JOIN params USING (run_uuid) WHERE key = 'seed' AND "
            place, status, seed = store.execute(f"{query} run_uuid = ?", (run,)).fetchone()
            whole = all((Path(place.removeprefix("file://")) / name).is_file() for name in FILES)
            finished[seed] += status == "FINISHED" and whole
    expected = {str(seed): 1 for seed in range(chaos.jobs)}
    return [*flaws, *([] if finished == expected else [f"whole runs of each seed: {dict(finished)}"])]


if __name__ == "__main__":
    sys.exit(main())

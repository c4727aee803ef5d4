"""Tests that what others remove from the store is noticed, and done again by the same command."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from plexp.tracking.format import sqlite_uri
from tests.integration.cli.test_cli import QUICK, Main, main
from tests.support.processes import runs

__all__ = ["main"]
SWEEP = ("-m", "seed=0,1", "hydra/launcher=basic", *QUICK, "compile=false")
Act = Callable[[Path, MlflowClient, str], object]


def remove_rows(outputs: Path, client: MlflowClient, run_id: str) -> None:
    """Remove a run for good, as `mlflow gc` does."""
    with closing(sqlite3.connect(outputs / "mlflow.db")) as store, store:
        for table in ("params", "tags", "metrics", "latest_metrics", "runs"):
            store.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run_id,))


def delete_experiment(outputs: Path, client: MlflowClient, run_id: str) -> None:
    client.delete_experiment(client.get_run(run_id).info.experiment_id)


ACTS: dict[str, tuple[Act, str, int]] = {
    "run deleted": (lambda outputs, client, run: client.delete_run(run), "was deleted in MLflow", 1),
    "run removed": (remove_rows, "is not in the database any more", 1),
    "experiment deleted": (delete_experiment, "was deleted in MLflow", 2),
    "database removed": (lambda outputs, *_: (outputs / "mlflow.db").unlink(), "its database is gone", 2),
    "database moved": (
        *(lambda outputs, *_: (outputs / "mlflow.db").rename(outputs / "b.db"), "its database is gone", 2),
    ),
    "files removed": (lambda outputs, *_: shutil.rmtree(outputs / "artifacts"), "has lost its files", 2),
}
"""Acts on a finished sweep of two jobs, each with what happened to its first run, and the number of jobs to do again."""


def active(outputs: Path) -> list[str]:
    """Return the seeds of the runs that MLflow has, except deleted ones and those without files."""
    client = MlflowClient(sqlite_uri(outputs / "mlflow.db"))
    found = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert {run.info.status for run in found} <= {"FINISHED"}
    return sorted(run.data.params["seed"] for run in found if client.list_artifacts(run.info.run_id))


@pytest.mark.parametrize("what", ACTS)
def test_the_same_sweep_does_again_what_others_removed(what: str, main: Main, tmp_path: Path) -> None:
    act, reason, number = ACTS[what]
    assert main(*SWEEP)[0] == 0
    first = next(run["id"] for run in runs(tmp_path) if run["params"]["seed"] == "0")
    act(tmp_path, MlflowClient(sqlite_uri(tmp_path / "mlflow.db")), first)

    status, lines = main("status", "--outputs", str(tmp_path))
    left = f"{2 - number} finished, " if number < 2 else ""
    assert status == 0 and any(f"of 2 jobs {left}{number} deleted; the same command" in line for line in lines), lines
    status, lines = main(*SWEEP)
    assert status == 0
    again = [line for line in lines if line.endswith("it is done again, in a new run")]
    assert len(again) == number and f"(run {first}) {reason}: " in again[0], lines
    assert active(tmp_path) == ["0", "1"]

    status, lines = main(*SWEEP)
    assert status == 0 and not any("again, in" in line for line in lines) and active(tmp_path) == ["0", "1"]
    status, lines = main("status", "--outputs", str(tmp_path))
    assert "deleted" not in " ".join(lines) and sum("FINISHED" in line for line in lines) == 2


def test_nothing_that_others_deleted_is_touched(main: Main, tmp_path: Path) -> None:
    assert main(*SWEEP)[0] == 0
    client = MlflowClient(sqlite_uri(tmp_path / "mlflow.db"))
    experiment = client.get_experiment_by_name("cartpole")
    client.delete_run(client.search_runs([experiment.experiment_id])[0].info.run_id)
    client.delete_experiment(experiment.experiment_id)

    def deleted() -> list[Any]:
        found = client.search_runs([experiment.experiment_id], run_view_type=ViewType.DELETED_ONLY)
        return [client.get_experiment(experiment.experiment_id), *sorted((dict(run) for run in found), key=str)]

    before = [str(each) for each in deleted()]
    status, lines = main(*SWEEP)
    assert status == 0 and [str(each) for each in deleted()] == before
    place = "the experiment cartpole was deleted in MLflow: new runs go to cartpole (2)"
    assert sum(line.endswith(place) for line in lines) == 1
    assert [each.name for each in client.search_experiments() if each.name != "Default"] == ["cartpole (2)"]
    status, lines = main("evaluate", "best", "--env=cartpole", "--episodes=2", f"--outputs={tmp_path}")
    assert status == 0, lines


@pytest.mark.parametrize("what", ["run removed", "database removed", "files removed"])
def test_a_run_that_others_removed_is_reported_by_every_command(what: str, main: Main, tmp_path: Path) -> None:
    assert main(*QUICK, "compile=false")[0] == 0
    (run,) = runs(tmp_path)
    ACTS[what][0](tmp_path, MlflowClient(sqlite_uri(tmp_path / "mlflow.db")), run["id"])
    before = {path for path in tmp_path.iterdir() if path.name.startswith("mlflow.db")}
    for command in ("evaluate", "film", "export", "reproduce"):
        status, lines = main(command, run["id"], f"--outputs={tmp_path}")
        assert status == 2 and len(lines) == 1 and "; " in lines[0], lines
    reading = ["status", "sync"] if what == "files removed" else ["status", "sync", "compare"]
    for command in reading:
        status, lines = main(command, "--outputs", str(tmp_path))
        assert status in (0, 2) and len(lines) == 1, lines
    assert {path for path in tmp_path.iterdir() if path.name.startswith("mlflow.db")} == before
    assert main(*QUICK, "compile=false")[0] == 0 and active(tmp_path) == ["0"]

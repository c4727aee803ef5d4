"""Tests that recorded runs are read back, from the SQLite file and through MLflow's client alike."""

from __future__ import annotations

import math
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest

from plexp.errors import StoreError
from plexp.tracking.format import sqlite_uri
from plexp.tracking.history import DELETED, FILES, NO_FILES, History, ServerHistory, SqliteHistory, lost, open_history
from plexp.tracking.store import MlflowClient
from plexp.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three training runs, a deleted one, and a comparison."""
    outputs = tmp_path_factory.mktemp("history") / "out #1 é"
    for seed in range(3):
        tracker = started(outputs, f"run-{seed}", seed=seed)
        for step in (0, 100, 200):
            tracker.log({"eval/return": step + seed, "eval/seconds": step / 10, "train/loss": 1.0}, step)
        if seed == 1:
            tracker.log({"eval/return": math.nan}, 300)
        if seed == 2:
            tracker.flush()
            tracker.log({"eval/return": 7.0, "eval/seconds": 77.0}, 100)  # as after resuming
            tracker.log({"eval/return": math.inf}, 300)
        tracker.finish("FAILED" if seed == 2 else "FINISHED")
    started(outputs, "comparison", kind="comparison").finish("FINISHED")
    deleted = started(outputs, "deleted")
    deleted.finish("FINISHED")
    MlflowClient(sqlite_uri(outputs / "mlflow.db")).delete_run(deleted.run_id)
    return outputs


def started(outputs: Path, name: str, *, seed: int = 0, kind: str = "training", experiment: str = "lake") -> Tracker:
    params = {"seed": seed, "net.layers": 2, "algo.target_kl": None}
    tags = {"kind": kind, "choice.algo": "ppo"}
    outbox = outputs / "state" / uuid.uuid4().hex / "outbox"
    record = {"experiment": experiment, "run_name": name, "params": params, "tags": tags}
    return Tracker(uri=None, outputs=outputs, outbox=outbox, **record)


@pytest.fixture(params=["file", "client"])
def history(outputs: Path, request: pytest.FixtureRequest) -> History:
    if request.param == "file":
        return open_history(None, outputs)
    return ServerHistory(sqlite_uri(outputs / "mlflow.db"))


def test_training_runs_are_read_as_they_were_recorded(history: History) -> None:
    runs = history.runs()
    assert [run.name for run in runs] == ["run-0", "run-1", "run-2"]
    assert [run.status for run in runs] == ["FINISHED", "FINISHED", "FAILED"]
    assert {run.experiment for run in runs} == {"lake"} and runs[0].start_time <= runs[2].start_time
    assert runs[1].params == {"seed": "1", "net.layers": "2", "algo.target_kl": "null"}
    assert runs[1].tags["choice.algo"] == "ppo" and not len(runs[1].curve.steps)


def test_curves_are_read_by_step_and_the_value_logged_last_counts(history: History) -> None:
    runs = history.runs()
    curves = history.curves([run.run_id for run in runs])
    first, second, third = (curves[run.run_id] for run in runs)
    assert list(first.steps) == [0, 100, 200] and list(first.returns) == [0, 100, 200]
    assert list(first.seconds) == [0, 10, 20]
    assert list(second.steps) == [0, 100, 200, 300]
    assert np.isnan(second.returns[3]) and np.isnan(second.seconds[3])
    assert list(third.returns) == [2, 7, 202, math.inf] and third.seconds[1] == 77


def test_a_run_without_evaluations_has_no_curve(history: History, outputs: Path) -> None:
    assert history.curves(["0" * 32]) == {}


def test_the_file_is_opened_read_only(outputs: Path) -> None:
    with pytest.raises(StoreError, match="readonly"), SqliteHistory(outputs / "mlflow.db")._connect() as connection:
        connection.execute("DELETE FROM metrics")


@pytest.mark.parametrize("uri", [None, "sqlite:///nowhere/mlflow.db"])
def test_a_missing_store_is_reported_in_one_line(uri: str | None, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run has been kept there yet; start one with: python -m plexp"):
        open_history(uri, tmp_path)


def test_a_file_that_is_not_a_store_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be read as one" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        open_history(None, tmp_path).runs()


def test_a_server_that_does_not_answer_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^--uri=http://127\.0\.0\.1:9: Connection refused"):
        open_history("http://127.0.0.1:9", tmp_path).runs()


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Return an outputs folder, and the ids of its runs by name, which are whole."""
    ids = {}
    for name in ("whole", "deleted", "without files", "of a deleted experiment", "moved", "running"):
        tracker = started(tmp_path, name, experiment="pond" if name == "of a deleted experiment" else "lake")
        for file in FILES:
            tracker.log_text("", file)
        tracker.finish("FINISHED")
        if name == "running":
            tracker.client.update_run(tracker.run_id, status="RUNNING")
        ids[name] = tracker.run_id
    return tmp_path, ids


@pytest.mark.parametrize("by", ["file", "client"])
def test_what_others_have_removed_is_noticed(by: str, store: tuple[Path, dict[str, str]]) -> None:
    outputs, ids = store
    uri = sqlite_uri(outputs / "mlflow.db")
    history = open_history(None, outputs) if by == "file" else ServerHistory(uri)
    assert history.lost(dict.fromkeys(ids.values(), True)) == {ids["running"]: "has lost its end"}
    client = MlflowClient(uri)
    client.delete_run(ids["deleted"])
    client.delete_experiment(client.get_experiment_by_name("pond").experiment_id)
    shutil.rmtree(outputs / "artifacts" / "lake" / ids["without files"])
    found = history.lost(dict.fromkeys([*ids.values(), "0" * 32], False))
    assert found.keys() == {ids["deleted"], ids["of a deleted experiment"], "0" * 32}
    assert found[ids["deleted"]] == found[ids["of a deleted experiment"]] == DELETED
    assert history.lost({ids["without files"]: True, ids["whole"]: True}) == {ids["without files"]: NO_FILES}


def test_the_runs_of_a_folder_that_was_moved_are_whole(store: tuple[Path, dict[str, str]]) -> None:
    outputs, ids = store
    shutil.move(outputs, there := outputs.with_name(f"{outputs.name}, moved"))
    assert lost(None, there, {ids["moved"]: True}) == {}
    assert lost(None, outputs, {ids["moved"]: True}) == {ids["moved"]: "its database is gone"}
    assert lost(None, outputs, {}) == {} and not outputs.exists()


def test_a_store_that_does_not_answer_is_taken_to_have_all_its_runs(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    assert lost(None, tmp_path, {"0" * 32: True}) == {} == lost("http://127.0.0.1:9", tmp_path, {"0" * 32: True})

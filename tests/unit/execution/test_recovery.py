"""Tests of recovery: the store gets what crashed runs left on disk, and marks them as KILLED."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient, MlflowException

from plexp.errors import StoreError
from plexp.execution.recovery import settle, settle_outputs
from plexp.execution.state import Record, RunFolder, crashed_runs, state_folder, unsettled_runs
from plexp.tracking.delivery import DeliveryThread
from plexp.tracking.format import sqlite_uri
from plexp.tracking.outbox import Operation, Outbox
from plexp.tracking.store import Metric, connect, experiment_id
from plexp.tracking.tracker import Tracker

NAME = "0123456789abcdef"
STEPS = 600
LONG_AGO = 1_700_000_000.5
"""Time of the last heartbeat, in seconds since 1970."""
Start = Callable[..., Any]


@pytest.fixture
def outputs(empty_store: Path, tmp_path: Path) -> Path:
    (folder := tmp_path / "out #1 é").mkdir()
    shutil.copyfile(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def started() -> Iterator[Start]:
    """Yield a function that calls another in a process of its own, and returns the process when that is ready."""
    context, processes = multiprocessing.get_context("fork"), []

    def start(function: Callable[..., None], *arguments: Any) -> Any:
        ready = context.Event()
        process = context.Process(target=function, args=(*arguments, ready), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 about forking with threads
            process.start()
        processes.append(process)
        assert ready.wait(60)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join(60)


def stores(outputs: Path) -> list[str | None]:
    """Return the store of each unsettled run."""
    return [record.store for _, record in unsettled_runs(state_folder(outputs))]


def kill(process: Any) -> None:
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def train(outputs: Path, ready: Any) -> None:
    """Log more than one batch, none of which is delivered, and wait to be killed."""
    DeliveryThread.FLUSH_SECONDS = 3600.0
    run = begin(outputs)
    for step in range(STEPS):
        run.log({"x": step / 2, "y": -step}, step)
    run.log_text("seed: 3\n", "config.yaml")
    run.sync()
    ready.set()
    time.sleep(600)


def train_until_the_run_is_created(outputs: Path, ready: Any) -> None:
    def stop(run_id: str) -> None:
        ready.set()
        time.sleep(600)

    begin(outputs, created=stop)


def begin(outputs: Path, **changes: Any) -> Tracker:
    """Begin a run, whose lock is held and which has a record; return its tracker."""
    folder = RunFolder(state_folder(outputs) / NAME)
    assert folder.acquire()
    folder.begin(name="ppo seed0")
    values: dict[str, Any] = {"run_name": "ppo seed0", "params": {"seed": 3}, "tags": {"state": NAME}}
    values |= {"created": lambda run_id: folder.change(run_id=run_id)} | changes
    return Tracker(uri=None, outputs=outputs, outbox=folder.outbox, experiment="lake", **values)


def crashed_run(outputs: Path, *waiting: Operation, name: str = NAME, **facts: Any) -> RunFolder:
    """Return the folder of a run whose process is dead, with these operations in its outbox."""
    folder = RunFolder(state_folder(outputs) / name)
    folder.path.mkdir(parents=True)
    folder.write(Record(name, name=f"run {name}", **facts))
    (folder.path / "lock").touch()
    (folder.path / "heartbeat").write_text("[7, 0.5]")
    set_heartbeat(folder, LONG_AGO)
    for operation in waiting:
        Outbox(folder.outbox).put(operation)
    return folder


def set_heartbeat(folder: RunFolder, seconds: float) -> None:
    os.utime(folder.path / "heartbeat", (seconds, seconds))


def store(outputs: Path) -> MlflowClient:
    return MlflowClient(sqlite_uri(outputs / "mlflow.db"))


def create_run(outputs: Path) -> str:
    """Create a run in the store, and return its id."""
    uri = sqlite_uri(outputs / "mlflow.db")
    client = connect(uri, outputs)
    return str(client.create_run(experiment_id(client, uri, outputs, "lake")).info.run_id)


def points(*steps: int) -> Operation:
    return {"op": "metrics", "points": [["x", step / 2, 1000 + step, step] for step in steps]}


def history(outputs: Path, run_id: str, name: str = "x") -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in store(outputs).get_metric_history(run_id, name))


def everything(folder: Path) -> dict[str, tuple[bytes, float]]:
    """Return the content and the time of each file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime) for path in files}


def test_a_run_that_was_killed_is_marked_and_loses_nothing_that_it_logged(outputs: Path, started: Start) -> None:
    kill(started(train, outputs))
    folder = RunFolder(state_folder(outputs) / NAME)
    record = folder.record()
    assert record is not None and record.run_id is not None and record.status == "RUNNING"
    run = store(outputs).get_run(record.run_id)
    assert run.info.status == "RUNNING" and run.data.metrics == {} and len(Outbox(folder.outbox))
    assert [each.path for each in crashed_runs(folder.path.parent)] == [folder.path] and stores(outputs) == [None]
    set_heartbeat(folder, LONG_AGO)

    (line,) = settle_outputs(outputs, None)
    assert "ppo seed0" in line and record.run_id in line and "KILLED" in line and f"{STEPS + 1} operations" in line
    run = store(outputs).get_run(record.run_id)
    assert run.info.status == "KILLED" and run.info.end_time == int(LONG_AGO * 1000)
    assert history(outputs, record.run_id) == [(step, step / 2) for step in range(STEPS)]
    assert history(outputs, record.run_id, "y") == [(step, -step) for step in range(STEPS)]
    assert [file.path for file in store(outputs).list_artifacts(record.run_id)] == ["config.yaml"]
    settled = folder.record()
    assert settled is not None and settled.status == "KILLED" and settled.run_id == record.run_id and settled.error
    assert not folder.outbox.exists() and stores(outputs) == [] and not folder.alive()


def test_settling_again_changes_nothing(outputs: Path, started: Start) -> None:
    kill(started(train, outputs))
    settle_outputs(outputs, None)
    folder = RunFolder(state_folder(outputs) / NAME)
    record, before = folder.record(), everything(folder.path)
    assert record is not None and record.run_id is not None
    end = store(outputs).get_run(record.run_id).info.end_time
    assert settle_outputs(outputs, None) == []
    assert settle(store(outputs), outputs, None) == []
    assert store(outputs).get_run(record.run_id).info.end_time == end and everything(folder.path) == before
    assert history(outputs, record.run_id) == [(step, step / 2) for step in range(STEPS)]


def test_a_run_that_is_alive_is_left_alone(outputs: Path, started: Start) -> None:
    process = started(train, outputs)
    folder = RunFolder(state_folder(outputs) / NAME)
    before, record = everything(folder.outbox), folder.record()
    assert folder.alive() and crashed_runs(folder.path.parent) == [] and stores(outputs) == []
    assert settle_outputs(outputs, None) == [] and settle(store(outputs), outputs, None) == []
    assert folder.alive() and folder.record() == record and everything(folder.outbox) == before
    assert record is not None and record.run_id is not None
    assert store(outputs).get_run(record.run_id).info.status == "RUNNING"
    kill(process)
    assert len(settle_outputs(outputs, None)) == 1


def test_a_run_that_died_before_its_record_had_its_id_is_found(outputs: Path, started: Start) -> None:
    kill(started(train_until_the_run_is_created, outputs))
    folder = RunFolder(state_folder(outputs) / NAME)
    before = folder.record()
    assert before is not None and before.run_id is None
    create_run(outputs)
    assert len(settle_outputs(outputs, None)) == 1
    experiment = store(outputs).get_experiment_by_name("lake").experiment_id
    (run,) = store(outputs).search_runs([experiment], f"tags.state = '{NAME}'")
    assert run.info.status == "KILLED"
    record = folder.record()
    assert record is not None and record.run_id == run.info.run_id and record.status == "KILLED"


def test_a_run_that_died_before_it_was_created_is_marked_in_its_record_only(outputs: Path) -> None:
    folder = crashed_run(outputs)
    assert len(settle_outputs(outputs, None)) == 1
    record = folder.record()
    assert record is not None and record.status == "KILLED" and record.run_id is None


def test_a_run_that_ended_while_its_store_was_away_keeps_its_status(outputs: Path) -> None:
    run_id = create_run(outputs)
    end: Operation = {"op": "end", "status": "FINISHED", "time": 1_700_000_000_123}
    folder = crashed_run(outputs, points(0, 1), end, status="FINISHED", run_id=run_id)
    (folder.path / "heartbeat").unlink()
    (line,) = settle_outputs(outputs, None)
    assert "2 operations" in line and "KILLED" not in line
    run = store(outputs).get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.end_time == 1_700_000_000_123
    record = folder.record()
    assert record is not None and record.status == "FINISHED" and not record.error
    assert history(outputs, run_id) == [(0, 0.0), (1, 0.5)] and stores(outputs) == []


def test_an_end_that_only_the_record_has_reaches_the_store_too(outputs: Path) -> None:
    run_id = create_run(outputs)
    crashed_run(outputs, points(0), status="FINISHED", run_id=run_id)
    settle_outputs(outputs, None)
    assert history(outputs, run_id) == [(0, 0.0)]
    assert store(outputs).get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    "facts", [{"status": "FINISHED"}, {"status": "KILLED", "pruned": "at step 7"}, {"status": "RUNNING"}]
)
def test_a_run_that_died_at_its_end_keeps_no_progress(outputs: Path, facts: dict[str, Any]) -> None:
    folder = crashed_run(outputs, run_id=create_run(outputs), **facts)
    for path in (folder.checkpoints, folder.replay):
        path.mkdir()
    folder.episodes.touch()
    settle_outputs(outputs, None)
    left = [path for path in (folder.checkpoints, folder.replay, folder.episodes) if path.exists()]
    assert len(left) == (3 if facts["status"] == "RUNNING" else 0)


def test_steps_that_the_store_has_already_are_not_duplicated(outputs: Path) -> None:
    run_id = create_run(outputs)
    store(outputs).log_batch(run_id, metrics=[Metric("x", step / 2, 1000, step) for step in range(3)])
    crashed_run(outputs, points(1, 2, 3), run_id=run_id)
    settle_outputs(outputs, None)
    assert history(outputs, run_id) == [(step, step / 2) for step in range(4)]


@pytest.mark.parametrize("waiting", [(), (points(0, 1),)], ids=["nothing waits", "something waits"])
def test_a_store_that_does_not_answer_is_reported_and_nothing_is_lost(outputs: Path, waiting: tuple[Operation]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shown = f"http://***@127.0.0.1:{port}"
    crashed_run(outputs, *waiting, run_id="0" * 32, store=shown)
    before = everything(state_folder(outputs))
    with pytest.raises(StoreError, match=r"^--uri=http://\*\*\*@127[^\n]+Connection refused[^\n]+$"):
        settle_outputs(outputs, f"http://me:secret@127.0.0.1:{port}")
    assert everything(state_folder(outputs)) == before and stores(outputs) == [shown]


@pytest.mark.parametrize("method", ["set_terminated", "log_batch"])
@pytest.mark.parametrize("waiting", [(), (points(0, 1),)], ids=["nothing waits", "something waits"])
def test_a_store_that_fails_in_the_middle_loses_nothing(
    outputs: Path, method: str, waiting: tuple[Operation], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MlflowException("database is locked")

    run_id = create_run(outputs)
    folder = crashed_run(outputs, *waiting, run_id=run_id)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_terminated", fail)
        patch.setattr(MlflowClient, method, fail)
        with pytest.raises(StoreError, match=r"^outputs=[^\n]+database is locked[^\n]+$"):
            settle_outputs(outputs, None)
    assert stores(outputs) == [None]
    assert len(settle_outputs(outputs, None)) == 1
    run, record = store(outputs).get_run(run_id), folder.record()
    assert run.info.status == "KILLED" and run.info.end_time == int(LONG_AGO * 1000)
    assert record is not None and record.status == "KILLED"
    assert history(outputs, run_id) == ([(0, 0.0), (1, 0.5)] if waiting else [])


def test_a_run_that_was_deleted_in_mlflow_is_settled_and_does_not_stop_others(outputs: Path) -> None:
    gone, there = create_run(outputs), create_run(outputs)
    crashed_run(outputs, points(0), name="a" * 16, run_id=gone)
    crashed_run(outputs, points(0), name="b" * 16, run_id=there)
    store(outputs).delete_run(gone)
    settle_outputs(outputs, None)
    assert store(outputs).get_run(there).info.status == "KILLED" and history(outputs, there) == [(0, 0.0)]
    assert settle_outputs(outputs, None) == [] and stores(outputs) == []


def test_runs_of_another_store_are_left_alone(outputs: Path) -> None:
    run_id = create_run(outputs)
    crashed_run(outputs, points(0), name="a" * 16, run_id="0" * 32, store="http://***@elsewhere:5000")
    crashed_run(outputs, name="b" * 16, run_id=run_id)
    before = everything(state_folder(outputs) / ("a" * 16))
    (line,) = settle_outputs(outputs, None)
    assert f"run {'b' * 16}" in line
    assert everything(state_folder(outputs) / ("a" * 16)) == before
    assert stores(outputs) == ["http://***@elsewhere:5000"]
    assert settle(store(outputs), outputs, "http://me:secret@other:5000") == []
    assert everything(state_folder(outputs) / ("a" * 16)) == before


def test_a_folder_without_its_store_is_reported_and_nothing_is_lost(outputs: Path) -> None:
    crashed_run(outputs, points(0), run_id="0" * 32)
    (outputs / "mlflow.db").unlink()
    before = everything(outputs)
    with pytest.raises(StoreError, match=r"^outputs=[^\n]+no mlflow\.db[^\n]+--uri[^\n]+$"):
        settle_outputs(outputs, None)
    assert everything(outputs) == before


def test_without_unsettled_runs_no_store_is_asked(tmp_path: Path) -> None:
    assert settle_outputs(tmp_path, None) == [] and settle_outputs(tmp_path, "http://127.0.0.1:9") == []
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_cannot_be_read_is_left_alone(outputs: Path) -> None:
    folder = crashed_run(outputs, points(0))
    (folder.path / "run.json").write_text(json.dumps({"identity": NAME})[:-3])
    assert settle_outputs(outputs, None) == [] and len(Outbox(folder.outbox))


def _settle_many_times(outputs: Path, others: Any, results: Any, ready: Any) -> None:
    ready.set()
    others.wait()
    results.put([line for _ in range(3) for line in settle_outputs(outputs, None)])


def test_processes_that_settle_at_the_same_time_do_it_once(outputs: Path, started: Start) -> None:
    kill(started(train, outputs))
    context = multiprocessing.get_context("fork")
    others, results = context.Barrier(3), context.Queue()
    processes = [started(_settle_many_times, outputs, others, results) for _ in range(3)]
    lines = [line for _ in processes for line in results.get(timeout=300)]
    assert len(lines) == 1
    record = RunFolder(state_folder(outputs) / NAME).record()
    assert record is not None and record.run_id is not None
    assert history(outputs, record.run_id) == [(step, step / 2) for step in range(STEPS)]

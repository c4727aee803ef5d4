"""Tests of delivery: each operation reaches the store once, whatever fails, dies or is refused in between."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient, MlflowException
from mlflow.models import Model

from plexp.tracking.delivery import BATCH, Delivery
from plexp.tracking.format import sqlite_uri
from plexp.tracking.outbox import Operation, Outbox
from plexp.tracking.store import Metric, connect, experiment_id

Run = Callable[..., tuple[Delivery, Outbox]]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("delivery") / "out #1 é"


@pytest.fixture
def client(outputs: Path) -> MlflowClient:
    return connect(sqlite_uri(outputs / "mlflow.db"), outputs)


@pytest.fixture
def begun(outputs: Path, client: MlflowClient, tmp_path: Path) -> Run:
    """Return a function that creates a run, with these operations waiting for it in an outbox."""

    def begin(*operations: Operation, unsure: bool = False) -> tuple[Delivery, Outbox]:
        experiment = experiment_id(client, sqlite_uri(outputs / "mlflow.db"), outputs, "lake")
        outbox = Outbox(tmp_path / "outbox")
        for operation in operations:
            outbox.put(operation)
        return Delivery(client, client.create_run(experiment).info.run_id, outbox, unsure=unsure), outbox

    return begin


def points(*steps: int, name: str = "x") -> Operation:
    return {"op": "metrics", "points": [[name, step / 2, 1000 + step, step] for step in steps]}


def values(*steps: int) -> list[tuple[int, float]]:
    return [(step, step / 2) for step in steps]


def history(delivery: Delivery, name: str = "x") -> list[tuple[int, float]]:
    found = delivery.client.get_metric_history(delivery.run_id, name)
    return sorted((point.step, point.value) for point in found)


def model_in(outbox: Outbox, run_id: str) -> Operation:
    """Put a model's folder into an outbox as the tracker does, and return its operation."""
    place = outbox.place_for("model")
    place.mkdir()
    Model(run_id=run_id).save(str(place / "MLmodel"))
    (place / "weights.bin").write_bytes(b"\0\1")
    return {"op": "model", "path": str(place.relative_to(outbox.folder))}


def models(delivery: Delivery) -> list[tuple[str, str]]:
    """Return the (id, status) of each model that the store has of this run."""
    experiment = delivery.client.get_run(delivery.run_id).info.experiment_id
    found = delivery.client.search_logged_models([experiment])
    return [(model.model_id, str(model.status)) for model in found if model.source_run_id == delivery.run_id]


def fail_once(
    monkeypatch: pytest.MonkeyPatch,
    client: MlflowClient,
    method: str,
    *,
    at: int = 1,
    applied: bool = True,
    error: Exception | None = None,
) -> list[dict[str, Any]]:
    """Make call number `at` raise, after the store has done what it asked (its answer is lost) or before.

    Returns the arguments of the calls that the store did.
    """
    real, done, calls = getattr(client, method), list[dict[str, Any]](), []

    def call(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if applied or len(calls) != at:
            result = real(*args, **options)
            done.append(options)
        if len(calls) == at:
            raise error or MlflowException("the connection was reset")
        return result

    monkeypatch.setattr(client, method, call)
    return done


def logged(calls: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return metric and step of all points given to the store; SQLite itself drops those that are the same."""
    return [(point.key, point.step) for call in calls for point in call["metrics"]]


def assert_delivered_by_second_try(delivery: Delivery) -> None:
    with pytest.raises(MlflowException, match="the connection was reset"):
        delivery.deliver()
    assert len(delivery.outbox) > 0
    delivery.deliver()
    assert len(delivery.outbox) == 0 and not delivery.outbox.folder.exists()


def test_all_kinds_of_operations_are_delivered_in_order(begun: Run, client: MlflowClient) -> None:
    delivery, outbox = begun(
        points(0, 1),
        points(2),
        {"op": "tags", "tags": {"error": "none", "passing": "1"}},
        {"op": "untag", "key": "passing"},
        {"op": "text", "text": "seed: 3\n", "name": "config.yaml"},
    )
    place = outbox.place_for("agent.bin")
    place.write_bytes(b"\0\1")
    outbox.put({"op": "file", "path": str(place.relative_to(outbox.folder)), "folder": "files"})
    outbox.put({"op": "end", "status": "FINISHED", "time": 4_000_000_000_123})
    delivery.deliver()
    run = client.get_run(delivery.run_id)
    assert history(delivery) == values(0, 1, 2)
    assert run.data.tags["error"] == "none" and "passing" not in run.data.tags
    assert run.info.status == "FINISHED" and run.info.end_time == 4_000_000_000_123
    found = [file.path for folder in (None, "files") for file in client.list_artifacts(delivery.run_id, folder)]
    assert found == ["config.yaml", "files", "files/agent.bin"]
    assert delivery.count == 7 and not outbox.folder.exists()


@pytest.mark.parametrize("unsure", [True, False])
@pytest.mark.parametrize("applied", [True, False], ids=["answer lost", "not done"])
def test_a_batch_that_failed_is_neither_lost_nor_duplicated(
    begun: Run, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, applied: bool, unsure: bool
) -> None:
    delivery, _ = begun(points(0, 1), points(2), points(3, name="y"), unsure=unsure)
    calls = fail_once(monkeypatch, client, "log_batch", applied=applied)
    assert_delivered_by_second_try(delivery)
    assert logged(calls) == [("x", 0), ("x", 1), ("x", 2), ("y", 3)]
    assert history(delivery) == values(0, 1, 2) and history(delivery, "y") == values(3)


@pytest.mark.parametrize("applied", [True, False], ids=["answer lost", "not done"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_of_many_batches_none_is_lost_or_duplicated_if_one_fails(
    begun: Run, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, at: int, applied: bool
) -> None:
    size = BATCH * 3 // 5
    delivery, _ = begun(*(points(*range(first, first + size)) for first in range(0, 4 * size, size)))
    calls = fail_once(monkeypatch, client, "log_batch", at=at, applied=applied)
    assert_delivered_by_second_try(delivery)
    assert logged(calls) == [("x", step) for step in range(4 * size)]
    assert history(delivery) == values(*range(4 * size))


def test_points_logged_after_a_lost_answer_arrive_too(
    begun: Run, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery, outbox = begun(points(0, 1))
    fail_once(monkeypatch, client, "log_batch")
    with pytest.raises(MlflowException):
        delivery.deliver()
    outbox.put(points(2))
    delivery.deliver()
    outbox.put(points(3))
    delivery.deliver()
    assert history(delivery) == values(0, 1, 2, 3)


def test_without_a_failure_a_step_may_be_logged_again(begun: Run) -> None:
    delivery, _ = begun(points(1), {"op": "metrics", "points": [["x", 7.0, 2000, 1]]})
    delivery.deliver()
    assert history(delivery) == [(1, 0.5), (1, 7.0)]


def test_if_unsure_only_the_steps_that_the_store_lacks_are_logged(begun: Run, client: MlflowClient) -> None:
    again: Operation = {"op": "metrics", "points": [["x", 7.0, 9000, 5]]}
    delivery, _ = begun(points(3, 4, 5), points(0, name="y"), points(6), again, unsure=True)
    client.log_batch(delivery.run_id, metrics=[Metric("x", 100.0 + step, 1, step) for step in range(5)])
    delivery.deliver()
    assert history(delivery) == [(step, 100.0 + step) for step in range(5)] + values(5, 6)
    assert history(delivery, "y") == values(0)


def test_a_process_that_dies_before_it_notes_what_is_done_duplicates_nothing(begun: Run, tmp_path: Path) -> None:
    text: Operation = {"op": "text", "text": "seed: 3\n", "name": "config.yaml"}
    end: Operation = {"op": "end", "status": "FINISHED", "time": 4_000_000_000_123}
    delivery, outbox = begun(points(0, 1), text, points(2), {"op": "untag", "key": "none"}, end)
    shutil.copytree(outbox.folder, tmp_path / "copy")
    delivery.deliver()
    again = Delivery(delivery.client, delivery.run_id, Outbox(tmp_path / "copy"), unsure=True)
    again.deliver()
    assert history(again) == values(0, 1, 2) and not again.outbox.folder.exists()
    run = again.client.get_run(again.run_id)
    assert run.info.status == "FINISHED" and run.info.end_time == 4_000_000_000_123


def test_a_file_that_was_delivered_and_removed_before_a_crash_is_skipped(begun: Run) -> None:
    delivery, _ = begun({"op": "file", "path": "1-1/agent.bin", "folder": None}, points(0), unsure=True)
    delivery.deliver()
    assert history(delivery) == values(0) and delivery.client.list_artifacts(delivery.run_id) == []


@pytest.mark.parametrize("code", ["INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"])
@pytest.mark.parametrize(
    ("method", "operation"),
    [
        ("log_batch", points(0)),
        ("set_tag", {"op": "tags", "tags": {"a": "1"}}),
        ("log_text", {"op": "text", "text": "a", "name": "b"}),
        ("set_terminated", {"op": "end", "status": "FINISHED", "time": 1}),
    ],
)
def test_an_operation_that_may_succeed_later_waits_with_all_after_it(
    begun: Run,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    method: str,
    operation: Operation,
) -> None:
    from mlflow.protos.databricks_pb2 import ErrorCode

    delivery, outbox = begun(operation, points(9))
    error = MlflowException("the connection was reset", error_code=ErrorCode.Value(code))
    fail_once(monkeypatch, client, method, applied=False, error=error)
    assert_delivered_by_second_try(delivery)
    assert (9, 4.5) in history(delivery) and not (outbox.folder / "refused.jsonl").exists()


def test_errors_from_outside_mlflow_keep_everything_waiting_too(
    begun: Run, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery, outbox = begun(points(0, 1), points(2))
    calls = fail_once(monkeypatch, client, "log_batch", error=ConnectionResetError("reset"))
    with pytest.raises(ConnectionResetError):
        delivery.deliver()
    assert len(outbox) == 2
    delivery.deliver()
    assert history(delivery) == values(0, 1, 2) and logged(calls) == [("x", step) for step in range(3)]


def test_refused_operations_are_set_aside_and_the_rest_is_delivered(
    begun: Run, caplog: pytest.LogCaptureFixture
) -> None:
    never = points(1, name="no\nname")
    delivery, outbox = begun(
        points(0),
        {"op": "tags", "tags": {"a": "1"}},
        never,
        {"op": "end", "status": "FINISHED", "time": 4_000_000_000_123},
    )
    delivery.deliver()
    run = delivery.client.get_run(delivery.run_id)
    assert history(delivery) == values(0) and run.data.tags["a"] == "1" and run.info.status == "FINISHED"
    assert json.loads((outbox.folder / "refused.jsonl").read_text()) == never
    assert len(outbox) == 0 and not len(Outbox(outbox.folder))
    assert [message.count("MLflow refused metrics") for message in caplog.messages] == [1]
    assert "refused.jsonl" in caplog.messages[0] and "\n" not in caplog.messages[0]


def test_a_refused_point_takes_no_other_points_with_it(begun: Run) -> None:
    delivery, outbox = begun(points(0), points(1, name="no\nname"), points(2))
    delivery.deliver()
    assert history(delivery) == values(0, 2)
    refused = [json.loads(line) for line in (outbox.folder / "refused.jsonl").read_text().splitlines()]
    assert refused == [points(1, name="no\nname")]


def test_all_operations_of_a_deleted_run_are_set_aside_with_one_line(
    begun: Run, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    end: Operation = {"op": "end", "status": "FINISHED", "time": 1}
    delivery, outbox = begun(points(0), points(1), end)
    client.delete_run(delivery.run_id)
    delivery.deliver()
    refused = [json.loads(line) for line in (outbox.folder / "refused.jsonl").read_text().splitlines()]
    assert refused == [points(0), points(1), end] and len(outbox) == 0
    (line,) = caplog.messages
    assert line.startswith(f"run {delivery.run_id} was deleted in MLflow; what it logs from now on is kept in ")


def test_a_model_delivered_twice_is_registered_once(begun: Run, tmp_path: Path) -> None:
    delivery, outbox = begun()
    outbox.put(model_in(outbox, delivery.run_id))
    shutil.copytree(outbox.folder, tmp_path / "copy")
    delivery.deliver()
    Delivery(delivery.client, delivery.run_id, Outbox(tmp_path / "copy"), unsure=True).deliver()
    ((model, status),) = models(delivery)
    assert status == "READY"
    linked = delivery.client.get_run(delivery.run_id).outputs.model_outputs
    assert [each.model_id for each in linked] == [model]
    files = {file.path for file in delivery.client.list_logged_model_artifacts(model)}
    assert files == {"MLmodel", "weights.bin"} and not outbox.folder.exists()


@pytest.mark.parametrize("applied", [True, False], ids=["answer lost", "not done"])
@pytest.mark.parametrize("method", ["log_model_artifacts", "log_outputs", "finalize_logged_model"])
def test_a_model_that_fails_half_way_is_registered_completely_the_next_time(
    begun: Run, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, method: str, applied: bool
) -> None:
    delivery, outbox = begun()
    outbox.put(model_in(outbox, delivery.run_id))
    fail_once(monkeypatch, client, method, applied=applied)
    assert_delivered_by_second_try(delivery)
    ((model, status),) = models(delivery)
    assert status == "READY"
    assert model in [each.model_id for each in client.get_run(delivery.run_id).outputs.model_outputs]
    assert {file.path for file in client.list_logged_model_artifacts(model)} == {"MLmodel", "weights.bin"}

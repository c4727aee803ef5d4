"""Tests of the tracker: the record as MLflow's client reads it, failures of the store, and the server."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import multiprocessing
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient, MlflowException
from torch import nn

import plexp.tracking.tracker
from plexp.cli.ui_server import serve
from plexp.errors import StoreError
from plexp.tracking.delivery import BATCH, DeliveryThread
from plexp.tracking.format import masked, sqlite_uri, ui_command
from plexp.tracking.outbox import Outbox
from plexp.tracking.tracker import Tracker
from plexp.tracking.views import TABLE, is_same_view, link, saved_views
from tests.support import database, forks


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of outputs with an awkward name, whose store most tests share."""
    return tmp_path_factory.mktemp("out") / "puts #1 é"


@pytest.fixture(scope="module")
def client(outputs: Path) -> MlflowClient:
    tracker(outputs).finish("FINISHED")
    return MlflowClient(sqlite_uri(outputs / "mlflow.db"))


@pytest.fixture(scope="module")
def server(
    outputs: Path, client: MlflowClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """Start `serve` on a store; yield its process, its address, and the ids of the two newest experiments.

    It starts while other tests run.
    """
    served = tmp_path_factory.mktemp("served")
    with contextlib.closing(sqlite3.connect(outputs / "mlflow.db")) as source:
        source.execute("VACUUM INTO ?", (str(served / "mlflow.db"),))
    runs = [tracker(served, experiment=name) for name in ("older", "newer")]
    for run in runs:
        run.finish("FINISHED")
    port = free_port()
    call = f"serve(uri=None, outputs=Path({str(served)!r}), port={port})"
    code = f"from pathlib import Path; from plexp.cli.ui_server import serve; exit({call})"
    folder = Path(plexp.tracking.tracker.__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        yield process, f"http://127.0.0.1:{port}", [run.experiment_id for run in runs]
        process.terminate()


def tracker(outputs: Path, uri: str | None = None, **changes: Any) -> Tracker:
    values = {"experiment": "CartPole-v1", "run_name": "ppo seed0", "params": {}, "tags": {"group": "ppo"}}
    return Tracker(uri=uri, outputs=outputs, **{"outbox": outbox_in(outputs), **values, **changes})


def outbox_in(outputs: Path) -> Path:
    return outputs / "state" / uuid.uuid4().hex / "outbox"


def history(client: MlflowClient, run: Tracker, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.run_id, metric)]


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait until a condition holds, and return whether it does."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def fail(*_: object, **__: object) -> None:
    raise MlflowException("database is locked")


@pytest.mark.usefixtures("server")
def test_a_recorded_run_is_read_back_and_nothing_is_printed(
    outputs: Path, client: MlflowClient, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    params = {
        "seed": 3,
        "gamma": 0.99,
        "critic_net": None,
        "normalize": True,
        "net.widths": [64, 64],
        "net.plugin": "mlp",
    }
    run = tracker(
        outputs, params=params | {f"many.{i}": i for i in range(150)}, tags={"group": "ppo", "git.commit": "a1"}
    )
    for step in range(0, 5000, 2):
        run.log({"eval/return": step / 10, "train/loss": -step}, step)
    (tmp_path / "agent.bin").write_bytes(b"\0\1")
    run.log_file(tmp_path / "agent.bin", "files")
    run.log_text("seed: 3\n", "config.yaml")
    run.describe("**ppo**")
    run.set_tags({"error": "none", "passing": "1"})
    run.remove_tag("passing")
    assert run.finish("FINISHED")

    recorded = client.get_run(run.run_id)
    shown = {"seed": "3", "gamma": "0.99", "critic_net": "null", "normalize": "true", "net.widths": "[64,64]"}
    assert recorded.data.params == shown | {"net.plugin": "mlp"} | {f"many.{i}": str(i) for i in range(150)}
    assert history(client, run, "eval/return") == [(step, step / 10) for step in range(0, 5000, 2)]
    assert history(client, run, "train/loss") == [(step, -step) for step in range(0, 5000, 2)]
    assert recorded.info.status == "FINISHED" and recorded.info.run_name == run.run_name == "ppo seed0"
    tags = {"group": "ppo", "git.commit": "a1", "error": "none", "mlflow.note.content": "**ppo**"}
    assert tags.items() <= recorded.data.tags.items() and "passing" not in recorded.data.tags
    assert run.artifact_uri.startswith((outputs / "artifacts").as_uri())
    folder = next((outputs / "artifacts" / "CartPole-v1").glob(f"{run.run_id}/artifacts"))
    assert (folder / "files" / "agent.bin").read_bytes() == b"\0\1"
    assert (folder / "config.yaml").read_text() == "seed: 3\n"
    assert capfd.readouterr() == ("", "")


def test_metrics_wait_for_a_full_batch_or_for_the_time(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeliveryThread, "FLUSH_SECONDS", 3600.0)
    run = tracker(outputs)
    for step in range(BATCH - 1):
        run.log({"x": step}, step)
    assert not until(lambda: bool(history(client, run, "x")), 0.5)
    run.log({"x": 0.0}, BATCH)
    assert until(lambda: len(history(client, run, "x")) == BATCH)
    run.finish("FINISHED")

    monkeypatch.setattr(DeliveryThread, "FLUSH_SECONDS", 0.05)
    run = tracker(outputs)
    run.log({"y": 1.0}, 7)
    assert until(lambda: history(client, run, "y") == [(7, 1.0)])
    run.finish("FINISHED")


def test_a_bad_name_or_value_does_not_lose_other_metrics(
    outputs: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    run = tracker(outputs)
    odd: dict[str, Any] = {"a [b]%": 1.0, "//c": 2.0, "../d": 3.0, "": 4.0, "e" * 300: 5.0, "good": 6.0}
    run.log(odd | {"text": "many", "vector": torch.ones(2), "tensor": torch.tensor(7.0)}, 1)
    run.finish("FINISHED")
    metrics = client.get_run(run.run_id).data.metrics
    assert metrics == {"a _b__": 1.0, "c": 2.0, "_/d": 3.0, "_": 4.0, "e" * 250: 5.0, "good": 6.0, "tensor": 7.0}
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == ["text", "vector"]


def test_nan_is_kept_and_infinity_is_the_largest_number(outputs: Path, client: MlflowClient) -> None:
    run = tracker(outputs)
    run.log({"nan": math.nan, "up": math.inf, "down": -math.inf}, 1)
    run.finish("FINISHED")
    metrics = client.get_run(run.run_id).data.metrics
    assert math.isnan(metrics["nan"])
    assert metrics["up"] == -metrics["down"] == sys.float_info.max


def test_long_params_and_tags_keep_their_beginning_and_their_end(outputs: Path, client: MlflowClient) -> None:
    text = "".join(f"{i:05d} " for i in range(2000))
    run = tracker(outputs, params={"long": text}, tags={"error": text})
    run.finish("FAILED")
    data = client.get_run(run.run_id).data
    for recorded, limit in ((data.params["long"], 6000), (data.tags["error"], 8000)):
        assert len(recorded) == limit
        assert recorded.startswith("00000 00001 ") and recorded.endswith("01999 ") and "12000 characters" in recorded


def test_a_figure_is_wide_enough_to_be_shown(outputs: Path) -> None:
    run = tracker(outputs)
    figure = Figure(figsize=(5, 3))
    figure.subplots().plot([1, 2])
    run.log_figure(figure, "plots/curve.png")
    run.finish("FINISHED")
    png = (outputs / "artifacts" / "CartPole-v1" / run.run_id / "artifacts" / "plots" / "curve.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", png[16:20])[0] >= 800


@pytest.mark.parametrize(
    "statuses", [["FINISHED", "FINISHED"], ["FAILED", "FINISHED"], ["KILLED", "FAILED", "FINISHED"]]
)
def test_finish_is_idempotent_and_a_failed_run_stays_failed(
    outputs: Path, client: MlflowClient, statuses: list[Any]
) -> None:
    run = tracker(outputs)
    run.log({"x": 1.0}, 1)
    for status in statuses:
        assert run.finish(status)
    assert client.get_run(run.run_id).info.status == statuses[0]
    assert history(client, run, "x") == [(1, 1.0)]


def test_a_run_that_fails_after_its_end_has_failed(outputs: Path, client: MlflowClient) -> None:
    run = tracker(outputs)
    assert run.finish("FINISHED")
    assert run.finish("FAILED")
    assert client.get_run(run.run_id).info.status == "FAILED"


def test_a_store_that_fails_for_a_while_loses_no_points_and_is_logged_once(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(DeliveryThread, "FLUSH_SECONDS", 0.02)
    monkeypatch.setattr(DeliveryThread, "RETRY_SECONDS", 0.02)
    run, attempts = tracker(outputs), []

    def count_and_fail(*_: object, **__: object) -> None:
        attempts.append(1)
        fail()

    with monkeypatch.context() as patch:
        patch.setattr(run.client, "log_batch", count_and_fail)
        for step in range(5):
            run.log({"x": float(step)}, step)
        assert until(lambda: len(attempts) >= 3)
        assert [message.count("database is locked") for message in caplog.messages] == [1]
        assert "waits on disk" in caplog.messages[0] and "\n" not in caplog.messages[0]
        with pytest.raises(StoreError, match="database is locked"):
            run.flush()
    run.flush()
    assert history(client, run, "x") == [(step, float(step)) for step in range(5)]
    assert run.finish("FINISHED") and len(caplog.messages) == 1


def test_a_store_that_hangs_does_not_block_training(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeliveryThread, "FLUSH_SECONDS", 0.0)
    run = tracker(outputs)
    release, hangs, log_batch = threading.Event(), threading.Event(), run.client.log_batch

    def hang(*args: Any, **options: Any) -> None:
        hangs.set()
        assert release.wait(60)
        log_batch(*args, **options)

    monkeypatch.setattr(run.client, "log_batch", hang)
    run.log({"x": 0.0}, 0)
    assert hangs.wait(30)
    start = time.perf_counter()
    for step in range(1, 100):
        run.log({"x": float(step)}, step)
    run.log_text("seed: 3", "config.yaml")
    run.sync()
    assert time.perf_counter() - start < 20 and not release.is_set()
    release.set()
    assert run.finish("FINISHED")
    assert history(client, run, "x") == [(step, float(step)) for step in range(100)]


def test_undelivered_points_wait_on_disk_at_the_end_and_are_delivered_later(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(DeliveryThread, "PATIENCE", (0.3, 0.3))
    monkeypatch.setattr(DeliveryThread, "RETRY_SECONDS", 0.05)
    outbox = outbox_in(outputs)
    run = tracker(outputs, outbox=outbox)
    with monkeypatch.context() as patch:
        patch.setattr(run.client, "log_batch", fail)
        run.log({"x": 1.0, "y": 2.0}, 1)
        assert run.finish("FINISHED") is False
        assert len(Outbox(outbox)) == 2
        assert client.get_run(run.run_id).info.status == "RUNNING"
        assert "python -m plexp sync" in caplog.messages[-1] and "\n" not in caplog.messages[-1]
    assert until(lambda: client.get_run(run.run_id).info.status == "FINISHED")
    assert history(client, run, "x") == [(1, 1.0)] and history(client, run, "y") == [(1, 2.0)]
    assert until(lambda: not outbox.exists()) and run.finish("FINISHED")


def test_the_end_waits_as_long_as_the_store_makes_progress(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeliveryThread, "PATIENCE", (0.5, 0.5))
    monkeypatch.setattr(DeliveryThread, "FLUSH_SECONDS", 3600.0)
    run = tracker(outputs)
    log_text = run.client.log_text

    def take_long(*args: Any) -> None:
        time.sleep(0.2)
        log_text(*args)

    monkeypatch.setattr(run.client, "log_text", take_long)
    for number in range(6):
        run.log_text("seed: 3", f"{number}.yaml")
    assert run.finish("FINISHED")
    assert len(client.list_artifacts(run.run_id)) == 6


def test_only_a_full_disk_makes_logging_raise(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "agent.bin").write_bytes(b"\0\1")
    run = tracker(outputs)

    def full(*_: object) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "put", full)
        patch.setattr(Outbox, "place_for", full)
        for log in (lambda: run.log({"x": 1.0}, 1), lambda: run.log_text("a", "b"), lambda: run.set_tags({"a": "b"})):
            with pytest.raises(StoreError, match=r"^outputs=[^\n]+: the disk is full; free some space; [^\n]+$"):
                log()
        with pytest.raises(StoreError, match="the disk is full; "):
            run.log_file(tmp_path / "agent.bin")
    run.log({"x": 2.0}, 2)
    assert run.finish("FINISHED") and history(client, run, "x") == [(2, 2.0)]


def test_a_model_is_not_recorded_on_a_full_disk(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tracker(outputs)

    def full(*_: object) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "place_for", full)
        assert run.log_model(Policy(), torch.zeros(2, 8)) is False
    assert "the disk is full" in caplog.text
    assert run.finish("FINISHED")


def test_a_resumed_run_continues_with_what_its_first_process_left(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeliveryThread, "FLUSH_SECONDS", 3600.0)
    first = tracker(outputs, params={"a": 1})
    first.log({"x": 0.5}, 0)
    first.finish("KILLED")
    outbox = Outbox(outbox_in(outputs))
    outbox.put({"op": "metrics", "points": [["x", 0.5, 1, 0], ["x", 1.5, 2, 1]]})

    second = tracker(outputs, params={"a": 9, "b": 2}, run_id=first.run_id, outbox=outbox.folder)
    assert second.is_resumed and second.run_id == first.run_id and second.last == {"x": 0.5}
    assert client.get_run(first.run_id).info.status == "RUNNING"
    second.log({"x": 2.5}, 2)
    assert second.finish("FINISHED")
    assert sorted(history(client, second, "x")) == [(0, 0.5), (1, 1.5), (2, 2.5)]
    recorded = client.get_run(first.run_id)
    assert recorded.data.params == {"a": "1", "b": "2"} and recorded.info.status == "FINISHED"


def test_a_deleted_run_starts_again_without_its_waiting_operations(
    outputs: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    first = tracker(outputs)
    first.finish("KILLED")
    client.delete_run(first.run_id)
    outbox = Outbox(outbox_in(outputs))
    outbox.put({"op": "metrics", "points": [["x", 0.5, 1, 0]]})
    created: list[str] = []

    second = tracker(outputs, run_id=first.run_id, outbox=outbox.folder, created=created.append)
    second.log({"x": 1.5}, 1)
    assert second.finish("FINISHED")
    assert not second.is_resumed and created == [second.run_id] != [first.run_id]
    assert history(client, second, "x") == [(1, 1.5)]
    assert first.run_id in caplog.text and "starts a new run" in caplog.text


def test_if_logging_params_fails_no_run_is_left_running(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(StoreError):
        patch.setattr(MlflowClient, "log_batch", fail)
        tracker(outputs, experiment="no params", params={"a": 1})
    found = client.get_experiment_by_name("no params")
    assert [run.info.status for run in client.search_runs([found.experiment_id])] == ["FAILED"]


def test_another_experiment_takes_the_place_of_one_that_was_deleted(
    outputs: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    names = []
    for _ in range(3):
        run = tracker(outputs, experiment="gone")
        run.finish("FINISHED")
        names.append(client.get_experiment(run.experiment_id).name)
        client.delete_experiment(run.experiment_id)
    assert names == ["gone", "gone (2)", "gone (3)"]
    line = "the experiment gone was deleted in MLflow: new runs go to gone"
    assert caplog.messages == [f"{line} (2)", f"{line} (3)"]
    client.restore_experiment(client.get_experiment_by_name("gone").experiment_id)
    run = tracker(outputs, experiment="gone")
    assert run.finish("FINISHED") and client.get_experiment(run.experiment_id).name == "gone"


def _one_of_many(outputs: Path, barrier: Any, steps: int) -> None:
    database.migrate_for_real()
    barrier.wait()
    run = tracker(outputs, experiment="fresh", params={"a": 1})
    for step in range(steps):
        run.log({"x": float(step)}, step)
    sys.exit(0 if run.finish("FINISHED") else 3)


@pytest.mark.parametrize(("number", "steps"), [(4, 200), pytest.param(16, 2000, marks=pytest.mark.slow)])
def test_many_processes_start_at_once_on_a_fresh_folder_and_lose_nothing(
    number: int, steps: int, tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for leftover in ("mlflow.db.draft", "mlflow.db.draft-journal"):
        (outputs / leftover).write_bytes(b"of a process killed while it made the file")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 about forking with threads
        processes = [context.Process(target=_one_of_many, args=(outputs, barrier, steps)) for _ in range(number)]
        for process in processes:
            process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * number

    client = MlflowClient(sqlite_uri(outputs / "mlflow.db"))
    runs = client.search_runs([client.get_experiment_by_name("fresh").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * number
    for run in runs:
        points = client.get_metric_history(run.info.run_id, "x")
        assert sorted((point.step, point.value) for point in points) == [(step, float(step)) for step in range(steps)]
    with contextlib.closing(sqlite3.connect(outputs / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not list(outputs.glob("*.draft*")) and not list(outputs.glob("state/*/outbox"))


@pytest.fixture
def mute_server() -> Iterator[int]:
    """Yield the port of a server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("kind", ["nobody listens", "nobody answers"])
def test_an_unreachable_server_is_soon_reported_without_credentials(
    kind: str, mute_server: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    port = mute_server if kind == "nobody answers" else free_port()
    start = time.perf_counter()
    with pytest.raises(StoreError) as caught:
        tracker(tmp_path, uri=f"http://somebody:se%40cret@127.0.0.1:{port}")
    assert time.perf_counter() - start < 25
    line = str(caught.value)
    assert re.fullmatch(rf"tracker\.uri=http://\*\*\*@127\.0\.0\.1:{port}: [^\n]+; [^\n]+", line)
    assert "somebody" not in line and "cret" not in line
    assert caught.value.__suppress_context__, "the chain would print the credentials"
    assert capfd.readouterr() == ("", "")
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"


@pytest.mark.parametrize("below", [".", "deeper"])
def test_outputs_that_is_a_file_is_reported_in_one_line(below: str, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(StoreError, match=r"^outputs=[^\n]+(is a file|Not a directory)[^\n]+$"):
        tracker(tmp_path / "outputs" / below)


def test_a_store_that_is_not_a_database_is_reported_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").write_text("This is not a database, though it is long enough to look like one." * 20)
    with pytest.raises(StoreError, match=r"^outputs=[^\n]+not a database[^\n]+$"):
        tracker(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_credentials_are_masked_wherever_they_occur() -> None:
    line = masked("GET http://me:a/b@c@host:5000/api?token=abc&x=1 and postgresql://u:p@db/x?password=secret failed")
    assert line == "GET http://***@host:5000/api?token=***&x=*** and postgresql://***@db/x?password=*** failed"


class Policy(nn.Module):
    """Policy as plexp exports it: observations [B, 8] -> actions [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        actions: torch.Tensor = self.body(observations).argmax(-1)
        return actions


class Untraceable(nn.Module):
    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations if observations.sum().item() > 0 else -observations


LOAD = """
import json, sys
sys.modules["plexp"] = None
import mlflow, numpy, torch
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pytorch.load_model(sys.argv[2])
function = mlflow.pyfunc.load_model(sys.argv[2])
for batch in json.load(sys.stdin):
    print(json.dumps([model(torch.tensor(batch)).tolist(), function.predict(numpy.float32(batch)).tolist()]))
"""


def test_a_model_loads_without_plexp_and_acts_the_same_at_every_batch_size(
    outputs: Path, client: MlflowClient, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    run, policy = tracker(outputs), Policy().train()
    assert run.log_model(policy, torch.zeros(1, 8)) and policy.training
    assert run.finish("FINISHED")
    assert capfd.readouterr() == ("", "")
    (recorded,) = client.get_run(run.run_id).outputs.model_outputs
    model = client.get_logged_model(recorded.model_id)
    assert (model.name, str(model.status), model.source_run_id) == ("policy", "READY", run.run_id)

    batches = [torch.randn(size, 8) for size in (1, 2, 7)]
    loaded = forks.run(
        [sqlite_uri(outputs / "mlflow.db"), f"models:/{recorded.model_id}"],
        code=LOAD,
        text=json.dumps([batch.tolist() for batch in batches]),
        env={"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
    )
    assert loaded.returncode == 0, loaded.stderr
    expected = [policy(batch).tolist() for batch in batches]
    assert [json.loads(line) for line in loaded.stdout.splitlines()] == [[actions, actions] for actions in expected]


def test_a_policy_that_cannot_be_exported_is_logged_and_leaves_no_model(
    outputs: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tracker(outputs, experiment="untraceable")
    assert run.log_model(Untraceable(), torch.ones(2, 8)) is False
    assert run.finish("FINISHED")
    lines = [record.getMessage() for record in caplog.records if record.name == "plexp"]
    assert len(lines) == 1 and "the model is not kept" in lines[0] and "\n" not in lines[0]
    assert list(client.search_logged_models([run.experiment_id])) == []
    assert capfd.readouterr() == ("", "")


def _export_with_bare_logging(results: Any) -> None:
    for name in [name for name in sys.modules if name.startswith("mlflow.pytorch")]:
        del sys.modules[name]
    logging.root.handlers, logging.root.level = [], logging.WARNING
    run = Tracker.__new__(Tracker)
    run.run_id = "0" * 32
    with tempfile.TemporaryDirectory() as folder:
        run._outbox = Outbox(Path(folder))
        run.log_model(Untraceable(), torch.ones(2, 3))
    results.put((logging.root.level, len(logging.root.handlers)))


def test_the_export_leaves_the_logging_as_it_was() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        process = context.Process(target=_export_with_bare_logging, args=(results,))
        process.start()
    assert results.get(timeout=300) == (logging.WARNING, 0), "importing mlflow.pytorch calls logging.basicConfig"
    process.join()


def test_a_new_experiment_has_the_views_that_its_links_open(client: MlflowClient) -> None:
    tags = client.get_experiment_by_name("CartPole-v1").tags
    views = saved_views()
    assert len(views) == 2
    assert all(is_same_view(tags[key], view) for key, view in views.items())


def test_serve_reports_in_one_line_why_it_cannot_start(
    tmp_path: Path, outputs: Path, client: MlflowClient, mute_server: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(uri=None, outputs=tmp_path) == 2
    assert re.fullmatch(
        r"outputs=[^\n]+no run has been kept there yet; start one with: [^\n]+\n", capsys.readouterr().err
    )
    assert serve(uri=None, outputs=outputs, port=mute_server) == 2
    assert "in use" in capsys.readouterr().err
    assert serve(uri="http://me:secret@example.org:5000", outputs=outputs) == 0
    shown = capsys.readouterr().out
    assert "http://***@example.org:5000/#/experiments" in shown and "secret" not in shown


@pytest.mark.server
def test_serve_prints_links_records_runs_over_http_and_ends_its_children(
    server: tuple[subprocess.Popen[str], str, list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process, address, (older, newer) = server
    assert process.stdout is not None
    assert f"{address} until Ctrl-C" in process.stdout.readline()
    for name, key in (("newer", newer), ("older", older)):
        assert process.stdout.readline() == f"  {name}: {link(address, key)}\n"
        assert process.stdout.readline() == f"    as a table: {link(address, key, TABLE)}\n"

    outbox = tmp_path / "outbox"
    run = tracker(tmp_path / "unused", uri=address, experiment="over http", params={"a": None}, outbox=outbox)
    run.log({"x": 1.5}, 3)
    run.log_text("seed: 3", "config.yaml")
    assert run.log_model(Policy(), torch.zeros(2, 8))
    assert run.finish("FINISHED")
    client = MlflowClient(address)
    assert history(client, run, "x") == [(3, 1.5)]
    assert client.get_run(run.run_id).data.params == {"a": "null"}
    assert [file.path for file in client.list_artifacts(run.run_id)] == ["config.yaml"]
    assert len(client.get_run(run.run_id).outputs.model_outputs) == 1
    assert not (tmp_path / "unused").exists() and not outbox.exists() and capfd.readouterr() == ("", "")

    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    (group,) = map(int, listed.stdout.split())
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_the_command_to_browse_a_store_hides_its_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert ui_command(None, Path("outputs")) == ui_command(None, tmp_path / "outputs") == "python -m plexp ui"
    assert ui_command(None, Path("/shared/my runs")) == "python -m plexp ui --outputs '/shared/my runs'"
    command = ui_command("postgresql://me:secret@db/x", Path("outputs"))
    assert command == "python -m plexp ui --uri 'postgresql://***@db/x'"

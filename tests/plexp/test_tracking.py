"""The record in MLflow, read back through MLflow's own client; what happens when the store fails; the server."""

from __future__ import annotations

import base64
import contextlib
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
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient, MlflowException
from torch import nn

import plexp.tracking
from plexp.tracking import BATCH, StoreError, Tracker, serve
from plexp.tracking_views import link, masked, saved_view, sqlite_uri


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of outputs, with an awkward name, whose store most tests share."""
    return tmp_path_factory.mktemp("out") / "puts #1 é"


@pytest.fixture(scope="module")
def client(outputs: Path) -> MlflowClient:
    tracker(outputs).finish("FINISHED")
    return MlflowClient(sqlite_uri(outputs / "mlflow.db"))


@pytest.fixture(scope="module")
def server(
    outputs: Path, client: MlflowClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """`serve` on a store, its address, the ids of the two newest experiments. It starts while other tests run."""
    served = tmp_path_factory.mktemp("served")
    with contextlib.closing(sqlite3.connect(outputs / "mlflow.db")) as source:
        source.execute("VACUUM INTO ?", (str(served / "mlflow.db"),))
    runs = [tracker(served, experiment=name) for name in ("older", "newer")]
    for run in runs:
        run.finish("FINISHED")
    port = free_port()
    call = f"serve(uri=None, outputs=Path({str(served)!r}), port={port})"
    code = f"from pathlib import Path; from plexp.tracking_views import serve; exit({call})"
    folder = Path(plexp.tracking.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        yield process, f"http://127.0.0.1:{port}", [run.experiment_id for run in runs]
        process.terminate()


def tracker(outputs: Path, uri: str | None = None, **changes: Any) -> Tracker:
    values = {"experiment": "CartPole-v1", "run_name": "ppo seed0", "params": {}, "tags": {"group": "ppo"}} | changes
    return Tracker(uri=uri, outputs=outputs, **values)


def history(client: MlflowClient, run: Tracker, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.run_id, metric)]


@pytest.mark.usefixtures("server")
def test_what_is_kept_is_read_back_and_nothing_is_printed(
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
    run.set_tags({"error": "none"})
    run.finish("FINISHED")

    kept = client.get_run(run.run_id)
    shown = {"seed": "3", "gamma": "0.99", "critic_net": "null", "normalize": "true", "net.widths": "[64,64]"}
    assert kept.data.params == shown | {"net.plugin": "mlp"} | {f"many.{i}": str(i) for i in range(150)}
    assert history(client, run, "eval/return") == [(step, step / 10) for step in range(0, 5000, 2)]
    assert history(client, run, "train/loss") == [(step, -step) for step in range(0, 5000, 2)]
    assert kept.info.status == "FINISHED" and kept.info.run_name == run.run_name == "ppo seed0"
    tags = {"group": "ppo", "git.commit": "a1", "error": "none", "mlflow.note.content": "**ppo**"}
    assert tags.items() <= kept.data.tags.items()
    assert run.artifact_uri.startswith((outputs / "artifacts").as_uri())
    folder = next((outputs / "artifacts" / "CartPole-v1").glob(f"{run.run_id}/artifacts"))
    assert (folder / "files" / "agent.bin").read_bytes() == b"\0\1"
    assert (folder / "config.yaml").read_text() == "seed: 3\n"
    assert capfd.readouterr() == ("", "")


def test_metrics_wait_for_a_full_batch_or_for_the_time(outputs: Path, client: MlflowClient) -> None:
    run = tracker(outputs)
    run.flush_seconds = 3600.0
    for step in range(BATCH - 1):
        run.log({"x": step}, step)
    assert history(client, run, "x") == []
    run.log({"x": 0.0}, BATCH)
    assert len(history(client, run, "x")) == BATCH
    run.flush_seconds = 0.0
    run.log({"y": 1.0}, 7)
    assert history(client, run, "y") == [(7, 1.0)]
    run.finish("FINISHED")


def test_a_bad_name_or_value_takes_no_other_metric_with_it(
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
    for kept, limit in ((data.params["long"], 6000), (data.tags["error"], 8000)):
        assert len(kept) == limit
        assert kept.startswith("00000 00001 ") and kept.endswith("01999 ") and "12000 characters" in kept


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
def test_finish_is_idempotent_and_what_failed_stays_failed(
    outputs: Path, client: MlflowClient, statuses: list[Any]
) -> None:
    run = tracker(outputs)
    run.log({"x": 1.0}, 1)
    for status in statuses:
        run.finish(status)
    assert client.get_run(run.run_id).info.status == statuses[0]
    assert history(client, run, "x") == [(1, 1.0)]


def test_what_fails_after_the_end_is_failed(outputs: Path, client: MlflowClient) -> None:
    run = tracker(outputs)
    run.finish("FINISHED")
    run.finish("FAILED")
    assert client.get_run(run.run_id).info.status == "FAILED"


def test_a_store_that_fails_meanwhile_costs_no_points(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tracker(outputs)
    run.flush_seconds = 0.0
    attempts = []

    def fail(*_: object, **__: object) -> None:
        attempts.append(1)
        raise MlflowException("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(run._client, "log_batch", fail)
        for step in range(5):
            run.log({"x": float(step)}, step)
        assert len(attempts) == 1, "each attempt may block the training for seconds"
        assert "database is locked" in caplog.text and "\n" not in caplog.messages[0]
        with pytest.raises(StoreError, match="database is locked"):
            run.flush()
    run.flush()
    assert history(client, run, "x") == [(step, float(step)) for step in range(5)]
    run.finish("FINISHED")


def test_a_run_that_lost_points_is_not_finished(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracker(outputs)

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("disk full")

    monkeypatch.setattr(run._client, "log_batch", fail)
    run.log({"x": 1.0, "y": 2.0}, 1)
    with pytest.raises(StoreError, match=r"disk full.*2 metric points.*are lost"):
        run.finish("FINISHED")
    assert client.get_run(run.run_id).info.status == "FAILED"


def test_if_the_params_are_not_taken_no_run_is_left_running(
    outputs: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MlflowException("no")

    monkeypatch.setattr(MlflowClient, "log_batch", fail)
    with pytest.raises(StoreError):
        tracker(outputs, experiment="no params", params={"a": 1})
    monkeypatch.undo()
    found = client.get_experiment_by_name("no params")
    assert [run.info.status for run in client.search_runs([found.experiment_id])] == ["FAILED"]


def test_an_experiment_that_was_deleted_is_said_in_one_line(outputs: Path, client: MlflowClient) -> None:
    run = tracker(outputs, experiment="gone")
    run.finish("FINISHED")
    client.delete_experiment(run.experiment_id)
    with pytest.raises(StoreError, match=r"^tracker.experiment=gone: was deleted.*restore it"):
        tracker(outputs, experiment="gone")


def _one_of_many(outputs: Path, barrier: Any) -> None:
    barrier.wait()
    run = tracker(outputs, experiment="fresh", params={"a": 1})
    for step in range(100):
        run.log({"x": float(step), "y": -float(step)}, step)
    run.finish("FINISHED")


def test_eight_processes_start_at_once_on_a_fresh_folder_and_lose_nothing(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for leftover in ("mlflow.db.draft", "mlflow.db.draft-journal"):
        (outputs / leftover).write_bytes(b"of a process killed while it made the file")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 about forking with threads
        processes = [context.Process(target=_one_of_many, args=(outputs, barrier)) for _ in range(8)]
        for process in processes:
            process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8

    client = MlflowClient(sqlite_uri(outputs / "mlflow.db"))
    runs = client.search_runs([client.get_experiment_by_name("fresh").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 8
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "x")) == 100
        assert len(client.get_metric_history(run.info.run_id, "y")) == 100
    with contextlib.closing(sqlite3.connect(outputs / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not list(outputs.glob("*.draft*"))


@pytest.fixture
def mute_server() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("kind", ["nobody listens", "nobody answers"])
def test_a_server_that_cannot_be_reached_is_said_soon_in_one_line_without_credentials(
    kind: str, mute_server: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    port = mute_server if kind == "nobody answers" else free_port()
    start = time.perf_counter()
    with pytest.raises(StoreError) as caught:
        tracker(tmp_path, uri=f"http://somebody:se%40cret@127.0.0.1:{port}")
    assert time.perf_counter() - start < 8
    line = str(caught.value)
    assert re.fullmatch(rf"tracker\.uri=http://\*\*\*@127\.0\.0\.1:{port}: [^\n]+; [^\n]+", line)
    assert "somebody" not in line and "cret" not in line
    assert caught.value.__suppress_context__, "the chain would print the credentials"
    assert capfd.readouterr() == ("", "")
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"


@pytest.mark.parametrize("below", [".", "deeper"])
def test_outputs_that_is_a_file_is_said_in_one_line(below: str, tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(StoreError, match=r"^outputs=[^\n]+(is a file|Not a directory)[^\n]+$"):
        tracker(tmp_path / "outputs" / below)


def test_a_store_that_is_no_database_is_said_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").write_text("This is not a database, though it is long enough to look like one." * 20)
    with pytest.raises(StoreError, match=r"^outputs=[^\n]+not a database[^\n]+$"):
        tracker(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_credentials_are_masked_wherever_they_stand() -> None:
    line = masked("GET http://me:a/b@c@host:5000/api?token=abc&x=1 and postgresql://u:p@db/x?password=secret failed")
    assert line == "GET http://***@host:5000/api?token=***&x=*** and postgresql://***@db/x?password=*** failed"


class Policy(nn.Module):
    """As the bench exports it: observations [B, 8] -> actions [B]."""

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
    uri = run.log_model(policy, torch.zeros(1, 8))
    run.finish("FINISHED")
    assert uri is not None and policy.training
    assert capfd.readouterr() == ("", "")
    model = client.get_logged_model(uri.removeprefix("models:/"))
    assert (model.name, str(model.status), model.source_run_id) == ("policy", "READY", run.run_id)
    outputs_of_run = client.get_run(run.run_id).outputs.model_outputs
    assert [found.model_id for found in outputs_of_run] == [model.model_id]

    batches = [torch.randn(size, 8) for size in (1, 2, 7)]
    command = [sys.executable, "-c", LOAD, sqlite_uri(outputs / "mlflow.db"), uri]
    loaded = subprocess.run(
        command,
        input=json.dumps([batch.tolist() for batch in batches]),
        env=os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    expected = [policy(batch).tolist() for batch in batches]
    assert [json.loads(line) for line in loaded.stdout.splitlines()] == [[actions, actions] for actions in expected]


def test_a_policy_that_cannot_be_exported_is_said_in_one_line_and_leaves_no_model(
    outputs: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tracker(outputs, experiment="untraceable")
    assert run.log_model(Untraceable(), torch.ones(2, 8)) is None
    run.finish("FINISHED")
    lines = [record.getMessage() for record in caplog.records if record.name == "plexp.tracking"]
    assert len(lines) == 1 and "the model is not kept" in lines[0] and "\n" not in lines[0]
    assert list(client.search_logged_models([run.experiment_id])) == []
    assert capfd.readouterr() == ("", "")


def _export_with_bare_logging(results: Any) -> None:
    for name in [name for name in sys.modules if name.startswith("mlflow.pytorch")]:
        del sys.modules[name]
    logging.root.handlers, logging.root.level = [], logging.WARNING
    Tracker.__new__(Tracker).log_model(Untraceable(), torch.ones(2, 3))
    results.put((logging.root.level, len(logging.root.handlers)))


def test_the_export_leaves_the_logging_as_it_was() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        process = context.Process(target=_export_with_bare_logging, args=(results,))
        process.start()
    assert results.get(timeout=60) == (logging.WARNING, 0), "importing mlflow.pytorch calls logging.basicConfig"
    process.join()


def test_a_new_experiment_has_the_view_that_its_link_opens(outputs: Path, client: MlflowClient) -> None:
    tags = client.get_experiment_by_name("CartPole-v1").tags
    (key,) = saved_view()
    assert link("http://x", "7").startswith("http://x/#/experiments/7/runs?viewStateShareKey=" + key.rsplit(".", 1)[1])
    state = json.loads(tags[key])["state"]
    view = json.loads(zlib.decompress(base64.b64decode(state.removeprefix("deflate;"))))
    assert view["groupBy"] == {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "group"}]}
    assert view["compareRunCharts"][0]["metricKey"] == "eval/return"
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} <= {
        section["uuid"] for section in view["compareRunSections"]
    }


def test_serve_says_in_one_line_why_it_cannot(
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


def test_serve_prints_links_keeps_runs_over_http_and_ends_with_its_children(
    server: tuple[subprocess.Popen[str], str, list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process, address, (older, newer) = server
    assert process.stdout is not None
    assert f"{address} until Ctrl-C" in process.stdout.readline()
    assert process.stdout.readline() == f"  newer: {link(address, newer)}\n"
    assert process.stdout.readline() == f"  older: {link(address, older)}\n"

    run = tracker(tmp_path / "unused", uri=address, experiment="over http", params={"a": None})
    run.log({"x": 1.5}, 3)
    run.log_text("seed: 3", "config.yaml")
    assert run.log_model(Policy(), torch.zeros(2, 8)) is not None
    run.finish("FINISHED")
    client = MlflowClient(address)
    assert history(client, run, "x") == [(3, 1.5)]
    assert client.get_run(run.run_id).data.params == {"a": "null"}
    assert [file.path for file in client.list_artifacts(run.run_id)] == ["config.yaml"]
    assert not (tmp_path / "unused").exists() and capfd.readouterr() == ("", "")

    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    (group,) = map(int, listed.stdout.split())
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)

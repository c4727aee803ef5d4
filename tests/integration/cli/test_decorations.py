"""Tests that what only prints, draws, films or describes a run decides nothing about it."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plexp.cli import ui_server
from plexp.cli.streams import DurableStream
from tests.integration.cli.test_cli import CHECKOUT, QUICK, Main, main
from tests.support.processes import runs

__all__ = ["main"]

DECORATIONS = {
    "the picture of the learning curve": "plexp.analysis.figures.learning_curve",
    "the model for MLflow": "plexp.execution.results.as_model",
    "the run's description": "plexp.execution.results.describe",
    "the progress bar": "plexp.execution.callbacks.progress_bar.ProgressBar._note",
    "the summary": "plexp.cli.job.summary",
    "evaluation 0 is not filmed": "plexp.execution.callbacks.films.extremes",
}


def fails(*arguments: Any, **named: Any) -> None:
    raise RuntimeError("no ink")


@pytest.mark.parametrize("what", DECORATIONS)
def test_a_run_is_finished_whatever_its_decorations_do(
    what: str, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DECORATIONS[what], fails)
    quick = [override for override in QUICK if "log_model" not in override and "evaluation.every" not in override]
    film = "filmed" in what
    status, lines = main(*quick, f"evaluation.every={64 if film else 32}", f"evaluation.film={str(film).lower()}")
    (run,) = runs(tmp_path)
    assert status == 0 and run["status"] == "FINISHED", lines
    assert "eval/final_return" in run["metrics"] and (run["folder"] / "agent.safetensors").is_file()
    warnings = [line for line in lines if "no ink" in line]
    assert warnings and all("WARNING" in line or what in line for line in warnings)
    assert len(warnings) == 1 or film


def test_a_sweep_has_its_exit_status_whatever_its_table_does(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plexp.sweeps.status._table", fails)
    status, lines = main("-m", "seed=0,1", *QUICK)
    assert (
        status == 0 and sum("the table of the sweep is left out (RuntimeError: no ink)" in line for line in lines) == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        {"MPLBACKEND": "module://no_such_package.backend_inline"},
    ],
    ids=["ascii", "backend of a notebook"],
)
def test_a_narrow_encoding_and_a_missing_backend_change_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    done = plexp(tmp_path, environment)
    assert done.returncode == 0 and "final return" in done.stdout.decode() and b"Traceback" not in done.stderr
    (run,) = runs(tmp_path)
    assert run["status"] == "FINISHED" and (run["folder"] / "learning_curve.png").is_file()


@pytest.mark.slow
def test_a_reader_that_leaves_early_does_not_end_the_run(tmp_path: Path) -> None:
    done = plexp(tmp_path, {}, pipe=" | head -1; exit ${PIPESTATUS[0]}")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1 and not done.stderr
    (run,) = runs(tmp_path)
    assert run["status"] == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize(("ignored", "exit_status", "status"), [(True, 0, "FINISHED"), (False, 143, "KILLED")])
def test_a_run_survives_its_terminal_under_nohup_and_is_interrupted_without(
    ignored: bool, exit_status: int, status: str, tmp_path: Path
) -> None:
    steps = 8_192 if ignored else 10_000_000  # one run comes to its end, the other never before the terminal closes
    command = [sys.executable, "-m", "plexp", *QUICK, f"total_timesteps={steps}", f"outputs={tmp_path}"]
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(
            signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL
        )  # nohup pytest would leave it ignored
        os.chdir(CHECKOUT)
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(CHECKOUT)})
    shown = b""
    while b"steps" not in shown:  # the progress bar, which the terminal's end must not stop
        shown += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == exit_status
    (run,) = runs(tmp_path)
    assert run["status"] == status


def plexp(outputs: Path, environment: dict[str, str], pipe: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a short training in a shell."""
    command = f"{sys.executable} -m plexp {' '.join(QUICK)} outputs={outputs} {pipe}"
    everything = {**os.environ, "PYTHONPATH": str(CHECKOUT), **environment}
    return subprocess.run(["bash", "-c", command], cwd=CHECKOUT, env=everything, capture_output=True)


def test_characters_that_an_encoding_lacks_become_question_marks() -> None:
    raw = io.BytesIO()
    stream = DurableStream(io.TextIOWrapper(raw, "ascii"))
    assert stream.write("9 ± 1\n") == 6
    stream.flush()
    assert raw.getvalue() == b"9 ? 1\n" and stream.encoding == "ascii"


def test_output_after_the_reader_is_gone_is_dropped() -> None:
    reader, writer = os.pipe()
    stream = DurableStream(os.fdopen(writer, "w"))
    os.close(reader)
    for _ in range(3):
        stream.write("x" * 100_000)
        stream.flush()
    stream.stream.close()


def test_links_to_experiments_do_not_need_their_saved_views(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = {"runs": [{"info": {"start_time": 1, "run_id": "r1"}}]}
    answers = {"experiments/search": {"experiments": [{"experiment_id": "1", "name": "cartpole"}]}, "runs/search": runs}

    class Server:
        def open(self, request: Any, timeout: float) -> io.BytesIO:
            return io.BytesIO(json.dumps(answers[request.full_url.partition("mlflow/")[2]]).encode())

    monkeypatch.setattr(ui_server, "build_opener", lambda *_: Server())
    monkeypatch.setattr(ui_server.ui_views, "saved_views", fails)
    lines = list(ui_server._experiments("http://server"))
    assert lines[0].startswith("  cartpole: http://server/#/experiments/1/") and len(lines) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "the saved view of the experiment cartpole is left out (RuntimeError: no ink)"
    ]

"""Tests that the same command skips finished runs, resumes interrupted and failed ones, and reports both."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import plexp
from plexp.errors import StoreError
from plexp.execution import checkpoint
from plexp.execution.state import Record, RunFolder, list_runs, state_folder
from plexp.sweeps.status import is_complete
from plexp.tracking.format import sqlite_uri
from plexp.tracking.outbox import Outbox
from plexp.training.progress import TrainingProgress
from plexp.training.trainer import Trainer
from tests.integration.cli.test_cli import QUICK, Main, main
from tests.support.processes import differences, runs

__all__ = ["main"]
LONG = (
    *QUICK,
    "total_timesteps=320",
    "evaluation.every=64",
    "tracker.every=64",
    "checkpoint.every=64",
    "compile=false",
)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """Return a function that makes the training raise an error, once, in the n-th iteration from then on."""
    iterate = Trainer.iterate

    def prepare(number: int, error: BaseException) -> None:
        left = [number]

        def counted(self: Trainer, progress: TrainingProgress) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise error
            return iterate(self, progress)

        monkeypatch.setattr(Trainer, "iterate", counted)

    return prepare


@pytest.fixture
def uninterrupted(main: Main, tmp_path: Path) -> dict[str, Any]:
    """Return the record of a run that was never interrupted."""
    assert main(*LONG, f"outputs={tmp_path / 'never'}")[0] == 0
    (run,) = runs(tmp_path / "never")
    return run


ENDS = {"failed": (RuntimeError("the cable came loose"), 1), "interrupted": (KeyboardInterrupt(), 130)}


@pytest.mark.parametrize("end", ENDS)
def test_the_same_command_resumes_a_run_as_if_it_had_never_stopped(
    end: str, main: Main, uninterrupted: dict[str, Any], tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    error, status = ENDS[end]
    stop_at(6, error)
    assert main(*LONG)[0] == status
    (run,) = runs(tmp_path)
    assert run["status"] == {"failed": "FAILED", "interrupted": "KILLED"}[end]
    (record,) = [json.loads(file.read_text()) for file in tmp_path.glob("state/*/run.json")]
    assert record["status"] == run["status"] and record["run_id"] == run["id"]
    status, lines = main("status", "--outputs", str(tmp_path))
    assert status == 0 and any(("FAILED" if end == "failed" else "INTERRUPTED") in line for line in lines)
    assert any("the same command resumes a run from its last checkpoint" in line for line in lines)

    status, lines = main(*LONG)
    assert status == 0
    (run,) = runs(tmp_path)
    assert differences(run, uninterrupted) == []
    assert int(run["tags"]["resume.steps"]) in range(64, 192) and "error" not in run["tags"]
    assert not list(tmp_path.glob("state/*/checkpoints/*")) and not list(tmp_path.glob("state/*/outbox"))
    assert checkpoint.load(next(tmp_path.glob("state/*")) / "checkpoints") is None


def test_a_run_is_left_unchanged_if_the_store_does_not_answer(
    main: Main, tmp_path: Path, stop_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(**_: Any) -> None:
        raise StoreError("outputs=x: database is locked; wait")

    stop_at(6, RuntimeError("the cable came loose"))
    assert main(*LONG)[0] == 1
    (file,) = tmp_path.glob("state/*/run.json")
    before = file.read_text()
    with monkeypatch.context() as patch:
        patch.setattr("plexp.execution.run.Tracker", unavailable)
        assert main(*LONG)[0] == 2
    assert file.read_text() == before
    status, (line,) = main("sync", "--outputs", str(tmp_path))  # MLflow may still have it as RUNNING
    assert status == 0 and line.endswith("marked FAILED") and runs(tmp_path)[0]["status"] == "FAILED"
    assert main(*LONG)[0] == 0 and "resume.steps" in runs(tmp_path)[0]["tags"]


def test_with_resume_never_a_new_run_starts_and_the_other_is_unchanged(
    main: Main, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    stop_at(6, KeyboardInterrupt())
    main(*LONG)
    assert main(*LONG, "resume=never")[0] == 0
    killed, finished = runs(tmp_path)
    assert (killed["status"], finished["status"]) == ("KILLED", "FINISHED")
    assert "resume.steps" not in finished["tags"]
    assert main(*LONG)[0] == 0, "the finished run counts, and a single finished run is run again"
    assert [run["status"] for run in runs(tmp_path)] == ["KILLED", "FINISHED", "FINISHED"]


def test_a_run_that_was_deleted_in_mlflow_starts_from_scratch(
    main: Main, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    stop_at(6, KeyboardInterrupt())
    main(*LONG)
    (run,) = runs(tmp_path)
    MlflowClient(sqlite_uri(tmp_path / "mlflow.db")).delete_run(run["id"])
    assert main(*LONG)[0] == 0
    _, new = runs(tmp_path)
    assert new["status"] == "FINISHED" and "resume.steps" not in new["tags"]
    assert [step for step, _ in new["metrics"]["eval/return"]] == [0, 64, 128, 192, 256, 320]


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_used(
    main: Main, uninterrupted: dict[str, Any], tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    stop_at(9, KeyboardInterrupt())
    main(*LONG)
    older, newer = sorted(tmp_path.glob("state/*/checkpoints/step-*"))
    data = bytearray(newer.read_bytes())
    data[len(data) // 2] ^= 1
    newer.write_bytes(data)
    assert main(*LONG)[0] == 0
    (run,) = runs(tmp_path)
    assert int(run["tags"]["resume.steps"]) == int(older.name.split("-")[1])
    assert newer.name in run["tags"]["resume.damaged"] and differences(run, uninterrupted) == []


def test_the_same_sweep_skips_finished_jobs_and_runs_missing_ones(
    main: Main, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    sweep = ("-m", "seed=0,1,2", "hydra.launcher.n_jobs=1", "hydra/launcher=basic", *LONG)
    sweep = tuple(each for each in sweep if "n_jobs" not in each)
    stop_at(14, RuntimeError("the cable came loose"))  # in the second job
    status, lines = main(*sweep)
    assert status == 1 and any("the same command does what is missing" in line for line in lines)
    assert [run["status"] for run in runs(tmp_path)] == ["FINISHED", "FAILED", "FINISHED"]
    (folder,) = tmp_path.glob("sweeps/*")
    assert not is_complete(folder, list_runs(state_folder(tmp_path)))

    assert main(*sweep)[0] == 0
    assert list(tmp_path.glob("sweeps/*")) == [folder] and is_complete(folder, list_runs(state_folder(tmp_path)))
    found = runs(tmp_path)
    assert [run["status"] for run in found] == ["FINISHED"] * 3 and "resume.steps" in found[1]["tags"]
    assert {run["tags"]["sweep"] for run in found} == {folder.name}
    results = [json.loads((folder / str(job) / "result.json").read_text()) for job in range(3)]
    assert [result.get("before", False) for result in results] == [True, False, True]
    assert all(result["final_return"] > 0 and result["objective"] is not None for result in results)

    assert main(*sweep)[0] == 0 and len(runs(tmp_path)) == 3, "nothing is missing"
    status, lines = main(*sweep, "rerun=true")
    assert status == 0 and len(runs(tmp_path)) == 6 and len(list(tmp_path.glob("sweeps/*"))) == 2


def test_a_larger_sweep_reuses_the_runs_of_another_one(main: Main, tmp_path: Path) -> None:
    assert main("-m", "seed=0,1", "hydra/launcher=basic", *QUICK)[0] == 0
    assert main("-m", "seed=0,1,2", "hydra/launcher=basic", *QUICK)[0] == 0
    found = runs(tmp_path)
    assert len(found) == 3
    first, second = sorted({name.removeprefix("sweep.") for run in found for name in run["tags"] if "sweep." in name}
                           | {run["tags"]["sweep"] for run in found})  # fmt: skip
    assert [run["tags"]["sweep"] for run in found] == [first, first, second]
    for sweep, number in ((first, 2), (second, 3)):
        status, lines = main(
            "compare", f"--outputs={tmp_path}", f"--sweep={sweep}", "--by=algo.plugin", "--threshold=5"
        )
        assert status == 0 and any(re.search(rf"one group only, of {number} runs", line) for line in lines), lines


def test_the_same_configuration_twice_in_a_sweep_is_one_run(main: Main, tmp_path: Path) -> None:
    assert main("-m", "seed=0,0", "hydra/launcher=basic", *QUICK)[0] == 0
    assert len(runs(tmp_path)) == 1


def test_status_shows_a_sweep_and_why_jobs_failed(main: Main, tmp_path: Path, stop_at: Callable[..., None]) -> None:
    assert main("status", "--outputs", str(tmp_path)) == (
        *(2, [f"outputs={tmp_path}: no run has been started there yet; start one with: python -m plexp"]),
    )
    stop_at(6, RuntimeError("the cable came loose"))
    main("-m", "algo.clip_eps=0.1,7,0.3", "hydra/launcher=basic", *LONG)
    status, lines = main("status", "--outputs", str(tmp_path))
    text = "\n".join(lines)
    assert status == 0 and "of 3 jobs 1 finished, 1 failed, 1 refused" in text
    assert "job 0: RuntimeError: the cable came loose" in text and "job 1: algo.clip_eps=7: must be less than 1" in text
    status, lines = main("status", "--outputs", str(tmp_path), "--sweep", "2020")
    assert status == 2 and lines[0].startswith("--sweep=2020: there is no such sweep; ")


def test_status_lists_finished_runs_outside_sweeps(main: Main, tmp_path: Path) -> None:
    assert main(*QUICK)[0] == 0
    assert main("status", "--outputs", str(tmp_path)) == (0, ["1 run outside sweeps, finished"])


def test_an_interrupted_sweep_reports_how_many_jobs_wait(
    main: Main, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    stop_at(14, KeyboardInterrupt())
    status, lines = main("-m", "seed=0,1,2", "hydra/launcher=basic", *LONG)
    assert status == 130
    assert any("of 3 jobs 1 finished, 1 interrupted, 1 waiting" in line for line in lines), lines
    assert main("-m", "seed=0,1,2", "hydra/launcher=basic", *LONG)[0] == 0
    assert [run["status"] for run in runs(tmp_path)] == ["FINISHED"] * 3


SECRET = "http://somebody:s3cr3t@127.0.0.1:9"


@pytest.mark.parametrize("arguments", [(), ("-m", "seed=0,1", "hydra/launcher=basic")], ids=["run", "sweep"])
def test_credentials_are_written_nowhere(arguments: tuple[str, ...], main: Main, tmp_path: Path) -> None:
    status, lines = main(*arguments, *QUICK, f"tracker.uri={SECRET}")
    assert status == (1 if arguments else 2)
    assert any("tracker.uri=http://***@127.0.0.1:9: " in line for line in lines)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files and not [file for file in files if b"s3cr3t" in file.read_bytes()]
    assert "s3cr3t" not in "\n".join(lines)


def test_params_and_tags_do_not_contain_the_store(main: Main, tmp_path: Path) -> None:
    store = tmp_path / "elsewhere.db"
    assert main(*QUICK, f"tracker.uri='sqlite:///{store}?timeout=17'")[0] == 0
    client = MlflowClient(sqlite_uri(store))
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    texts = [*run.data.params.values(), *run.data.tags.values()]
    assert run.info.status == "FINISHED" and not [text for text in texts if "timeout=17" in text]


@pytest.mark.parametrize("name", ["..", "../../x", ".", "a/b"])
def test_no_experiment_name_leads_out_of_the_artifact_folder(name: str, main: Main, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    assert main(*QUICK, f"outputs={outputs}", f"tracker.experiment='{name}'")[0] == 0
    (run,) = runs(outputs)
    inside = run["folder"].resolve().relative_to((outputs / "artifacts").resolve())
    assert len(inside.parts) == 3 and (run["folder"] / "agent.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]


def test_an_in_memory_store_is_refused(main: Main) -> None:
    status, lines = main(*QUICK, "tracker.uri=sqlite://")
    assert (status, len(lines)) == (2, 1) and lines[0].startswith("tracker.uri=sqlite://: it names no file")


TARGETS = ("+algo._target_=os.system", "+env._target_=os.system", "+net._target_=os.system", "+_target_=os.system")


@pytest.mark.parametrize(
    "target", [*TARGETS, "+env.kwargs._target_=os.system", "algo.plugin=os.system", "env.plugin=os"]
)
def test_only_registered_classes_are_instantiated_whatever_the_configuration(target: str, main: Main) -> None:
    status, lines = main(*QUICK, target)
    assert (status, len(lines)) == (2, 1) and "; " in lines[0]


def test_a_run_that_failed_before_training_is_marked_by_the_next_command(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr("plexp.execution.callbacks.default.Recorder", broken)
        assert main(*LONG)[0] == 1
    (run,) = runs(tmp_path)
    assert run["status"] == "RUNNING"
    status, (line,) = main("sync", "--outputs", str(tmp_path))
    assert status == 0 and line.endswith("died, marked KILLED")
    (run,) = runs(tmp_path)
    assert run["status"] == "KILLED"
    assert main("sync", "--outputs", str(tmp_path)) == (0, ["nothing waits"])
    assert main(*LONG)[0] == 0 and [run["status"] for run in runs(tmp_path)] == ["FINISHED"]


def _ui_on_a_taken_port(main: Main, outputs: Path) -> object:
    """Start the server where it cannot listen, so that the command ends."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return main("ui", "--outputs", str(outputs), "--port", str(taken.getsockname()[1]))


READING: dict[str, Callable[[Main, Path, str], object]] = {
    **{
        name: lambda main, outputs, run_id, name=name: main(name, run_id, "--outputs", str(outputs))
        for name in ("film", "evaluate", "export", "reproduce")
    },
    "status": lambda main, outputs, run_id: main("status", "--outputs", str(outputs)),
    "compare": lambda main, outputs, run_id: main("compare", "--outputs", str(outputs)),
    "compare --uri": lambda main, outputs, run_id: main(
        "compare", "--outputs", str(outputs), "--uri", sqlite_uri(outputs / "mlflow.db")
    ),
    "ui": lambda main, outputs, run_id: _ui_on_a_taken_port(main, outputs),
    "load_run": lambda main, outputs, run_id: plexp.load_run(run_id, outputs=outputs).status,
    "runs": lambda main, outputs, run_id: [run.status for run in plexp.runs(outputs=outputs)],
}


@pytest.mark.parametrize("how", READING)
def test_after_a_second_hasty_interrupt_every_command_shows_the_run_as_interrupted(
    how: str, main: Main, tmp_path: Path, stop_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: object) -> None:
        raise KeyboardInterrupt

    stop_at(6, KeyboardInterrupt())
    with monkeypatch.context() as patch:
        patch.setattr("plexp.execution.run.Run._save", again)  # while the last checkpoint is written
        assert main(*LONG)[0] == 130
    (run,) = runs(tmp_path)
    assert run["status"] == "RUNNING"
    shown = str(READING[how](main, tmp_path, run["id"]))
    assert runs(tmp_path)[0]["status"] == "KILLED"
    assert "RUNNING" not in shown and ("KILLED" in shown or "INTERRUPTED" in shown), shown


def test_operations_that_cannot_be_delivered_are_reported_in_one_line_and_kept(main: Main, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "state" / "0123")
    folder.path.mkdir(parents=True)
    folder.write(Record("0123", status="FINISHED", run_id="1", store="http://127.0.0.1:9"))
    Outbox(folder.outbox).put({"op": "tags", "tags": {"a": "b"}})
    status, lines = main("sync", "--outputs", str(tmp_path))
    assert status == 1 and len(lines) == 1 and lines[0].startswith("--uri=http://127.0.0.1:9: Connection refused; ")
    assert len(Outbox(folder.outbox)) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("repair", "--outputs", "nowhere"), "there is no mlflow.db"),
        (("replay", "nothing.json"), "replay=nothing.json: it cannot be read as a recorded episode"),
        (("status", "--outputs", "nowhere"), "no run has been started there yet"),
        (("sync", "--outputs", "nowhere"), "no run has been started there yet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_on_something_missing_fails_with_one_line(command: tuple[str, ...], message: str, main: Main) -> None:
    status, lines = main(*command)
    assert status == 2 and len(lines) == 1 and message in lines[0] and "; " in lines[0]

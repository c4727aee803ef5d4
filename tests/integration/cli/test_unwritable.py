"""Tests of stores and folders that cannot be written, and of full disks, for every command that reads or writes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import plexp
from plexp.tracking.permissions import reading_options
from tests.integration.cli.test_recorded_runs import NAME, SHORT, Run, folder, recorded_runs, run  # noqa: F401
from tests.support.permissions import full, read_only

DENIED = "it cannot be written by this user (Permission denied)"
FULL = "the disk is full; free some space; nothing that was recorded is lost"


@pytest.fixture
def locked(folder: Path) -> Iterator[Path]:  # noqa: F811
    """Yield the folder with the outputs, which cannot be written."""
    with read_only(folder / "outputs"):
        yield folder


def options(outputs: Path, how: str) -> list[str]:
    return [f"--outputs={outputs}", *([f"--uri=sqlite:///{outputs}/mlflow.db"] if how == "uri" else [])]


@pytest.mark.parametrize("how", ["outputs", "uri"])
def test_commands_that_read_work_on_a_store_that_cannot_be_written(locked: Path, run: Run, how: str) -> None:  # noqa: F811
    where = options(locked / "outputs", how)
    for command in (["status"], ["sync"], ["export", NAME, "--to", str(locked / "exported")], ["reproduce", NAME]):
        status, lines, errors = run(*command, *where)
        assert status == 0 and lines, (command, errors)
        assert not [line for line in errors if "cannot" in line] or command[0] == "reproduce"
    uri = where[1].removeprefix("--uri=") if how == "uri" else None
    assert plexp.load_run(NAME, outputs=locked / "outputs", uri=uri).config["net"]["width"] == 8
    assert len(plexp.runs(outputs=locked / "outputs", uri=uri).table()) == 2
    assert not list(locked.glob("file*"))


def test_a_log_that_cannot_be_read_without_writing_is_named_with_the_remedy(folder: Path, run: Run) -> None:  # noqa: F811
    outputs = folder / "outputs"
    with closing(sqlite3.connect(outputs / "mlflow.db")) as writer:
        writer.execute("CREATE TABLE another (a)")
        writer.commit()
        log = (outputs / "mlflow.db-wal").read_bytes()
    (outputs / "mlflow.db-shm").unlink(missing_ok=True)
    (outputs / "mlflow.db-wal").write_bytes(log)
    with read_only(outputs):
        assert "immutable" not in reading_options(outputs / "mlflow.db")
        for command in (["compare"], ["evaluate", NAME], ["reproduce", NAME]):
            status, lines, errors = run(*command)
            assert (status, lines, len(errors)) == (2, [], 1), (lines, errors)
            assert (
                "a run has left mlflow.db-wal" in errors[0] and "; ask its owner for write permission, or" in errors[0]
            )


def test_a_folder_that_cannot_be_read_is_no_empty_one(folder: Path, run: Run) -> None:  # noqa: F811
    outputs = folder / "outputs"
    with read_only(outputs):
        outputs.chmod(0)
        for command in (["status"], ["compare"], ["film", NAME], ["repair"]):
            status, _, errors = run(*command)
            assert status == 2
            assert errors == [
                f"outputs={outputs}: it cannot be read by this user (Permission denied); ask its owner for permission"
            ]


@pytest.mark.parametrize("how", ["outputs", "uri"])
def test_what_a_command_could_not_record_it_refuses_before_it_plays(
    locked: Path,
    run: Run,  # noqa: F811
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("evaluate", "film"):
        monkeypatch.setattr(f"plexp.recorded.{module}.evaluate", lambda *_, **__: pytest.fail("it plays"))
    outputs, to = locked / "outputs", str(locked / "new")
    key = f"outputs={outputs}" if how == "outputs" else f"--uri=sqlite:///{outputs}/mlflow.db"
    for command in (["evaluate", NAME], ["film", NAME, "--to", to], ["export", NAME, "--register", "--to", to]):
        status, lines, errors = run(*command, *options(outputs, how))
        assert (status, lines, len(errors)) == (2, [], 1), (command, lines, errors)
        assert (
            errors[0].startswith(f"{key}: {DENIED}, and ") and "; ask its owner for write permission, or" in errors[0]
        )
    assert not Path(to).exists()


def test_a_comparison_that_cannot_be_written_is_printed(
    locked: Path,
    run: Run,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    outputs = locked / "outputs"
    status, lines, errors = run("compare")
    assert status == 0 and "Verdict" in lines and not errors
    (warning,) = warnings(caplog)
    assert warning.startswith(f"no report is written: --to={outputs}/reports/") and DENIED in warning
    status, lines, errors = run("compare", "--to", str(locked / "report"))
    assert status == 0 and (locked / "report" / "report.html").exists() and not errors
    _, warning = warnings(caplog)
    assert warning.startswith(f"the report is not recorded in MLflow: outputs={outputs}: {DENIED}; ask its owner")
    status, lines, errors = run("compare", "--to", str(outputs / "mine"))
    assert status == 2 and len(errors) == 1 and "; give a folder that you can write: --to FOLDER" in errors[0]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if (record.name, record.levelname) == ("plexp", "WARNING")]


FULL_IN = {
    "film": ("plexp.envs.video._write_gif", "--to"),
    "export": ("plexp.recorded.export.write_whole", "--to"),
    "evaluate": ("mlflow.MlflowClient.log_text", "outputs"),
    "compare": ("plexp.analysis.report.write_whole", "--to"),
}
"""Command → what writes, which fails, and the key that the error names."""


@pytest.mark.parametrize("command", FULL_IN)
def test_a_disk_that_is_full_at_the_end_is_one_line(
    command: str,
    folder: Path,  # noqa: F811
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function, key = FULL_IN[command]
    monkeypatch.setattr(function, full)
    reference = [] if command == "compare" else [NAME]
    to = ["--to", str(folder / "new")] if key == "--to" else []
    status, lines, errors = run(command, *reference, *to)
    assert (status, len(errors)) == (2, 1), errors
    assert errors[0] == f"{key}={folder / ('new' if to else 'outputs')}: {FULL}"
    assert command not in ("evaluate", "compare") or len(lines) > 2  # what it found is not lost
    assert not list(folder.rglob("draft-*")) and not list(folder.rglob("*.mp4"))


def test_a_full_disk_is_noticed_before_episodes_are_played(
    folder: Path,  # noqa: F811
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("evaluate", "film"):
        monkeypatch.setattr(f"plexp.recorded.{module}.evaluate", lambda *_, **__: pytest.fail("it plays"))
    monkeypatch.setattr("plexp.tracking.lookup.try_writing", full)
    for command in ("evaluate", "film"):
        status, _, errors = run(command, NAME)
        assert status == 2 and errors == [f"outputs={folder / 'outputs'}: {FULL}"]


@pytest.mark.parametrize(("part", "sweep"), [("outputs", []), ("outputs/state", []), ("outputs", ["-m"])])
def test_a_training_in_a_folder_that_cannot_be_written_is_refused(
    part: str,
    sweep: list[str],
    folder: Path,  # noqa: F811
    run: Run,  # noqa: F811
) -> None:
    with read_only(folder / part):
        status, _, errors = run(*sweep, *SHORT, "seed=7")
    assert (status, errors) == (2, [f"outputs=outputs: {DENIED}; give a folder that you can write: outputs=FOLDER"])


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_training_on_a_full_disk_is_refused(
    sweep: list[str],
    folder: Path,  # noqa: F811
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("plexp.sweeps.sweep.try_writing", full)
    status, _, errors = run(*sweep, *SHORT, "seed=7")
    assert (status, errors) == (2, [f"outputs=outputs: {FULL}"])


def test_commands_that_read_work_on_a_full_disk(
    folder: Path,  # noqa: F811
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("plexp.tracking.permissions.has_space", lambda folder: False)
    before = sorted((folder / "outputs").iterdir())
    for command in (["status"], ["export", NAME, "--to", str(folder / "exported")]):
        assert run(*command)[0] == 0
    assert len(plexp.runs(outputs=folder / "outputs")) == 2 and plexp.load_run(NAME, outputs=folder / "outputs").metrics
    assert sorted((folder / "outputs").iterdir()) == before

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
from tests.support.permissions import read_only

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

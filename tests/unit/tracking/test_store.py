"""Tests of errors about stores of other versions of MLflow, and about outputs folders that were moved."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from plexp.errors import ConfigError, StoreError
from plexp.tracking.format import sqlite_uri
from plexp.tracking.lookup import open_run
from plexp.tracking.store import connected
from plexp.tracking.tracker import Tracker


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Return an outputs folder with one run, recorded by MLflow 9.8.7."""
    outputs, tags = tmp_path / "out", {"kind": "training", "version.mlflow": "9.8.7"}
    started = {"outputs": outputs, "outbox": outputs / "outbox", "experiment": "lake", "run_name": "one", "params": {}}
    tracker = Tracker(uri=None, tags=tags, **started)
    tracker.log_text("seed: 0", "config.yaml")
    tracker.finish("FINISHED")
    return outputs


def with_schema(outputs: Path, version: str) -> Path:
    """Return a copy with this version of the tables; MLflow looks at the tables of a file only once."""
    shutil.copytree(outputs, copy := outputs.with_name(f"schema-{version}"))
    with closing(sqlite3.connect(copy / "mlflow.db")) as store, store:
        assert store.execute("UPDATE alembic_version SET version_num = ?", (version,)).rowcount == 1
    return copy


@pytest.mark.parametrize("by_uri", [False, True])
def test_a_newer_store_says_who_wrote_it_and_what_to_install(by_uri: bool, outputs: Path) -> None:
    outputs = with_schema(outputs, "ffffffffffff")
    uri = sqlite_uri(outputs / "mlflow.db") if by_uri else None
    newer = f"its tables are of an MLflow newer than the {mlflow.__version__} here"
    message = rf"{newer} \(its newest run is by MLflow 9.8.7\); pip install -U plexp$"
    with pytest.raises(StoreError, match=message) as error, open_run("one", outputs=outputs, uri=uri):
        pass
    assert "\n" not in str(error.value)


def test_an_older_store_says_how_to_upgrade_it(outputs: Path) -> None:
    versions = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    older = next(file.name.partition("_")[0] for file in sorted(versions.glob("*_add_*.py")))
    outputs = with_schema(outputs, older)
    message = rf"older than {mlflow.__version__}; keep a copy of it, then: mlflow db upgrade sqlite:///"
    with pytest.raises(StoreError, match=message), open_run("one", outputs=outputs, uri=None):
        pass


def test_a_moved_folder_and_a_missing_file_are_distinguished(outputs: Path) -> None:
    with open_run("one", outputs=outputs, uri=None) as run:
        with pytest.raises(ConfigError, match=r"it has no agent\.safetensors; train one to its end"):
            run.file("agent.safetensors")
        assert run.values == {"seed": 0}
    moved = outputs.rename(outputs.with_name("elsewhere"))
    with (
        open_run("one", outputs=moved, uri=None) as run,
        pytest.raises(
            ConfigError,
            match=r"the folder of its files is gone \(.*/out/.*; if it was moved, .*plexp repair$",
        ),
    ):
        run.file("config.yaml")


def recorded(outputs: Path) -> str:
    """Record a run, and return its id."""
    started = {"outputs": outputs, "outbox": outputs / "outbox", "experiment": "lake", "run_name": "run", "params": {}}
    tracker = Tracker(uri=None, tags={"kind": "training"}, **started)
    tracker.finish("FINISHED")
    return tracker.run_id


@pytest.mark.parametrize("how", ["removed", "moved away", "another in its place"])
def test_a_run_goes_to_the_database_that_is_there_now(how: str, outputs: Path) -> None:
    """MLflow keeps connections to a file that was removed, and would write there."""
    first, file = recorded(outputs), outputs / "mlflow.db"
    if how == "another in its place":
        recorded(outputs.parent / "other")
        (outputs.parent / "other" / "mlflow.db").replace(file)
    elif how == "removed":
        file.unlink()
    else:
        file.rename(outputs / "backup.db")
    second = recorded(outputs)
    with closing(sqlite3.connect(file)) as store:
        stored = [run for (run,) in store.execute("SELECT run_uuid FROM runs")]
    assert second in stored and first not in stored


def test_what_sqlite_left_beside_a_removed_database_is_set_aside(outputs: Path) -> None:
    (outputs / "mlflow.db").unlink()
    (outputs / "mlflow.db-wal").write_bytes(b"of another")
    assert recorded(outputs)
    assert (outputs / "mlflow.db-wal.removed").read_bytes() == b"of another"


def test_a_command_that_reads_creates_no_database(outputs: Path) -> None:
    (file := outputs / "mlflow.db").unlink()
    with (
        pytest.raises(StoreError, match=r"^store=\S+mlflow.db: the database is gone; "),
        connected(sqlite_uri(file), outputs),
    ):
        pass
    assert not file.exists()


def test_a_run_that_is_deleted_while_a_command_works_on_it_is_named(outputs: Path) -> None:
    message = r"^run=\w{32}: it was deleted in MLflow; restore it there, or train it again$"
    with pytest.raises(StoreError, match=message), open_run("last", outputs=outputs, uri=None) as run:
        run.client.delete_run(run.run_id)
        run.log_metrics({"a": 1.0})

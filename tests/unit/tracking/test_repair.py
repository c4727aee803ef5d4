"""Tests of repairing an outputs folder that was moved: its runs find their files again, and nothing else changes."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from plexp.errors import StoreError
from plexp.tracking.format import sqlite_uri
from plexp.tracking.repair import PLACES, repair
from plexp.tracking.store import LoggedModelOutput, experiment_id

BUCKET = "s3://bucket/artifacts/lake"
Ids = tuple[str, str]
"""Ids of a run and of its model."""


@pytest.fixture
def make(empty_store: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that makes a folder with a store."""

    def copy(name: str) -> Path:
        (folder := tmp_path / name).mkdir(parents=True)
        shutil.copyfile(empty_store, folder / "mlflow.db")
        with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
            place = (folder / "artifacts" / "0").as_uri()
            connection.execute("UPDATE experiments SET artifact_location = ?", (place,))
        return folder

    return copy


def store(outputs: Path) -> MlflowClient:
    """Return a client as of a new process: MLflow remembers where the files of a run or a model are."""
    utils._artifact_repos_cache.clear()
    return MlflowClient(sqlite_uri(outputs / "mlflow.db"))


def record(outputs: Path, experiment: str = "lake") -> Ids:
    """Record a run and a model, with a file each, and return their ids."""
    client, uri = store(outputs), sqlite_uri(outputs / "mlflow.db")
    run = client.create_run(experiment_id(client, uri, outputs, experiment)).info
    client.log_text(run.run_id, f"of {experiment}", "texts/config.yaml")
    model = client.create_logged_model(run.experiment_id, name="policy", source_run_id=run.run_id)
    weights = outputs / "weights.bin"
    weights.write_bytes(experiment.encode())
    client.log_model_artifact(model.model_id, str(weights))
    weights.unlink()
    client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step=0)])
    client.finalize_logged_model(model.model_id, "READY")
    return run.run_id, model.model_id


def found(outputs: Path, ids: Ids) -> tuple[list[str], list[str]]:
    """Return the files of the run and of the model that a client finds."""
    client = store(outputs)
    files = client.list_artifacts(ids[0], "texts"), client.list_logged_model_artifacts(ids[1])
    return [file.path for file in files[0]], [file.path for file in files[1]]


def read(outputs: Path, ids: Ids, folder: Path) -> str:
    """Download the run's file, and return its text."""
    folder.mkdir()
    return Path(store(outputs).download_artifacts(ids[0], "texts/config.yaml", str(folder))).read_text()


def addresses(outputs: Path) -> set[str]:
    with closing(sqlite3.connect(outputs / "mlflow.db")) as connection:
        rows = [connection.execute(f"SELECT {column} FROM {table}").fetchall() for table, column in PLACES]
    return {value for table in rows for (value,) in table if value}


ALL = ["texts/config.yaml"], ["weights.bin"]


@pytest.mark.parametrize(
    ("before", "after"), [("out #1 é", "moved 100% é"), ("outputs", "a/artifacts/b"), ("a/artifacts/b", "outputs")]
)
def test_a_folder_that_was_moved_finds_its_files_again(
    make: Callable[[str], Path], tmp_path: Path, before: str, after: str
) -> None:
    old, new = make(before), tmp_path / after
    ids = record(old)
    assert found(old, ids) == ALL
    new.parent.mkdir(parents=True, exist_ok=True)
    old.rename(new)
    assert found(new, ids) == ([], [])

    line = repair(new)
    assert str(new) in line and "addresses now point here" in line and "\n" not in line
    assert found(new, ids) == ALL and read(new, ids, tmp_path / "download") == "of lake"
    assert all(address.startswith(f"{new.as_uri()}/artifacts/") for address in addresses(new))


def test_runs_recorded_after_the_repair_have_their_files_in_the_new_folder(
    make: Callable[[str], Path], tmp_path: Path
) -> None:
    old, new = make("old"), tmp_path / "new"
    first = record(old)
    old.rename(new)
    repair(new)
    second = record(new)
    assert found(new, first) == found(new, second) == ALL and not old.exists()
    assert len({store(new).get_run(run).info.experiment_id for run, _ in (first, second)}) == 1


def test_a_second_repair_changes_nothing(make: Callable[[str], Path], tmp_path: Path) -> None:
    old, new = make("old"), tmp_path / "new"
    ids = record(old)
    assert "already" in repair(old) and found(old, ids) == ALL
    old.rename(new)
    repair(new)
    before = addresses(new)
    assert "all addresses point here already" in repair(new)
    assert addresses(new) == before and found(new, ids) == ALL


def test_files_from_several_former_folders_are_all_found(make: Callable[[str], Path], tmp_path: Path) -> None:
    first, second, third = make("first"), tmp_path / "second", tmp_path / "third"
    lake = record(first, "lake")
    first.rename(second)
    hill = record(second, "hill")
    second.rename(third)
    assert found(third, lake) == found(third, hill) == ([], [])
    repair(third)
    assert found(third, lake) == found(third, hill) == ALL


def test_repairing_a_copy_does_not_change_the_original_folder(make: Callable[[str], Path], tmp_path: Path) -> None:
    old, new = make("old"), tmp_path / "new"
    ids = record(old)
    shutil.copytree(old, new)
    before = addresses(old)
    repair(new)
    shutil.rmtree(new / "artifacts")
    assert addresses(old) == before and found(old, ids) == ALL and found(new, ids) == ([], [])


def test_addresses_of_other_kinds_are_not_changed(make: Callable[[str], Path], tmp_path: Path) -> None:
    old, new = make("old"), tmp_path / "new"
    ids, elsewhere = record(old), tmp_path / "elsewhere" / "artifacts" / "pond"
    for name, place in (
        ("bucket", BUCKET),
        ("pond", elsewhere.as_uri()),
        ("proxy", "mlflow-artifacts:/artifacts/lake"),
    ):
        store(old).create_run(store(old).create_experiment(name, artifact_location=place))
    others = {address for address in addresses(old) if not address.startswith(old.as_uri())}
    assert len(others) == 6
    old.rename(new)
    repair(new)
    assert found(new, ids) == ALL
    assert {address for address in addresses(new) if not address.startswith(new.as_uri())} == others


def test_a_folder_without_a_store_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^outputs=[^\n]+there is no mlflow\.db; [^\n]+$"):
        repair(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 100, b""])
def test_a_file_that_is_not_a_store_is_reported_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(StoreError, match=r"^outputs=[^\n]+(not a database|no such table)[^\n]+$"):
        repair(tmp_path)


@pytest.mark.parametrize("before", ["old", "new-2"])
def test_a_run_in_a_folder_that_was_moved_says_how_to_repair_it(
    make: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, before: str
) -> None:
    old, new = make(before), tmp_path / "new"
    record(old)
    assert caplog.messages == []
    old.rename(new)
    record(new)
    assert [message.count("python -m plexp repair") for message in caplog.messages] == [1]
    assert caplog.records[0].levelno == logging.WARNING and "\n" not in caplog.messages[0]
    repair(new)
    record(new)
    assert len(caplog.messages) == 1

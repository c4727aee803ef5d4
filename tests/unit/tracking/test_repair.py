"""An outputs folder that was moved: its runs find their files again, and nothing else is touched."""

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
Kept = tuple[str, str]
"""The ids of a run and of its model."""


@pytest.fixture
def make(empty_store: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A new folder with a store."""

    def copy(name: str) -> Path:
        (folder := tmp_path / name).mkdir(parents=True)
        shutil.copyfile(empty_store, folder / "mlflow.db")
        with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
            place = (folder / "artifacts" / "0").as_uri()
            connection.execute("UPDATE experiments SET artifact_location = ?", (place,))
        return folder

    return copy


def store(outputs: Path) -> MlflowClient:
    """As a new process sees it: MLflow keeps in memory where the files of a run or a model are."""
    utils._artifact_repos_cache.clear()
    return MlflowClient(sqlite_uri(outputs / "mlflow.db"))


def keep(outputs: Path, experiment: str = "lake") -> Kept:
    """A run with a file and a model with a file."""
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


def found(outputs: Path, kept: Kept) -> tuple[list[str], list[str]]:
    """The files of the run and of the model that its client finds."""
    client = store(outputs)
    files = client.list_artifacts(kept[0], "texts"), client.list_logged_model_artifacts(kept[1])
    return [file.path for file in files[0]], [file.path for file in files[1]]


def read(outputs: Path, kept: Kept, folder: Path) -> str:
    """The run's file, downloaded."""
    folder.mkdir()
    return Path(store(outputs).download_artifacts(kept[0], "texts/config.yaml", str(folder))).read_text()


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
    kept = keep(old)
    assert found(old, kept) == ALL
    new.parent.mkdir(parents=True, exist_ok=True)
    old.rename(new)
    assert found(new, kept) == ([], [])

    line = repair(new)
    assert str(new) in line and "addresses now point here" in line and "\n" not in line
    assert found(new, kept) == ALL and read(new, kept, tmp_path / "download") == "of lake"
    assert all(address.startswith(f"{new.as_uri()}/artifacts/") for address in addresses(new))


def test_what_is_kept_after_the_repair_lies_in_the_new_place(make: Callable[[str], Path], tmp_path: Path) -> None:
    old, new = make("old"), tmp_path / "new"
    first = keep(old)
    old.rename(new)
    repair(new)
    second = keep(new)
    assert found(new, first) == found(new, second) == ALL and not old.exists()
    assert len({store(new).get_run(run).info.experiment_id for run, _ in (first, second)}) == 1


def test_a_second_repair_changes_nothing(make: Callable[[str], Path], tmp_path: Path) -> None:
    old, new = make("old"), tmp_path / "new"
    kept = keep(old)
    assert "already" in repair(old) and found(old, kept) == ALL
    old.rename(new)
    repair(new)
    before = addresses(new)
    assert "all addresses point here already" in repair(new)
    assert addresses(new) == before and found(new, kept) == ALL


def test_experiments_of_several_former_places_are_all_found(make: Callable[[str], Path], tmp_path: Path) -> None:
    first, second, third = make("first"), tmp_path / "second", tmp_path / "third"
    lake = keep(first, "lake")
    first.rename(second)
    hill = keep(second, "hill")
    second.rename(third)
    assert found(third, lake) == found(third, hill) == ([], [])
    repair(third)
    assert found(third, lake) == found(third, hill) == ALL


def test_a_copy_is_on_its_own_and_the_first_folder_stays_as_it_is(make: Callable[[str], Path], tmp_path: Path) -> None:
    old, new = make("old"), tmp_path / "new"
    kept = keep(old)
    shutil.copytree(old, new)
    before = addresses(old)
    repair(new)
    shutil.rmtree(new / "artifacts")
    assert addresses(old) == before and found(old, kept) == ALL and found(new, kept) == ([], [])


def test_addresses_of_other_kinds_stay(make: Callable[[str], Path], tmp_path: Path) -> None:
    old, new = make("old"), tmp_path / "new"
    kept, elsewhere = keep(old), tmp_path / "elsewhere" / "artifacts" / "pond"
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
    assert found(new, kept) == ALL
    assert {address for address in addresses(new) if not address.startswith(new.as_uri())} == others


def test_a_folder_without_a_store_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^outputs=[^\n]+there is no mlflow\.db; [^\n]+$"):
        repair(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 100, b""])
def test_a_file_that_is_no_store_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(StoreError, match=r"^outputs=[^\n]+(not a database|no such table)[^\n]+$"):
        repair(tmp_path)


@pytest.mark.parametrize("before", ["old", "new-2"])
def test_a_run_in_a_folder_that_was_moved_says_how_to_mend_it(
    make: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, before: str
) -> None:
    old, new = make(before), tmp_path / "new"
    keep(old)
    assert caplog.messages == []
    old.rename(new)
    keep(new)
    assert [message.count("python -m plexp repair") for message in caplog.messages] == [1]
    assert caplog.records[0].levelno == logging.WARNING and "\n" not in caplog.messages[0]
    repair(new)
    keep(new)
    assert len(caplog.messages) == 1

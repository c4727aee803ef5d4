"""`plexp repair`: an outputs folder that was moved has its old place in MLflow's database; this writes the new one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.request import url2pathname

from plexp.errors import Problem, StoreError, is_full, is_unwritable, unwritable
from plexp.tracking.format import cause, no_store
from plexp.tracking.permissions import can_read, can_write

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns of MLflow 3.17 that hold a folder's address."""


def repair(outputs: Path) -> str:
    """Point every address below another folder's `artifacts` here; one line that says what was done.

    Addresses of other kinds (of a bucket, a server) stay. Raises StoreError if there is no store.
    """
    outputs = outputs.absolute()
    file = outputs / "mlflow.db"
    if not can_read(file):
        raise StoreError(no_store(None, outputs))
    if not file.is_file():
        raise StoreError(
            str(Problem("outputs", outputs, "there is no mlflow.db", "give --outputs the folder as it is now"))
        )
    here = f"{(outputs / 'artifacts').as_uri()}/"
    changed = 0
    try:
        with closing(sqlite3.connect(file)) as store, store:
            for old in _old_places(store, here, outputs):
                for table, column in PLACES:
                    query = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                    changed += store.execute(query, (here, len(old) + 1, len(old), old)).rowcount
    except sqlite3.Error as error:
        if is_full(error) or is_unwritable(error) or not can_write(file):
            remedy = "ask its owner for write permission, or give a copy of it"
            raise StoreError(str(unwritable("outputs", outputs, error, remedy))) from None
        raise StoreError(
            str(Problem("outputs", outputs, cause(error), "give --outputs a folder that plexp wrote"))
        ) from None
    return (
        f"{outputs}: {changed} addresses now point here" if changed else f"{outputs}: all addresses point here already"
    )


def _old_places(store: sqlite3.Connection, here: str, outputs: Path) -> list[str]:
    """Return the `artifacts` folders of experiments whose files are in ours."""
    found = set()
    for (location,) in store.execute("SELECT artifact_location FROM experiments"):
        head, mark, tail = str(location).rpartition("/artifacts/")
        if (
            location.startswith("file://")
            and mark
            and f"{head}{mark}" != here
            and (outputs / "artifacts" / url2pathname(tail)).exists()
        ):
            found.add(f"{head}{mark}")
    return sorted(found)
